"""A function of images applied tile by tile, the results blended where tiles overlap.

Along an axis, tiles of one size start at evenly spread places, the last one ending at
the edge. The weights w of the result y = sum_i w_i f(x_i) rise and fall linearly where
neighbours overlap, and add up to one everywhere.
"""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int


def tile_starts(size: int, tile: int, overlap: int) -> Int[np.ndarray, " n"]:
  """Starts of the fewest tiles that cover `size` and overlap by at least `overlap`."""
  if tile >= size:
    return np.zeros(1, int)
  # The fewest n with n tile - (n - 1) overlap >= size.
  count = -(-(size - overlap) // (tile - overlap))
  return np.round(np.linspace(0, size - tile, count)).astype(int)


def tile_weights(
  size: int, tile: int, overlap: int, scale: int
) -> Float[np.ndarray, "n p"]:
  """Weights of the n tiles along one axis; at every place they sum to one.

  Args:
    size, tile, overlap: lengths, as of `tile_starts`.
    scale: places per unit of length, so that a tile has p = tile * scale.
  """
  starts, tile = tile_starts(size, tile, overlap) * scale, min(size, tile) * scale
  middle = np.arange(tile) + 0.5
  # Lengths that neighbours share; 0 at the edges, where no tile fades.
  seams = np.maximum([0, *(tile - np.diff(starts)), 0], 0.5)  # 0.5: no ramp
  ramps = [
    np.minimum(np.minimum(middle / before, (tile - middle) / after), 1)
    for before, after in itertools.pairwise(seams)
  ]
  total = np.zeros(size * scale)  # one already, but where more than two tiles meet
  for start, ramp in zip(starts, ramps):
    total[start : start + tile] += ramp
  weights = [r / total[start : start + tile] for start, r in zip(starts, ramps)]
  return np.asarray(weights, np.float32)


def tiled(
  function: Callable[[Array], Array],
  x: Float[Array, "b t h w c"],
  *,
  tile: int,
  overlap: int,
  scales: tuple[int, int],
) -> Float[Array, "b s i j e"]:
  """`function(x)` by tiles over h and w, one at a time; a gradient computes each again.

  Args:
    function: keeps places: its result is scales[1] / scales[0] times as high and wide.
    tile: side of a tile, and `overlap` the least that two share, in units of length.
    scales: places per unit of length in x and in the result.
  """
  sizes = [side // scales[0] for side in x.shape[2:4]]
  if max(sizes) <= tile:
    return function(x)
  starts = [tile_starts(size, tile, overlap) for size in sizes]
  weights = [tile_weights(size, tile, overlap, scales[1]) for size in sizes]
  corners = np.stack(np.meshgrid(*starts, indexing="ij"), -1).reshape(-1, 2)
  rows, columns = np.indices([len(s) for s in starts]).reshape(2, -1)
  window = [min(size, tile) * scales[0] for size in sizes]
  cut = lambda corner: lax.dynamic_slice(
    x, _place(corner * scales[0]), (*x.shape[:2], *window, x.shape[4])
  )
  piece = jax.eval_shape(lambda: function(cut(jnp.zeros(2, int))))
  whole = [size * scales[1] for size in sizes]

  def add(out, at):
    corner, row, column = at
    place = _place(corner * scales[1])
    y = jax.checkpoint(function)(cut(corner))
    # y = sum_i w_i f(x_i), with w the product of both axes' ramps.
    y = y * row[None, None, :, None, None] * column[None, None, None, :, None]
    y = y + lax.dynamic_slice(out, place, y.shape)
    return lax.dynamic_update_slice(out, y, place), None

  out = jnp.zeros((*piece.shape[:2], *whole, piece.shape[4]), piece.dtype)
  at = (jnp.asarray(corners), weights[0][rows], weights[1][columns])
  return lax.scan(add, out, at)[0]


def _place(corner: Int[Array, "2"]) -> tuple:
  zero = jnp.zeros((), corner.dtype)
  # dynamic_slice wants one integer type for all of its indices.
  return (zero, zero, corner[0], corner[1], zero)
