"""Linear codecs: principal components of pixels and of mels, fitted in seconds, so
that everything trains and generates with no weights to download.

Video, 4 x 8 x 8 pixels to 16 channels. Frame 0 counts as a still group of four, so
F = 4 k + 1 frames are k + 1 groups:

  z = B^T (patch - mean) / scale          patch = mean + B (scale z)

10 columns of B are constant over the four frames (principal components of the groups'
mean picture), 6 sum to zero over them (of the change within a group). So a still video
has one latent in all of its frames, and frame 0 has its own 8 x 8 basis: the first ten.

Sound, 512 samples = 2 mel frames to 20 channels likewise, of mel^0.2: as even between
loud and quiet as a logarithm, and zero at silence. Back to a wave by Griffin-Lim.

B is orthonormal: decode(encode(x)) is the nearest picture or mel that B can say.
What changes counts more in the choice of B, else the drift of a large background takes
the channels that a mouth or a click needs.
"""

from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import struct
from jaxtyping import Array, Float, UInt8

from ccl_jax.ops import stft

GROUP, PATCH, COLOURS = 4, 8, 3
HADAMARD = np.array([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, -1, 1], [1, -1, 1, -1]]) / 2
STILL, MOTION = 10, 6  # video channels
PAIR, BANDS, SOUND = 2, 80, 20  # mel frames, bands, audio channels
ENOUGH = 16384  # groups of one video that a fit looks at
LOUDNESS, LOUDEST = 0.2, 2.0  # full scale stays below 2; a wild latent is cut there

Video = Float[np.ndarray, "F H W 3"] | UInt8[np.ndarray, "F H W 3"]


def patches(pixels: Float[Array, "b F H W 3"]) -> Float[Array, "b t h w p"]:
  """Groups of four 8 x 8 patches, the first group being frame 0 four times."""
  still = jnp.repeat(pixels[:, :1], GROUP - 1, axis=1)
  return rearrange(
    jnp.concatenate([still, pixels], 1),
    "b (t f) (h i) (w j) c -> b t h w (f i j c)",
    f=GROUP, i=PATCH, j=PATCH,
  )  # fmt: skip


def mel_pairs(wave: Float[Array, "b n"]) -> Float[Array, "b a p"]:
  """Pairs of frames of mel^0.2, p = 160 numbers to 512 samples at 16 kHz."""
  # mel^0.2: as even between loud and quiet as a logarithm, and 0 at silence.
  mel = stft.mel_spectrogram(wave, bands=BANDS) ** LOUDNESS
  return rearrange(mel, "b (a i) c -> b a (i c)", i=PAIR)


class LinearVideoCodec(struct.PyTreeNode):
  """Codec of pixels in [-1, 1]: 4 x 8 x 8 of them to a latent and back."""

  channels = STILL + MOTION
  stride = (GROUP, PATCH, PATCH)

  mean: Any  # (p,); not typed as arrays: transformations put shapes, shardings here
  basis: Any  # (p, c)
  scale: Any  # (c,)

  def encode(self, pixels: Float[Array, "b F H W 3"]) -> Float[Array, "b t h w c"]:
    """Latents of F = 4 k + 1 frames: t = k + 1, h = H / 8, w = W / 8, 16 channels."""
    return _project(self, patches(pixels))

  def decode(self, latent: Float[Array, "b t h w c"]) -> Float[Array, "b F H W 3"]:
    """Pixels in [-1, 1] of latents: F = 4 t - 3 frames, H = 8 h, W = 8 w."""
    pixels = rearrange(
      _restore(self, latent),
      "b t h w (f i j c) -> b (t f) (h i) (w j) c",
      f=GROUP, i=PATCH, j=PATCH,
    )  # fmt: skip
    # Frame 0 stands in its group four times; their mean is its best estimate.
    first = pixels[:, :GROUP].mean(1, keepdims=True)
    return jnp.clip(jnp.concatenate([first, pixels[:, GROUP:]], 1), -1, 1)


