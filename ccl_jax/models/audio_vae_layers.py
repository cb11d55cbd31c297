"""Encoder and decoder of MMAudio's mel VAE (b m c), in float32.

Every layer keeps the root mean square of what goes through it (EDM2, arXiv 2312.02696):

  MPConv     w / |w| per output filter, no bias                          (eq. 47)
  forced     w back to rms 1 per filter, after every optimizer step      (eq. 66)
  mp_silu    silu(x) / 0.596                                             (eq. 81)
  mp_sum     ((1 - t) x + t y) / sqrt((1 - t)^2 + t^2),  t = 0.3         (eq. 88)
  unit       x / (rms(x) + 1e-4), over channels where a block begins

A convolution's parameter is the raw `weight`, normalised in the forward pass, so that
gradients are those of w / |w|. `fold` turns it into the finished `kernel`, which is
used as it is: the same function, with nothing left to normalise.

All is centred in time: frame m is seen by latent m // 2, as far to the left as to the
right. Attention, which sees everything, is in the middle only.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange, reduce
from flax import traverse_util
from jaxtyping import Array, Float

MULTIPLIERS = (1, 2, 4)  # of the hidden width, one per level
EPS = 1e-4
LARGEST = 256.0  # of activations between blocks
EXACT = jax.lax.Precision.HIGHEST  # float32 products on every accelerator


def unit(x: Float[Array, "*s"], axis: int | tuple[int, ...] = -1) -> Float[Array, "*s"]:
  """Divides x by rms(x) + 1e-4."""
  # 1e-30 is below rounding; without it, zeros would have a gradient of nan.
  rms = jnp.sqrt(jnp.mean(x * x, axis, keepdims=True) + 1e-30)
  return x / (rms + EPS)


def kernel_of(weight: Float[Array, "k i o"]) -> Float[Array, "k i o"]:
  """Divides each output filter w, of n numbers, by |w| + 1e-4 sqrt(n)."""
  # unit divides by the rms; n^(-1/2) more makes it |w| (EDM2, eq. 47).
  return unit(weight, (0, 1)) * (weight.shape[0] * weight.shape[1]) ** -0.5


def fold(params: Any) -> Any:
  """Raw weights to finished kernels, for inference; kernels stay what they are."""
  flat = traverse_util.flatten_dict(params)
  raw = [path for path in flat if path[-1] == "weight"]
  kernels = {(*path[:-1], "kernel"): kernel_of(flat.pop(path)) for path in raw}
  return traverse_util.unflatten_dict(flat | kernels)


def forced(params: Any) -> Any:
  """Raw weights to rms 1 per filter, else their growth would shrink the steps."""
  scale = lambda w: w / jnp.sqrt(jnp.mean(w * w, (0, 1), keepdims=True) + 1e-30)
  flat = traverse_util.flatten_dict(params)
  flat = {path: scale(x) if path[-1] == "weight" else x for path, x in flat.items()}
  return traverse_util.unflatten_dict(flat)


def mp_silu(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
  """silu(x) / 0.596, which keeps the rms of normal inputs (EDM2, eq. 81)."""
  return nn.silu(x) / 0.596


def mp_sum(
  x: Float[Array, "*s"], y: Float[Array, "*s"], t: float = 0.3
) -> Float[Array, "*s"]:
  """((1 - t) x + t y) / sqrt((1 - t)^2 + t^2), which keeps the rms (EDM2, eq. 88)."""
  return ((1 - t) * x + t * y) / ((1 - t) ** 2 + t**2) ** 0.5


def bounded(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
  """Clips activations to +-256: they may grow from block to block, not without end."""
  return jnp.clip(x, -LARGEST, LARGEST)


class MPConv(nn.Module):
  """Convolution of `size` frames with filters of norm 1, zeros beyond the ends."""

  features: int
  size: int

  @nn.compact
  def __call__(self, x: Float[Array, "b m c"]) -> Float[Array, "b m e"]:
    shape, init = (self.size, x.shape[-1], self.features), nn.initializers.normal(1.0)
    # Folded parameters are used as they are.
    if self.has_variable("params", "kernel"):
      kernel = self.param("kernel", init, shape)
    else:
      kernel = kernel_of(self.param("weight", init, shape))
    layout = ("NHC", "HIO", "NHC")
    return jax.lax.conv_general_dilated(
      x, kernel, (1,), "SAME", dimension_numbers=layout, precision=EXACT
    )


class ResBlock(nn.Module):
  """Sum of unit x, projected where the width changes, and two convolutions of it."""

  features: int

  @nn.compact
  def __call__(self, x: Float[Array, "b m c"]) -> Float[Array, "b m e"]:
    x = unit(x)
    y = MPConv(self.features, 3, name="conv1")(mp_silu(x))
    y = MPConv(self.features, 3, name="conv2")(mp_silu(y))
    if x.shape[-1] != self.features:
      x = MPConv(self.features, 1, name="shortcut")(x)
    return mp_sum(x, y)


class Attention(nn.Module):
  """Sum of x and one head over all frames, with unit queries, keys and values."""

  @nn.compact
  def __call__(self, x: Float[Array, "b m c"]) -> Float[Array, "b m c"]:
    c = x.shape[-1]
    y = MPConv(3 * c, 1, name="qkv")(x)
    y = rearrange(y, "b m (c n) -> n b m c", n=3)  # a channel's q, k and v are adjacent
    # Unit q, k and v: logits are cosines times sqrt(c), as EDM2's attention has them.
    q, k, v = unit(y)
    logits = jnp.einsum("bqc,bkc->bqk", q, k, precision=EXACT) * c**-0.5
    y = jnp.einsum("bqk,bkc->bqc", jax.nn.softmax(logits), v, precision=EXACT)
    return mp_sum(x, MPConv(c, 1, name="out")(y))


class Downsample(nn.Module):
  """Half the frames: the means of pairs, between two projections."""

  @nn.compact
  def __call__(self, x: Float[Array, "b m c"]) -> Float[Array, "b a c"]:
    x = MPConv(x.shape[-1], 1, name="conv1")(x)
    x = reduce(x, "b (a i) c -> b a c", "mean", i=2)
    return MPConv(x.shape[-1], 1, name="conv2")(x)


class Upsample(nn.Module):
  """Twice the frames: every frame repeated, and a convolution."""

  @nn.compact
  def __call__(self, x: Float[Array, "b a c"]) -> Float[Array, "b m c"]:
    return MPConv(x.shape[-1], 3, name="conv")(jnp.repeat(x, 2, axis=1))


def middle(x: Float[Array, "b a c"]) -> Float[Array, "b a c"]:
  """The two residual blocks and the attention between them, at the lowest rate.

  To be called in a compact `__call__`: its layers are `middle_0` to `middle_2`.
  """
  x = ResBlock(x.shape[-1], name="middle_0")(x)
  x = Attention(name="middle_1")(x)
  return bounded(ResBlock(x.shape[-1], name="middle_2")(x))


def output(module: nn.Module, x: Float[Array, "b m c"], features: int):
  """The last convolution, times the learned gain 1 + `gain` of EDM2's output layer."""
  gain = module.param("gain", nn.initializers.zeros, ())
  return MPConv(features, 3, name="last")(mp_silu(x)) * (gain + 1)


