"""Linear codecs: principal components of pixels and of mels, fitted in seconds, so
that everything trains and generates with no weights to download.

Video, 4 x 8 x 8 pixels to 16 channels. Frame 0 counts as the last frame of a still
group of four, so F = 4 k + 1 frames are k + 1 groups of four:

  z = B^T (patch - mean) / scale          patch = mean + B (scale z)

Each column of B (768, 16) is either constant over the four frames, or sums to zero over
them: the components of the mean picture and those of the change within a group. Hence
a still video has one latent in all of its frames, and frame 0 uses its own 8 x 8 basis,
the constant columns.

Sound, two mel frames (512 samples) to 20 channels, likewise, of log10(mel + FLOOR),
which is blind to what is too quiet to hear and exact at silence. Back by Griffin-Lim.

B is orthonormal: decode(encode(x)) is the nearest point the codec can say.
"""

from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from flax import struct
from jax import lax
from jaxtyping import Array, Float

from ccl_jax.ops import stft

GROUP, PATCH, VIDEO_CHANNELS = 4, 8, 16
PAIR, BANDS, AUDIO_CHANNELS = 2, 80, 20
FLOOR = 1e-3  # mel amplitude; a sine of -80 dB


class Moments:
  """Streaming mean and covariance of rows, in float64."""

  def __init__(self, width: int):
    self.count = 0
    self.total = np.zeros(width)
    self.outer = np.zeros((width, width))

  def add(self, rows: Float[np.ndarray, "n c"]):
    rows = rows.astype(np.float64)
    self.count += len(rows)
    self.total += rows.sum(0)
    self.outer += rows.T @ rows

  def finish(self) -> tuple[Float[np.ndarray, " c"], Float[np.ndarray, "c c"]]:
    mean = self.total / max(self.count, 1)
    return mean, self.outer / max(self.count, 1) - np.outer(mean, mean)


def principal(
  covariance: Float[np.ndarray, "c c"],
) -> tuple[Float[np.ndarray, " c"], Float[np.ndarray, "c c"]]:
  """Variances, largest first, and directions as columns, their largest entry positive
  so that the same data give the same signs everywhere."""
  variance, basis = np.linalg.eigh(covariance)
  variance, basis = variance[::-1], basis[:, ::-1]
  peak = np.abs(basis).argmax(0)
  return np.maximum(variance, 0), basis * np.sign(basis[peak, np.arange(len(basis))])


class LinearVideoCodec(struct.PyTreeNode):
  mean: Float[Array, " p"]  # of a group of four patches, the same in each frame
  basis: Float[Array, "p c"]
  scale: Float[Array, " c"]

  def encode(self, pixels: Float[Array, "b F H W 3"]) -> Float[Array, "b t h w c"]:
    patches = video_patches(pixels) - self.mean
    return jnp.matmul(patches, self.basis, precision=EXACT) / self.scale

  def decode(self, latent: Float[Array, "b t h w c"]) -> Float[Array, "b F H W 3"]:
    latent = latent * self.scale
    patches = jnp.matmul(latent, self.basis.T, precision=EXACT) + self.mean
    pixels = rearrange(
      patches, "b t h w (f i j c) -> b (t f) (h i) (w j) c", f=GROUP, i=PATCH, j=PATCH
    )
    first = pixels[:, :GROUP].mean(1, keepdims=True)
    return jnp.clip(jnp.concatenate([first, pixels[:, GROUP:]], 1), -1, 1)
