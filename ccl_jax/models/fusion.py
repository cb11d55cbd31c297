"""Fused cross-attention: one direction of the exchange of variant "fusion" (Ovi).

It stands inside text cross-attention, whose queries and output projection it shares.
With x the stream that reads and y the other one, both as they are after their own
self-attention,

  q    = norm_q(W_q norm3(x))                         text cross-attention's
  K, V = rope_y(norm_k(W_k ln_kv(y))), W_v ln_kv(y)
  x   += W_o [ attn(q, K_text, V_text) + attn(rope_x(q), K, V) ]

Every token sees the whole of the other stream. The rotations are those of the streams'
self-attention: a video query that is turned by time, row and column meets audio keys
that are turned as the audio's own are. A stream that does not read is its tower alone;
W_v starts at zero: freshly joined streams are the two streams.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ccl_jax.axes import other
from ccl_jax.models.exchange import Exchange, Keys
from ccl_jax.models.layers import LayerNorm, RMSNorm, dense, heads
from ccl_jax.ops import rope
from ccl_jax.ops.context_parallel import text_attention


class FusedKeys(nn.Module):
  """Keys and values of the other stream, at the width of the stream that reads.

  Attributes:
    width, heads: of the stream that reads.
    dtype: of matrix products.
  """

  width: int
  heads: int
  dtype: DTypeLike

  @nn.compact
  def __call__(
    self, y: Float[Array, "b u v e"], table: Float[Array, "2 u v d"]
  ) -> Keys:
    y = LayerNorm(affine=True, name="ln_kv")(y)
    k = RMSNorm(name="norm_k")(dense(self.width, self.dtype, "k")(y))
    k = rope.rotate(heads(k, self.heads), table, self.dtype)
    v = dense(self.width, self.dtype, "v", kernel_init=nn.initializers.zeros)(y)
    return k, heads(v, self.heads)


class FusedExchange(Exchange):
  """Text cross-attention and the exchange at once, from states of before either."""

  def __call__(self, x, read, tables, keys, sight):
    def make(into, states):
      c, source = self.streams[into], other(into)
      module = FusedKeys(c.width, c.heads, self.dtype, name=f"{source}_to_{into}")
      return module(states, tables[source])

    seen, collected = self.keys_of(x, keys, sight, make)
    out = {}
    for s in x:
      beside = (
        self._attention(tables[s], seen[s], sight.reading(s)) if s in seen else None
      )
      out[s] = read[s](x[s], beside)
    return out, collected

  def _attention(self, table, keys, reads):
    """What text cross-attention's queries find in the other stream."""
    k, v = (x.reshape(x.shape[0], -1, *x.shape[3:]) for x in keys)

    def attend(q):
      q = rope.rotate(q, table, self.dtype)
      out = text_attention(q, k, v, self.kernel)
      if reads is None:
        return out
      return jnp.where(reads[:, None, None, None, None], out, 0)

    return attend
