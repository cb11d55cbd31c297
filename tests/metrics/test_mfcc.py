"""Mel cepstra are those of python_speech_features, at the scale of int16."""

import numpy as np
import pytest
import python_speech_features

from ccl_jax.metrics.mfcc import RATE, mfcc


def sound(n, seed=0):
  """A voice-like hum over noise, in [-1, 1]."""
  rng = np.random.default_rng(seed)
  t = np.arange(n) / RATE
  hum = sum(np.sin(2 * np.pi * 130 * k * t) / k for k in range(1, 20))
  return 0.2 * hum * (1 + np.sin(12 * t)) / 2 + 0.02 * rng.standard_normal(n)


def to_int16(wave):
  return np.clip(np.rint(wave * 32768.0), -32768, 32767).astype(np.int16)


@pytest.mark.parametrize("n", [1, 399, 400, 401, 560, 561, 16000, 33333])
def test_equal_to_the_package(n):
  wave = to_int16(sound(n, seed=n))
  got, expected = mfcc(wave), python_speech_features.mfcc(wave, RATE)
  assert got.shape == expected.shape == (1 + max(-(-(n - 400) // 160), 0), 13)
  np.testing.assert_allclose(got, expected, atol=1e-10)


def test_silence_is_finite_and_equal():
  wave = np.zeros(1600, np.int16)
  wave[800:] = to_int16(sound(800))
  expected = python_speech_features.mfcc(wave, RATE)
  assert np.isfinite(expected).all()
  np.testing.assert_allclose(mfcc(wave), expected, atol=1e-10)


def test_the_scale_of_the_samples_is_in_the_first_coefficient():
  """Samples in [-1, 1] are another sound to SyncNet, so they are refused."""
  wave = sound(8000)
  got = mfcc(to_int16(wave))
  quiet = python_speech_features.mfcc(wave, RATE)
  np.testing.assert_allclose(got[:, 0] - quiet[:, 0], 2 * np.log(32768), atol=1e-2)
  np.testing.assert_allclose(got[:, 1:], quiet[:, 1:], atol=0.3)  # rounded samples
  with pytest.raises(TypeError, match="samples are float64, expected int16"):
    mfcc.__wrapped__(wave)  # jaxtyping refuses them in tests
