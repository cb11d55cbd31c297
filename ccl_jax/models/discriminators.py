"""BigVGAN's discriminators of sound, which its vocoder is trained against, in float32.

  periods      (HiFi-GAN) the wave as rows of p samples, p = 2, 3, 5, 7, 11: each column
               on its own goes through convolutions over rows
  resolutions  (UnivNet) amplitudes of three short-time Fourier transforms as pictures

Each gives scores, near 1 for what it holds to be real, and the maps of all its layers,
the scores being the last. The losses are in models/gan_losses.py; BigVGAN trains all of
the kernels with weight norm, ops/weight_norm.py.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ccl_jax.errors import UsageError

EXACT = lax.Precision.HIGHEST  # float32 products on every accelerator
PERIODS = (2, 3, 5, 7, 11)
RESOLUTIONS = (
  (1024, 120, 600),
  (2048, 240, 1200),
  (512, 50, 240),
)  # n_fft, hop, window
Output = tuple[Float[Array, "b _"], list[Float[Array, "b ..."]]]


class Pictures(nn.Module):
  """Convolutions with leaky rectifiers, and one more to a channel of scores.

  Attributes:
    layers: (channels, kernel, strides) of each but the last.
    last: kernel of the convolution to scores.
  """

  layers: tuple[tuple[int, tuple[int, int], tuple[int, int]], ...]
  last: tuple[int, int]

  @nn.compact
  def __call__(self, x: Float[Array, "b h w 1"]) -> Output:
    maps = []
    for i, (channels, kernel, strides) in enumerate(self.layers):
      x = nn.leaky_relu(self._conv(channels, kernel, strides, f"conv_{i}")(x), 0.1)
      maps.append(x)
    maps.append(self._conv(1, self.last, (1, 1), "last")(maps[-1]))
    return maps[-1].reshape(len(x), -1), maps

  def _conv(self, channels, kernel, strides, name) -> nn.Conv:
    padding = [(size // 2, size // 2) for size in kernel]
    return nn.Conv(
      channels, kernel, strides, padding=padding, precision=EXACT, name=name
    )


class Discriminators(nn.Module):
  """All discriminators of a wave, periods first.

  Attributes:
    width: channels of the first layers.
    periods: samples of a row.
    resolutions: (n_fft, hop, window) in samples.
  """

  width: int = 32
  periods: tuple[int, ...] = PERIODS
  resolutions: tuple[tuple[int, int, int], ...] = RESOLUTIONS

  @nn.compact
  def __call__(self, wave: Float[Array, "b n"]) -> list[Output]:
    width, out = self.width, []
    layers = [(m * width, (5, 1), (3, 1)) for m in (1, 4, 16, 32)]
    layers.append((32 * width, (5, 1), (1, 1)))
    for period in self.periods:
      of_rows = Pictures(tuple(layers), (3, 1), name=f"period_{period}")
      out.append(of_rows(rows(wave, period)))
    layers = [(width, (3, 9), (1, strides)) for strides in (1, 2, 2, 2)]
    layers.append((width, (3, 3), (1, 1)))
    for i, resolution in enumerate(self.resolutions):
      of_spectra = Pictures(tuple(layers), (3, 3), name=f"resolution_{i}")
      # As pictures of bins by frames.
      out.append(of_spectra(amplitudes(wave, *resolution).swapaxes(1, 2)[..., None]))
    return out


def rows(wave: Float[Array, "b n"], period: int) -> Float[Array, "b r p 1"]:
  """The wave as r rows of `period` samples, the last one filled up by reflection."""
  missing = -wave.shape[1] % period
  wave = jnp.pad(wave, ((0, 0), (0, missing)), mode="reflect")
  return wave.reshape(len(wave), -1, period, 1)


def amplitudes(
  wave: Float[Array, "b n"], n_fft: int, hop: int, window: int
) -> Float[Array, "b m k"]:
  """|STFT| of the wave, reflected by (n_fft - hop) / 2 at its ends.

  Frame m has the `window` samples in the middle of n_fft from m hop on, all of weight
  one: UnivNet's transform has no window function.

  Raises:
    UsageError: the wave is shorter than what is reflected at its ends.
  """
  edge = (n_fft - hop) // 2
  if wave.shape[1] <= edge:
    raise UsageError(
      f"a discriminator of {n_fft} samples a frame needs more than {edge}, got a sound "
      f"of {wave.shape[1]}: train on longer pieces"
    )
  wave = jnp.pad(wave, ((0, 0), (edge, edge)), mode="reflect")
  frames, overlap = (wave.shape[1] - n_fft) // hop + 1, -(-window // hop)
  # torch pads a window on both sides up to n_fft, the transform below only after it:
  # another phase, the same amplitudes.
  start = (n_fft - window) // 2
  wave = jnp.pad(wave[:, start:], ((0, 0), (0, overlap * hop)))
  blocks = wave[:, : (frames + overlap - 1) * hop].reshape(len(wave), -1, hop)
  # A frame is `overlap` blocks in a row; what is beyond the window is cut off.
  parts = [blocks[:, i : i + frames] for i in range(overlap)]
  return jnp.abs(jnp.fft.rfft(jnp.concatenate(parts, -1)[..., :window], n_fft))
