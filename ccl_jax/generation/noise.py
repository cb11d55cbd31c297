"""The noise of clips, by their seeds alone: on any mesh, and in any batch, the same.

A clip's first noise and the fresh noise of its steps are of keys that share nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer

from ccl_jax.axes import STREAMS
from ccl_jax.seeds import key_of_bits

# Folded into a seed's key: far above the counters of `jax.random.split`.
_STEPS = 2**31


def first_noise(
  shapes: Sequence[tuple[str, tuple[int, ...]]], bits: Sequence[Any]
) -> dict[str, Float[Array, "b ..."]]:
  """N(0, 1) by stream, for clips whose seeds have such bits.

  Args:
    shapes: (stream, shape) of what one seed makes.
    bits: of every seed; see `seeds.seed_bits`.
  """
  return _drawn([key_of_bits(x) for x in bits], dict(shapes))


def fresh_noise(
  latents: Mapping[str, Float[Array, "b ..."]],
  bits: Integer[Array | np.ndarray, "n 2"],
  step: Int[Array, ""],
) -> dict[str, Float[Array, "b ..."]]:
  """N(0, 1) of a step, of the shapes of the latents.

  Args:
    latents: of clips that n seeds make, as many each.
    bits: of every seed.
    step: its number.
  """
  keys = [
    jax.random.fold_in(jax.random.fold_in(key_of_bits(x), _STEPS), step) for x in bits
  ]
  shapes = {s: (len(x) // len(bits), *x.shape[1:]) for s, x in latents.items()}
  return _drawn(keys, shapes)


def _drawn(keys, shapes):
  split = [jax.random.split(key, len(STREAMS)) for key in keys]
  return {
    s: jnp.concatenate([jax.random.normal(k[STREAMS.index(s)], shape) for k in split])
    for s, shape in shapes.items()
  }
