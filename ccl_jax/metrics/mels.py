"""The mel spectrograms that the networks for sound were trained on, at 16 kHz.

  mel(f) = ln(1 + f / 700)        any multiple of it gives the same bands

Both are windows of 25 ms every 10 ms, power spectra, and triangles equally spaced in
mel; they differ in everything else:

  htk_mel     windows centred on their time, the ends reflected; triangles straight in
              Hz; log(x + 1e-6). torchaudio's MelSpectrogram, librosa's htk=True
  kaldi_mel   whole windows only, each less its mean and pre-emphasised; triangles
              straight in mel, from 20 Hz; log(max(x, 2^-23)). Kaldi's fbank
"""

import numpy as np
from jaxtyping import Float

RATE, WINDOW, HOP, BANDS = 16000, 400, 160, 128
HTK_FFT, HTK_FLOOR = 1024, 1e-6
KALDI_FFT, KALDI_LOW, KALDI_FLOOR = 512, 20.0, 2.0**-23
PREEMPHASIS = 0.97


def triangles(
  places: Float[np.ndarray, " k"], edges: Float[np.ndarray, " e"]
) -> Float[np.ndarray, "k c"]:
  """Weights of c triangles: height 1 at edge c + 1, 0 at edges c and c + 2.

  Args:
    places: of the k bins.
    edges: in the same unit, c + 2 of them.
  """
  low, peak, high = edges[:-2], edges[1:-1], edges[2:]
  rise = (places[:, None] - low) / (peak - low)
  fall = (high - places[:, None]) / (high - peak)
  return np.maximum(0, np.minimum(rise, fall))


def _mel(hertz):
  return np.log1p(np.asarray(hertz) / 700)


def _bins(n_fft: int):
  return np.arange(n_fft // 2 + 1) * RATE / n_fft


def _frames(x, size: int):
  windows = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), size, -1)
  return windows[..., ::HOP, :]


def htk_mel(wave: Float[np.ndarray, "*b n"]) -> Float[np.ndarray, "*b c m"]:
  """Log mel of a sound at 16 kHz, m = 1 + n / 160 frames of c = 128 bands."""
  edges = 700 * np.expm1(np.linspace(0, _mel(RATE / 2), BANDS + 2))
  around = [(0, 0)] * (wave.ndim - 1) + [(HTK_FFT // 2, HTK_FFT // 2)]
  frames = _frames(np.pad(wave, around, mode="reflect"), HTK_FFT)
  # torch.stft centres the short window within n_fft.
  margin = (HTK_FFT - WINDOW) // 2
  hann = np.pad(np.hanning(WINDOW + 1)[:-1], margin)
  power = np.abs(np.fft.rfft(frames * hann)) ** 2
  mel = np.log(power @ triangles(_bins(HTK_FFT), edges) + HTK_FLOOR)
  return mel.swapaxes(-1, -2).astype(np.float32)


def kaldi_mel(wave: Float[np.ndarray, "*b n"]) -> Float[np.ndarray, "*b c m"]:
  """Log mel of a sound at 16 kHz, m = 1 + (n - 400) / 160 frames of c = 128 bands."""
  edges = np.linspace(_mel(KALDI_LOW), _mel(RATE / 2), BANDS + 2)
  frames = _frames(wave, WINDOW)
  frames = frames - frames.mean(-1, keepdims=True)
  before = np.concatenate([frames[..., :1], frames[..., :-1]], -1)
  # Kaldi's pre-emphasis, in which the first sample is its own predecessor.
  frames = (frames - PREEMPHASIS * before) * np.hanning(WINDOW)
  power = np.abs(np.fft.rfft(frames, KALDI_FFT)) ** 2
  mel = power @ triangles(_mel(_bins(KALDI_FFT)), edges)
  return np.log(np.maximum(mel, KALDI_FLOOR)).swapaxes(-1, -2).astype(np.float32)
