"""Frames for the networks: sizes, an antialiased bicubic, and which squares are cut."""

import numpy as np
import pytest

from ccl_jax.metrics.pixels import SIDE, centre, shrink, three_squares


def cubic(x):
  """Keys' kernel with slope -1/2."""
  x = np.abs(x)
  near = 1.5 * x**3 - 2.5 * x**2 + 1
  return np.where(x < 1, near, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))


def matrix(size, target):
  """Weights of an antialiased resize along one axis."""
  ratio = size / target
  places = (np.arange(target)[:, None] + 0.5) * ratio - 0.5
  weights = cubic((np.arange(size) - places) / max(ratio, 1))
  return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize(
  "height, width, expected",
  [(480, 640, (224, 298)), (640, 480, (298, 224)), (608, 1504, (224, 554)),
   (100, 100, (224, 224))],
)  # fmt: skip
def test_the_shorter_side_is_224(height, width, expected):
  frames = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
  frames = np.sort(frames, axis=1)
  got = shrink(frames)
  assert got.shape == (2, *expected, 3) and got.dtype == np.uint8
  rows, columns = matrix(height, expected[0]), matrix(width, expected[1])
  exact = np.einsum("ih,fhwc->fiwc", rows, frames, optimize=True)
  exact = np.einsum("fiwc,jw->fijc", exact, columns, optimize=True)
  error = np.abs(got - np.clip(exact, 0, 255))
  assert error.max() < 2 and (error > 1).mean() < 0.005


def column_numbers(height, width):
  """A frame whose pixels say where they are, (row, column, 0)."""
  rows, columns = np.mgrid[:height, :width]
  return np.stack([rows % 256, columns % 256, 0 * rows], -1)[None].astype(np.uint8)


@pytest.mark.parametrize("spare, left", [(0, 0), (10, 5), (1, 0), (3, 2), (5, 2)])
def test_the_centre(spare, left):
  assert (
    centre(column_numbers(SIDE, SIDE + spare))[0, 0, :, 1] == np.arange(SIDE) + left
  ).all()
  assert (
    centre(column_numbers(SIDE + spare, SIDE))[0, :, 0, 0] == np.arange(SIDE) + left
  ).all()


def test_three_squares_of_either_orientation():
  wide = three_squares(column_numbers(SIDE, SIDE + 31))
  assert wide.shape == (3, 1, SIDE, SIDE, 3)
  assert wide[:, 0, 0, 0, 1].tolist() == [0, 16, 31]
  tall = three_squares(column_numbers(SIDE + 30, SIDE))
  assert tall[:, 0, 0, 0, 0].tolist() == [0, 15, 30]
  assert (tall[:, 0, 0, 0, 1] == 0).all()
