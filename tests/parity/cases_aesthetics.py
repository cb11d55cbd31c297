"""Golden case of AudioBox Aesthetics: scores of two sounds, one of them padded."""

import importlib.util
import json
import pathlib
import re
import tempfile

import jax
import numpy as np
from safetensors.numpy import load_file, save_file

from ccl_jax.models.scorers.aesthetics import AXES
from ccl_jax.weights.load import load_network

LIMIT = 1e-4


def is_aesthetics(folder: pathlib.Path) -> bool:
  path = folder / "config.json"
  return path.is_file() and '"audiobox_aesthetics"' in path.read_text()


def recipe_weights(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """The weights of a case of `parity/eval`, which stores no tensors."""
  path = folder.parents[1] / "recipe.py"
  spec = importlib.util.spec_from_file_location("recipe", path)
  recipe = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(recipe)
  config = json.loads((folder / "config.json").read_text())
  tensors = recipe.recipe_weights(folder / "keys.json", config["seed"])
  for pattern, factor in config.get("scale", {}).items():
    for key in tensors:
      if re.search(pattern, key):
        tensors[key] = tensors[key] * np.float32(factor)
  return tensors


def cases_aesthetics(
  folder: pathlib.Path,
) -> list[tuple[str, np.ndarray, np.ndarray, float]]:
  """(name, got, expected, limit) per axis, without the release's scale."""
  config = json.loads((folder / "config.json").read_text())
  with tempfile.TemporaryDirectory() as tmp:
    tmp = pathlib.Path(tmp)
    save_file(recipe_weights(folder), tmp / "model.safetensors")
    (tmp / "config.json").write_text(json.dumps(config))
    model = load_network("aesthetics", tmp)
  rng = np.random.default_rng(config["seed"])
  wave = 0.1 * rng.standard_normal((2, 1, 40000), dtype=np.float32)[:, 0]
  valid = np.ones(wave.shape, bool)
  valid[1, 24000:], wave[1, 24000:] = False, 0
  out = jax.jit(model.net.apply)({"params": model.params}, wave, valid)
  case = load_file(folder / "case.safetensors")
  return [(axis, np.asarray(out[axis]), case[f"out_{axis}"], LIMIT) for axis in AXES]
