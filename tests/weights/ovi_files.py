"""A small Ovi download with random weights, laid out as its users have it."""

import pathlib

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from tests.weights.release_files import SIZES, TEXT, tensors, tokenizer_file
from tests.weights.wan_files import save_pth

WIDTH, FFN, LAYERS, HIDDEN = 128, 72, 2, 512
VAE = {"width": 4, "decoder_width": 8}
MEL = {"bands": 80, "channels": 20, "hidden": 8}
VOCODER = {
  "bands": 80, "channels": 8, "rates": [16, 16], "kernels": [32, 32],
  "blocks": [[3, [1, 3, 5]]], "bias": True, "tanh": True,
}  # fmt: skip


def ovi_tensors(
  seed: int = 0, text: int = TEXT, layers: int = LAYERS, audio_width: int = WIDTH
) -> dict[str, np.ndarray]:
  """Random tensors under the published names, written without the package."""
  shapes = {}
  for tower, d in (("video_model", WIDTH), ("audio_model", audio_width)):

    def dense(name, out, into, tower=tower):
      shapes[f"{tower}.{name}.weight"] = (out, into)
      shapes[f"{tower}.{name}.bias"] = (out,)

    if tower == "video_model":
      shapes[f"{tower}.patch_embedding.weight"] = (d, 48, 1, 2, 2)
      shapes[f"{tower}.patch_embedding.bias"] = (d,)
    else:
      shapes[f"{tower}.patch_embedding.0.weight"] = (d, 20, 7)
      shapes[f"{tower}.patch_embedding.0.bias"] = (d,)
      for name, into, out in (("w1", d, HIDDEN), ("w2", HIDDEN, d), ("w3", d, HIDDEN)):
        shapes[f"{tower}.patch_embedding.2.{name}.weight"] = (out, into, 7)
    dense("text_embedding.0", d, text)
    dense("text_embedding.2", d, d)
    dense("time_embedding.0", d, 64)
    dense("time_embedding.2", d, d)
    dense("time_projection.1", 6 * d, d)
    for i in range(layers):
      block = f"blocks.{i}"
      shapes[f"{tower}.{block}.modulation.modulation"] = (1, 6, d)
      for name in ("norm3.weight", "norm3.bias"):
        shapes[f"{tower}.{block}.{name}"] = (d,)
      for attention in ("self_attn", "cross_attn"):
        for name in "qkvo":
          dense(f"{block}.{attention}.{name}", d, d)
        for name in "qk":
          shapes[f"{tower}.{block}.{attention}.norm_{name}.weight"] = (d,)
      cross = f"{block}.cross_attn"
      dense(f"{cross}.k_fusion", d, d)
      dense(f"{cross}.v_fusion", d, d)
      for name in ("norm_k_fusion.weight", "pre_attn_norm_fusion.weight",
                   "pre_attn_norm_fusion.bias"):  # fmt: skip
        shapes[f"{tower}.{cross}.{name}"] = (d,)
      dense(f"{block}.ffn.0", FFN, d)
      dense(f"{block}.ffn.2", d, FFN)
    dense("head.head", 192 if tower == "video_model" else 20, d)
    shapes[f"{tower}.head.modulation"] = (1, 2, d)
  rng, out = np.random.default_rng(seed), {}
  for name, shape in shapes.items():
    fan = np.prod(shape[1:]) if name.endswith("weight") and len(shape) > 1 else 9
    x = rng.standard_normal(shape, np.float32) / np.sqrt(fan)
    out[name] = (x + ("norm" in name and name.endswith("weight"))).astype(np.float32)
  return out


def fp8(drawn: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """As the release's fp8 file: a plain cast of all but norms and biases."""
  kept = lambda name: "norm" in name or "bias" in name
  return {
    name: x.astype(jnp.bfloat16 if kept(name) else ml_dtypes.float8_e4m3fn)
    for name, x in drawn.items()
  }


def ovi_download(
  folder: pathlib.Path, name: str = "model.safetensors", seed: int = 0
) -> pathlib.Path:
  """The folder that the download script of the release leaves, with one transformer."""
  (folder / "Ovi").mkdir(parents=True)
  drawn = ovi_tensors(seed)
  save_file(fp8(drawn) if "fp8" in name else drawn, folder / "Ovi" / name)
  wan = folder / "Wan2.2-TI2V-5B"
  (wan / "google" / "umt5-xxl").mkdir(parents=True)
  save_pth(wan / "Wan2.2_VAE.pth", tensors("wan22-vae", VAE, "native"))
  umt5 = tensors("umt5", SIZES["umt5"], "native")
  umt5 = {k: v.astype(jnp.bfloat16) for k, v in umt5.items()}
  save_pth(wan / "models_t5_umt5-xxl-enc-bf16.pth", umt5)
  (wan / "google" / "umt5-xxl" / "tokenizer.json").write_text(tokenizer_file())
  sound = folder / "MMAudio" / "ext_weights"
  sound.mkdir(parents=True)
  save_pth(sound / "v1-16.pth", tensors("audio-vae", MEL, "native"))
  vocoder = tensors("vocoder", VOCODER, "native")
  save_pth(sound / "best_netG.pt", vocoder, inside="generator")
  return folder
