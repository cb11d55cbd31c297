"""Multi-resolution STFT loss between two waves (Parallel WaveGAN, arXiv 1910.11480).

With A and B the amplitudes sqrt(|S|^2 + 1e-9) of the wave and its target, averaged over
three resolutions:

  spectral convergence   |A - B|_F / |B|_F     per wave: the loud parts count
  log amplitude          mean |log A - log B|  quiet parts count as much as loud ones

Phase is not looked at: a wave and its negative are equal. The floor of 1e-9 keeps
amplitudes and gradients finite where there is silence.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from ccl_jax.errors import UsageError
from ccl_jax.ops.stft import stft

RESOLUTIONS = ((512, 128), (1024, 256), (2048, 512))  # n_fft, hop


def amplitudes(x: Float[Array, "b n"], n_fft: int, hop: int) -> Float[Array, "b m k"]:
  spectrum = stft(x, n_fft=n_fft, hop=hop)
  return jnp.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-9)


def stft_loss(
  wave: Float[Array, "b n"],
  target: Float[Array, "b n"],
  resolutions: Sequence[tuple[int, int]] = RESOLUTIONS,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
  """Spectral convergence and log amplitude, to be added or weighted.

  Args:
    resolutions: (n_fft, hop), each n_fft a multiple of its hop.

  Raises:
    UsageError: the waves are shorter than the longest window.
  """
  longest = max(n_fft for n_fft, _ in resolutions)
  if wave.shape[1] < longest:
    raise UsageError(
      f"the STFT loss needs at least {longest} samples, got {wave.shape[1]}: crop "
      "longer pieces"
    )
  terms = [_terms(wave, target, *resolution) for resolution in resolutions]
  return tuple(sum(term) / len(terms) for term in zip(*terms))


def _terms(wave, target, n_fft, hop):
  a, b = (amplitudes(x, n_fft, hop) for x in (wave, target))
  convergence = _norm(a - b) / _norm(b)
  difference = jnp.log(a) - jnp.log(b)
  # |x| as sign(x) x, whose gradient at 0 is 0; that of jnp.abs is 1.
  return convergence.mean(), (jnp.sign(difference) * difference).mean()


def _norm(x: Float[Array, "b m k"]) -> Float[Array, "b"]:
  """Of each row, with gradient 0 where it is 0: where the waves are equal."""
  square = jnp.sum(x * x, (1, 2))
  positive = square > 0
  return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)
