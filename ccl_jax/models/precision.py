"""The dtypes in which parameters that are not trained may be stored.

Matrix products of the blocks, and of the embeddings of patches, text and image, take
their matrices and biases in the compute dtype: stored in it, they give the same numbers
bit for bit, with half the memory. Norms, modulation, time embedding, context tokens and
head are computed in float32 and stay so.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ccl_jax.sharding import path_of

PyTree = Any
_PRODUCTS = re.compile(
  r"(blocks/.*|(video|audio)/(patch|text|image)_embedding(/.*)?)/(kernel|bias)"
)
_NORMS = re.compile(r".*/(ln_|norm)[^/]*/bias")  # computed in float32


def stored_as(shapes: PyTree, dtype: DTypeLike) -> PyTree:
  """Shapes of a `JointDiT`'s parameters, in the smallest dtypes that change no number.

  Args:
    shapes: a tree of `jax.ShapeDtypeStruct`.
    dtype: that the model computes in.
  """

  def leaf(path, x):
    path = path_of(path)
    product = _PRODUCTS.fullmatch(path) and not _NORMS.fullmatch(path)
    return x.update(dtype=jnp.dtype(dtype)) if product else x

  return jax.tree_util.tree_map_with_path(leaf, shapes)
