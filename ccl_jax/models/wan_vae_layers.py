"""Encoder and decoder of Wan's causal video VAEs (b t h w c), in float32.

Nothing looks ahead in time, so a clip can be given in one call or in several. What a
layer needs of the frames before a call is in the collection "cache": the last two
inputs of every 3 x 3 x 3 convolution, zeros before the clip begins. A call without a
cache begins a clip, and its x begins with frame 0, which is a group of its own:

  Downsample in time   [x_0 | conv(x)]             3 frames to 1, stride 2, no padding
  Upsample in time     [x_0 | two_each(x_1 ..)]    x_0 is not in the past of x_1

so F = 4 k + 1 frames are t = k + 1 latents; a later call takes 4 k frames, k latents.

The networks of Wan2.1 and Wan2.2 have the same layers; what differs is a `Release`.
"""

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange, reduce, repeat
from jaxtyping import Array, Float

MULTIPLIERS = (1, 2, 4, 4)  # of the base width, one per resolution
EXACT = jax.lax.Precision.HIGHEST  # float32 products on every accelerator


@dataclasses.dataclass(frozen=True)
class Release:
  """What sets the VAE of one release apart from that of another.

  Attributes:
    name: of the release.
    widths: base widths of the published encoder and decoder.
    fold: n; squares of n x n pixels are folded into channels around the networks.
    shortcuts: each level that changes the resolution adds its input, resampled without
      parameters, to its output.
    mean, std: of each latent channel, over the training videos.
  """

  name: str
  widths: tuple[int, int]
  fold: int
  shortcuts: bool
  mean: tuple[float, ...]
  std: tuple[float, ...]

  @property
  def channels(self) -> int:
    """The number of channels of a latent."""
    return len(self.mean)

  @property
  def stride(self) -> tuple[int, int, int]:
    """Frames, rows and columns of pixels that one place of a latent stands for."""
    return 4, 8 * self.fold, 8 * self.fold

  def stats(self, ndim: int) -> tuple[Array, Array]:
    """Mean and deviation of the latent channels, as the last of `ndim` axes."""
    shape = (1,) * (ndim - 1) + (self.channels,)
    return jnp.array(self.mean).reshape(shape), jnp.array(self.std).reshape(shape)


