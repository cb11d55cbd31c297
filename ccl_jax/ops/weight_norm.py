"""Weight norm (arXiv 1602.07868) as a change of a parameter tree, not of a network.

  kernel w  <->  direction v and length g:  w = g v / |v|

with the norm over all axes of a kernel but its last. Training updates v and g, and the
network is given w:

  train = split(params)                   once
  loss(join(train), ...)                  in every step; gradients are those of v and g
  params = join(train)                    for inference and export
"""

from typing import Any

import jax.numpy as jnp
from flax import traverse_util

PyTree = Any
KERNEL, DIRECTION, LENGTH = "kernel", "direction", "length"


def split(params: PyTree) -> PyTree:
  """Every kernel w as a direction v = w and a length g = |w|; other leaves unchanged.

  Args:
    params: a nested dict; a leaf is a kernel if its name is `KERNEL`.
  """
  flat = {}
  for path, x in traverse_util.flatten_dict(params).items():
    if path[-1] == KERNEL:
      flat[*path[:-1], DIRECTION], flat[*path[:-1], LENGTH] = x, _norm(x)
    else:
      flat[path] = x
  return traverse_util.unflatten_dict(flat)


def join(params: PyTree) -> PyTree:
  """Every direction and length as a kernel w = g v / |v|: the inverse of `split`."""
  flat = traverse_util.flatten_dict(params)
  out = {}
  for path, x in flat.items():
    if path[-1] == DIRECTION:
      out[*path[:-1], KERNEL] = x * (flat[*path[:-1], LENGTH] / _norm(x))
    elif path[-1] != LENGTH:
      out[path] = x
  return traverse_util.unflatten_dict(out)


def _norm(x):
  return jnp.sqrt(jnp.sum(x * x, tuple(range(x.ndim - 1)), keepdims=True))
