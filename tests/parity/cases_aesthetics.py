"""Golden case of AudioBox Aesthetics: scores of two sounds, one of them padded."""

import json
import pathlib

import jax
import numpy as np
from safetensors.numpy import load_file

from ccl_jax.models.scorers.aesthetics import AXES
from tests.parity.recipe_weights import recipe_network

LIMIT = 1e-4


def is_aesthetics(folder: pathlib.Path) -> bool:
  path = folder / "config.json"
  return path.is_file() and '"audiobox_aesthetics"' in path.read_text()


def cases_aesthetics(
  folder: pathlib.Path,
) -> list[tuple[str, np.ndarray, np.ndarray, float]]:
  """(name, got, expected, limit) per axis, without the release's scale."""
  config = json.loads((folder / "config.json").read_text())
  model = recipe_network("aesthetics", folder)
  rng = np.random.default_rng(config["seed"])
  wave = 0.1 * rng.standard_normal((2, 1, 40000), dtype=np.float32)[:, 0]
  valid = np.ones(wave.shape, bool)
  valid[1, 24000:], wave[1, 24000:] = False, 0
  out = jax.jit(model.net.apply)({"params": model.params}, wave, valid)
  case = load_file(folder / "case.safetensors")
  return [(axis, np.asarray(out[axis]), case[f"out_{axis}"], LIMIT) for axis in AXES]
