"""Spectral losses and distances, of waves and of mels over time.

`spectral_loss` compares two waves by amplitudes, A and B, of the wave and its target:

  convergence of bands   |A - B|_F / |B|_F, per wave: the loud parts count, and when
                         they are; A^2 = sum of |S|^2 over a band + floor
  log amplitude of bins  mean |log A - log B|: quiet parts count as much as loud ones;
                         A^2 = |S|^2 + floor

It is the multi-resolution STFT loss of Parallel WaveGAN (arXiv 1910.11480), whose
convergence is one of bins. By bins a click that is a few milliseconds off stays where
it is: while it fades there and grows at the right place there are two, which cancel in
half of the bins of a window that holds both, and that is farther off than one at the
wrong place. In a band wide enough such bins add up to what either has alone.

Phase is not looked at: a wave and its negative are equal. The floor, 1e-9 unless
another is given, keeps amplitudes and gradients finite where there is silence.

`modulation_loss` is the same idea for mels: every band is a signal over frames, and
A and B are amplitudes of its STFT at three resolutions, in units of white noise,

  mean |A - B|,   A = sqrt(|S|^2 + 1e-9) / |hann|

A blurred mel, the cheapest answer to a mean of differences, has too small ones: how
much a band moves is asked for even where the moment cannot be known.

`log_spectral_distance` is a score in decibels, not a loss:

  mean over frames of sqrt(mean over bins of (10 log10 (|S_a|^2 + f)/(|S_b|^2 + f))^2)

with f = 1e-6, the power in a bin of noise at -86 dB of full scale, below which nobody
listens and codecs differ by rounding.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from ccl_jax.errors import UsageError
from ccl_jax.ops.stft import mel_filters, stft

RESOLUTIONS = ((512, 128), (1024, 256), (2048, 512))  # n_fft, hop
BANDS = ((64, 8), (128, 16), (256, 32), (512, 64), (1024, 128))  # n_fft, bands
RATE = 16000  # Hz, of bands
MODULATIONS = ((8, 2), (16, 4), (32, 8))  # the same in mel frames
FLOOR = 1e-6  # of a bin's power, in the distance


def amplitudes(
  x: Float[Array, "b n"], n_fft: int, hop: int, floor: float = 1e-9
) -> Float[Array, "b m k"]:
  """sqrt(|STFT|^2 + floor): m = n / hop frames of k = n_fft / 2 + 1 bins per wave."""
  return jnp.sqrt(_power(x, n_fft, hop) + floor)


def band_amplitudes(
  x: Float[Array, "b n"], n_fft: int, bands: int, floor: float = 1e-9
) -> Float[Array, "b m c"]:
  """Amplitudes of mel bands, m frames a quarter of a window apart.

  Args:
    x: waves at 16 kHz.
    n_fft: samples of a window.
    bands: c; each is a triangle whose middle bin counts once.
    floor: power that is added, so that silence has a gradient.
  """
  filters = mel_filters(RATE, n_fft, bands)
  power = _power(x, n_fft, n_fft // 4)
  energy = jnp.matmul(power, filters / filters.max(0), precision="highest")
  return jnp.sqrt(energy + floor)


def spectral_loss(
  wave: Float[Array, "b n"], target: Float[Array, "b n"], floor: float = 1e-9
) -> tuple[Float[Array, ""], Float[Array, ""]]:
  """Convergence of bands and log amplitude of bins, to be added or weighted; each is
  averaged over its resolutions, `BANDS` and `RESOLUTIONS`.

  Args:
    wave, target: at 16 kHz.
    floor: power below which nothing is told apart.

  Raises:
    UsageError: the waves are shorter than the longest window.
  """
  _check_length(wave.shape[1], RESOLUTIONS, "spectral loss", "samples")
  convergence, log_amplitude = [], []
  for resolution in BANDS:
    a, b = (band_amplitudes(x, *resolution, floor) for x in (wave, target))
    # |A - B|_F / |B|_F per wave.
    convergence.append(jnp.mean(_norm(a - b) / _norm(b)))
  for resolution in RESOLUTIONS:
    a, b = (amplitudes(x, *resolution, floor) for x in (wave, target))
    difference = jnp.log(a) - jnp.log(b)
    # |x| as sign(x) x, whose gradient at 0 is 0; that of jnp.abs is 1.
    log_amplitude.append(jnp.mean(jnp.sign(difference) * difference))
  return sum(convergence) / len(BANDS), sum(log_amplitude) / len(RESOLUTIONS)


def modulation_loss(
  mel: Float[Array, "b m c"],
  target: Float[Array, "b m c"],
  resolutions: Sequence[tuple[int, int]] = MODULATIONS,
) -> Float[Array, ""]:
  """Distance of the two mels' modulation spectra, averaged over resolutions.

  Args:
    resolutions: (n_fft, hop) in frames, each n_fft a multiple of its hop.

  Raises:
    UsageError: the mels are shorter than the longest window.
  """
  _check_length(mel.shape[1], resolutions, "modulation loss", "frames")
  bands = lambda x: rearrange(x, "b m c -> (b c) m")
  terms = []
  for n_fft, hop in resolutions:
    a, b = (amplitudes(bands(x), n_fft, hop) for x in (mel, target))
    # (0.375 n_fft)^(1/2) is |hann|: its squares sum to 3/8 n_fft.
    terms.append(jnp.mean(jnp.abs(a - b)) / (0.375 * n_fft) ** 0.5)
  return sum(terms) / len(terms)


def log_spectral_distance(
  wave: Float[Array, "b n"],
  target: Float[Array, "b n"],
  *,
  n_fft: int = 1024,
  hop: int = 256,
) -> Float[Array, "b"]:
  """Distance of each wave from its target, in dB, by the module's last formula."""
  a, b = (10 * jnp.log10(_power(x, n_fft, hop) + FLOOR) for x in (wave, target))
  return jnp.sqrt(jnp.mean((a - b) ** 2, 2)).mean(1)


def _check_length(length: int, resolutions, loss: str, unit: str) -> None:
  longest = max(n_fft for n_fft, _ in resolutions)
  if length < longest:
    raise UsageError(
      f"the {loss} needs at least {longest} {unit}, got {length}: take longer windows"
    )


def _power(x: Float[Array, "b n"], n_fft: int, hop: int) -> Float[Array, "b m k"]:
  spectrum = stft(x, n_fft=n_fft, hop=hop)
  return spectrum.real**2 + spectrum.imag**2


def _norm(x: Float[Array, "b m k"]) -> Float[Array, "b"]:
  """Frobenius norm of each row. Its gradient is 0 where the norm is 0, as for equal
  waves.
  """
  square = jnp.sum(x * x, (1, 2))
  positive = square > 0
  return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)
