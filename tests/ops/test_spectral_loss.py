"""The spectral loss: its formula, what it does not hear, what may move under it, its
gradient in silence; and distances of mels and of waves.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.errors import UsageError
from ccl_jax.ops.spectral_loss import (
  BANDS,
  MODULATIONS,
  RESOLUTIONS,
  log_spectral_distance,
  modulation_loss,
  spectral_loss,
)

LENGTH = 4096
terms = jax.jit(spectral_loss, static_argnames="floor")


def noise(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(0.1 * rng.normal(size=shape), jnp.float32)


def total(wave, target):
  return sum(spectral_loss(wave, target))


def hann_spectra(x, n_fft, hop):
  """(frame, bin) of one row, in float64."""
  window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
  x = np.pad(np.float64(x), (n_fft - hop) // 2, "reflect")
  frames = [x[i : i + n_fft] for i in range(0, len(x) - n_fft + 1, hop)]
  return np.fft.rfft(np.array(frames) * window)


@pytest.fixture(scope="module")
def slope():
  return jax.jit(jax.value_and_grad(total))


def slaney(n_fft, bands):
  """(bin, band) triangles of height 1 where a bin is at their peak."""
  mel_of = lambda hz: np.where(
    hz < 1000, 3 * hz / 200, 15 + 27 * np.log(np.maximum(hz, 1) / 1000) / np.log(6.4)
  )
  mel = mel_of(np.arange(n_fft // 2 + 1) * 16000 / n_fft)
  edges = np.linspace(0, mel_of(np.float64(8000)), bands + 2)
  # Triangles are straight in hertz, so the mel scale gives only their corners.
  grid = np.linspace(0, 8000, 800_001)
  corners = np.interp(edges, mel_of(grid), grid)
  hertz = np.arange(len(mel)) * 16000 / n_fft
  triangles = [np.interp(hertz, corners[i : i + 3], [0, 1, 0]) for i in range(bands)]
  return np.stack([t / t.max() for t in triangles], 1)


def test_it_is_the_formula():
  """Of both terms, frame by frame in float64."""
  wave, target, floor = noise(2, LENGTH), noise(2, LENGTH, seed=1), 1e-5
  convergence, logs = [], []
  for n_fft, bands in BANDS:
    for pair in zip(wave, target):
      a, b = (
        np.sqrt(
          np.abs(hann_spectra(x, n_fft, n_fft // 4)) ** 2 @ slaney(n_fft, bands) + floor
        )
        for x in pair
      )
      convergence.append(np.sqrt(((a - b) ** 2).sum() / (b**2).sum()))
  for n_fft, hop in RESOLUTIONS:
    for pair in zip(wave, target):
      a, b = (np.abs(hann_spectra(x, n_fft, hop)) ** 2 + floor for x in pair)
      logs.append(np.abs(np.log(a / b) / 2).mean())
  expected = np.mean(convergence), np.mean(logs)
  np.testing.assert_allclose(terms(wave, target, floor=floor), expected, rtol=1e-4)


def test_resolutions_and_floors_of_the_published_scores():
  """Scores are comparable only by the same ones."""
  assert RESOLUTIONS == ((512, 128), (1024, 256), (2048, 512))
  assert BANDS == ((64, 8), (128, 16), (256, 32), (512, 64), (1024, 128))
  assert MODULATIONS == ((8, 2), (16, 4), (32, 8))
  # By default what is told apart is told so from a power of 1e-9 in a bin.
  quiet, silence = 1e-6 * noise(2, LENGTH), jnp.zeros((2, LENGTH))
  logs = [
    np.mean(np.log1p(np.abs(hann_spectra(x, *r)) ** 2 / 1e-9) / 2)
    for r in RESOLUTIONS
    for x in quiet
  ]
  np.testing.assert_allclose(terms(quiet, silence)[1], np.mean(logs), rtol=1e-3)


def test_what_it_hears_and_what_not():
  wave, target = noise(2, LENGTH), noise(2, LENGTH, seed=1)
  base = np.array(terms(wave, target))
  assert (base > 0.1).all()
  np.testing.assert_array_equal(terms(wave, wave), 0)
  np.testing.assert_allclose(terms(wave, -wave), 0, atol=1e-6)  # nor polarity
  order = np.array(terms(wave[::-1], target[::-1]))
  np.testing.assert_allclose(order, base, rtol=1e-5)
  both = np.array(terms(4 * wave, 4 * target))  # nor the gain of both
  np.testing.assert_allclose(both, base, rtol=1e-4)
  gain = np.array(terms(2 * target, target))  # but that of one: 2 - 1, and log 2
  np.testing.assert_allclose(gain, [1, np.log(2)], rtol=1e-3)
  closer = np.array(terms(target + 0.1 * wave, target))
  assert (closer < base / 2).all()


def test_a_click_may_move_by_growing_at_the_right_place():
  """Half gone over is nearer by bands, and farther by the convergence of bins."""
  at = lambda sample: np.pad(np.full(8, 0.5), (sample, LENGTH - 8 - sample))
  wrong, right = at(2000), at(2080)
  half = (wrong + right) / 2

  def by_bins(wave):
    norms = []
    for n_fft, hop in RESOLUTIONS:
      a, b = (np.abs(hann_spectra(x, n_fft, hop)) for x in (wave, right))
      norms.append(np.linalg.norm(a - b) / np.linalg.norm(b))
    return np.mean(norms)

  by_bands = lambda wave: float(terms(*map(jnp.float32, (wave[None], right[None])))[0])
  assert by_bands(half) < 0.8 * by_bands(wrong)
  assert by_bins(half) > 1.2 * by_bins(wrong)


@pytest.mark.parametrize("silent", ["wave", "target", "both", "neither, but equal"])
def test_gradients_are_finite(slope, silent):
  sound, quiet = noise(1, LENGTH), jnp.zeros((1, LENGTH))
  wave = sound if silent in ("target", "neither, but equal") else quiet
  target = quiet if silent in ("target", "both") else sound
  value, gradient = slope(wave, target)
  assert np.isfinite(value) and np.isfinite(gradient).all()
  equal = silent in ("both", "neither, but equal")
  assert (value == 0) == equal
  if equal:
    np.testing.assert_array_equal(gradient, 0)


def test_a_step_down_the_gradient_is_closer(slope):
  wave, target = noise(1, LENGTH), noise(1, LENGTH, seed=1)
  value, gradient = slope(wave, target)
  step = 1e-3 * gradient / jnp.sqrt(jnp.mean(gradient**2))
  assert slope(wave - step, target)[0] < value < slope(wave + step, target)[0]


def test_waves_shorter_than_a_window_are_refused():
  with pytest.raises(UsageError, match="at least 2048 samples, got 2047"):
    spectral_loss(noise(1, 2047), noise(1, 2047))


def test_below_the_floor_nothing_is_told_apart():
  quiet = 1e-6 * noise(1, LENGTH)
  logs = [float(terms(quiet, 0 * quiet, floor=f)[1]) for f in (1e-12, 1e-6)]
  assert logs[0] > 0.1 > 1e-3 > logs[1]


def test_the_modulation_loss_is_the_formula():
  mel, target = noise(2, 32, 3), noise(2, 32, 3, seed=1)
  expected = []
  for n_fft, hop in MODULATIONS:
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    differences = []
    for row in range(2):
      for band in range(3):
        a, b = (
          np.sqrt(np.abs(hann_spectra(x[row, :, band], n_fft, hop)) ** 2 + 1e-9)
          for x in (mel, target)
        )
        differences.append(np.abs(a - b) / np.sqrt((window**2).sum()))
    expected.append(np.mean(differences))
  got = jax.jit(modulation_loss)(mel, target)
  np.testing.assert_allclose(got, np.mean(expected), rtol=1e-4)


def test_a_blurred_mel_lacks_its_modulation():
  """A constant for a tremolo of 4 frames, cos(pi m / 2), in a window of 8: amplitudes
  2, 1 and 1 in the bins 2, 1 and 3 of 5, over sqrt(0.375 8).
  """
  tremolo = jnp.cos(jnp.pi / 2 * jnp.arange(64.0))[None, :, None]
  got = modulation_loss(0 * tremolo, tremolo, ((8, 2),))
  np.testing.assert_allclose(got, (2 + 1 + 1) / 5 / 3**0.5, rtol=0.05)
  with pytest.raises(UsageError, match="at least 32 frames, got 16"):
    modulation_loss(tremolo[:, :16], tremolo[:, :16])


def test_the_log_spectral_distance_is_the_formula():
  wave, target = noise(2, LENGTH), noise(2, LENGTH, seed=1)
  expected = []
  for x, y in zip(wave, target):
    a, b = (
      10 * np.log10(np.abs(hann_spectra(w, 1024, 256)) ** 2 + 1e-6) for w in (x, y)
    )
    expected.append(np.sqrt(((a - b) ** 2).mean(1)).mean())
  got = jax.jit(log_spectral_distance)(wave, target)
  np.testing.assert_allclose(got, expected, rtol=1e-4)
  # Two draws of noise: the logarithm of either power deviates by pi / sqrt 6.
  one = 10 / np.log(10) * np.pi / 6**0.5
  np.testing.assert_allclose(got, 2**0.5 * one, rtol=0.05)


def test_the_log_spectral_distance_in_decibels():
  loud = noise(1, LENGTH)
  np.testing.assert_allclose(log_spectral_distance(loud, loud), 0, atol=1e-4)
  twice = log_spectral_distance(2 * loud, loud)
  np.testing.assert_allclose(twice, 20 * np.log10(2), rtol=1e-3)
  silent = jnp.zeros((1, LENGTH))
  assert log_spectral_distance(1e-7 * loud, silent)[0] < 0.01  # -160 dB, not heard
