"""Weights of the golden metric networks: drawn by recipe, in a file as released."""

import importlib.util
import json
import pathlib
import re

import numpy as np
from safetensors.numpy import save_file


def released_weights(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """The tensors of a case, under the names of their release."""
  path = folder.parents[1] / "recipe.py"
  spec = importlib.util.spec_from_file_location("recipe", path)
  recipe = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(recipe)
  config = json.loads((folder / "config.json").read_text())
  weights = recipe.recipe_weights(folder / "keys.json", config["seed"])
  for name, x in weights.items():
    for pattern, factor in config.get("scale", {}).items():
      if re.search(pattern, name):
        x *= np.float32(factor)
    x[...] = config.get("set", {}).get(name, x)
  return weights


def save_released(folder: pathlib.Path, path: pathlib.Path) -> None:
  """Writes them to a .safetensors file."""
  save_file(released_weights(folder), path)
