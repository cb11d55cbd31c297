"""Mel cepstra of 16-bit sound at 16 kHz, as SyncNet was trained on.

  y_j = x_j - 0.97 x_{j-1}
  P_f = |sum_j y_{160 t + j} e^{-2 pi i f j / 512}|^2 / 512      400 samples, no taper
  S_m = log sum_f triangle_m(f) P_f                              26 bands, 0 to 8 kHz
  c_k = (1 + 11 sin(pi k / 22)) sqrt(2 / 26) sum_m S_m cos(pi k (m + 1/2) / 26)
  c_0 = log sum_f P_f                                            in the place of k = 0

for k < 13: the defaults of python_speech_features. c_0 knows how loud the sound is, so
the samples must have the scale of int16; those in [-1, 1] would be 20.8 lower in it.
"""

import math

import numpy as np
from jaxtyping import Float, Int16

RATE = 16000
CEPSTRA = 13
WINDOW, HOP, NFFT, BANDS = 400, 160, 512, 26
EMPHASIS, LIFTER = 0.97, 22


def mfcc(wave: Int16[np.ndarray, " n"]) -> Float[np.ndarray, "t 13"]:
  """Cepstra of a sound at 16 kHz: one row per 10 ms, the last filled up with zeros.

  Raises:
    TypeError: the samples are not int16.
  """
  if wave.dtype != np.int16:
    raise TypeError(f"samples are {wave.dtype}, expected int16")
  x = wave.astype(np.float64)
  # y_j = x_j - 0.97 x_{j-1}
  x = np.concatenate([x[:1], x[1:] - EMPHASIS * x[:-1]])
  count = 1 + max(math.ceil((len(x) - WINDOW) / HOP), 0)
  x = np.pad(x, (0, (count - 1) * HOP + WINDOW - len(x)))
  frames = np.lib.stride_tricks.sliding_window_view(x, WINDOW)[::HOP]
  # P_f, of 400 samples without a taper.
  power = np.abs(np.fft.rfft(frames, NFFT)) ** 2 / NFFT
  cepstra = log(power @ filterbank().T) @ cosines().T
  # The log energy in the place of c_0.
  cepstra[:, 0] = log(power.sum(1))
  return cepstra


def log(x: np.ndarray) -> np.ndarray:
  """The natural logarithm; of 0, that of float64's epsilon."""
  return np.log(np.where(x == 0, np.finfo(np.float64).eps, x))


def filterbank() -> Float[np.ndarray, "26 257"]:
  """The 26 triangles over 257 bins, spaced evenly in 2595 log10(1 + f / 700).

  Their corners are whole bins.
  """
  top = math.log10(1 + RATE / 2 / 700)
  hertz = 700 * (10 ** np.linspace(0, top, BANDS + 2) - 1)
  low, peak, high = (
    np.floor((NFFT + 1) * hertz / RATE)[i : i + BANDS, None] for i in range(3)
  )
  f = np.arange(NFFT // 2 + 1)
  rise, fall = (f - low) / (peak - low), (high - f) / (high - peak)
  return np.maximum(np.where(f < peak, rise, fall), 0)


def cosines() -> Float[np.ndarray, "13 26"]:
  """The orthonormal cosine transform and the lifter, as one matrix."""
  k, m = np.arange(CEPSTRA)[:, None], np.arange(BANDS)
  matrix = math.sqrt(2 / BANDS) * np.cos(math.pi * k * (m + 0.5) / BANDS)
  return (1 + LIFTER / 2 * np.sin(math.pi * k / LIFTER)) * matrix
