"""Mel spectrograms: librosa's, and Kaldi's by its steps one after the other."""

import math

import numpy as np
import pytest

from ccl_jax.metrics.mels import BANDS, htk_mel, kaldi_mel


def sound(n, seed=0):
  rng = np.random.default_rng(seed)
  t = np.arange(n) / 16000
  chirp = np.sin(2 * np.pi * (200 * t + 1500 * t**2))
  return (0.3 * chirp + 0.05 * rng.standard_normal(n) + 0.1).astype(np.float32)


def test_htk_mel_is_librosas():
  librosa = pytest.importorskip("librosa")
  wave = np.stack([sound(10240), sound(10240, 1)])
  got = htk_mel(wave)
  assert got.shape == (2, BANDS, 65) and got.dtype == np.float32
  for x, y in zip(wave, got):
    power = librosa.feature.melspectrogram(
      y=x.astype(np.float64), sr=16000, n_fft=1024, hop_length=160, win_length=400,
      window="hann", center=True, pad_mode="reflect", power=2, n_mels=128, fmin=0,
      fmax=8000, htk=True, norm=None, dtype=np.float64,
    )  # fmt: skip
    np.testing.assert_allclose(y, np.log(power + 1e-6), atol=2e-6)


def test_silence_is_the_floor():
  np.testing.assert_allclose(htk_mel(np.zeros(10240)), math.log(1e-6), rtol=1e-6)
  np.testing.assert_allclose(kaldi_mel(np.zeros(1600)), -23 * math.log(2), rtol=1e-6)


def test_kaldi_mel_step_by_step():
  wave = sound(1600).astype(np.float64)
  got = kaldi_mel(wave)
  count = (1600 - 400) // 160 + 1
  assert got.shape == (BANDS, count)
  mel = lambda f: 1127 * math.log(1 + f / 700)
  low, high = mel(20), mel(8000)
  width = (high - low) / (BANDS + 1)
  k = np.arange(400)
  for m in range(count):
    x = wave[160 * m : 160 * m + 400]
    x = x - x.mean()
    y = np.array([x[i] - 0.97 * x[max(i - 1, 0)] for i in range(400)])
    y *= [0.5 - 0.5 * math.cos(2 * math.pi * i / 399) for i in range(400)]
    power = [
      abs((y * np.exp(-2j * np.pi * b * k / 512)).sum()) ** 2 for b in range(257)
    ]
    for band in (0, 1, 5, 40, 100, 126, 127):
      left = low + band * width
      total = 0.0
      for b in range(257):
        up = (mel(b * 16000 / 512) - left) / width
        total += power[b] * max(0, min(up, 2 - up))
      expected = math.log(max(total, np.finfo(np.float32).eps))
      assert abs(got[band, m] - expected) < 1e-4, (band, m)


def test_kaldi_mel_ignores_a_constant():
  wave = sound(1600)
  np.testing.assert_allclose(kaldi_mel(wave + 0.25), kaldi_mel(wave), atol=2e-4)


def test_two_seconds_are_198_frames():
  assert kaldi_mel(np.zeros((3, 32000))).shape == (3, BANDS, 198)
