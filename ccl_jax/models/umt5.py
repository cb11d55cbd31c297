"""UMT5's encoder: the text embeddings that Wan2.1 reads.

With S the attention's logits, d the offset key - query and B a table of every layer's
own (buckets, heads),

  x += W_o softmax(S + B[bucket(d)]) V      S = Q K^T of rms(x), not divided by sqrt(d)
  x += W_2 (W_1 u * gelu(W_g u))            u = rms(x)

and a last rms. No biases. A bucket is an offset below 8, then one of 8 ranges of equal
ratio up to 128, then all that is farther; 16 for each sign.

Matrix products run in the compute dtype; norms, softmax and the residual stream are
float32. Parameters may be stored in bfloat16, as they are released.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from ccl_jax.models.layers import RMSNorm, dense, heads, merge
from ccl_jax.models.tokenizer import Tokenizer
from ccl_jax.ops.attention import MASKED

FARTHEST = 128  # offsets from here on share a bucket


def bucket(
  offset: Int[np.ndarray, "*s"], buckets: int, farthest: int = FARTHEST
) -> Int[np.ndarray, "*s"]:
  """The row of the bias table for key - query.

  With m = buckets / 4, range j of the far offsets begins at m (farthest / m)^(j / m).
  Compared as integers, distance^m m^j >= farthest^j m^m: whole powers fall where the
  formula says, not where a logarithm rounds.
  """
  half, m = buckets // 2, buckets // 4
  distance = np.arange(farthest + 1)
  starts = [
    # Range j begins at m (farthest / m)^(j / m), compared in whole numbers.
    next(d for d in distance.tolist() if d**m * m**j >= farthest**j * m**m)
    for j in range(1, m)
  ]
  far = m + np.searchsorted(starts, distance, side="right")
  of_distance = np.where(distance < m, distance, far)
  near = of_distance[np.minimum(np.abs(offset), farthest)]
  return (near + half * (offset > 0)).astype(np.int32)


class Attention(nn.Module):
  """Self-attention with relative positions, to the tokens that the mask allows."""

  width: int
  heads: int
  buckets: int
  dtype: DTypeLike

  @nn.compact
  def __call__(
    self, x: Float[Array, "b l c"], mask: Bool[Array, "b l"]
  ) -> Float[Array, "b l c"]:
    project = lambda name: heads(_matrix(self.width, self.dtype, name)(x), self.heads)
    q, k, v = project("q"), project("k"), project("v")
    table = self.param(
      "position_bias", nn.initializers.normal(0.02), (self.buckets, self.heads)
    )
    place = np.arange(x.shape[1])
    # B[bucket(key - query)]; every layer has a table of its own.
    bias = table[bucket(place[None, :] - place[:, None], self.buckets)]
    # T5 does not divide by sqrt(d): its initialisation has the factor in W_q.
    logits = jnp.einsum("bqnd,bknd->bnqk", q, k, preferred_element_type=jnp.float32)
    logits += bias.astype(jnp.float32).transpose(2, 0, 1)[None]
    # A finite stand-in for -inf: a row of padding only must not be nan.
    weights = jax.nn.softmax(jnp.where(mask[:, None, None, :], logits, MASKED))
    out = jnp.einsum("bnqk,bknd->bqnd", weights.astype(self.dtype), v)
    return _matrix(x.shape[-1], self.dtype, "o")(merge(out))


class GatedFFN(nn.Module):
  """The gated feed-forward network W_2 (W_1 x * gelu(W_g x)), `hidden` wide."""

  hidden: int
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: Float[Array, "b l c"]) -> Float[Array, "b l c"]:
    # "gated-gelu" of transformers is the tanh approximation.
    gate = jax.nn.gelu(_matrix(self.hidden, self.dtype, "gate")(x), approximate=True)
    hidden = _matrix(self.hidden, self.dtype, "fc1")(x) * gate
    return _matrix(x.shape[-1], self.dtype, "fc2")(hidden)


class Block(nn.Module):
  """A layer of the encoder: attention and gated FFN, each after an rms norm.

  Attributes:
    attention_width: channels of all heads together.
    ffn, heads, buckets, dtype: see `UMT5Encoder`.
  """

  attention_width: int
  ffn: int
  heads: int
  buckets: int
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: Float[Array, "b l c"], mask: Bool[Array, "b l"]):
    attn = Attention(
      self.attention_width, self.heads, self.buckets, self.dtype, name="attn"
    )
    x = x + attn(RMSNorm(name="norm1")(x), mask)
    x = x + GatedFFN(self.ffn, self.dtype, name="ffn")(RMSNorm(name="norm2")(x))
    return x, None


class UMT5Encoder(nn.Module):
  """Token ids to rows; the defaults are the sizes of UMT5-XXL.

  Attributes:
    vocabulary: tokens.
    width, attention_width, ffn, heads, depth: of the transformer.
    buckets: of relative offsets.
    dtype: of matrix products; not float16, whose range the activations leave.
  """

  vocabulary: int = 256384
  width: int = 4096
  attention_width: int = 4096
  ffn: int = 10240
  heads: int = 64
  depth: int = 24
  buckets: int = 32
  dtype: DTypeLike = jnp.bfloat16

  @nn.compact
  def __call__(
    self, ids: Int[Array, "b l"], mask: Bool[Array, "b l"]
  ) -> Float[Array, "b l e"]:
    table = self.param(
      "token_embedding", nn.initializers.normal(1.0), (self.vocabulary, self.width)
    )
    blocks = nn.scan(
      Block,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=nn.broadcast,
      length=self.depth,
    )(
      self.attention_width,
      self.ffn,
      self.heads,
      self.buckets,
      self.dtype,
      name="blocks",
    )
    x, _ = blocks(table[ids].astype(jnp.float32), mask)
    return RMSNorm(name="norm")(x)


class UMT5Text(struct.PyTreeNode):
  """A codec of prompts: texts to rows of UMT5.

  Attributes:
    params: of `UMT5Encoder`; its sizes are theirs.
    tokenizer: of the same release; None: ids come from elsewhere.
    length: rows of a prompt; longer ones are cut (Wan2.1: 512).
    dtype: of matrix products, and of the parameters in memory.
    links: where the parameters are stored; see ccl_jax/codecs/bundle.py.
  """

  params: Any  # not typed as arrays: transformations put shapes, shardings here
  tokenizer: Tokenizer | None = struct.field(pytree_node=False)
  length: int = struct.field(pytree_node=False, default=512)
  dtype: str = struct.field(pytree_node=False, default="bfloat16")
  links: tuple = struct.field(pytree_node=False, default=())

  @property
  def dim(self) -> int:
    """e, the numbers of a row."""
    return self.params["token_embedding"].shape[1]

  @property
  def encoder(self) -> UMT5Encoder:
    """The network, with all sizes read from the parameters' shapes."""
    attn, ffn = self.params["blocks"]["attn"], self.params["blocks"]["ffn"]
    vocabulary, width = self.params["token_embedding"].shape
    depth, buckets, heads = attn["position_bias"].shape
    return UMT5Encoder(
      vocabulary=vocabulary,
      width=width,
      attention_width=attn["q"]["kernel"].shape[2],
      ffn=ffn["gate"]["kernel"].shape[2],
      heads=heads,
      depth=depth,
      buckets=buckets,
      dtype=jnp.dtype(self.dtype),
    )

  def tokenize(
    self, texts: list[str]
  ) -> tuple[Int[np.ndarray, "b l"], Bool[np.ndarray, "b l"]]:
    """Ids of the cleaned texts, ended and padded, and where there is text."""
    return self.tokenizer(texts, self.length)

  def rows_of(self, text: str) -> int:
    """Rows that the whole of a text would take, where `length` is no bound."""
    return self.tokenizer.count(text)

  def encode(
    self, ids: Int[Array, "b l"], mask: Bool[Array, "b l"]
  ) -> Float[Array, "b l e"]:
    """Rows of `tokenize`'s ids, zero where `mask` is False: Wan2.1 pads with zeros."""
    rows = self.encoder.apply({"params": self.params}, ids, mask)
    # WanT5EncoderModel cuts rows at the text's end, and the model pads with zeros.
    return jnp.where(mask[..., None], rows, 0)


def _matrix(width: int, dtype: DTypeLike, name: str) -> nn.Dense:
  return dense(width, dtype, name, use_bias=False)
