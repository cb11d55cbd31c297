"""Parameters of the blocks in eight bits, for sampling.

  W ~ scale * q, with a scale for each block and output channel, max |W| / the largest q

q is in -128..127 of int8, where the largest counts as 127.5, or a number of
float8_e4m3fn, up to 448; by the package qwix. Only matrices of the blocks are so held,
nearly all of a model; a block's are numbers of the model's dtype again where it runs,
so that products are as before and the memory of the parameters is half of bfloat16's.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from ccl_jax.errors import UsageError

PyTree = Any
KINDS = {"int8": jnp.int8, "fp8": jnp.float8_e4m3fn}


def check_kind(kind: str | None) -> None:
  """Checks a kind of quantization; None is none.

  Raises:
    UsageError: there is no such kind, or the package is missing.
  """
  if kind is None:
    return
  if kind not in KINDS:
    raise UsageError(f"--quantize: got {kind!r}; expected {' or '.join(KINDS)}")
  try:
    import qwix  # noqa: F401
  except ImportError as e:
    raise UsageError(
      f"--quantize needs the package qwix ({e}): pip install 'ccl_jax[quantize]'"
    ) from e


def quantized(params: PyTree, kind: str) -> PyTree:
  """The parameters with the matrices of their blocks in eight bits, placed as they
  were. The arrays that are replaced are given up one by one.

  Args:
    params: of a `JointDiT`; blocks have a leading axis of depth.
    kind: of `KINDS`.
  """
  blocks = jax.tree_util.tree_map_with_path(
    lambda path, x: _matrix(x, kind) if _is_matrix(path, x) else x, params["blocks"]
  )
  return {**params, "blocks": blocks}


def _is_matrix(path, x: jax.Array) -> bool:
  return path[-1].key == "kernel" and x.ndim == 3


def _matrix(x: jax.Array, kind: str):
  out = _quantize(kind)(x)
  out = out.replace(qvalue=jax.device_put(out.qvalue, x.sharding))
  x.delete()  # before the next one is made
  return out


@functools.cache
def _quantize(kind: str):
  """One function by kind, so that matrices of one shape share a program."""
  import qwix

  # A scale for each block and output channel.
  rule = functools.partial(qwix.quantize, qtype=KINDS[kind], channelwise_axes=(0, 2))
  return jax.jit(rule)


def dequantized(block: PyTree) -> PyTree:
  """The parameters of one block as the block multiplies by them: what `JointDiT.stored`
  is for.
  """
  import qwix

  held = lambda x: isinstance(x, qwix.QArray)
  return jax.tree.map(
    lambda x: qwix.dequantize(x) if held(x) else x, block, is_leaf=held
  )
