"""One stream: Wan2.1's transformer around a block, for video and audio alike.

Reference: Wan2.1 `WanModel` and `WanAttentionBlock`. With m = modulation + e0,
a block is

  x += SelfAttn(norm1(x) (1 + m1) + m0) m2
  x += TextAttn(norm3(x), context)
  ...  the streams exchange here (models/exchange.py)
  x += FFN(norm2(x) (1 + m4) + m3) m5

Tokens are (b, t, s, c): video keeps frames and space apart; audio has t = a tokens with
s = 1. The timestep is per frame, (b, t) or (b, 1): a clean first image has timestep 0.
"""

import dataclasses
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ccl_jax.models.layers import (
  MLP,
  ConvEmbedding,
  LayerNorm,
  RMSNorm,
  dense,
  eager_gradients,
  heads,
  merge,
  sinusoid,
)
from ccl_jax.ops import rope
from ccl_jax.ops.context_parallel import self_attention, text_attention
from ccl_jax.ops.kernels import Kernel
from ccl_jax.ops.patchify import Patch, patchify, unpatchify
from ccl_jax.sharding import constrain

CLIP_TOKENS, CLIP_WIDTH = 257, 1280  # of an image
POSITIONS = ("grid", "line", "time")
# Keys and values of l tokens, ready to be attended.
Keys = tuple[Float[Array, "b _l n d"], Float[Array, "b _l n d"]]
# By what a stream reads: "text", "image", "context" tokens, and the "other" stream.
Kept = Mapping[str, tuple[Float[Array, "..."], Float[Array, "..."]]]
# What queries find elsewhere, to be added to what they find in the text.
Beside = Callable[[Float[Array, "b t s n d"]], Float[Array, "b t s n d"]]


