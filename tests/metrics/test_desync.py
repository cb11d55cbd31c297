"""DeSync: the arithmetic of segments and windows, the grid, and a whole clip."""

import numpy as np
import pytest

from ccl_jax.metrics import desync
from ccl_jax.metrics.base import Unscorable
from ccl_jax.metrics.desync import OFFSETS, from_logits, score, segment_count
from ccl_jax.metrics.pixels import centre, shrink
from ccl_jax.models.scorers.synchformer import Synchformer
from ccl_jax.weights.synchformer import shapes_of
from tests.weights.eval_files import random_tree


def clip(seconds, height=24, width=32, seed=0):
  rng = np.random.default_rng(seed)
  frames = rng.integers(0, 256, (round(25 * seconds), height, width, 3), np.uint8)
  wave = 0.1 * rng.standard_normal(round(16000 * seconds))
  return frames, wave.astype(np.float32)


@pytest.mark.parametrize(
  "seconds, segments",
  [(4.76, 13), (4.8, 14), (5.04, 14), (5.12, 15), (8, 24), (0.3, 0)],
)
def test_segments_of_a_clip(seconds, segments):
  assert segment_count(round(25 * seconds), round(16000 * seconds)) == segments


def test_the_shorter_of_picture_and_sound_counts():
  assert segment_count(200, 76800) == segment_count(120, 128000) == 14
  assert segment_count(200, 76799) == segment_count(119, 128000) == 13


def test_the_grid_and_its_chance():
  np.testing.assert_allclose(OFFSETS, np.linspace(-2, 2, 21), atol=1e-15)
  assert OFFSETS[10] == 0 and OFFSETS[18] == 1.6
  assert round(float(np.abs(OFFSETS).mean()), 4) == 1.0476


@pytest.mark.parametrize(
  "index, expected", [(10, 0), (18, 1.6), (0, 2), (20, 2), (7, 0.6)]
)
def test_one_hot_logits(index, expected):
  got = from_logits(50 * np.eye(21, dtype=np.float32)[[index, index]])
  assert got["desync"] == pytest.approx(expected, abs=1e-12)
  assert got["classes"] == [index, index]
  assert got["offsets"] == [OFFSETS[index]] * 2
  assert got["expected_offsets"] == pytest.approx(got["offsets"], abs=1e-6)
  assert got["probabilities"][0][index] == pytest.approx(1)


def test_the_first_and_the_last_window_are_averaged():
  logits = np.zeros((2, 21), np.float32)
  logits[0, 4], logits[1, 15] = 1, 3
  got = from_logits(logits)
  assert got["desync"] == pytest.approx((1.2 + 1.0) / 2)
  assert got["offsets"] == pytest.approx([-1.2, 1.0])
  odds = np.exp(logits[1])
  np.testing.assert_allclose(got["probabilities"][1], odds / odds.sum(), rtol=1e-6)
  assert got["expected_offsets"][1] == pytest.approx(odds @ OFFSETS / odds.sum())
  # One window is both.
  assert from_logits(logits[:1])["classes"] == [4, 4]


def test_windows_are_cut_where_the_protocol_says():
  frames, wave = clip(8)
  pixels, mels = desync.windows(frames, wave)
  assert pixels.shape == (2, 14, 16, 224, 224, 3) and pixels.dtype == np.uint8
  assert mels.shape == (2, 14, 128, 66) and mels.dtype == np.float32
  small = centre(shrink(frames))
  for w, first in enumerate((0, 10)):  # 24 segments
    for s in (0, 5, 13):
      start = 8 * (first + s)
      np.testing.assert_array_equal(pixels[w, s], small[start : start + 16])
      heard = wave[5120 * (first + s) :][:10240]
      np.testing.assert_array_equal(mels[w, s], desync.segment_mels(heard[None])[0])
  assert len(desync.windows(*clip(5.04))[0]) == 1  # both windows are the same


def test_the_mel_is_padded_before_it_is_normalised():
  mel = desync.segment_mels(np.zeros((1, 10240), np.float32))[0]
  np.testing.assert_allclose(
    mel[:, :65], (np.log(1e-6) + 4.2677393) / 9.1379948, rtol=1e-6
  )
  np.testing.assert_allclose(mel[:, 65], 4.2677393 / 9.1379948, rtol=1e-6)


def test_what_cannot_be_scored():
  net = Synchformer(None)  # never asked
  frames, wave = clip(5)
  with pytest.raises(Unscorable, match=r"4.76 s of picture.*at least 4.80 s of both"):
    score(frames[:119], wave, net)
  with pytest.raises(Unscorable, match=r"and 4.79 s of sound"):
    score(frames, wave[:76700], net)
  with pytest.raises(Unscorable, match="no sound"):
    score(frames, wave[:0], net)


@pytest.fixture(scope="module")
def net():
  """The smallest network with segments of the real size."""
  sizes = {
    "width": 12, "hidden": 16, "heads": 2, "depths": [1, 1, 1], "joint_hidden": 16,
    "joint_heads": 2, "classes": 21, "times": 8, "grid": 14,
  }  # fmt: skip
  return Synchformer(random_tree(shapes_of(sizes)), heads=2, joint_heads=2)


def test_a_whole_clip(net):
  frames, wave = clip(8)
  got = score(frames, wave, net)
  assert 0 <= got["desync"] <= 2 and len(got["probabilities"]) == 2
  first = score(frames[:120], wave[:76800], net)
  last = score(frames[80:], wave[51200:], net)
  for i, part in enumerate((first, last)):
    np.testing.assert_allclose(
      got["probabilities"][i], part["probabilities"][0], atol=1e-5
    )
  # Picture and sound both matter.
  dark, quiet = np.zeros_like(frames[:120]), np.zeros_like(wave[:76800])
  for other in (score(dark, wave[:76800], net), score(frames[:120], quiet, net)):
    change = np.subtract(other["probabilities"], first["probabilities"])
    assert np.abs(change).max() > 2e-4