class LinearAudioCodec(struct.PyTreeNode):
  """Codec of sound at 16 kHz: 512 a samples to a latents and back."""

  channels = SOUND
  hop = 512

  mean: Any
  basis: Any
  scale: Any

  def encode(self, wave: Float[Array, "b n"]) -> Float[Array, "b a c"]:
    """Latents (a, 20) of n = 512 a samples at 16 kHz."""
    return _project(self, mel_pairs(wave))

  def decode_mel(self, latent: Float[Array, "b a c"]) -> Float[Array, "b m bands"]:
    """Mel amplitudes of m = 2 a frames, 62.5 of them per second."""
    mel = rearrange(_restore(self, latent), "b a (i c) -> b (a i) c", i=PAIR)
    return jnp.clip(mel, 0, LOUDEST) ** (1 / LOUDNESS)

  def decode(self, latent: Float[Array, "b a c"]) -> Float[Array, "b n"]:
    """A wave in [-1, 1] of 512 a samples, by Griffin-Lim from `decode_mel`."""
    wave = stft.griffin_lim(stft.invert_mel(self.decode_mel(latent)))
    return jnp.clip(wave, -1, 1)


def _project(codec, rows: Float[Array, "*b p"]) -> Float[Array, "*b c"]:
  centred = rows - jnp.broadcast_to(codec.mean, rows.shape)
  return jnp.matmul(centred, codec.basis / codec.scale[None], precision="highest")


def _restore(codec, latent: Float[Array, "*b c"]) -> Float[Array, "*b p"]:
  basis = codec.basis * codec.scale[None]
  rows = jnp.matmul(latent, basis.T, precision="highest")
  return rows + jnp.broadcast_to(codec.mean, rows.shape)


class Moments:
  """Streaming weighted mean and covariance of rows, in float64."""

  def __init__(self, width: int):
    self.width, self.weight = width, 0.0
    self.total, self.outer = np.zeros(width), np.zeros((width, width))

  def add(self, rows: Float[np.ndarray, "n p"], weight: Float[np.ndarray, " n"]):
    """Counts n more rows of p numbers, each with its weight."""
    self.weight += weight.sum()
    self.total += weight @ rows
    self.outer += (rows * weight[:, None]).T @ rows

  def mean(self) -> Float[np.ndarray, " p"]:
    """The weighted mean of all rows so far; zero before the first."""
    return self.total / max(self.weight, 1e-12)

  def around(self, centre: Float[np.ndarray, " p"]) -> Float[np.ndarray, "p p"]:
    """The mean of (row - centre) (row - centre)^T."""
    # sum w (r - c)(r - c)^T = sum w r r^T - (sum w r) c^T - c (sum w r)^T + W c c^T
    cross = np.outer(self.total, centre)
    outer = self.outer - cross - cross.T + self.weight * np.outer(centre, centre)
    return outer / max(self.weight, 1e-12)


def principal(
  covariance: Float[np.ndarray, "p p"], count: int
) -> Float[np.ndarray, "p c"]:
  """The `count` orthonormal directions of most variance, their largest entry positive:
  the same data give the same signs everywhere.
  """
  # eigh is ascending: the largest variances come first after the flip.
  basis = np.linalg.eigh(covariance)[1][:, ::-1][:, :count]
  peak = np.abs(basis).argmax(0)
  return basis * np.sign(basis[peak, np.arange(count)])


def half_whitened(
  basis: Float[np.ndarray, "p c"], covariance: Float[np.ndarray, "p p"]
) -> Float[np.ndarray, " c"]:
  """Scales that leave each channel the square root of its deviation, and variance one
  on average over the channels.

  One scale for all leaves the small channels, which hold the mouth's motion, below the
  noise until the last steps of sampling; full whitening asks as much of them as of the
  picture. A small network that draws a face's video from its sound, after 1500 steps:
  correlation of the mouth with the voice 0.61 (one scale), 0.68 (half), 0.69 (full);
  PSNR of the picture 20.8, 20.8, 20.4 dB.
  """
  # The deviation of each channel, B^T C B on the diagonal.
  deviation = np.sqrt(np.maximum(np.diag(basis.T @ covariance @ basis), 0))
  deviation = np.maximum(deviation, max(1e-3, 1e-3 * deviation.max()))
  # Half-way to whitening: deviation^(1/2), scaled to variance one on average.
  return np.sqrt(deviation * deviation.mean())


