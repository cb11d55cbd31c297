"""Where published networks come from: what `convert --help` says, and a metric that
misses its network. docs/weights.md and docs/eval.md have sizes and licences.
"""

SOURCES = {
  "wan": "hf download Wan-AI/Wan2.1-T2V-1.3B --local-dir Wan2.1-T2V-1.3B",
  "wan-dit": "hf download Wan-AI/Wan2.1-T2V-1.3B --local-dir Wan2.1-T2V-1.3B",
  "ovi": "hf download chetwinlow1/Ovi --local-dir CKPTS/Ovi, and so "
  "Wan-AI/Wan2.2-TI2V-5B (VAE, UMT5) and hkchengrex/MMAudio (ext_weights)",
  "ovi-dit": "hf download chetwinlow1/Ovi model.safetensors --local-dir CKPTS/Ovi",
  "wan22-vae": "hf download Wan-AI/Wan2.2-TI2V-5B Wan2.2_VAE.pth --local-dir DIR",
  "wan-vae": "hf download Wan-AI/Wan2.1-T2V-1.3B Wan2.1_VAE.pth --local-dir DIR",
  "umt5": "hf download Wan-AI/Wan2.1-T2V-1.3B --include 'models_t5*' 'google/*' "
  "--local-dir DIR",
  "clip": "hf download Wan-AI/Wan2.1-I2V-14B-480P --include 'models_clip*' "
  "--local-dir DIR",
  "audio-vae": "hf download hkchengrex/MMAudio ext_weights/v1-16.pth --local-dir DIR",
  "vocoder": "hf download hkchengrex/MMAudio ext_weights/best_netG.pt --local-dir DIR",
  "syncnet": "syncnet_v2.model by download_model.sh of syncnet_python, or hf download "
  "ByteDance/LatentSync-1.6 auxiliary/syncnet_v2.model",
  "s3fd": "sfd_face.pth by download_model.sh of syncnet_python, or hf download "
  "ByteDance/LatentSync-1.6 auxiliary/sfd_face.pth",
  "synchformer": "hf download hkchengrex/MMAudio "
  "ext_weights/synchformer_state_dict.pth --local-dir DIR",
  "imagebind": "imagebind_huge.pth by the link in ImageBind's repository",
  "aesthetics": "hf download facebook/audiobox-aesthetics --local-dir DIR/aesthetics",
  "i3d": "i3d_pretrained_400.pt, the file that VideoGPT's FVD downloads",
  "vggish": "vggish-10086976.pth of torchvggish's release v0.1",
  "whisper": "a folder: hf download openai/whisper-large-v3 --local-dir DIR/whisper, "
  "or for faster-whisper Systran/faster-whisper-large-v3",
}
