"""Adds LoRAs to parameters: all that change one in a single pass, in float32.

  W + sum over LoRAs of strength (W'(W) - W)

W'(W) is what a LoRA alone makes of W (weights/lora.py), so their order does not matter.
The sum is rounded once, to the dtype of the parameter. Stacks of blocks are
changed layer by layer, in place: no second copy of the model is made.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jaxtyping import Array, Float

from ccl_jax.weights.lora import Delta, Lora

PyTree = Any
_TINY = 1e-30  # in place of the norm of a row of zeros


def merged(w: Float[Array, "..."], deltas: Sequence[Delta]) -> Float[Array, "..."]:
  """A parameter with the changes of several LoRAs, in float32.

  Args:
    w: the parameter, or one layer of a stack, in its layout.
    deltas: what each LoRA does to it.
  """
  w = jnp.asarray(w, jnp.float32)
  for d in deltas:
    if d.new is not None:
      w = (1 - d.strength) * w + d.strength * d.new
  return w + sum(d.strength * _change(w, d) for d in deltas)


def _change(w, d: Delta):
  """W' - W of one LoRA."""
  dw = 0.0
  if d.a is not None:
    dw = jnp.matmul(d.a, d.b, precision=jax.lax.Precision.HIGHEST)
  if d.dense is not None:
    dw = dw + d.dense
  if d.magnitude is not None:
    # Norms go over the axes that the magnitudes do not have.
    axes = tuple(i for i, n in enumerate(d.magnitude.shape) if n == 1)
    norm = jnp.sqrt(jnp.sum((w + dw) ** 2, axes, keepdims=True))
    dw = d.magnitude * (w + dw) / jnp.maximum(norm, _TINY) - w
  return dw if d.diff is None else dw + d.diff


def merge(params: PyTree, loras: Sequence[tuple[Lora, float]]) -> PyTree:
  """The parameters with LoRAs added to them, in their dtypes and where they are.

  Args:
    params: of a model, on devices; they are given up.
    loras: each with its strength.

  Raises:
    UsageError: a tensor cannot be read, or holds NaN or infinity.
  """
  flat = traverse_util.flatten_dict(params, sep="/")
  places = dict.fromkeys(place for lora, _ in loras for place in lora.places())
  for path, slot in places:
    found = (lora.delta(path, slot, strength) for lora, strength in loras)
    deltas = [d for d in found if d is not None]
    program = _program(flat[path].sharding)
    flat[path] = program(flat[path], slot, deltas)
  return traverse_util.unflatten_dict(flat, sep="/")


@functools.cache
def _program(sharding):
  return jax.jit(_merge_slot, donate_argnums=0, out_shardings=sharding)


def _merge_slot(stack, slot, deltas):
  new = merged(stack[slot], deltas).astype(stack.dtype)
  return stack.at[slot].set(new)
