"""A function of images applied tile by tile, the results blended where tiles overlap.

Along an axis, tiles start every `tile - overlap` places, and the last ones end where
the axis does, however little is left of them. Over the n places that a tile shares with
the one before it, its weight at place k is k / n, and that of the other 1 - k / n.

Positions and weights are those of diffusers (AutoencoderKLWan.tiled_decode). It blends
in place: when a row of tiles is laid over the one above, that one has been blended from
left to right, and is so once more. Its lower seam then has the weight (k / n)^2, and
its neighbour 1 - (k / n)^2.

On a mesh the devices have tiles of their own.
"""

import math
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from ccl_jax.sharding import devices_here, spread


class Span(NamedTuple):
  """The places of a tile along an axis, in units of length.

  Attributes:
    start, size: its first place, and how many it has.
    before, after: how many it shares with the tiles before it and after it.
  """

  start: int
  size: int
  before: int
  after: int


def spans(size: int, tile: int, overlap: int) -> list[Span]:
  """The tiles that cover an axis, in their order.

  Args:
    size: of the axis.
    tile: of a tile; the last ones may be smaller.
    overlap: of a tile with the next one, half a tile at most.
  """
  stride = tile - overlap
  starts = range(0, size, stride)
  sizes = [min(tile, size - start) for start in starts]
  shared = [0, *(min(overlap, n) for n in sizes[1:]), 0]
  return [Span(*of) for of in zip(starts, sizes, shared, shared[1:])]


def weights(
  span: Span, scale: int, step: int = 1, *, twice: bool = False
) -> Float[np.ndarray, " n"]:
  """Weights of a tile's places along an axis; those of all tiles add up to one.

  Args:
    span: of the tile.
    scale: places per unit of length.
    step: so many places side by side have one weight.
    twice: of the seam that is blended twice, see the module.
  """

  def ramp(length):
    rise = np.arange(length * scale // step).repeat(step) / max(
      length * scale // step, 1
    )
    return rise**2 if twice else rise

  out = np.ones(span.size * scale, np.float32)
  out[: span.before * scale] *= ramp(span.before)
  out[out.size - span.after * scale :] *= 1 - ramp(span.after)
  return out


def tiled(
  function: Callable[[Array], Array],
  x: Float[Array, "b t h w c"],
  *,
  tile: int,
  overlap: int,
  scales: tuple[int, int],
  step: int = 1,
) -> Float[Array, "b s i j e"]:
  """`function(x)` by tiles over h and w, as many at a time as there are devices for; a
  gradient computes each again.

  Args:
    function: keeps places: its result is scales[1] / scales[0] times as high and wide.
    tile: side of a tile, and `overlap` what two share, in units of length.
    scales: places per unit of length in x and in the result.
    step: places of the result that have one weight, see `weights`.
  """
  b, frames, *sizes, channels = x.shape
  sizes = [side // scales[0] for side in sizes]
  if max(sizes) <= tile:
    return function(x)
  # Tiles of one size are one program; at the far edges they may be smaller.
  alike = defaultdict(list)
  for row in spans(sizes[0], tile, overlap):
    for column in spans(sizes[1], tile, overlap):
      alike[row.size, column.size].append((row, column))
  together = max(devices_here() // b, 1)
  out = None
  for (height, width), tiles in alike.items():
    window = (b, frames, height * scales[0], width * scales[0], channels)
    cut = lambda at, window=window: lax.dynamic_slice(x, _place(at, scales[0]), window)
    if out is None:
      piece = jax.eval_shape(function, jax.ShapeDtypeStruct(window, x.dtype))
      whole = [side * scales[1] for side in sizes]
      out = jnp.zeros((*piece.shape[:2], *whole, piece.shape[4]), piece.dtype)

    def add(out, some, cut=cut):
      corners, masses = some
      pieces = jnp.concatenate([cut(at) for at in corners])
      made = jax.checkpoint(function)(spread(pieces, {0: 1}))
      for i, mass in enumerate(masses):
        y = made[i * b : (i + 1) * b] * mass[None, None, :, :, None]
        place = _place(corners[i], scales[1])
        y = y + lax.dynamic_slice(out, place, y.shape)
        out = lax.dynamic_update_slice(out, y, place)
      return out, None

    out = lax.scan(add, out, _in_rounds(tiles, together, scales[1], step))[0]
  return out


def _in_rounds(tiles, together, scale, step):
  """Corners (rounds, together, 2) and weights (rounds, together, p, q) of tiles of one
  size; what is missing of the last round is made up by tiles of weight zero.
  """
  corners = np.array([(row.start, column.start) for row, column in tiles])
  masses = np.stack([_mass(*at, scale, step) for at in tiles])
  together = min(together, 2 ** math.ceil(math.log2(len(tiles))))
  missing = -len(tiles) % together
  corners = np.pad(corners, ((0, missing), (0, 0)))
  masses = np.pad(masses, ((0, missing), (0, 0), (0, 0)))
  rounds = lambda x: jnp.asarray(x.reshape(-1, together, *x.shape[1:]))
  return rounds(corners), rounds(masses)


def _mass(row: Span, column: Span, scale: int, step: int) -> Float[np.ndarray, "p q"]:
  """The weights of a tile."""
  down = weights(row, scale, step)
  across, twice = (weights(column, scale, step, twice=x) for x in (False, True))
  lower = np.arange(down.size) >= down.size - row.after * scale
  return down[:, None] * np.where(lower[:, None], twice[None], across[None])


def _place(corner, scale):
  zero = jnp.zeros((), corner.dtype)
  # dynamic_slice wants one integer type for all of its indices.
  return (zero, zero, corner[0] * scale, corner[1] * scale, zero)
