"""Golden case of Wan2.1's video VAE: latents of a video, and pixels of two latents."""

import pathlib

import jax
import numpy as np
from safetensors.numpy import load_file

from ccl_jax.models.wan_vae import decode, encode
from ccl_jax.weights.load import load_params

LIMIT = 1e-4


def is_wan_vae(folder: pathlib.Path) -> bool:
  return (folder / "vae_case.safetensors").is_file() and any(
    (folder / name).is_file() for name in ("Wan2.1_VAE.pth", "vae.safetensors")
  )


def cases_wan_vae(
  folder: pathlib.Path, file: str | None = None
) -> list[tuple[str, np.ndarray, np.ndarray, float]]:
  """(name, got, expected, limit) per output; `file` names the weights to read."""
  case = load_file(folder / "vae_case.safetensors")
  case = {name: np.moveaxis(x, 1, -1) for name, x in case.items()}
  params, _ = load_params("wan-vae", folder / file if file else folder)
  to_latent, to_pixels = jax.jit(encode), jax.jit(decode)
  got = {
    "latent": to_latent(params, case["video"]),
    "decoded": to_pixels(params, case["latent"]),
    "decoded2": to_pixels(params, case["latent2"]),
  }
  return [(name, np.asarray(x), case[name], LIMIT) for name, x in got.items()]
