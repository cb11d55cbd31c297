"""Encoder and decoder of Wan2.1's causal video VAE (b t h w c), in float32.

Nothing looks ahead in time, so a clip can be given in one call or in several. What a
layer needs of the frames before a call is in the collection "cache": the last two
inputs of every 3 x 3 x 3 convolution, zeros before the clip begins. A call without a
cache begins a clip, and its x begins with frame 0, which is a group of its own:

  Downsample in time   [x_0 | conv(x)]             3 frames to 1, stride 2, no padding
  Upsample in time     [x_0 | two_each(x_1 ..)]    x_0 is not in the past of x_1

so F = 4 k + 1 frames are t = k + 1 latents; a later call takes 4 k frames, k latents.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from jaxtyping import Array, Float

CHANNELS = 16
MULTIPLIERS = (1, 2, 4, 4)  # of the base width, one per resolution
EXACT = jax.lax.Precision.HIGHEST  # float32 products on every accelerator

# Of each latent channel, over Wan2.1's training videos.
MEAN = (
  -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
  0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
STD = (
  2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
  3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip


def stats(ndim: int) -> tuple[Array, Array]:
  """Mean and deviation of the 16 latent channels, as the last of `ndim` axes."""
  shape = (1,) * (ndim - 1) + (CHANNELS,)
  return jnp.array(MEAN).reshape(shape), jnp.array(STD).reshape(shape)


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
  """`in_time`, twice the frames; then twice the height and width, half the channels."""

  in_time: bool

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
    return conv(c // 2, (3, 3), "in_space", padding=((1, 1), (1, 1)))(x)


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
    deviation: whether the normalised deviation follows, in as many channels again.
  """

  width: int
  deviation: bool = False

  @nn.compact
  def __call__(self, x: Float[Array, "b F H W 3"]) -> Float[Array, "b t h w c"]:
    x = CausalConv(self.width, name="first")(x)
    layer = 0
    for level, multiplier in enumerate(MULTIPLIERS):
      for _ in range(2):
        x = ResBlock(multiplier * self.width, name=f"down_{layer}")(x)
        layer += 1
      if level < 3:
        x = Downsample(in_time=level > 0, name=f"down_{layer}")(x)
        layer += 1
    x = nn.silu(Norm(name="norm")(middle(x)))
    x = CausalConv(2 * CHANNELS, name="last")(x)
    mean, std = stats(x.ndim)
    moments = conv(2 * CHANNELS, (1, 1, 1), "moments")(x)
    # z = (mu - mean) / std, with Wan's per-channel statistics.
    mu = (moments[..., :CHANNELS] - mean) / std
    if not self.deviation:
      return mu
    logvar = jnp.clip(moments[..., CHANNELS:], -30, 20)
    return jnp.concatenate([mu, jnp.exp(0.5 * logvar) / std], -1)


class Decoder(nn.Module):
  """Normalised latents to pixels, not yet cut to [-1, 1]."""

  width: int

  @nn.compact
  def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b F H W 3"]:
    mean, std = stats(x.ndim)
    x = conv(CHANNELS, (1, 1, 1), "latent")(x * std + mean)
    x = middle(CausalConv(MULTIPLIERS[-1] * self.width, name="first")(x))
    layer = 0
    for level, multiplier in enumerate(reversed(MULTIPLIERS)):
      for _ in range(3):
        x = ResBlock(multiplier * self.width, name=f"up_{layer}")(x)
        layer += 1
      if level < 3:
        x = Upsample(in_time=level < 2, name=f"up_{layer}")(x)
        layer += 1
    return CausalConv(3, name="last")(nn.silu(Norm(name="norm")(x)))
