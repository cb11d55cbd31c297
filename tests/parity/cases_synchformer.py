"""Golden case of Synchformer: rows of video and sound segments, logits of windows."""

import json
import pathlib

import jax
import numpy as np
from safetensors.numpy import load_file

from ccl_jax.models.scorers.synchformer import Synchformer
from tests.parity.recipe_weights import is_recipe, recipe_network

LIMIT = 1e-4


def is_synchformer(folder: pathlib.Path) -> bool:
  return is_recipe(folder, "synchformer")


def inputs(seed: int) -> dict[str, np.ndarray]:
  """What config.json describes: drawn in this order."""
  rng = np.random.default_rng(seed)
  draw = lambda *shape: rng.standard_normal(shape, dtype=np.float32)
  return {
    "video": draw(1, 1, 16, 3, 224, 224),
    "audio": draw(1, 2, 1, 128, 66),
    "video_rows": draw(2, 14, 8, 768),
    "audio_rows": draw(2, 14, 6, 768),
  }


def cases_synchformer(
  folder: pathlib.Path, dtype: str = "float32"
) -> list[tuple[str, np.ndarray, np.ndarray, float]]:
  """(name, got, expected, limit) per output."""
  net = recipe_network("synchformer", folder, dtype)
  case = load_file(folder / "case.safetensors")
  x = inputs(json.loads((folder / "config.json").read_text())["seed"])
  run = lambda method, *args: np.asarray(jax.jit(method)(net, *args))
  got = {
    "video_out": run(Synchformer.video_rows, np.moveaxis(x["video"][0], 2, -1))[None],
    "audio_out": run(Synchformer.audio_rows, x["audio"][0, :, 0])[None],
    "logits": run(Synchformer.compare, x["video_rows"], x["audio_rows"]),
  }
  return [(name, value, case[name], LIMIT) for name, value in got.items()]
