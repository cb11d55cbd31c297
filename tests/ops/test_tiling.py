"""Tiles cover, weights add up to one, and blending a sum of places is exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.ops.tiling import tile_starts, tile_weights, tiled


@pytest.mark.parametrize(
  "size, tile, overlap",
  [(7, 9, 2), (9, 9, 2), (10, 9, 2), (31, 8, 3), (31, 8, 6), (13, 4, 0)],
)
def test_tiles_cover_and_their_weights_add_up_to_one(size, tile, overlap):
  starts = tile_starts(size, tile, overlap)
  assert starts[0] == 0 and starts[-1] == max(size - tile, 0)
  assert (np.diff(starts) <= tile - overlap).all()
  for scale in (1, 4):
    weights, total = tile_weights(size, tile, overlap, scale), np.zeros(size * scale)
    for start, row in zip(starts * scale, weights):
      assert row.min() > 0
      total[start : start + len(row)] += row
    np.testing.assert_allclose(total, 1, rtol=1e-6)


def test_weights_are_linear_across_the_overlap():
  weights = tile_weights(10, 6, 2, 2)
  np.testing.assert_allclose(weights[0], [*[1] * 8, 7 / 8, 5 / 8, 3 / 8, 1 / 8])
  np.testing.assert_allclose(weights[1], weights[0][::-1])


@pytest.mark.parametrize("scales, factor", [((1, 3), 3), ((2, 1), 0.5), ((1, 1), 1)])
def test_a_function_of_single_places_is_reproduced(scales, factor):
  """Result and gradient, in two dimensions, larger and smaller than the input."""

  def function(x):
    if factor == 3:
      x = jnp.repeat(jnp.repeat(x, 3, 2), 3, 3)
    elif factor == 0.5:
      x = x[:, :, ::2, ::2] * x[:, :, 1::2, 1::2]
    return jnp.sin(x).sum(-1, keepdims=True)

  x = jax.random.normal(jax.random.key(0), (2, 3, 14 * scales[0], 9 * scales[0], 2))
  run = lambda x: tiled(function, x, tile=5, overlap=2, scales=scales)
  both = lambda f: jax.jit(jax.value_and_grad(lambda x: (f(x) ** 2).sum()))
  np.testing.assert_allclose(jax.jit(run)(x), function(x), atol=1e-6)
  for got, expected in zip(both(run)(x), both(function)(x)):
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_tiles_are_blended_linearly():
  """Four tiles of a function that sees its tile's borders, blended by hand."""

  def function(x):
    grown = jnp.repeat(jnp.repeat(x, 2, 2), 2, 3)
    return grown * jnp.cumsum(grown, 2) - jnp.cumsum(grown, 3)

  x = jax.random.normal(jax.random.key(0), (2, 3, 6, 7, 1))
  got = jax.jit(lambda x: tiled(function, x, tile=4, overlap=1, scales=(1, 2)))(x)
  expected = np.zeros(got.shape)
  # 4 rows of the result and 2 columns are in two tiles.
  rows = np.array([1 / 8, 3 / 8, 5 / 8, 7 / 8, 1, 1, 1, 1])
  columns = np.array([1 / 4, 3 / 4, 1, 1, 1, 1, 1, 1])
  for y, down in ((0, rows[::-1]), (2, rows)):
    for z, across in ((0, columns[::-1]), (3, columns)):
      tile = np.asarray(function(x[:, :, y : y + 4, z : z + 4]))
      place = np.s_[:, :, 2 * y : 2 * y + 8, 2 * z : 2 * z + 8]
      expected[place] += (down[:, None] * across)[..., None] * tile
  np.testing.assert_allclose(got, expected, atol=1e-5)
