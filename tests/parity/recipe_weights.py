"""The weights of a golden case that stores none: a file as the reference publishes it.

`keys.json` of the case lists names and shapes; `recipe.py`, in a folder above, fills
them; config.json may scale some, and set others.
"""

import importlib.util
import json
import pathlib
import re

import numpy as np

from ccl_jax.errors import UsageError
from ccl_jax.weights.writer import Spec, write_safetensors


def write_weights(case: pathlib.Path, folder: pathlib.Path, stem: str = "model"):
  """Writes `folder`/`stem`.safetensors, one tensor in memory at a time."""
  config = json.loads((case / "config.json").read_text())
  shapes = json.loads((case / "keys.json").read_text())
  recipe, scales = _recipe(case), config.get("scale", {})

  def tensor(name, shape):
    x = recipe.recipe_tensor(name, tuple(shape), config["seed"])
    for pattern, factor in scales.items():
      if re.search(pattern, name):
        x = x * np.float32(factor)
    if name in config.get("set", {}):
      x = np.full(shape, config["set"][name], np.float32)
    return x

  specs = [Spec(n, tuple(s), np.dtype(np.float32)) for n, s in shapes.items()]
  tensors = (tensor(name, shape) for name, shape in shapes.items())
  (file,) = write_safetensors(folder, stem, specs, tensors)
  return file


def is_recipe(case: pathlib.Path, kind: str) -> bool:
  """Whether a folder is a case of this kind, without weights of its own."""
  config = case / "config.json"
  if not (config.is_file() and (case / "keys.json").is_file()):
    return False
  return json.loads(config.read_text()).get("kind") == kind


def _recipe(case: pathlib.Path):
  for folder in case.resolve().parents:
    if (folder / "recipe.py").is_file():
      spec = importlib.util.spec_from_file_location("recipe", folder / "recipe.py")
      module = importlib.util.module_from_spec(spec)
      spec.loader.exec_module(module)
      return module
  raise UsageError(f"no recipe.py in a folder above {case}, which makes its weights")
