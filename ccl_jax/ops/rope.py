"""Rotary position embedding, in the three forms of the two streams.

A head of width d is d/2 complex numbers (interleaved pairs). Wan2.1 gives each axis a
slot: with d = 128 time has 44 channels, rows 42, columns 42, each slot with its own
frequencies theta^(-2i / slot), theta = 10000.

  grid      video: time, row and column of a token            (wan/modules/model.py)
  line      audio self-attention: one axis over all channels
  temporal  audio in cross-modal attention: the *video's* temporal slot at a fractional
            time (ops/tarp.py), the spatial slots unrotated           (section 4.1)

Tables are made in float64 and used in float32, (2, tokens, d): the cosine and the sine
of every channel's angle, equal for the two of a pair. The rotation is float32.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

THETA = 10000.0


def slots(d: int) -> tuple[int, int, int]:
  """Channels of the time, row and column slots of a head of width d."""
  space = 2 * (d // 6)
  return d - 2 * space, space, space


def _angles(positions: np.ndarray, slot: int) -> np.ndarray:
  # theta^(-2i / slot) for i = 0 .. slot / 2 - 1.
  rates = THETA ** (-np.arange(0, slot, 2, dtype=np.float64) / slot)
  return np.asarray(positions, np.float64)[:, None] * rates


def grid(
  t: int, h: int, w: int, d: int, spatial: bool = True, rate: float = 1.0
) -> Float[Array, "2 t s d"]:
  """(cos, sin) of video tokens; `spatial=False` rotates in time only. Latent frame i is
  at time `rate` i.
  """
  time, row, column = slots(d)
  parts = [
    (_angles(np.arange(t) * rate, time), (t, 1, 1)),
    (_angles(np.arange(h) * spatial, row), (1, h, 1)),
    (_angles(np.arange(w) * spatial, column), (1, 1, w)),
  ]
  # Only the small tables of the axes become constants of the program.
  table = jnp.concatenate(
    [
      jnp.broadcast_to(
        _cos_sin(angles).reshape(2, *shape, -1), (2, t, h, w, 2 * angles.shape[1])
      )
      for angles, shape in parts
    ],
    axis=-1,
  )
  return table.reshape(2, t, h * w, d)


def line(positions: np.ndarray, d: int) -> Float[Array, "2 a d"]:
  """(cos, sin) of a one-dimensional axis over the whole head."""
  return _cos_sin(_angles(positions, d))


def temporal(positions: np.ndarray, d: int) -> Float[Array, "2 a d"]:
  """(cos, sin) in the temporal slot of the video's table, zero angle elsewhere."""
  time, row, column = slots(d)
  angles = _angles(positions, time)
  still = np.zeros((len(angles), (row + column) // 2))
  return _cos_sin(np.concatenate([angles, still], axis=1))


def _cos_sin(angles: np.ndarray) -> Float[Array, "2 a d"]:
  """Of every pair's angle, for both of its channels."""
  return jnp.asarray(
    np.stack([np.cos(angles), np.sin(angles)]).repeat(2, -1), "float32"
  )


def _partners(d: int) -> np.ndarray:
  """The d x d matrix R with (x R)[2i] = -x[2i + 1] and (x R)[2i + 1] = x[2i]: i times
  every complex number of a head.
  """
  out = np.zeros((d, d), np.float32)
  even = np.arange(0, d, 2)
  out[even + 1, even], out[even, even + 1] = -1, 1
  return out


@jax.named_scope("rope")
def rotate(
  x: Float[Array, "b *tokens n d"],
  table: Float[Array, "2 *tokens d"],
  dtype: DTypeLike = jnp.float32,
) -> Float[Array, "b *tokens n d"]:
  """Rotates the pairs of every head by the angle of its token.

  Args:
    x: heads of queries or keys.
    table: (cos, sin) of their tokens.
    dtype: of the result; the rotation is float32.
  """
  cos, sin = table[:, None, ..., None, :]
  # A product with R and no reshape into pairs: arrays whose last axis is 2 fill a tile
  # of 128 lanes each on TPUs. Its entries are 0, 1 and -1, so three passes in bfloat16
  # lose 2^-17 of x, far below what rounding to bfloat16 does.
  exact = jnp.dtype(dtype) == jnp.float32
  precision = lax.Precision.HIGHEST if exact else lax.Precision.HIGH
  x = x.astype(jnp.float32)
  turned = jnp.dot(x, _partners(x.shape[-1]), precision=precision)
  # (re + i im) e^(i angle) = x cos + i x sin.
  return (x * cos + turned * sin).astype(dtype)
