"""Golden case of Wan2.2's video VAE: latents and pixels of clips of some lengths."""

import pathlib
import re

import jax
import numpy as np
from safetensors.numpy import load_file

from ccl_jax.models.wan_vae import decode, encode
from ccl_jax.models.wan_vae_layers import WAN22
from ccl_jax.weights.load import load_params

LIMIT = 1e-4


def is_wan22_vae(folder: pathlib.Path) -> bool:
  return all(
    (folder / name).is_file() for name in ("Wan2.2_VAE.pth", "vae_case.safetensors")
  )


def cases_wan22_vae(
  folder: pathlib.Path, lengths: tuple[int, ...] | None = None
) -> list[tuple[str, np.ndarray, np.ndarray, float]]:
  """(name, got, expected, limit) per output; of clips of `lengths` frames, or all."""
  case = load_file(folder / "vae_case.safetensors")
  params, _ = load_params("wan22-vae", folder)
  to_latent = jax.jit(lambda p, x: encode(p, x, release=WAN22))
  to_pixels = jax.jit(lambda p, x: decode(p, x, release=WAN22))
  last = lambda name: np.moveaxis(case[name], 1, -1)
  out = [
    # Published to four decimals.
    ("mean", np.asarray(WAN22.mean), case["mean"], 1e-6),
    ("std", np.asarray(WAN22.std), case["std"], 1e-6),
  ]
  found = sorted(int(n[7:]) for n in case if re.fullmatch(r"pixels_\d+", n))
  for frames in found if lengths is None else lengths:
    latent, shown = f"latent_{frames}", f"decoded_{frames}"
    got = to_latent(params, last(f"pixels_{frames}"))
    out.append((latent, np.asarray(got), last(latent), LIMIT))
    got = to_pixels(params, last(latent))
    out.append((shown, np.asarray(got), last(shown), LIMIT))
  return out
