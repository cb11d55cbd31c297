"""Resampling: the formula sample by sample, tones kept and aliases kept out."""

import math

import numpy as np
import pytest

from ccl_jax.metrics.resample import resample


def slow(wave, source, target):
  """The formula, one output at a time, in float64."""
  divisor = math.gcd(source, target)
  f, g = source // divisor, target // divisor
  b, out = 0.99 * min(f, g), []
  for m in range(-(-len(wave) * g // f)):
    total = 0.0
    for n, x in enumerate(wave):
      t = n / f - m / g
      if abs(b * t) < 6:
        total += x * b / f * np.sinc(b * t) * math.cos(math.pi * b * t / 12) ** 2
    out.append(total)
  return np.array(out)


@pytest.mark.parametrize(
  "source, target", [(44100, 16000), (48000, 16000), (24000, 16000), (16000, 44100)]
)
def test_it_is_the_formula(source, target):
  wave = np.random.default_rng(0).standard_normal(500).astype(np.float32)
  got = resample(wave, source, target)
  expected = slow(wave, source, target)
  assert got.dtype == np.float32 and got.shape == expected.shape
  np.testing.assert_allclose(got, expected, atol=5e-6)


@pytest.mark.parametrize("source", [44100, 48000, 24000, 22050, 8000])
def test_a_sweep_keeps_what_both_rates_hold(source):
  """A tone that rises through both bands: the same tone below the cutoff, silence
  above it. Hann's main lobe over six crossings to each side is a third of the cutoff
  wide, and its side lobes are 44 dB below, once in the band and once in its image.
  """
  top, seconds = source / 2, 2.0
  phase = lambda t: np.pi * top * t**2 / seconds
  got = resample(
    np.sin(phase(np.arange(int(seconds * source)) / source)), source, 16000
  )
  t = np.arange(len(got)) / 16000
  hertz, expected = top * t / seconds, np.sin(phase(t))
  inside = (hertz < 0.65 * min(top, 8000)) & (t > 0.01)
  assert np.abs(got - expected)[inside].max() < 2 * 10 ** (-44 / 20)
  if top > 11500:
    outside = (hertz > 1.35 * 8000) & (t < seconds - 0.01)
    assert outside.sum() > 1000 and np.abs(got)[outside].max() < 10 ** (-44 / 20)


def test_lengths_channels_and_the_identity():
  wave = np.random.default_rng(1).standard_normal((2, 4411))
  got = resample(wave, 44100, 16000)
  assert got.shape == (2, math.ceil(4411 * 160 / 441))
  np.testing.assert_array_equal(got[1], resample(wave[1], 44100, 16000))
  same = resample(wave[0], 16000, 16000)
  np.testing.assert_array_equal(same, wave[0].astype(np.float32))
