"""Band-limited resampling of sound, as torchaudio's default does it.

With rates f -> g in lowest terms, b = 0.99 min(f, g) twice the cutoff, and a sinc of
six zero crossings to each side under a Hann window,

  y[m] = sum_n x[n] h(n / f - m / g),    h(t) = b / f sinc(b t) cos^2(pi b t / 12)

where |b t| < 6, else 0. n samples become ceil(n g / f). The places of n against m
repeat every g outputs: one matrix (taps, g) serves windows of the sound, f apart.
"""

import math

import numpy as np
from jaxtyping import Float

CROSSINGS, ROLLOFF = 6, 0.99


def resample(
  wave: Float[np.ndarray, "*b n"], source: int, target: int
) -> Float[np.ndarray, "*b m"]:
  """Resamples sound, m = ceil(n target / source) samples in float32.

  Args:
    wave: n samples on the last axis.
    source, target: sample rates in Hz.
  """
  divisor = math.gcd(source, target)
  f, g = source // divisor, target // divisor
  if f == g:
    return wave.astype(np.float32)
  b = ROLLOFF * min(f, g)
  reach = math.ceil(CROSSINGS * f / b)  # samples to each side
  n = np.arange(-reach, reach + f)
  t = n[:, None] / f - np.arange(g) / g
  # At both ends of the window the cosine is 0, and so is what lies beyond.
  x = np.clip(b * t, -CROSSINGS, CROSSINGS)
  # h(t) = b / f sinc(b t) cos^2(pi b t / 12)
  kernel = np.sinc(x) * np.cos(np.pi * x / (2 * CROSSINGS)) ** 2 * b / f
  edge = [(0, 0)] * (wave.ndim - 1)
  padded = np.pad(wave.astype(np.float32), [*edge, (reach, reach + f)])
  windows = np.lib.stride_tricks.sliding_window_view(padded, len(n), -1)[..., ::f, :]
  out = windows @ kernel.astype(np.float32)
  out = out.reshape(*wave.shape[:-1], -1)
  return out[..., : math.ceil(wave.shape[-1] * g / f)]
