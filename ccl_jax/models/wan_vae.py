"""Wan's video VAEs as codecs, causal in time.

  Wan2.1   4 x 8 x 8 pixels to 16 channels
  Wan2.2   4 x 16 x 16 pixels to 48 channels (TI2V-5B, Ovi)

  z = (mu(pixels) - mean) / std          pixels = clip(decoder(z std + mean), -1, 1)

The encoder's last layer gives [mu | logvar] (reference: WanVAE_.encode). z is the mean
of the normalised posterior, whose deviation is

  exp(clip(logvar, -30, 20) / 2) / std      (diffusers: DiagonalGaussianDistribution)

Frame 0 is a latent frame of its own, so F = 4 k + 1 frames are k + 1 latent frames. Two
ways to need less memory than the whole clip at once:

  chunk   so many latent frames at a time, the first call taking frame 0 and what is
          left over, the others a scan that carries the last two inputs of every
          convolution: the same numbers, up to rounding
  tile    squares of so many pixels, blended where they overlap as diffusers does: not
          the same numbers as without, as a tile does not see beyond its border
"""

from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from flax import struct
from jax import lax
from jaxtyping import Array, Float

from ccl_jax.errors import UsageError
from ccl_jax.models.wan_vae_layers import WAN21, WAN22, Decoder, Encoder, Release
from ccl_jax.ops.tiling import tiled

PyTree = Any
GROUP = 4  # frames of a latent frame


def init_params(
  key: Array,
  width: int | None = None,
  decoder_width: int | None = None,
  release: Release = WAN21,
) -> PyTree:
  """Random parameters {"encoder", "decoder"}.

  Args:
    key: of the draw.
    width: base width of the encoder; None: that of the published weights.
    decoder_width: of the decoder; None: that of the encoder or, if that is not given
      either, of the published weights.
    release: whose VAE it is.
  """
  published = release.widths if width is None else (width, width)
  widths = published[0], decoder_width or published[1]
  _, side, _ = release.stride
  pixels = jnp.zeros((1, 1 + GROUP, side, side, 3))
  latent = jnp.zeros((1, 2, 1, 1, release.channels))
  keys = jax.random.split(key)
  return {
    "encoder": Encoder(widths[0], release).init(keys[0], pixels)["params"],
    "decoder": Decoder(widths[1], release).init(keys[1], latent)["params"],
  }


def encode(
  params: PyTree,
  pixels: Float[Array, "b F H W 3"],
  chunk: int | None = None,
  deviation: bool = False,
  release: Release = WAN21,
) -> Float[Array, "b t h w c"]:
  """The normalised posterior mean z, t = (F - 1) / 4 + 1.

  Args:
    params: as of `init_params`.
    pixels: in [-1, 1].
    chunk: latent frames at a time; None: all.
    deviation: whether the posterior's deviation follows, in as many channels more.
    release: whose VAE it is.
  """
  params = params["encoder"]
  network = Encoder(params["first"]["kernel"].shape[-1], release, deviation)
  return _in_chunks(network, params, pixels.astype(jnp.float32), GROUP, chunk)


def decode(
  params: PyTree,
  latent: Float[Array, "b t h w c"],
  chunk: int | None = None,
  release: Release = WAN21,
) -> Float[Array, "b F H W 3"]:
  """Pixels, not cut to [-1, 1], F = 4 t - 3.

  Args:
    params: as of `init_params`.
    latent: normalised.
    chunk: latent frames at a time; None: all.
    release: whose VAE it is.
  """
  params = params["decoder"]
  network = Decoder(params["last"]["kernel"].shape[-2], release)
  return _in_chunks(network, params, latent.astype(jnp.float32), 1, chunk)


def _in_chunks(
  network: nn.Module,
  params: PyTree,
  x: Float[Array, "b t h w c"],
  group: int,
  chunk: int | None,
) -> Float[Array, "b s i j e"]:
  """A causal network over x, frame 0 of which stands alone before groups of `group`."""
  groups = (x.shape[1] - 1) // group
  chunk = chunk or groups + 1
  count, rest = divmod(groups, chunk)

  def call(x, cache):
    variables = {"params": params, **cache}
    return network.apply(variables, x, mutable=["cache"])

  @jax.checkpoint  # the memory of a gradient is that of one chunk, too
  def step(cache, x):
    return call(x, cache)[::-1]

  # The odd chunk comes first, with frame 0: all others have one shape, and a scan.
  first, later = jnp.split(x, [1 + group * rest], axis=1)
  first, cache = call(first, {})
  if not count:
    return first
  later = rearrange(later, "b (n f) h w c -> n b f h w c", n=count)
  _, later = lax.scan(step, cache, later)
  later = rearrange(later, "n b f h w c -> b (n f) h w c")
  return jnp.concatenate([first, later], 1)