class Encoder(nn.Module):
  """Normalised mel to the latents' means, then the logarithms of their variances.

  Attributes:
    hidden: channels of the first level.
    channels: z / 2: numbers of a latent.
  """

  hidden: int
  channels: int

  @nn.compact
  def __call__(self, x: Float[Array, "b m c"]) -> Float[Array, "b a z"]:
    x = MPConv(self.hidden, 3, name="first")(x)
    for level, multiplier in enumerate(MULTIPLIERS):
      for i in range(2):
        x = bounded(ResBlock(multiplier * self.hidden, name=f"down_{level}_{i}")(x))
      # Time is halved once; the other levels only widen.
      if level == 0:
        x = Downsample(name="downsample")(x)
    return output(self, middle(x), 2 * self.channels)


class Decoder(nn.Module):
  """Latents to normalised mel, two frames to each latent.

  Attributes:
    hidden: channels of the last level.
    bands: c, of the mel.
  """

  hidden: int
  bands: int

  @nn.compact
  def __call__(self, x: Float[Array, "b a z"]) -> Float[Array, "b m c"]:
    x = middle(MPConv(MULTIPLIERS[-1] * self.hidden, 3, name="first")(x))
    for level, multiplier in reversed(list(enumerate(MULTIPLIERS))):
      for i in range(3):
        x = bounded(ResBlock(multiplier * self.hidden, name=f"up_{level}_{i}")(x))
      if level == 1:
        x = Upsample(name="upsample")(x)
    return output(self, x, self.bands)
