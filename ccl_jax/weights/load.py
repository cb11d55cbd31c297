"""Published networks in memory: what the metrics run. Codecs and models are converted
first (`transfer`), as they do not fit on one device.
"""

import os
from typing import Any

import jax.numpy as jnp

from ccl_jax.weights.rules import load_tree
from ccl_jax.weights.transfer import open_source
from ccl_jax.weights.upstream import Sizes, get_upstream


def load_network(kind: str, src: str | os.PathLike, dtype: str = "float32") -> Any:
  """The network of a checkpoint, with its parameters on the device.

  Args:
    kind: a name of `weights.upstream.MODULES` whose upstream has a `network`.
    src: a file, or a folder as published.
    dtype: of the parameters and, where the network has a choice, of matrix products.

  Raises:
    UsageError: nothing there, or not the weights of this network.
  """
  params, sizes = load_params(kind, src, dtype)
  return get_upstream(kind).network(params, sizes, dtype)


def load_params(
  kind: str, src: str | os.PathLike, dtype: str = "float32"
) -> tuple[Any, Sizes]:
  """The parameters of a checkpoint as a tree in `dtype` on the device, and its sizes.

  Raises:
    UsageError: see `load_network`.
  """
  source = open_source(kind, src)
  rows = source.upstream.tables[source.form]
  shapes = {path: x.update(dtype=jnp.dtype(dtype)) for path, x in source.shapes.items()}
  return load_tree(rows, source.weights, shapes, source.upstream.ignore), source.sizes