class WanVideoCodec(struct.PyTreeNode):
  """Codec of pixels in [-1, 1], to a normalised latent and back: Wan2.1's VAE.

  Attributes:
    release: whose VAE it is.
    params: {"encoder", "decoder"}.
    chunk: latent frames at a time; None: the whole clip.
    tile: side of the tiles in pixels, and `overlap` of two of them; None: no tiles.
    links: where the parameters are stored; see ccl_jax/codecs/bundle.py.
  """

  release: ClassVar[Release] = WAN21

  params: Any
  chunk: int | None = struct.field(pytree_node=False, default=1)
  tile: int | None = struct.field(pytree_node=False, default=None)
  overlap: int = struct.field(pytree_node=False, default=64)
  links: tuple = struct.field(pytree_node=False, default=())

  def __post_init__(self):
    if self.chunk is not None and self.chunk < 1:
      raise UsageError(
        f"chunk counts latent frames, got {self.chunk}: use 1 or more, or None"
      )
    if self.tile is None:
      return
    side = self.stride[1]
    if (
      self.tile % side or self.overlap % side or not 0 <= self.overlap <= self.tile / 2
    ):
      raise UsageError(
        f"got tiles of {self.tile} pixels that overlap by {self.overlap}, expected "
        f"multiples of {side}, the overlap half a tile at most: use 256 and 64"
      )

  @property
  def channels(self) -> int:
    """The number of channels of a latent."""
    return self.release.channels

  @property
  def stride(self) -> tuple[int, int, int]:
    """Frames, rows and columns of pixels that one place of a latent stands for."""
    return self.release.stride

  def encode(self, pixels: Float[Array, "b F H W 3"]) -> Float[Array, "b t h w c"]:
    """The latents' mean of F = 4 k + 1 frames, t = k + 1; h and w are the height and
    width by `stride`.

    Raises:
      UsageError: another number of frames, or sides that are no multiples of it.
    """
    return self._encode(pixels)

  def posterior(
    self, pixels: Float[Array, "b F H W 3"]
  ) -> tuple[Float[Array, "b t h w c"], Float[Array, "b t h w c"]]:
    """Mean and deviation of the latents' distribution; the mean is that of `encode`."""
    mean, std = jnp.split(self._encode(pixels, deviation=True), 2, axis=-1)
    return mean, std

  def _encode(self, pixels: Array, deviation: bool = False) -> Array:
    _check_sizes(*pixels.shape[1:4], self.stride[1])
    run = lambda x: encode(self.params, x, self.chunk, deviation, self.release)
    return self._tiled(run, pixels, (self.stride[1], 1))

  def decode(self, latent: Float[Array, "b t h w c"]) -> Float[Array, "b F H W 3"]:
    """Pixels in [-1, 1] of latents: F = 4 t - 3 frames."""
    run = lambda x: decode(self.params, x, self.chunk, self.release)
    # Blended as they leave the network: the pixels of a fold have one weight.
    pixels = self._tiled(run, latent, (1, self.stride[1]), self.release.fold)
    return jnp.clip(pixels, -1, 1)

  def _tiled(
    self,
    run: Callable[[Array], Array],
    x: Array,
    scales: tuple[int, int],
    step: int = 1,
  ) -> Array:
    if self.tile is None:
      return run(x)
    tile, overlap = self.tile // self.stride[1], self.overlap // self.stride[1]
    return tiled(run, x, tile=tile, overlap=overlap, scales=scales, step=step)


class Wan22VideoCodec(WanVideoCodec):
  """The codec of Wan2.2's VAE, which TI2V-5B and Ovi have."""

  release: ClassVar[Release] = WAN22


def _check_sizes(frames: int, height: int, width: int, side: int):
  """Raises UsageError for a clip that is not whole groups of squares of `side`."""
  if frames < 1 or frames % GROUP != 1:
    below = (frames - 1) // GROUP * GROUP + 1
    near = " or ".join(str(n) for n in (below, below + GROUP) if n > 0)
    raise UsageError(f"the video codec takes 4 k + 1 frames, got {frames}: use {near}")
  if height % side or width % side or not height * width:
    raise UsageError(
      f"the video codec takes heights and widths that are multiples of {side}, got "
      f"{height} x {width}: crop or resize"
    )
