"""The resize gives OpenCV's bytes."""

import cv2
import numpy as np
import pytest

from ccl_jax.metrics.resize import resize, scale


def pictures(*shape, seed=0):
  return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("seed", range(30))
def test_any_size_to_any_size(seed):
  rng = np.random.default_rng(seed)
  height, width = map(int, rng.integers(2, 500, 2))
  target = (224, 224) if seed % 2 else tuple(map(int, rng.integers(2, 400, 2)))
  image = pictures(height, width, 3, seed=seed)
  expected = cv2.resize(image, target[::-1], interpolation=cv2.INTER_LINEAR)
  np.testing.assert_array_equal(resize(image, *target), expected)


@pytest.mark.parametrize("factor", [0.25, 0.3, 1 / 3, 0.75, 1.0])
@pytest.mark.parametrize("size", [(181, 207), (90, 166), (66, 98)])
def test_by_a_factor(size, factor):
  """The step is the factor's, even where the size does not divide."""
  image = pictures(*size, 3)
  expected = cv2.resize(image, (0, 0), fx=factor, fy=factor)
  got = scale(image, factor)
  np.testing.assert_array_equal(got, expected)
  if factor == 1:
    np.testing.assert_array_equal(got, image)


def test_by_a_half():
  """Equal, but for rounding in what has no second pixel to be averaged with."""
  even, odd = pictures(64, 80, 3), pictures(65, 81, 3)
  by_half = lambda x: cv2.resize(x, (0, 0), fx=0.5, fy=0.5)
  np.testing.assert_array_equal(scale(even, 0.5), by_half(even))
  got, expected = scale(odd, 0.5).astype(int), by_half(odd).astype(int)
  assert np.abs(got - expected).max() <= 1
  np.testing.assert_array_equal(got[:32, :40], expected[:32, :40])


def test_several_pictures_at_once():
  images = pictures(2, 3, 21, 34, 3)
  got = resize(images, 15, 50)
  assert got.shape == (2, 3, 15, 50, 3)
  np.testing.assert_array_equal(got[1, 2], resize(images[1, 2], 15, 50))
