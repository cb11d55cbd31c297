"""The weights of a golden case that stores none: a checkpoint as the reference has it.

`keys.json` of the case lists names and shapes; `recipe.py`, in a folder above, fills
them; config.json may scale some, and set others.
"""

import importlib.util
import json
import pathlib
import re
from typing import Any

import jax.numpy as jnp
import numpy as np

from ccl_jax.errors import UsageError
from ccl_jax.weights.entries import Entry
from ccl_jax.weights.reader import Weights
from ccl_jax.weights.rules import load_tree
from ccl_jax.weights.upstream import get_upstream


class RecipeWeights(Weights):
  """A checkpoint whose tensors are made as they are read: a network at full size is
  neither written to a file nor read from one.
  """

  def __init__(self, case: pathlib.Path):
    shapes = json.loads((case / "keys.json").read_text())
    self._config, dtype = _config(case), np.dtype(np.float32)
    self._tensor_of = _recipe(case).recipe_tensor
    super().__init__(
      case, {k: Entry(case, 0, dtype, tuple(s)) for k, s in shapes.items()}
    )

  def read(self, name: str) -> np.ndarray:
    shape = self.shape(name)
    if name in self._config.get("set", {}):
      return np.full(shape, self._config["set"][name], np.float32)
    x = self._tensor_of(name, shape, self._config["seed"])
    for pattern, factor in self._config.get("scale", {}).items():
      if re.search(pattern, name):
        x = x * np.float32(factor)
    return x


def recipe_network(kind: str, case: pathlib.Path, dtype: str = "float32") -> Any:
  """As `load_network` of the case's weights in a folder with its config.json."""
  upstream = get_upstream(kind)
  weights = upstream.view(RecipeWeights(case))
  rows = upstream.tables[upstream.format_of(weights)]
  sizes = upstream.sizes(weights, rows, _config(case))
  shapes = {
    path: x.update(dtype=jnp.dtype(dtype)) for path, x in upstream.shapes(sizes).items()
  }
  params = load_tree(rows, weights, shapes, upstream.ignore)
  return upstream.network(params, sizes, dtype)


def is_recipe(case: pathlib.Path, kind: str) -> bool:
  """Whether a folder is a case of this kind, without weights of its own."""
  files = (case / "config.json", case / "keys.json")
  return all(x.is_file() for x in files) and _config(case).get("kind") == kind


def _config(case: pathlib.Path) -> dict[str, Any]:
  return json.loads((case / "config.json").read_text())


def _recipe(case: pathlib.Path):
  for folder in case.resolve().parents:
    if (folder / "recipe.py").is_file():
      spec = importlib.util.spec_from_file_location("recipe", folder / "recipe.py")
      module = importlib.util.module_from_spec(spec)
      spec.loader.exec_module(module)
      return module
  raise UsageError(f"no recipe.py in a folder above {case}, which makes its weights")
