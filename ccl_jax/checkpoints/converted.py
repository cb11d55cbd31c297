"""Reads the folders of converted weights that `convert` writes.

`convert KIND` writes

  config.json      what it is (kind), its sizes, a hash of the source
  tensors.json     a hash of every tensor
  checkpoints/0    the parameters
  tokenizer.json   of a text encoder

`convert wan` writes several of them into one folder: dit, vae, umt5, clip, and codecs,
the bundle of those that are codecs (ccl_jax/codecs/bundle.py).
"""

import math
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ccl_jax.checkpoints.checkpointer import restore_params
from ccl_jax.checkpoints.find import BAD_VALUES, read_config
from ccl_jax.checkpoints.slices import Shapes, SliceReader
from ccl_jax.documents import Malformed
from ccl_jax.errors import UsageError
from ccl_jax.remote.paths import place
from ccl_jax.sharding import LOGICAL

PyTree = Any
LARGE = 2**24  # elements of an array that is not copied to every device


def read_description(folder: str | os.PathLike) -> dict[str, Any]:
  """The config.json of converted weights: their kind, sizes and source.

  Raises:
    UsageError: the folder is not one that `convert KIND` wrote.
  """
  try:
    description = read_config(folder)
  except Malformed as e:
    raise UsageError(f"{folder} holds no converted weights: {e}") from e
  if not {"kind", "sizes", "source"} <= description.keys():
    raise UsageError(
      f"{folder} holds no converted weights: expected a folder that "
      "'python -m ccl_jax.convert KIND' wrote, with its config.json"
    )
  return description


def of_sizes(
  folder: str | os.PathLike,
  function: Callable[[Any], Any],
  description: dict[str, Any] | None = None,
) -> Any:
  """The result of a function of the sizes in a folder's config.json.

  Args:
    folder: of converted weights.
    function: of the sizes.
    description: the config.json, if it was read.

  Raises:
    UsageError: they are not the sizes that the function takes.
  """
  description = description or read_description(folder)
  try:
    return function(description["sizes"])
  except BAD_VALUES as e:
    raise UsageError(
      f"{folder}/config.json: its sizes are not those of {description['kind']} "
      f"({type(e).__name__}: {str(e).splitlines()[:1]}): put back what was written"
    ) from e


def digest(folder: str | os.PathLike) -> str:
  """The identity of converted weights: the hash of their source, and their dtype.

  Raises:
    UsageError: the folder holds no converted weights.
  """
  description = read_description(folder)
  try:
    return f"{description['source']['sha256']}-{description['dtype']}"
  except KeyError as e:
    raise UsageError(
      f"{folder}/config.json has no {e}: convert the weights again"
    ) from e


def restore_converted(folder: str | os.PathLike, dtype: str = "float32") -> PyTree:
  """The parameters of converted weights, verified.

  They are placed on the current mesh, the largest split over its devices, or without a
  mesh on the first device.

  Args:
    folder: as `convert KIND` wrote it.
    dtype: of the arrays in memory.

  Raises:
    UsageError: the folder holds no converted weights, or damaged ones.
  """
  read_description(folder)
  shapes = SliceReader(place(folder) / "checkpoints").shapes
  shapes = {path: x.update(dtype=jnp.dtype(dtype)) for path, x in shapes.items()}
  mesh = jax.sharding.get_mesh()
  placed = on_one_device(shapes) if mesh.empty else on_mesh(shapes, mesh)
  tree = traverse_util.unflatten_dict(placed, sep="/")
  return restore_params(place(folder) / "checkpoints", "params", tree)[1]


def on_one_device(shapes: PyTree) -> PyTree:
  """The shapes with a sharding: whole, on the first device of this process."""
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.tree.map(lambda x: x.update(sharding=device), shapes)


def on_mesh(shapes: Shapes, mesh: Mesh) -> Shapes:
  """Shapes by path with shardings: on every device whole but for the largest, which are
  split over all devices that may hold different parameters.
  """
  axes = [name for name in LOGICAL["embed"] if mesh.shape[name] > 1]
  parts = math.prod(mesh.shape[name] for name in axes)

  def placed(x):
    spec = [None] * x.ndim
    # The last axis that divides: a stack's layer axis comes first and stays whole.
    fits = [i for i in range(x.ndim) if x.shape[i] % parts == 0]
    if axes and fits and x.size >= LARGE:
      spec[fits[-1]] = tuple(axes)
    return x.update(sharding=NamedSharding(mesh, PartitionSpec(*spec)))

  return {path: placed(x) for path, x in shapes.items()}
