"""Wan2.1's video VAE as a codec: 4 x 8 x 8 pixels to 16 channels, causal in time.

  z = (mu(pixels) - mean) / std          pixels = clip(decoder(z std + mean), -1, 1)

The encoder's last layer gives [mu | logvar] (reference: WanVAE_.encode). z is the mean
of the normalised posterior, whose deviation is

  exp(clip(logvar, -30, 20) / 2) / std      (diffusers: DiagonalGaussianDistribution)

Frame 0 is a latent frame of its own, so F = 4 k + 1 frames are k + 1 latent frames. Two
ways to need less memory than the whole clip at once:

  chunk   so many latent frames at a time, the first call taking frame 0 and what is
          left over, the others a scan that carries the last two inputs of every
          convolution: the same numbers, up to rounding
  tile    squares of so many pixels, blended where they overlap: not the same numbers,
          as a tile does not see beyond its border
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from flax import struct
from jax import lax
from jaxtyping import Array, Float

from ccl_jax.errors import UsageError
from ccl_jax.models.wan_vae_layers import CHANNELS, Decoder, Encoder
from ccl_jax.ops.tiling import tiled

PyTree = Any
GROUP, PATCH = 4, 8  # frames of a latent frame, pixels of a latent's side
WIDTH = 96  # of the published weights


def init_params(key: Array, width: int = WIDTH) -> PyTree:
  """Random parameters {"encoder", "decoder"} of a base width."""
  pixels = jnp.zeros((1, 1 + GROUP, PATCH, PATCH, 3))
  latent = jnp.zeros((1, 2, 1, 1, CHANNELS))
  keys = jax.random.split(key)
  return {
    "encoder": Encoder(width).init(keys[0], pixels)["params"],
    "decoder": Decoder(width).init(keys[1], latent)["params"],
  }


def encode(
  params: PyTree,
  pixels: Float[Array, "b F H W 3"],
  chunk: int | None = None,
  deviation: bool = False,
) -> Float[Array, "b t h w c"]:
  """The normalised posterior mean z, t = (F - 1) / 4 + 1.

  Args:
    params: as of `init_params`.
    pixels: in [-1, 1].
    chunk: latent frames at a time; None: all.
    deviation: whether the posterior's deviation follows, in 16 channels more.
  """
  params = params["encoder"]
  network = Encoder(params["first"]["kernel"].shape[-1], deviation)
  return _in_chunks(network, params, pixels.astype(jnp.float32), GROUP, chunk)


def decode(
  params: PyTree, latent: Float[Array, "b t h w c"], chunk: int | None = None
) -> Float[Array, "b F H W 3"]:
  """Pixels, not cut to [-1, 1], F = 4 t - 3.

  Args:
    params: as of `init_params`.
    latent: normalised.
    chunk: latent frames at a time; None: all.
  """
  params = params["decoder"]
  network = Decoder(params["last"]["kernel"].shape[-2])
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
  """Codec of pixels in [-1, 1]: 4 x 8 x 8 of them to a normalised latent and back.

  Attributes:
    params: {"encoder", "decoder"}.
    chunk: latent frames at a time; None: the whole clip.
    tile: side of the tiles in pixels, and `overlap` of two of them; None: no tiles.
    links: where the parameters are stored; see ccl_jax/codecs/bundle.py.
  """

  channels = CHANNELS
  stride = (GROUP, PATCH, PATCH)

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
    if self.tile % PATCH or self.overlap % PATCH or not 0 <= self.overlap < self.tile:
      raise UsageError(
        f"got tiles of {self.tile} pixels that overlap by {self.overlap}, expected "
        f"multiples of {PATCH}, the overlap less than the tile: use 256 and 64"
      )

  def encode(self, pixels: Float[Array, "b F H W 3"]) -> Float[Array, "b t h w 16"]:
    """The latents' mean of F = 4 k + 1 frames, t = k + 1, h = H / 8, w = W / 8.

    Raises:
      UsageError: another number of frames, or sides that are no multiples of 8.
    """
    return self._encode(pixels)

  def posterior(
    self, pixels: Float[Array, "b F H W 3"]
  ) -> tuple[Float[Array, "b t h w 16"], Float[Array, "b t h w 16"]]:
    """Mean and deviation of the latents' distribution; the mean is that of `encode`."""
    mean, std = jnp.split(self._encode(pixels, deviation=True), 2, axis=-1)
    return mean, std

  def _encode(self, pixels: Array, deviation: bool = False) -> Array:
    _check_sizes(*pixels.shape[1:4])
    run = lambda x: encode(self.params, x, self.chunk, deviation)
    return self._tiled(run, pixels, (PATCH, 1))

  def decode(self, latent: Float[Array, "b t h w 16"]) -> Float[Array, "b F H W 3"]:
    """Pixels in [-1, 1] of latents: F = 4 t - 3 frames, H = 8 h, W = 8 w."""
    run = lambda x: decode(self.params, x, self.chunk)
    return jnp.clip(self._tiled(run, latent, (1, PATCH)), -1, 1)

  def _tiled(self, run: Callable[[Array], Array], x: Array, scales: tuple[int, int]):
    if self.tile is None:
      return run(x)
    tile, overlap = self.tile // PATCH, self.overlap // PATCH
    return tiled(run, x, tile=tile, overlap=overlap, scales=scales)


def _check_sizes(frames: int, height: int, width: int):
  """Raises UsageError for a clip that is not whole groups of whole patches."""
  if frames < 1 or frames % GROUP != 1:
    below = (frames - 1) // GROUP * GROUP + 1
    near = " or ".join(str(n) for n in (below, below + GROUP) if n > 0)
    raise UsageError(f"the video codec takes 4 k + 1 frames, got {frames}: use {near}")
  if height % PATCH or width % PATCH or not height * width:
    raise UsageError(
      f"the video codec takes heights and widths that are multiples of {PATCH}, got "
      f"{height} x {width}: crop or resize"
    )
