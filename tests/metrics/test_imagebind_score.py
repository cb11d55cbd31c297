"""IB-score: the cosine; which frames, squares and sounds are looked at; a clip."""

import jax
import numpy as np
import pytest

from ccl_jax.metrics.base import Unscorable
from ccl_jax.metrics.imagebind_score import (
  MEAN,
  STD,
  cosine,
  frame_pairs,
  score,
  stretches,
  vectors,
)
from ccl_jax.metrics.mels import kaldi_mel
from ccl_jax.metrics.pixels import shrink, three_squares
from ccl_jax.models.scorers.imagebind import ImageBind
from ccl_jax.weights.imagebind import shapes_of
from tests.weights.eval_files import random_tree


def clip(frames, seconds, height=24, width=32, seed=0):
  rng = np.random.default_rng(seed)
  pixels = rng.integers(0, 256, (frames, height, width, 3), np.uint8)
  wave = 0.1 * rng.standard_normal(round(16000 * seconds))
  return pixels, wave.astype(np.float32)


def test_the_cosine_of_mean_vectors():
  rng = np.random.default_rng(0)
  v, a = (rng.standard_normal((k, 16)).astype(np.float32) for k in (6, 3))
  assert cosine(v, v) == pytest.approx(1, abs=1e-12)
  assert cosine(v[:1], v[:1]) == pytest.approx(1, abs=1e-12)
  x = np.eye(4, dtype=np.float32)
  assert cosine(x[:2], x[2:]) == 0
  assert cosine(x[:1], -x[:1]) == -1
  assert cosine(x[:2], x[:1]) == pytest.approx(0.5**0.5)
  assert cosine(v, 20 * a) == pytest.approx(cosine(v, a), rel=1e-6)
  mixed = cosine(rng.permutation(v), rng.permutation(a))
  assert mixed == pytest.approx(cosine(v, a), rel=1e-6)


def test_pairs_of_neighbours_in_three_squares():
  frames, _ = clip(4, 0)
  got = frame_pairs(frames)
  assert got.shape == (9, 2, 224, 224, 3) and got.dtype == np.uint8
  squares = three_squares(shrink(frames))
  for crop in range(3):
    for pair in range(3):
      expected = squares[crop, pair : pair + 2]
      np.testing.assert_array_equal(got[3 * crop + pair], expected)


def test_a_single_frame_is_its_own_neighbour():
  frames, _ = clip(1, 0)
  got = frame_pairs(frames)
  assert got.shape == (3, 2, 224, 224, 3)
  np.testing.assert_array_equal(got[:, 0], got[:, 1])


@pytest.mark.parametrize("seconds, starts", [(5, (0, 24000, 48000)), (2, (0, 0, 0))])
def test_the_sounds_at_the_beginning_middle_and_end(seconds, starts):
  _, wave = clip(1, seconds)
  got = stretches(wave)
  assert got.shape == (3, 128, 204) and got.dtype == np.float32
  for mel, start in zip(got, starts):
    expected = (kaldi_mel(wave[start : start + 32000]) + 4.268) / 9.138
    np.testing.assert_allclose(mel[:, :198], expected, atol=1e-6)
    np.testing.assert_allclose(mel[:, 198:], 4.268 / 9.138, rtol=1e-6)


def test_what_cannot_be_scored():
  net = ImageBind(None)  # never asked
  frames, wave = clip(2, 5)
  with pytest.raises(Unscorable, match="no sound"):
    score(frames, wave[:0], net, seconds=5.0)
  with pytest.raises(Unscorable, match=r"1.90 s long with 5.00 s of sound"):
    score(frames, wave, net, seconds=1.9)
  with pytest.raises(Unscorable, match=r"1.99 s of sound, expected at least 2 s"):
    score(frames, wave[:31900], net, seconds=5.0)


@pytest.fixture(scope="module")
def net():
  tower = dict(width=24, heads=2, hidden=16, depth=1, out=8)
  shapes = shapes_of({"vision": tower, "audio": tower, "grid": 16})
  return ImageBind(random_tree(shapes), heads=(2, 2))


def test_a_whole_clip(net):
  frames, wave = clip(3, 5.2)
  got = score(frames, wave, net, seconds=5.2)["ib_score"]
  v, a = vectors(net, frame_pairs(frames[:2]), stretches(wave))
  assert v.shape == a.shape == (3, 8)
  np.testing.assert_allclose(np.linalg.norm(v, axis=-1), 1, atol=1e-5)
  scale = np.exp(net.params["audio"]["log_scale"])
  np.testing.assert_allclose(np.linalg.norm(a, axis=-1), scale, rtol=1e-5)
  assert got == pytest.approx(cosine(np.asarray(v), np.asarray(a)))
  assert got != score(frames, wave[::-1].copy(), net, seconds=5.2)["ib_score"]
  assert got != score(frames[::-1].copy(), wave, net, seconds=5.2)["ib_score"]


def test_pixels_are_normalised_by_colour(net):
  """The vector of a plain colour is that of the tower on the normalised colour."""
  pairs = np.broadcast_to(np.uint8([255, 51, 0]), (1, 2, 224, 224, 3))
  got, _ = vectors(net, pairs, np.zeros((1, 128, 204), np.float32))
  colour = (np.array([1, 0.2, 0]) - MEAN) / STD
  pixels = np.broadcast_to(colour.astype(np.float32), (1, 2, 224, 224, 3))
  expected = jax.jit(ImageBind.vision)(net, pixels)
  np.testing.assert_allclose(got, expected, atol=1e-5)
