"""Where published networks come from: what `convert --help` says, and a metric that
misses its network. docs/weights.md and docs/eval.md have sizes and licences.
"""

_MMAUDIO = "hf:hkchengrex/MMAudio/ext_weights"
_LATENTSYNC = "hf:ByteDance/LatentSync-1.6/auxiliary"
_T2V = "hf:Wan-AI/Wan2.1-T2V-1.3B"

SOURCES = {
  "wan": f"--src {_T2V}",
  "wan-dit": f"--src {_T2V}",
  "ovi": "--src hf:chetwinlow1/Ovi/model_960x960.safetensors, or another file of it; "
  "its codecs come from Wan-AI/Wan2.2-TI2V-5B (VAE, UMT5) and hkchengrex/MMAudio",
  "ovi-dit": "--src hf:chetwinlow1/Ovi/model.safetensors",
  "wan22-vae": "--src hf:Wan-AI/Wan2.2-TI2V-5B",
  "wan-vae": f"--src {_T2V}",
  "umt5": f"--src {_T2V}",
  "clip": "--src hf:Wan-AI/Wan2.1-I2V-14B-480P",
  "audio-vae": f"--src {_MMAUDIO}/v1-16.pth",
  "vocoder": f"--src {_MMAUDIO}/best_netG.pt",
  "syncnet": f"syncnet_v2.model by download_model.sh of syncnet_python, or of "
  f"{_LATENTSYNC}",
  "s3fd": f"sfd_face.pth by download_model.sh of syncnet_python, or of {_LATENTSYNC}",
  "synchformer": f"synchformer_state_dict.pth of {_MMAUDIO}",
  "imagebind": "imagebind_huge.pth by the link in ImageBind's repository",
  "aesthetics": "aesthetics=hf:facebook/audiobox-aesthetics",
  "i3d": "i3d_pretrained_400.pt, the file that VideoGPT's FVD downloads",
  "vggish": "vggish-10086976.pth of torchvggish's release v0.1",
  "whisper": "a folder, whisper=hf:openai/whisper-large-v3, or for faster-whisper "
  "whisper=hf:Systran/faster-whisper-large-v3",
}
