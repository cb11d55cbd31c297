"""Golden case of CLIP's vision tower: pixels and tokens of an oblong image."""

import pathlib

import jax
import numpy as np
from safetensors.numpy import load_file

from ccl_jax.models.clip_vision import ClipImage, clip_pixels
from ccl_jax.weights.load import load_params

LIMIT, PIXEL_LIMIT = 1e-4, 1e-5
FILES = ("models_clip*.pth", "clip*.safetensors")


def is_wan_clip(folder: pathlib.Path) -> bool:
  return any(any(folder.glob(pattern)) for pattern in FILES)


def cases_wan_clip(
  folder: pathlib.Path, file: str | None = None, dtype: str = "float32"
) -> list[tuple[str, np.ndarray, np.ndarray, float]]:
  """(name, got, expected, limit) per output; `file` names the weights to read."""
  case = load_file(folder / "case.safetensors")
  image, pixels = (np.moveaxis(case[name], 1, -1) for name in ("image", "pixels"))
  params, sizes = load_params("clip", folder / file if file else folder, dtype)
  clip = ClipImage(params, sizes["heads"], dtype)
  squeeze = jax.jit(clip_pixels, static_argnums=1)
  return [
    ("pixels", np.asarray(squeeze(image, pixels.shape[1])), pixels, PIXEL_LIMIT),
    ("out", np.asarray(jax.jit(ClipImage.encode)(clip, image)), case["out"], LIMIT),
  ]
