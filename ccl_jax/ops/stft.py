"""Sound to mel spectrogram and back: short-time Fourier transform, mel, Griffin-Lim.

The mel of MMAudio's 16 kHz mode (its 44.1 kHz mode has a natural logarithm):

  S[m, k]   = sum_j hann[j] x[m hop + j - (n_fft - hop) / 2] e^(-2 pi i j k / n_fft)
  mel[m, c] = sum_k sqrt(|S|^2 + 1e-9) M[k, c]
  log_mel   = log10(max(mel, 1e-5))

Products are exact float32: an accelerator's bf16 products ruin quiet bands.

x is clamped to [-1, 1] and reflected at both ends, so n samples give n // hop frames
(what is left over is cut off), frame m centred on sample (m + 1/2) hop: a click at
sample p is loudest in frame p // hop. M are triangles of unit area, equally spaced on
Slaney's mel scale from 0 Hz to half the sample rate.

All functions are pure, batched and differentiable, and need n_fft % hop == 0: framing
and overlap-add are then shifted reshapes, with no gather or scatter.
"""

import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Complex, Float

from ccl_jax.errors import UsageError

# MMAudio's two modes, as keywords of `log_mel`.
MODES = {
  "16k": {
    "sample_rate": 16000,
    "n_fft": 1024,
    "hop": 256,
    "bands": 80,
    "log": jnp.log10,
  },
  "44k": {
    "sample_rate": 44100,
    "n_fft": 2048,
    "hop": 512,
    "bands": 128,
    "log": jnp.log,
  },
}


@functools.cache
def _hann(n_fft: int) -> np.ndarray:
  """The periodic Hann window, with axes for batch and frames."""
  angle = 2 * np.pi * np.arange(n_fft)[None, None] / n_fft
  return (0.5 - 0.5 * np.cos(angle)).astype(np.float32)


@functools.cache
def mel_filters(sample_rate: int, n_fft: int, bands: int) -> Float[np.ndarray, "k c"]:
  """Slaney triangles: linear below 1 kHz (3 mel per 200 Hz), logarithmic above (27 mel
  per factor 6.4), each of area 1 over frequency in Hz.
  """
  # 15 mel are 1 kHz, where the scale turns logarithmic.
  top = 15 + 27 * np.log(sample_rate / 2 / 1000) / np.log(6.4)
  mel = np.linspace(0, top, bands + 2)
  edges = np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))
  hertz = np.arange(n_fft // 2 + 1)[:, None] * sample_rate / n_fft
  low, peak, high = edges[:-2], edges[1:-1], edges[2:]
  rise, fall = (hertz - low) / (peak - low), (high - hertz) / (high - peak)
  # 2 / (high - low) is the height of a triangle of area 1.
  triangles = np.maximum(0, np.minimum(rise, fall)) * 2 / (high - low)
  return triangles.astype(np.float32)


def stft(
  x: Float[Array, "b n"], *, n_fft: int = 1024, hop: int = 256
) -> Complex[Array, "b m k"]:
  """Sound of n samples to n / hop frames of n_fft / 2 + 1 bins."""
  edge = (n_fft - hop) // 2
  x = jnp.pad(x, ((0, 0), (edge, edge)), mode="reflect")
  overlap, frames = n_fft // hop, (x.shape[1] - n_fft) // hop + 1
  blocks = x[:, : (frames + overlap - 1) * hop].reshape(len(x), -1, hop)
  # A frame is `overlap` blocks of `hop` samples in a row.
  parts = [blocks[:, i : i + frames] for i in range(overlap)]
  return jnp.fft.rfft(jnp.concatenate(parts, -1) * _hann(n_fft))


def _overlap_add(frames: Float[Array, "b m j"], hop: int) -> Float[Array, "b n"]:
  """Adds frames `hop` apart and crops the (n_fft - hop) / 2 samples of each end."""
  b, m, n_fft = frames.shape
  overlap, edge = n_fft // hop, (n_fft - hop) // 2
  parts = frames.reshape(b, m, overlap, hop)
  total = sum(
    jnp.pad(parts[:, :, i], ((0, 0), (i, overlap - 1 - i), (0, 0)))
    for i in range(overlap)
  )
  return total.reshape(b, -1)[:, edge : edge + m * hop]


def istft(spectrum: Complex[Array, "b m k"], *, hop: int = 256) -> Float[Array, "b n"]:
  """The least-squares inverse of `stft`; m frames give m * hop samples."""
  n_fft = 2 * (spectrum.shape[-1] - 1)
  window = _hann(n_fft)
  weight = jnp.repeat(jnp.asarray(window) ** 2, spectrum.shape[1], axis=1)
  frames = jnp.fft.irfft(spectrum, n_fft) * window
  # Griffin and Lim (1984), eq. 6: sum of window times frame over sum of window^2.
  return _overlap_add(frames, hop) / _overlap_add(weight, hop)


def mel_spectrogram(
  x: Float[Array, "b n"],
  *,
  sample_rate: int = 16000,
  n_fft: int = 1024,
  hop: int = 256,
  bands: int = 80,
) -> Float[Array, "b m c"]:
  """Mel amplitudes; n samples give n // hop frames.

  Raises:
    UsageError: the sound is shorter than what is reflected at its ends.
  """
  edge = (n_fft - hop) // 2
  if x.shape[1] <= edge:
    raise UsageError(
      f"a mel of {n_fft} samples a frame needs more than {edge}, got a sound of "
      f"{x.shape[1]}: pad it"
    )
  spectrum = stft(jnp.clip(x, -1, 1), n_fft=n_fft, hop=hop)
  # The 1e-9 is MMAudio's, and keeps the gradient finite in silence.
  amplitude = jnp.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-9)
  return jnp.matmul(
    amplitude, mel_filters(sample_rate, n_fft, bands), precision="highest"
  )


