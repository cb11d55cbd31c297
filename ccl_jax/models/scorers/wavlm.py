"""WavLM's encoder: sound at 16 kHz to the states of its layers, 50 frames a second.

  f     = ln(convs(wave))                             7 convolutions, stride 320 in all
  x_0   = ln(p + gelu(conv_128(p)))                   p = W f, zero in padded frames
  y     = ln(x + W_o softmax(q k^T / sqrt(d) + g B[bucket(j - i)]) v)
  x'    = ln(y + W_2 gelu(W_1 y))

B is one table for all layers; every layer gates it by query and head, from its input
x split into heads (not from q):

  a, b  = sigmoid(sum of 4 of (W x_head))             W: d to 8, four for each
  g     = a (b c - 1) + 2                             c a number per head

The first convolution is followed by a norm of each channel over time, padding included:
what is padded changes the result a little, as in the reference. A kernel of the
position convolution is g v / |v|, the norm taken per tap over all channels.

Chen et al. (2021), arXiv 2110.13900; float32 throughout.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int

EXACT = jax.lax.Precision.HIGHEST
STRIDES = (5, 2, 2, 2, 2, 2, 2)
FARTHEST = 800  # frames; offsets from here on share a bucket
EPS = 1e-5
MASKED = -1e30  # finite: a row without a single frame stays finite

dense = functools.partial(nn.Dense, precision=EXACT)
norm = functools.partial(nn.LayerNorm, epsilon=EPS, use_fast_variance=False)
gelu = functools.partial(jax.nn.gelu, approximate=False)


def bucket(offset: Int[np.ndarray, "*s"], buckets: int) -> Int[np.ndarray, "*s"]:
  """The row of B for an offset key - query, as the reference computes it, in float32.

  Each sign has half of the rows; of these one half are exact offsets, the others ranges
  of equal ratio up to `FARTHEST`.
  """
  half, exact = buckets // 2, buckets // 4
  distance = np.abs(offset)
  ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
  steps = ratio / np.float32(math.log(FARTHEST / exact)) * np.float32(half - exact)
  # Ranges of equal ratio from `exact` to `FARTHEST`.
  far = np.minimum(exact + steps.astype(np.int64), half - 1)
  return np.where(distance < exact, distance, far) + half * (offset > 0)


class Features(nn.Module):
  """Sound to one vector of c numbers every 320 samples.

  Attributes:
    channels: c, of all convolutions.
    kernels: their sizes in samples, one for each of `STRIDES`.
  """

  channels: int
  kernels: tuple[int, ...]

  @nn.compact
  def __call__(self, wave: Float[Array, "b n"]) -> Float[Array, "b t c"]:
    x = wave[..., None]
    for i, (kernel, stride) in enumerate(zip(self.kernels, STRIDES, strict=True)):
      x = nn.Conv(
        self.channels,
        (kernel,),
        stride,
        padding="VALID",
        use_bias=False,
        precision=EXACT,
        name=f"conv_{i}",
      )(x)
      if i == 0:
        x = nn.GroupNorm(
          None, group_size=1, epsilon=EPS, use_fast_variance=False, name="norm_0"
        )(x)
      x = gelu(x)
    return x


class PositionConv(nn.Module):
  """Grouped convolution over `taps` frames; an even kernel's last frame is dropped."""

  taps: int
  groups: int

  @nn.compact
  def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
    c = x.shape[-1]
    shape = (self.taps, c // self.groups, c)
    v = self.param("v", nn.initializers.lecun_normal(), shape)
    g = self.param("g", nn.initializers.ones, (self.taps,))
    bias = self.param("bias", nn.initializers.zeros, (c,))
    # The norm is per tap: PyTorch's weight_norm(dim=2) on (out, in, taps).
    length = jnp.sqrt(jnp.sum(v * v, (1, 2), keepdims=True))
    y = jax.lax.conv_general_dilated(
      x,
      g[:, None, None] / length * v,
      window_strides=(1,),
      padding=[(self.taps // 2, self.taps // 2 - 1)],
      dimension_numbers=("NWC", "WIO", "NWC"),
      feature_group_count=self.groups,
      precision=EXACT,
    )
    return gelu(y + bias[None, None])


class Attention(nn.Module):
  """Gated relative attention: every frame reads the frames of the mask."""

  heads: int

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "b t c"],
    mask: Bool[Array, "b t"],
    bias: Float[Array, "n t t"],
  ) -> Float[Array, "b t c"]:
    c = x.shape[-1]
    split = lambda x: rearrange(x, "b t (n d) -> b n t d", n=self.heads)
    q, k, v = (split(dense(c, name=name)(x)) for name in "qkv")
    scale = self.param("gate_scale", nn.initializers.ones, (self.heads,))
    parts = rearrange(dense(8, name="gate")(split(x)), "... (i j) -> ... i j", j=4)
    # a and b of the module's docstring: sums of four of the eight numbers each.
    a, b = jnp.moveaxis(jax.nn.sigmoid(parts.sum(-1)), -1, 0)
    # g = a (b c - 1) + 2, by query and head.
    gate = a * (b * scale[None, :, None] - 1) + 2
    logits = jnp.einsum("bnqd,bnkd->bnqk", q, k, precision=EXACT) * q.shape[-1] ** -0.5
    # q k^T / sqrt(d) + g B[bucket(j - i)]
    logits += gate[..., None] * bias[None]
    weights = jax.nn.softmax(jnp.where(mask[:, None, None], logits, MASKED))
    out = jnp.einsum("bnqk,bnkd->bqnd", weights, v, precision=EXACT)
    return dense(c, name="out")(rearrange(out, "b t n d -> b t (n d)"))


class Layer(nn.Module):
  """Attention and two dense layers, each followed by its norm."""

  ffn: int
  heads: int

  @nn.compact
  def __call__(self, x: Float[Array, "b t c"], mask, bias):
    x = norm(name="norm_1")(x + Attention(self.heads, name="attn")(x, mask, bias))
    hidden = gelu(dense(self.ffn, name="fc1")(x))
    x = norm(name="norm_2")(x + dense(x.shape[-1], name="fc2")(hidden))
    return x, x


class WavLM(nn.Module):
  """Sound to the states of all layers; the defaults are the sizes of WavLM-base.

  Attributes:
    channels, kernels: of the convolutions on the sound.
    width, ffn, heads, depth: of the transformer.
    buckets: of relative offsets.
    taps, groups: of the convolution that gives positions.
  """

  channels: int = 512
  kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
  width: int = 768
  ffn: int = 3072
  heads: int = 12
  depth: int = 12
  buckets: int = 320
  taps: int = 128
  groups: int = 16

  @nn.compact
  def __call__(
    self, wave: Float[Array, "b n"], valid: Bool[Array, "b n"]
  ) -> tuple[Float[Array, "l b t c"], Bool[Array, "b t"]]:
    """States of the transformer's input and of every layer, and which frames have a
    sample of sound in them.
    """
    x = norm(name="norm")(Features(self.channels, self.kernels, name="features")(wave))
    frames = x.shape[1]
    mask = frame_mask(valid, frames)
    # p = W f, zero in padded frames.
    x = jnp.where(mask[..., None], dense(self.width, name="project")(x), 0)
    x = x + PositionConv(self.taps, self.groups, name="position")(x)
    x = norm(name="encoder_norm")(x)
    table = self.param(
      "bias_table", nn.initializers.normal(0.02), (self.buckets, self.heads)
    )
    place = np.arange(frames)
    rows = bucket(place[None] - place[:, None], self.buckets)
    bias = jnp.moveaxis(table[rows], -1, 0)
    layers = nn.scan(
      Layer,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=nn.broadcast,
      length=self.depth,
    )(self.ffn, self.heads, name="layers")
    _, states = layers(x, mask, bias)
    return jnp.concatenate([x[None], states]), mask


def frame_mask(valid: Bool[Array, "b n"], frames: int) -> Bool[Array, "b t"]:
  """Frames with a valid sample, each taken as an equal share of the samples, which is
  not quite where the convolutions look; the samples that do not divide are dropped.
  """
  n = valid.shape[1]
  return valid[:, : n - n % frames].reshape(len(valid), frames, -1).any(-1)
