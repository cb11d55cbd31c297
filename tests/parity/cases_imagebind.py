"""Golden case of ImageBind: mean vectors of pairs of frames, and of sounds."""

import json
import pathlib

import jax
import numpy as np
from safetensors.numpy import load_file

from ccl_jax.models.scorers.imagebind import ImageBind
from tests.parity.recipe_weights import is_recipe, recipe_network

LIMIT = 1e-4


def is_imagebind(folder: pathlib.Path) -> bool:
  return is_recipe(folder, "imagebind")


def inputs(seed: int) -> dict[str, np.ndarray]:
  """What config.json describes: drawn in this order."""
  rng = np.random.default_rng(seed)
  draw = lambda *shape: rng.standard_normal(shape, dtype=np.float32)
  return {"vision": draw(2, 2, 3, 2, 224, 224), "audio": draw(2, 3, 1, 128, 204)}


def cases_imagebind(
  folder: pathlib.Path, dtype: str = "float32"
) -> list[tuple[str, np.ndarray, np.ndarray, float]]:
  """(name, got, expected, limit) per output."""
  net = recipe_network("imagebind", folder, dtype)
  case = load_file(folder / "case.safetensors")
  x = inputs(json.loads((folder / "config.json").read_text())["seed"])

  frames = np.moveaxis(x["vision"], 2, -1).reshape(-1, 2, 224, 224, 3)
  mels = x["audio"].reshape(-1, 128, 204)
  run = lambda method, x: np.asarray(jax.jit(method)(net, x))
  got = {
    "vision_out": run(ImageBind.vision, frames).reshape(2, 2, -1).mean(1),
    "audio_out": run(ImageBind.audio, mels).reshape(2, 3, -1).mean(1),
  }
  return [(name, value, case[name], LIMIT) for name, value in got.items()]