def log_mel(
  x: Float[Array, "b n"], *, log: Callable = jnp.log10, **mode: int
) -> Float[Array, "b m c"]:
  """Logarithm of the mel spectrogram, clamped from below at 1e-5.

  This is the input of MMAudio's audio VAE: its 16 kHz mode by default, another with
  `**MODES[...]`.
  """
  return log(jnp.maximum(mel_spectrogram(x, **mode), 1e-5))


def invert_mel(
  mel: Float[Array, "b m c"],
  *,
  sample_rate: int = 16000,
  n_fft: int = 1024,
  steps: int = 32,
) -> Float[Array, "b m k"]:
  """Amplitudes A >= 0 with least ||A M - mel||^2: the pseudo-inverse, clipped, then the
  multiplicative updates of Lee and Seung, A <- A (mel M^T) / (A M M^T).
  """
  filters = mel_filters(sample_rate, n_fft, mel.shape[-1])
  inverse = np.linalg.pinv(filters)
  dot = functools.partial(jnp.matmul, precision="highest")
  target = dot(mel, filters.T)

  def update(amplitude, _):
    return amplitude * target / (dot(dot(amplitude, filters), filters.T) + 1e-12), None

  # A bin clipped to exactly zero could never grow again, so the floor is above it.
  start = jnp.maximum(dot(mel, inverse), 1e-5)
  return lax.scan(update, start, length=steps)[0]


def griffin_lim(
  amplitude: Float[Array, "b m k"], *, hop: int = 256, steps: int = 64
) -> Float[Array, "b n"]:
  """A sound of exactly m * hop samples whose STFT has these amplitudes: alternate
  projections from zero phase, with the momentum 0.99 of Perraudin et al. (2013).
  """
  n_fft = 2 * (amplitude.shape[-1] - 1)

  def project(state, _):
    phase, previous = state
    spectrum = stft(istft(amplitude * phase, hop=hop), n_fft=n_fft, hop=hop)
    # 0.99 / 1.99: momentum of the fast algorithm, as librosa states it.
    ahead = spectrum - 0.99 / 1.99 * previous
    return (ahead / jnp.maximum(jnp.abs(ahead), 1e-12), spectrum), None

  start = amplitude.astype(jnp.complex64)
  state = (jnp.ones_like(start), jnp.zeros_like(start))
  phase, _ = lax.scan(project, state, length=steps)[0]
  return istft(amplitude * phase, hop=hop)
