"""Distances of mels by hand, and clicks that come back late or early as is known."""

import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.audio_codec import scores as codec_scores
from ccl_jax.audio_codec.scores import (
  click_errors_ms,
  clicks,
  linear_codec,
  linear_mel,
  mel_distance_db,
  score_mels,
  score_waves,
)


def test_mels_a_tenth_apart_are_2_db():
  """Bands under the root, frames outside of it: (20 x 3/5 + 20 x 4/5) / 2 here."""
  mel = jnp.zeros((3, 2, 4))
  np.testing.assert_allclose(mel_distance_db(mel + 0.1, mel), 2, rtol=1e-6)
  apart = jnp.array([[[0.6, -0.6, 0.6, -0.6], [1.6, 0.0, 0.0, 0.0]]])
  np.testing.assert_allclose(mel_distance_db(apart, mel[:1]), 14, rtol=1e-6)


@pytest.fixture
def windows():
  return list(np.random.default_rng(0).uniform(-1, 1, (11, 6)).astype(np.float32))


def test_the_mean_is_over_the_windows_and_not_what_fills_them_up(windows, monkeypatch):
  """Eleven of them, eight at a time."""
  shapes = []

  def mel(wave):
    shapes.append(wave.shape)
    return wave.reshape(-1, 2, 3)

  monkeypatch.setattr(codec_scores, "log_mel", mel)
  coders = {"half": lambda x: x.reshape(-1, 2, 3) / 2, "same": lambda x: mel(x)}
  got = score_mels(coders, windows)
  each = [20 * np.sqrt((x.reshape(2, 3) ** 2 / 4).mean(1)).mean() for x in windows]
  assert got == {
    "mel_db/half": pytest.approx(np.mean(each), rel=1e-5), "mel_db/same": 0
  }  # fmt: skip
  assert set(shapes) == {(8, 6)}


def test_waves_have_both_distances_of_what_comes_back(windows, monkeypatch):
  monkeypatch.setattr(codec_scores, "log_mel", lambda x: x.reshape(-1, 2, 3))
  lsd = lambda back, wave: back[:, 0] - 3 * wave[:, 0]
  monkeypatch.setattr(codec_scores, "log_spectral_distance", lsd)
  got = score_waves({"twice": lambda x: 2 * x}, windows)
  assert got["lsd_db/twice"] == pytest.approx(
    -np.mean([x[0] for x in windows]), rel=1e-4
  )
  each = [20 * np.sqrt((x.reshape(2, 3) ** 2).mean(1)).mean() for x in windows]
  assert got["mel_db/twice"] == pytest.approx(np.mean(each), rel=1e-5)


def test_the_linear_codecs_mel_has_the_floor_of_a_log_mel():
  class Codec:
    def encode(self, wave):
      return wave

    def decode_mel(self, latent):
      return jnp.array([[[1e-7, 1e-3, 10.0]]])

  mel = linear_mel.__wrapped__(Codec())
  np.testing.assert_allclose(mel(jnp.zeros((1, 4))), [[[-5, -3, 1]]], rtol=1e-6)


def test_the_linear_codec_is_fitted_to_whole_latents(monkeypatch):
  seen = []
  monkeypatch.setattr(codec_scores, "fit_audio", lambda waves: seen.extend(waves))
  linear_codec.__wrapped__([np.arange(1030.0), np.arange(512.0)])
  assert [len(x) for x in seen] == [1024, 512] and seen[0][-1] == 1023


def test_clicks_are_of_a_millisecond_away_from_the_ends():
  waves, times = clicks(count=40, seconds=0.5, seed=3)
  assert waves.shape == (40, 8000) and waves.dtype == np.float32
  assert times.min() >= 2000 and times.max() < 6000 and len(set(times)) > 20
  for wave, time in zip(waves, times):
    np.testing.assert_allclose(
      wave[time : time + 16], 0.8 * np.sin(np.pi * np.arange(16) / 16), atol=1e-6
    )
    assert not wave[:time].any() and not wave[time + 16 :].any()
  assert clicks()[0].shape == (64, 16384)


@pytest.mark.parametrize("samples", [0, 5, -8, 320, -320])
def test_a_click_that_is_late_has_a_positive_error(samples):
  """16 samples are a millisecond; further away than 20 ms nothing is looked for."""
  waves, times = clicks(count=11, seconds=0.5)
  coder = lambda x: 0.3 * jnp.roll(x, samples, 1)
  got = click_errors_ms(coder, waves, times)
  np.testing.assert_allclose(got, np.full(11, samples / 16))