@dataclasses.dataclass(frozen=True)
class StreamConfig:
  """Sizes of a stream.

  Attributes:
    width, ffn, heads: of the transformer.
    in_channels: of the input: the latent, and for `channels` image conditioning the
      mask and the condition latent with it.
    out_channels: of the velocity.
    patch: (frames, rows, columns) of a token.
    positions: in self-attention, of `POSITIONS`: "grid" (time, row, column), "line"
      (one axis over all channels) or "time" (one axis in the temporal slot of a grid;
      the other channels are not turned).
    rate: of time in these positions: a factor of the temporal frequencies.
    taps: frames that a convolutional patch embedding (`layers.ConvEmbedding`) sees, for
      a stream without rows and columns; 0: the embedding is a matrix.
    image_tokens: CLIP image tokens are attended beside the text (Wan2.1 I2V).
    image_positions: CLIP tokens that have a learned position each, added to them before
      they are embedded: of Wan2.1 FLF2V 514, those of two images; 0: none have.
    text_tokens: where image and text part, counted from the end: Wan2.1's constant.
    frequencies: width of the time embedding's sinusoid.
  """

  width: int
  ffn: int
  heads: int
  in_channels: int = 16
  out_channels: int = 16
  patch: Patch = (1, 2, 2)
  positions: str = "grid"
  rate: float = 1.0
  taps: int = 0
  image_tokens: bool = False
  image_positions: int = 0
  text_tokens: int = 512
  frequencies: int = 256

  @property
  def head_width(self) -> int:
    """d, the channels of an attention head: width / heads."""
    return self.width // self.heads

  @property
  def images(self) -> int:
    """Pictures whose CLIP tokens it takes: none, a first, or a first and a last one."""
    return max(self.image_positions // CLIP_TOKENS, 1) if self.image_tokens else 0

  def rope_table(self, t: int, h: int, w: int) -> Float[Array, "2 t s d"]:
    """(cos, sin) of the positions of t x h x w tokens in self-attention."""
    if self.positions == "grid":
      return rope.grid(t, h, w, self.head_width, rate=self.rate)
    turn = {"line": rope.line, "time": rope.temporal}[self.positions]
    return turn(self.rate * np.arange(t), self.head_width)[:, :, None]


class SelfAttention(nn.Module):
  """Wan2.1's self-attention: norms of q and k over all heads, then RoPE.

  Attributes:
    width, heads: of the stream.
    dtype: of matrix products.
    kernel: of attention.
  """

  width: int
  heads: int
  dtype: DTypeLike
  kernel: Kernel

  @nn.compact
  def __call__(
    self, x: Float[Array, "b t s c"], table: Float[Array, "2 t s d"]
  ) -> Float[Array, "b t s c"]:
    project = lambda name: dense(self.width, self.dtype, name)(x)
    # Wan2.1 norms q and k over all heads together, then rotates head by head.
    q = heads(RMSNorm(name="norm_q")(project("q")), self.heads)
    k = heads(RMSNorm(name="norm_k")(project("k")), self.heads)
    q, k = (rope.rotate(x, table, self.dtype) for x in (q, k))
    v = heads(project("v"), self.heads)
    return dense(self.width, self.dtype, "o")(
      merge(self_attention(q, k, v, self.kernel))
    )


class TextAttention(nn.Module):
  """Attention to text and, beside it with its own keys and values, to image tokens.

  What the same queries find elsewhere (`beside`) is added before the output projection.
  """

  width: int
  heads: int
  image_tokens: bool
  dtype: DTypeLike
  kernel: Kernel

  def setup(self):
    project = lambda: dense(self.width, self.dtype)
    self.q, self.k, self.v, self.o = (project() for _ in range(4))
    self.norm_q, self.norm_k = RMSNorm(), RMSNorm()
    if self.image_tokens:
      self.k_img, self.v_img, self.norm_k_img = project(), project(), RMSNorm()

  def keys(
    self, text: Float[Array, "b l c"], image: Float[Array, "b i c"] | None = None
  ) -> dict[str, Keys]:
    """Keys and values, which depend on nothing else: "text", and "image" for a stream
    that has image tokens.
    """

    def of(context, k, norm, v):
      k = heads(norm(k(context)), self.heads)
      return k.astype(self.dtype), heads(v(context), self.heads)

    out = {"text": of(text, self.k, self.norm_k, self.v)}
    if self.image_tokens:
      out["image"] = of(image, self.k_img, self.norm_k_img, self.v_img)
    return out

  def __call__(
    self,
    x: Float[Array, "b t s c"],
    keys: Kept,
    beside: Beside | None = None,
  ) -> Float[Array, "b t s c"]:
    own = heads(self.norm_q(self.q(x)), self.heads)
    q = own.astype(self.dtype)
    out = text_attention(q, *keys["text"], self.kernel)
    if self.image_tokens:
      # Two softmaxes, added: the image never competes with the text
      # (WanI2VCrossAttention).
      out = out + text_attention(q, *keys["image"], self.kernel)
    if beside is not None:
      out = out + beside(own)
    return self.o(merge(out))


class Block(nn.Module):
  """A transformer block in three parts; the streams exchange in or after the second."""

  config: StreamConfig
  dtype: DTypeLike
  kernel: Kernel = Kernel()

  def setup(self):
    c = self.config
    scale = c.width**-0.5
    self.modulation = self.param(
      "modulation", nn.initializers.normal(scale), (6, c.width)
    )
    self.norm1, self.norm2 = LayerNorm(), LayerNorm()
    self.norm3 = LayerNorm(affine=True)
    self.self_attn = SelfAttention(c.width, c.heads, self.dtype, self.kernel)
    self.cross_attn = TextAttention(
      c.width, c.heads, c.image_tokens, self.dtype, self.kernel
    )
    self.ffn = MLP(c.ffn, c.width, self.dtype)

  def attend(
    self,
    x: Float[Array, "b t s c"],
    e: Float[Array, "b f 6 c"],
    table: Float[Array, "2 t s d"],
  ) -> Float[Array, "b t s c"]:
    """First part of the block: self-attention.

    Args:
      x: tokens of the stream.
      e: the six modulations of every frame; f is t, or 1 for all frames.
      table: RoPE of the tokens.
    """
    shift, scale, gate = self._modulations(e, slice(0, 3))
    # x += SelfAttn(norm1(x) (1 + m1) + m0) m2
    return x + self.self_attn(self.norm1(x) * (1 + scale) + shift, table) * gate

  def keys(
    self, text: Float[Array, "b l c"], image: Float[Array, "b i c"] | None = None
  ) -> dict[str, Keys]:
    """What the second part reads of a text: see `TextAttention.keys`.

    Args:
      text: embedded text, padding included.
      image: embedded CLIP tokens, for a stream that has them.
    """
    return self.cross_attn.keys(text, image)

  def read(
    self, x: Float[Array, "b t s c"], beside: Beside | None, keys: Kept
  ) -> Float[Array, "b t s c"]:
    """Second part of the block: text cross-attention.

    Args:
      x: tokens of the stream.
      beside: what its queries find elsewhere.
      keys: as `keys` makes them.
    """
    # x += TextAttn(norm3(x), context): neither modulated nor gated in Wan2.1.
    return x + self.cross_attn(self.norm3(x), keys, beside)

  def feed(
    self, x: Float[Array, "b t s c"], e: Float[Array, "b f 6 c"]
  ) -> Float[Array, "b t s c"]:
    """Third part of the block: the feed-forward network.

    Args:
      x: tokens of the stream.
      e: the six modulations of every frame.
    """
    shift, scale, gate = self._modulations(e, slice(3, 6))
    # x += FFN(norm2(x) (1 + m4) + m3) m5
    return x + eager_gradients(self.ffn, self.norm2(x) * (1 + scale) + shift) * gate

  def _modulations(self, e, part):
    # m = modulation + e0, six vectors per frame.
    m = self.modulation[None, None] + e
    # Axes (b, f, 1, c): one modulation for all tokens of a frame.
    return [m[:, :, i, None, :] for i in range(*part.indices(6))]


class Stream(nn.Module):
  """A stream's layers outside its blocks: patches, time, text, image, and the head."""

  config: StreamConfig
  dtype: DTypeLike

  def setup(self):
    c = self.config
    small = nn.initializers.normal(0.02)
    self.patch_embedding = (
      ConvEmbedding(c.width, c.taps, self.dtype)
      if c.taps
      else dense(c.width, self.dtype)
    )
    self.text_embedding = MLP(c.width, c.width, self.dtype)
    self.time_embedding = MLP(c.width, c.width, jnp.float32, "silu")
    self.time_projection = dense(6 * c.width, jnp.float32, kernel_init=small)
    if c.image_tokens:
      if n := c.image_positions:
        normal = nn.initializers.normal(0.02)
        self.image_positions = self.param("image_positions", normal, (n, CLIP_WIDTH))
      self.image_norm_in = LayerNorm(affine=True, eps=1e-5)
      self.image_embedding = MLP(CLIP_WIDTH, c.width, self.dtype, "gelu")
      self.image_norm_out = LayerNorm(affine=True, eps=1e-5)
    self.head_modulation = self.param(
      "head_modulation", nn.initializers.normal(c.width**-0.5), (2, c.width)
    )
    self.head_norm = LayerNorm()
    pt, ph, pw = c.patch
    # A fresh head predicts zero: the loss starts at the target's mean square.
    self.head = dense(
      pt * ph * pw * c.out_channels, jnp.float32, kernel_init=nn.initializers.zeros
    )

  def embed(self, latent: Float[Array, "b T h w c"]) -> Float[Array, "b t s d"]:
    """Tokens of the latent, one for each patch, in float32."""
    # A convolution over whole patches is one product.
    x = self.patch_embedding(patchify(latent, self.config.patch)).astype(jnp.float32)
    return constrain(x, "batch", None, "space", None)

  def embed_text(
    self, text: Float[Array, "b l e"], clip: Float[Array, "b i 1280"] | None = None
  ) -> tuple[Float[Array, "b _l d"], Float[Array, "b _i d"] | None]:
    """Tokens of the text, and those that go through the image keys, if it has them.

    The text's zero padding is embedded too, as Wan does: the model has learned to
    attend to it.

    Args:
      text: embeddings of the text codec.
      clip: CLIP tokens of the image.
    """
    out = self.text_embedding(text)
    if not self.config.image_tokens:
      return out, None
    # Image tokens come before the text, and are cut off by Wan's constant.
    image, out = self.split_context(self.embed_image(clip), out)
    return out, image

  def embed_time(
    self, timestep: Float[Array, "b f"]
  ) -> tuple[Float[Array, "b f c"], Float[Array, "b f 6 c"]]:
    """The time embedding e, for the head, and its projections e0, for the blocks.

    Args:
      timestep: 1000 sigma of every frame, f = t, or of all, f = 1.
    """
    # Pinned to the batch axes: left to itself the partitioner has split these small
    # arrays over parameter axes, and on one mesh returned wrong gradients.
    pin = lambda x: constrain(x, "batch", None, None)
    e = pin(self.time_embedding(pin(sinusoid(timestep, self.config.frequencies))))
    # Wan's time_projection: SiLU, then the six modulations of all blocks.
    e0 = pin(self.time_projection(jax.nn.silu(e)))
    return e, e0.reshape(*e.shape[:2], 6, -1)

  def embed_image(self, clip: Float[Array, "b i 1280"]) -> Float[Array, "b i c"]:
    """CLIP tokens (257 an image) to the stream's width."""
    if self.config.image_positions:
      clip = clip + self.image_positions[None]  # MLPProj of Wan2.1 FLF2V
    return self.image_norm_out(self.image_embedding(self.image_norm_in(clip)))

  def split_context(
    self, image: Float[Array, "b i c"], text: Float[Array, "b l c"]
  ) -> tuple[Float[Array, "b _i c"], Float[Array, "b _l c"]]:
    """The tokens of [image | text] that go through the image keys, and the others.

    Wan2.1 takes the last 512 for the text. A shorter text makes the index negative and
    it counts from the end, as in the reference: the weights have learned no other rule.
    """
    context = jnp.concatenate([image, text], 1)
    index = context.shape[1] - self.config.text_tokens
    return context[:, :index], context[:, index:]

  def unembed(
    self, x: Float[Array, "b t s c"], e: Float[Array, "b f c"], rows: int
  ) -> Float[Array, "b T h w o"]:
    """The velocity of the latent, from `rows` rows of tokens."""
    m = self.head_modulation[None, None] + e[:, :, None]
    shift, scale = m[:, :, 0, None], m[:, :, 1, None]
    # Wan's Head: the same modulation as a block's, of two parts, by e itself.
    out = self.head(self.head_norm(x) * (1 + scale) + shift)
    return unpatchify(out, self.config.patch, rows)
