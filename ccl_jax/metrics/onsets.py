"""When sounds begin: peaks of spectral flux, as librosa's defaults find them.

With M the mel power in 128 Slaney bands (Hann window of 2048, hop of 512, zeros past
the ends) in decibels, not more than 80 below its maximum,

  e_i   = mean_bands max(0, M_i - M_{i-1}),      scaled to [0, 1]
  onset : e_i is the largest of the 30 ms up to it, and 0.07 above its mean from 100 ms
          before to 100 ms after; at least 30 ms after the last onset

A sound shows in the first window that reaches it, half a window early, so e is moved
two hops later. In float64 and numpy: no peak hangs on an accelerator's rounding.
"""

import math

import numpy as np
from jaxtyping import Float

from ccl_jax.ops.stft import mel_filters

WINDOW, HOP, BANDS = 2048, 512, 128
LEAST_POWER, RANGE = 1e-10, 80.0
DELTA = 0.07


def flux(wave: Float[np.ndarray, " n"], rate: int) -> Float[np.ndarray, " i"]:
  """The curve e, every `HOP` samples from the first one on."""
  padded = np.pad(wave.astype(np.float64), WINDOW // 2)
  frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
  power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW + 1)[:-1])) ** 2
  mel = power @ mel_filters(rate, WINDOW, BANDS).astype(np.float64)
  decibels = 10 * np.log10(np.maximum(mel, LEAST_POWER))
  decibels = np.maximum(decibels, decibels.max() - RANGE)
  # e_i = mean_bands max(0, M_i - M_{i-1})
  rise = np.maximum(np.diff(decibels, axis=0), 0).mean(1)
  late = 1 + WINDOW // (2 * HOP)
  return np.pad(rise, (late, 0))[: len(frames)]


def onset_times(wave: Float[np.ndarray, " n"], rate: int) -> Float[np.ndarray, " k"]:
  """Onsets of a mono sound in [-1, 1], in seconds."""
  curve = flux(wave, rate)
  curve = curve - curve.min()
  if not curve.any():
    return np.zeros(0)
  curve /= curve.max()
  reach = lambda seconds: math.ceil(seconds * rate // HOP)
  top, wide, wait = reach(0.03), reach(0.1), reach(0.03)
  onsets, i = [], 0
  while i < len(curve):
    near = curve[max(i - wide, 0) : i + wide + 1]
    peak = curve[i] == curve[max(i - top, 0) : i + 1].max()
    # The largest of the 30 ms up to it, and 0.07 above the mean around it.
    if peak and curve[i] >= near.mean() + DELTA:
      onsets.append(i)
      i += wait
    i += 1
  return np.array(onsets, np.float64) * HOP / rate