MEAN = (
  -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
  0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
STD = (
  2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
  3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip


WAN21 = Release("Wan2.1", (96, 96), 1, False, MEAN, STD)
WAN22 = Release(
  "Wan2.2",
  (160, 256),
  2,
  True,
  (
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557,
    -0.1382, 0.0542, 0.2813, 0.0891, 0.1570, -0.0098, 0.0375, -0.1825,
    -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
    -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230,
    -0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.0520, 0.3748,
    0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
  ),
  (
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013,
    0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165, 0.8454, 0.4978,
    0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093,
    0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887,
    0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
  ),
)  # fmt: skip


def fold(x: Float[Array, "b t h w c"], n: int) -> Float[Array, "b t i j e"]:
  """Squares of n x n pixels as channels: within a colour, columns before rows."""
  return rearrange(x, "b t (h i) (w j) c -> b t h w (c j i)", i=n, j=n)


def unfold(x: Float[Array, "b t h w c"], n: int) -> Float[Array, "b t i j e"]:
  """Channels as squares of n x n pixels: the inverse of `fold`."""
  return rearrange(x, "b t h w (c j i) -> b t (h i) (w j) c", i=n, j=n)


def averaged(
  x: Float[Array, "b t h w c"], features: int, time: int, space: int
) -> Float[Array, "b s i j e"]:
  """Resamples to a lower resolution: blocks of `time` x `space` x `space` places.

  The values of a block are one row, channel by channel, cut into `features` equal runs;
  each output channel is the mean of a run. Zeros in front fill up the first block.
  """
  x = jnp.pad(x, ((0, 0), (-x.shape[1] % time, 0), (0, 0), (0, 0), (0, 0)))
  x = rearrange(
    x, "b (t n) (h i) (w j) c -> b t h w (c n i j)", n=time, i=space, j=space
  )
  return reduce(x, "b t h w (e run) -> b t h w e", "mean", e=features)


def repeated(
  x: Float[Array, "b t h w c"], features: int, time: int, space: int
) -> Float[Array, "b s i j e"]:
  """Resamples to a higher resolution: the reverse of `averaged`, every value repeated.

  Each channel is repeated as often as fills blocks of `features` channels, `time`
  frames and `space` x `space` places, which are then laid out.
  """
  times = features * time * space**2 // x.shape[-1]
  x = repeat(x, "b t h w c -> b t h w (c run)", run=times)
  return rearrange(
    x, "b t h w (e n i j) -> b (t n) (h i) (w j) e", n=time, i=space, j=space
  )


def conv(features: int, kernel: tuple[int, ...], name: str, **kwargs) -> nn.Conv:
  """A convolution without padding; a kernel of two axes is applied to each frame."""
  kwargs = {"padding": "VALID", "precision": EXACT} | kwargs
  return nn.Conv(features, kernel, name=name, **kwargs)


def frame_cache(module: nn.Module, x: Array, frames: int) -> nn.Variable:
  """The module's cache of the `frames` inputs before x: zeros if there were none."""
  shape = (x.shape[0], frames, *x.shape[2:])
  return module.variable("cache", "past", lambda: jnp.zeros(shape, x.dtype))


class CausalConv(nn.Module):
  """3 x 3 x 3 convolution over each frame and the two before it."""

  features: int

  @nn.compact
  def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h w e"]:
    before = frame_cache(self, x, 2)
    x = jnp.concatenate([before.value, x], 1)
    # The next call's past: two frames reach back, none ahead.
    before.value = x[:, -2:]
    kernel = conv(self.features, (3, 3, 3), "conv", padding=((0, 0), (1, 1), (1, 1)))
    nn.share_scope(self, kernel)
    return kernel(x)


class Norm(nn.Module):
  """The norm x / |x| * sqrt(c) * scale, over channels."""

  @nn.compact
  def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
    square = jnp.sum(x * x, -1, keepdims=True)
    # |x| is at least 1e-12; inside the root, so that zeros have a finite gradient.
    x = x * (jax.lax.rsqrt(jnp.maximum(square, 1e-24)) * x.shape[-1] ** 0.5)
    return x * jnp.broadcast_to(scale, x.shape)


class ResBlock(nn.Module):
  """x plus two of (norm, SiLU, convolution); x is projected where the width changes."""

  features: int

  @nn.compact
  def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h w e"]:
    y = CausalConv(self.features, name="conv1")(nn.silu(Norm(name="norm1")(x)))
    y = CausalConv(self.features, name="conv2")(nn.silu(Norm(name="norm2")(y)))
    if x.shape[-1] != self.features:
      x = conv(self.features, (1, 1, 1), "shortcut")(x)
    return x + y


def residual(
  module: nn.Module, x: Float[Array, "b t h w c"], features: int, names: Sequence[str]
) -> Float[Array, "b t h w e"]:
  """Residual blocks in a row, of which the first may change the width.

  To be called in the module's compact `__call__`: its layers are `names`. The blocks
  that keep the width are a loop, so that a compiler meets one of them: XLA's takes a
  core for minutes for each exact convolution of the published decoder on a TPU.
  """
  if x.shape[-1] != features:
    x = ResBlock(features, name=names[0])(x)
    names = names[1:]
  blocks = [ResBlock(features, name=name) for name in names]
  if module.is_initializing():
    for block in blocks:
      x = block(x)
    return x

  one = ResBlock(features, parent=None)
  call = lambda x, p, cache: one.apply({"params": p, **cache}, x, mutable=["cache"])
  params = [block.variables["params"] for block in blocks]
  _, empty = jax.eval_shape(lambda p: call(x, p, {}), params[0])
  zeros = lambda leaf: jnp.zeros((len(names), *leaf.shape), leaf.dtype)
  start = lambda: jax.tree.map(zeros, empty)
  before = module.variable("cache", f"{names[0]}_past", start)

  def step(carry, i):
    x, caches = carry
    # Chosen in the loop, one block's kernels are copied; stacked before it, all are.
    p = jax.lax.switch(i, [lambda p=p: p for p in params])
    x, cache = call(x, p, jax.tree.map(lambda c: c[i], caches))
    # Carried, they are changed in place; as the loop's results they would be copies.
    return (x, jax.tree.map(lambda c, new: c.at[i].set(new), caches, cache)), None

  carry, _ = jax.lax.scan(step, (x, before.value), jnp.arange(len(names)))
  x, before.value = carry
  return x


class Attention(nn.Module):
  """x + attention with one head among the places of each frame."""

  @nn.compact
  def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
    c = x.shape[-1]
    y = conv(3 * c, (1, 1), "qkv")(Norm(name="norm")(x))
    q, k, v = jnp.split(rearrange(y, "b t h w c -> b t (h w) c"), 3, axis=-1)
    logits = jnp.einsum("btqc,btkc->btqk", q, k, precision=EXACT) * c**-0.5
    y = jnp.einsum("btqk,btkc->btqc", jax.nn.softmax(logits), v, precision=EXACT)
    return x + conv(c, (1, 1), "out")(y.reshape(x.shape))


class Downsample(nn.Module):
  """Half the height and width; then, `in_time`, half the frames."""

  in_time: bool

  @nn.compact
  def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b s i j c"]:
    c = x.shape[-1]
    corner = ((0, 1), (0, 1))  # zeros below and to the right only
    x = conv(c, (3, 3), "in_space", strides=2, padding=corner)(x)
    if not self.in_time:
      return x
    begins = not self.has_variable("cache", "past")
    before = frame_cache(self, x, 1)
    frames = x if begins else jnp.concatenate([before.value, x], 1)
    before.value = x[:, -1:]
    half = conv(c, (3, 1, 1), "in_time", strides=(2, 1, 1))
    # Frame 0 is a group of its own.
    out = [x[:, :1]] if begins else []
    if frames.shape[1] > 2:
      out.append(half(frames))
    return jnp.concatenate(out, 1)


class Upsample(nn.Module):
  """`in_time`, twice the frames; then twice the height and width, in `features`."""

  in_time: bool
  features: int

  @nn.compact
  def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b s i j e"]:
    c = x.shape[-1]
    if self.in_time:
      begins = not self.has_variable("cache", "past")
      before = frame_cache(self, x, 2)
      out, x = ([x[:, :1]], x[:, 1:]) if begins else ([], x)
      frames = jnp.concatenate([before.value, x], 1)
      before.value = frames[:, -2:]
      if x.shape[1]:
        y = conv(2 * c, (3, 1, 1), "in_time")(frames)
        out.append(rearrange(y, "b t h w (n c) -> b (t n) h w c", n=2))
      x = jnp.concatenate(out, 1)
    x = repeat(x, "b t h w c -> b t (h i) (w j) c", i=2, j=2)
    return conv(self.features, (3, 3), "in_space", padding=((1, 1), (1, 1)))(x)


def middle(x: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
  """Two residual blocks and attention between them, at the lowest resolution.

  To be called in a compact `__call__`: its layers are `middle_0` to `middle_2`.
  """
  x = ResBlock(x.shape[-1], name="middle_0")(x)
  x = Attention(name="middle_1")(x)
  return ResBlock(x.shape[-1], name="middle_2")(x)


class Encoder(nn.Module):
  """Pixels in [-1, 1] to the normalised mean of their latents' distribution.

  Attributes:
    width: channels of the first level.
    release: whose VAE it is.
    deviation: whether the normalised deviation follows, in as many channels again.
  """

  width: int
  release: Release = WAN21
  deviation: bool = False

  @nn.compact
  def __call__(self, x: Float[Array, "b F H W 3"]) -> Float[Array, "b t h w c"]:
    channels = self.release.channels
    x = CausalConv(self.width, name="first")(fold(x, self.release.fold))
    layer = 0
    for level, multiplier in enumerate(MULTIPLIERS):
      features, low, in_time = multiplier * self.width, level < 3, 0 < level < 3
      taken = x
      x = residual(self, x, features, [f"down_{layer + i}" for i in range(2)])
      layer += 2
      if low:
        x = Downsample(in_time, name=f"down_{layer}")(x)
        layer += 1
      if self.release.shortcuts:
        x = x + averaged(taken, features, 1 + in_time, 1 + low)
    x = nn.silu(Norm(name="norm")(middle(x)))
    x = CausalConv(2 * channels, name="last")(x)
    mean, std = self.release.stats(x.ndim)
    moments = conv(2 * channels, (1, 1, 1), "moments")(x)
    # z = (mu - mean) / std, with the release's per-channel statistics.
    mu = (moments[..., :channels] - mean) / std
    if not self.deviation:
      return mu
    logvar = jnp.clip(moments[..., channels:], -30, 20)
    return jnp.concatenate([mu, jnp.exp(0.5 * logvar) / std], -1)


class Decoder(nn.Module):
  """Normalised latents to pixels, not yet cut to [-1, 1].

  Attributes:
    width: channels of the last level.
    release: whose VAE it is.
  """

  width: int
  release: Release = WAN21

  @nn.compact
  def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b F H W 3"]:
    n, shortcuts = self.release.fold, self.release.shortcuts
    mean, std = self.release.stats(x.ndim)
    x = conv(self.release.channels, (1, 1, 1), "latent")(x * std + mean)
    x = middle(CausalConv(MULTIPLIERS[-1] * self.width, name="first")(x))
    layer = 0
    for level, multiplier in enumerate(reversed(MULTIPLIERS)):
      features, in_time = multiplier * self.width, level < 2
      taken = x
      x = residual(self, x, features, [f"up_{layer + i}" for i in range(3)])
      layer += 3
      if level == 3:
        break
      # Without shortcuts it is the upsampling that halves the channels.
      half = features if shortcuts else features // 2
      x = Upsample(in_time, half, name=f"up_{layer}")(x)
      layer += 1
      if shortcuts:
        # Frame 0 is not doubled in time: of its copies the last is kept.
        x = x + repeated(taken, features, 1 + in_time, 2)[:, -x.shape[1] :]
    x = CausalConv(3 * n * n, name="last")(nn.silu(Norm(name="norm")(x)))
    return unfold(x, n)
