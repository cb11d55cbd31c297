"""The transformer encoder that the frozen feature networks share.

  x += Attn(ln1(x)),   x += MLP(ln2(x))       MLP = Dense gelu Dense, gelu exact

with LayerNorm, attention over all tokens of a set, and softmax of q k^T / sqrt(d).
Parameters have the split of the checkpoints, so that each is one tensor there: q, k and
v are one matrix or three, and there may be one learnt key and value beside those of the
tokens.

Matrix products run in the compute dtype; norms, softmax and residuals are float32.
Callers set `exact` around a forward pass, without which accelerators round float32
factors to 10 or 8 bits of mantissa.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ccl_jax.ops.kernels import Kernel

exact = functools.partial(jax.default_matmul_precision, "highest")


def dense(width: int, dtype: DTypeLike, name: str, **kwargs) -> nn.Dense:
  """A float32 matrix (in, out) and bias, multiplied in `dtype`."""
  return nn.Dense(width, dtype=dtype, name=name, **kwargs)


def layer_norm(eps: float, name: str) -> nn.LayerNorm:
  """Layer norm over channels in float32, by the two-pass variance of the references."""
  return nn.LayerNorm(eps, dtype=jnp.float32, use_fast_variance=False, name=name)


def split_heads(x: Float[Array, "b l c"], heads: int) -> Float[Array, "b l n d"]:
  """Splits channels into n = `heads` heads of width d = c / n, heads outermost."""
  return x.reshape(*x.shape[:2], heads, -1)


class Attention(nn.Module):
  """Self-attention over all tokens of a set.

  Attributes:
    heads: their number.
    fused: q, k and v are one matrix `qkv`, else `query`, `key` and `value`.
    sink: one learnt key and value, appended to the tokens'.
    dtype: of matrix products.
  """

  heads: int
  fused: bool = True
  sink: bool = False
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b l c"]) -> Float[Array, "b l c"]:
    b, _, width = x.shape
    if self.fused:
      q, k, v = jnp.split(dense(3 * width, self.dtype, "qkv")(x), 3, -1)
    else:
      names = ("query", "key", "value")
      q, k, v = (dense(width, self.dtype, name)(x) for name in names)
    if self.sink:
      k, v = (
        # The learnt key and value come last, as in torch's bias_k and bias_v.
        jnp.concatenate([x, self._learnt(name, b, width).astype(x.dtype)], 1)
        for name, x in (("sink_key", k), ("sink_value", v))
      )
    q, k, v = (split_heads(x, self.heads) for x in (q, k, v))
    return dense(width, self.dtype, "proj")(Kernel()(q, k, v).reshape(x.shape))

  def _learnt(self, name: str, b: int, width: int) -> Float[Array, "b 1 c"]:
    value = self.param(name, nn.initializers.normal(0.02), (width,))
    return jnp.broadcast_to(value, (b, 1, width))


class MLP(nn.Module):
  """A dense layer to `hidden`, exact gelu, and a dense layer back to the width."""

  hidden: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b l c"]) -> Float[Array, "b l c"]:
    hidden = jax.nn.gelu(dense(self.hidden, self.dtype, "in")(x), approximate=False)
    return dense(x.shape[-1], self.dtype, "out")(hidden)


class Block(nn.Module):
  """One layer of the encoder, its norms before attention and MLP.

  Attributes:
    heads, fused, sink: see `Attention`.
    hidden: width within the MLP.
    eps: of the norms.
    dtype: of matrix products.
  """

  heads: int
  hidden: int
  eps: float
  fused: bool = True
  sink: bool = False
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b l c"], _):
    attn = Attention(self.heads, self.fused, self.sink, self.dtype, name="attn")
    x = x + attn(layer_norm(self.eps, "norm1")(x))
    mlp = MLP(self.hidden, self.dtype, name="mlp")
    return x + mlp(layer_norm(self.eps, "norm2")(x)), None


def stack(block: type[nn.Module], depth: int) -> type[nn.Module]:
  """`depth` layers after each other, their parameters stacked on a leading axis."""
  return nn.scan(
    block, variable_axes={"params": 0}, split_rngs={"params": True}, length=depth
  )


def prepend(
  x: Float[Array, "b l c"], *tokens: Float[Array, " c"]
) -> Float[Array, "b m c"]:
  """Puts learnt tokens before those of every set; m = l + their number, float32."""
  first = jnp.stack(tokens)[None]
  first = jnp.broadcast_to(first, (x.shape[0], *first.shape[1:]))
  return jnp.concatenate([first, x.astype(jnp.float32)], 1)
