"""The two towers of Synchformer: a video and a sound segment of 0.64 s to rows.

Video, 16 frames in [-1, 1]: patches of (2, 16, 16) are 8 x 196 tokens behind a class
token, then blocks of divided attention (Motionformer),

  x += Time(ln3(x)),   x += Space(ln1(x)),   x += MLP(ln2(x))

in which a patch sees the class token and the patches at its place (time) or of its
frame (space), and the class token sees all. Each frame becomes one row.

Sound, a mel spectrogram of 128 bands and 66 frames: patches of 16 x 16, 10 apart, are
12 x 6 tokens behind two learnt ones, then plain blocks (AST). Each of the 6 steps of
time becomes one row.

A set becomes a row by one more block over [class | set], of which the class is kept.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ccl_jax.models.scorers.vit import (
  MLP,
  Block,
  dense,
  layer_norm,
  prepend,
  split_heads,
  stack,
)
from ccl_jax.ops.kernels import Kernel
from ccl_jax.ops.patchify import patchify

PATCH = (2, 16, 16)  # frames, rows, columns
BANDS, MEL_FRAMES = 128, 66
MEL_PATCH, MEL_STRIDE = 16, 10
VIDEO_EPS, AUDIO_EPS = 1e-6, 1e-12


class Pool(nn.Module):
  """Sets to rows: the class token of one block over [class | set]."""

  heads: int
  hidden: int
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: Float[Array, "b l c"]) -> Float[Array, "b c"]:
    first = self.param("class_token", nn.initializers.normal(0.02), x.shape[-1:])
    block = Block(self.heads, self.hidden, VIDEO_EPS, dtype=self.dtype, name="block")
    return block(prepend(x, first), None)[0][:, 0]


class DividedAttention(nn.Module):
  """Attention in time or in space, over [class | patches in the order (t, s)]."""

  heads: int
  times: int
  in_time: bool
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: Float[Array, "b l c"]) -> Float[Array, "b l c"]:
    b, _, width = x.shape
    qkv = jnp.split(dense(3 * width, self.dtype, "qkv")(x), 3, -1)
    q, k, v = (split_heads(part, self.heads) for part in qkv)
    # The class token sees all tokens, in time and in space alike.
    first = Kernel()(q[:, :1], k, v)

    def groups(x):
      """Patches (b, t s, n, d) to those that see each other, (b, groups, m, n, d)."""
      x = x[:, 1:].reshape(b, self.times, -1, *x.shape[2:])
      return x.swapaxes(1, 2) if self.in_time else x

    def with_class(x):
      # The one class token is a key of every group.
      parts = groups(x)
      shared = jnp.broadcast_to(x[:, None, :1], (b, parts.shape[1], 1, *x.shape[2:]))
      return flat(jnp.concatenate([shared, parts], 2))

    flat = lambda x: x.reshape(-1, *x.shape[2:])
    grouped = groups(q)
    rest = Kernel()(flat(grouped), with_class(k), with_class(v)).reshape(grouped.shape)
    rest = rest.swapaxes(1, 2) if self.in_time else rest
    out = jnp.concatenate([first, rest.reshape(b, -1, *first.shape[2:])], 1)
    return dense(width, self.dtype, "proj")(out.reshape(x.shape))


class VideoBlock(nn.Module):
  """A block of divided attention: in time, in space, then the MLP.

  Attributes:
    times: t, the steps of time among the tokens.
    heads, hidden, dtype: of the layers.
  """

  heads: int
  hidden: int
  times: int
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: Float[Array, "b l c"], _):
    attend = lambda name, in_time: DividedAttention(
      self.heads, self.times, in_time, self.dtype, name=name
    )
    x = x + attend("time", True)(layer_norm(VIDEO_EPS, "norm3")(x))
    x = x + attend("space", False)(layer_norm(VIDEO_EPS, "norm1")(x))
    mlp = MLP(self.hidden, self.dtype, name="mlp")
    return x + mlp(layer_norm(VIDEO_EPS, "norm2")(x)), None


class VideoTower(nn.Module):
  """Frames of a segment to one row for every two of them."""

  heads: int
  hidden: int
  depth: int
  width: int
  dtype: DTypeLike

  @nn.compact
  def __call__(self, frames: Float[Array, "b F H W 3"]) -> Float[Array, "b t c"]:
    normal = nn.initializers.normal(0.02)
    patches = dense(self.width, self.dtype, "patch")(patchify(frames, PATCH))
    b, t, s, c = patches.shape
    first = self.param("class_token", normal, (c,))
    place = self.param("place_embedding", normal, (1 + s, c))
    time = self.param("time_embedding", normal, (t, c))
    # Positions in space and time are separate tables; the class token has the first
    # place.
    patches = patches + place[None, None, 1:] + time[None, :, None]
    x = prepend(patches.reshape(b, t * s, c), first + place[0])
    blocks = stack(VideoBlock, self.depth)
    x, _ = blocks(self.heads, self.hidden, t, self.dtype, name="blocks")(x, None)
    # The class token is dropped: each frame is pooled by a block of its own.
    x = layer_norm(VIDEO_EPS, "norm")(x[:, 1:]).reshape(b * t, s, c)
    return Pool(self.heads, self.hidden, self.dtype, name="pool")(x).reshape(b, t, c)


class AudioTower(nn.Module):
  """The mel spectrogram of a segment to one row for every step of its patches."""

  heads: int
  hidden: int
  depth: int
  width: int
  dtype: DTypeLike

  @nn.compact
  def __call__(self, mel: Float[Array, "b bands frames"]) -> Float[Array, "b t c"]:
    normal, size = nn.initializers.normal(0.02), (MEL_PATCH, MEL_PATCH)
    patches = nn.Conv(
      self.width, size, MEL_STRIDE, "VALID", dtype=self.dtype, name="patch"
    )(mel[..., None])
    b, bands, times, c = patches.shape
    names = ("class_token", "distillation_token")
    tokens = [self.param(name, normal, (c,)) for name in names]
    place = self.param("place_embedding", normal, (2 + bands * times, c))
    x = prepend(patches.reshape(b, bands * times, c), *tokens) + place[None]
    blocks = stack(Block, self.depth)(
      self.heads, self.hidden, AUDIO_EPS, fused=False, dtype=self.dtype, name="blocks"
    )
    # Without the class and the distillation token.
    x = layer_norm(AUDIO_EPS, "norm")(blocks(x, None)[0])[:, 2:]
    # A row per step of time is pooled from the patches of all bands.
    x = x.reshape(b, bands, times, c).swapaxes(1, 2).reshape(b * times, bands, c)
    pool = Pool(self.heads, self.hidden, self.dtype, name="pool")
    return pool(x).reshape(b, times, c)
