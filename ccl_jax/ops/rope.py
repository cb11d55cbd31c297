"""Rotary position embedding, in the three forms of the two streams.

A head of width d is d/2 complex numbers (interleaved pairs). Wan2.1 gives each axis a
slot: with d = 128 time has 44 channels, rows 42, columns 42, each slot with its own
frequencies theta^(-2i / slot), theta = 10000.

  grid      video: time, row and column of a token            (wan/modules/model.py)
  line      audio self-attention: one axis over all channels
  temporal  audio in cross-modal attention: the *video's* temporal slot at a fractional
            time (ops/tarp.py), the spatial slots unrotated           (section 4.1)

Tables are made in float64 and used in float32; the rotation is float32.
"""

import jax.numpy as jnp
import numpy as np
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
) -> Float[Array, "t s p 2"]:
  """(cos, sin) of video tokens, p = d/2; `spatial=False` rotates in time only. Latent
  frame i is at time `rate` i.
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
        _cos_sin(angles).reshape(*shape, -1, 2), (t, h, w, angles.shape[1], 2)
      )
      for angles, shape in parts
    ],
    axis=-2,
  )
  return table.reshape(t, h * w, d // 2, 2)


def line(positions: np.ndarray, d: int) -> Float[Array, "a p 2"]:
  """(cos, sin) of a one-dimensional axis over the whole head."""
  return _cos_sin(_angles(positions, d))


def temporal(positions: np.ndarray, d: int) -> Float[Array, "a p 2"]:
  """(cos, sin) in the temporal slot of the video's table, zero angle elsewhere."""
  time, row, column = slots(d)
  angles = _angles(positions, time)
  still = np.zeros((len(angles), (row + column) // 2))
  return _cos_sin(np.concatenate([angles, still], axis=1))


def _cos_sin(angles: np.ndarray) -> Float[Array, "a p 2"]:
  return jnp.asarray(np.stack([np.cos(angles), np.sin(angles)], -1), jnp.float32)


def rotate(
  x: Float[Array, "b *tokens n d"], table: Float[Array, "*tokens p 2"]
) -> Float[Array, "b *tokens n d"]:
  """Rotates the pairs of every head by the angle of its token; float32 out."""
  pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
  cos, sin = (table[None, ..., None, :, i] for i in (0, 1))
  # (re + i im) e^(i angle), as real numbers.
  re, im = pairs[..., 0], pairs[..., 1]
  return jnp.stack([re * cos - im * sin, re * sin + im * cos], -1).reshape(x.shape)
