"""Tiles cover, weights add up to one, and blending a sum of places is exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.ops.tiling import Span, spans, tiled, weights
from ccl_jax.sharding import finest, make_mesh


@pytest.mark.parametrize(
  "size, tile, overlap, expected",
  [
    # Wan2.1's tiles of 256 pixels that overlap by 64, in latents: of 480, 432, 240.
    (60, 32, 8, [(0, 32, 0, 8), (24, 32, 8, 8), (48, 12, 8, 0)]),
    (54, 32, 8, [(0, 32, 0, 8), (24, 30, 8, 6), (48, 6, 6, 0)]),
    (30, 32, 8, [(0, 30, 0, 6), (24, 6, 6, 0)]),
    (24, 32, 8, [(0, 24, 0, 0)]),
    (13, 4, 0, [(0, 4, 0, 0), (4, 4, 0, 0), (8, 4, 0, 0), (12, 1, 0, 0)]),
  ],
)
def test_where_tiles_are(size, tile, overlap, expected):
  assert spans(size, tile, overlap) == [Span(*of) for of in expected]


@pytest.mark.parametrize(
  "size, tile, overlap", [(7, 9, 2), (10, 9, 2), (31, 8, 3), (22, 8, 4), (13, 4, 0)]
)
@pytest.mark.parametrize("scale, step", [(1, 1), (4, 1), (4, 2)])
def test_tiles_cover_and_their_weights_add_up_to_one(size, tile, overlap, scale, step):
  for twice in (False, True):
    total = np.zeros(size * scale)
    for span in spans(size, tile, overlap):
      row = weights(span, scale, step, twice=twice)
      assert row.min() >= 0 and len(row) == span.size * scale
      total[span.start * scale :][: len(row)] += row
    np.testing.assert_allclose(total, 1, rtol=1e-6)


def test_weights_are_linear_across_the_overlap():
  first, last = (weights(span, 2) for span in spans(8, 5, 2)[:2])
  np.testing.assert_allclose(first, [*[1] * 6, 1, 3 / 4, 1 / 2, 1 / 4])
  np.testing.assert_allclose(last[:5], [0, 1 / 4, 1 / 2, 3 / 4, 1])
  by_twos = weights(Span(0, 5, 2, 0), 2, 2)
  np.testing.assert_allclose(by_twos[:5], [0, 0, 1 / 2, 1 / 2, 1])
  twice = weights(Span(0, 5, 2, 1), 2, twice=True)
  np.testing.assert_allclose(twice[:5], [0, 1 / 16, 1 / 4, 9 / 16, 1])
  np.testing.assert_allclose(twice[5:], [1, 1, 1, 1, 3 / 4])


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


def bordered(x):
  """A function that sees its tile's borders, twice as high and wide."""
  grown = jnp.repeat(jnp.repeat(x, 2, 2), 2, 3)
  return grown * jnp.cumsum(grown, 2) - jnp.cumsum(grown, 3)


def laid(x, tile, overlap):
  """`bordered` of tiles that are laid one over the other in place, a row of them over
  the row above and each over its left neighbour, as diffusers does.
  """
  stride, rows = tile - overlap, []
  for y in range(0, x.shape[2], stride):
    row = []
    for z in range(0, x.shape[3], stride):
      row.append(np.array(bordered(x[:, :, y : y + tile, z : z + tile])))
    rows.append(row)
  for i, row in enumerate(rows):
    for j, mine in enumerate(row):
      for axis, other in ((2, rows[i - 1][j] if i else None), (3, row[j - 1])):
        if other is None or (axis == 3 and not j):
          continue
        n = min(2 * overlap, other.shape[axis], mine.shape[axis])
        for k in range(n):
          here, there = [slice(None)] * 5, [slice(None)] * 5
          here[axis], there[axis] = k, other.shape[axis] - n + k
          here, there = tuple(here), tuple(there)
          mine[here] = other[there] * (1 - k / n) + mine[here] * (k / n)
  kept = [np.concatenate([t[:, :, :, : 2 * stride] for t in row], 3) for row in rows]
  return np.concatenate([t[:, :, : 2 * stride] for t in kept], 2)


def test_tiles_are_blended_as_if_laid_over_one_another():
  """With seams that cross, and smaller tiles at both ends."""
  x = jax.random.normal(jax.random.key(0), (2, 3, 9, 8, 1))
  got = jax.jit(lambda x: tiled(bordered, x, tile=4, overlap=1, scales=(1, 2)))(x)
  np.testing.assert_allclose(got, laid(x, 4, 1), atol=1e-5)


@pytest.mark.parametrize("clips", [1, 2, 3])
def test_devices_have_tiles_of_their_own(clips):
  """More tiles than devices and fewer, of clips that divide the devices and not."""
  x = jax.random.normal(jax.random.key(clips), (clips, 1, 9, 14, 1))
  calls = []

  def function(x):
    calls.append(x.shape)
    return bordered(x)

  run = lambda x: tiled(function, x, tile=4, overlap=1, scales=(1, 2))
  with jax.set_mesh(finest(make_mesh((2, 1, 4, 1)))):
    got = jax.jit(run)(x)
  np.testing.assert_allclose(got, laid(x, 4, 1), atol=1e-5)
  # Eight tiles of one clip at once, four of two, two of three.
  assert (8 // clips * clips, 1, 4, 4, 1) in calls