class VideoFit:
  """Fit of a video codec to videos one by one, of any sizes with F = 4 k + 1 and H, W
  multiples of 8; memory does not grow with their number.

  In the choice of the directions of change, a group counts by how much it changes.
  """

  def __init__(self):
    width = PATCH**2 * COLOURS
    self.rows, self.changes = Moments(GROUP * width), Moments(3 * width)

  def add(self, video: Video):
    """Counts one video of F = 4 k + 1 frames, uint8 or floats in [-1, 1]."""
    if video.dtype == np.uint8:
      video = video / np.float32(127.5) - 1
    rows = np.asarray(patches(jnp.asarray(video)[None])).reshape(-1, self.rows.width)
    # Evenly spread groups of a long video; all of a short one.
    rows = rows[:: -(-len(rows) // ENOUGH)].astype(np.float64)
    change = rows @ _over_time(HADAMARD[1:])
    self.rows.add(rows, np.ones(len(rows)))
    # A group counts by its squared change: a mouth against a still background.
    self.changes.add(change, (change**2).sum(1))

  def codec(self) -> LinearVideoCodec:
    """The codec of all videos that have been added so far."""
    still, change = _over_time(HADAMARD[:1]), _over_time(HADAMARD[1:])
    # The mean has no part in the directions of change, so a still video has one latent.
    mean = still @ (still.T @ self.rows.mean())
    covariance = self.rows.around(mean)
    pictures = principal(still.T @ covariance @ still, STILL)
    changes = principal(self.changes.around(np.zeros(self.changes.width)), MOTION)
    basis = np.concatenate([still @ pictures, change @ changes], 1)
    return LinearVideoCodec(*_float32(mean, basis, half_whitened(basis, covariance)))


class AudioFit:
  """Fit of an audio codec to waves one by one; memory does not grow with their number.

  Half of the choice of directions is by all pairs alike, half by how much the sound
  changes within a pair.
  """

  def __init__(self):
    self.rows, self.onsets = Moments(PAIR * BANDS), Moments(PAIR * BANDS)

  def add(self, wave: Float[np.ndarray, " n"]):
    """Adds one wave to the statistics, of 512 a samples at 16 kHz."""
    rows = np.asarray(mel_pairs(jnp.asarray(wave)[None])[0], np.float64)
    self.rows.add(rows, np.ones(len(rows)))
    self.onsets.add(rows, ((rows[:, BANDS:] - rows[:, :BANDS]) ** 2).sum(1))

  def codec(self) -> LinearAudioCodec:
    """The codec of all waves that have been added so far."""
    mean = self.rows.mean()
    covariance = self.rows.around(mean)
    # Both halves of the choice: all pairs alike, and pairs by their change.
    basis = principal(covariance + self.onsets.around(mean), SOUND)
    return LinearAudioCodec(*_float32(mean, basis, half_whitened(basis, covariance)))


def fit_audio(waves: Iterable[Float[np.ndarray, " n"]]) -> LinearAudioCodec:
  """Fits to waves of 512 a samples at 16 kHz."""
  fit = AudioFit()
  for wave in waves:
    fit.add(wave)
  return fit.codec()


def _over_time(patterns: Float[np.ndarray, "k f"]) -> Float[np.ndarray, "p c"]:
  """The same patterns over the four frames for each pixel and colour."""
  return np.kron(patterns.T, np.eye(PATCH**2 * COLOURS))


def _float32(*arrays: np.ndarray) -> list[Array]:
  return [jnp.asarray(a, jnp.float32) for a in arrays]
