"""The layers both streams share, with Wan2.1's precision.

Parameters are float32. Matrix products run in the compute dtype; norms, modulation,
the time embedding, RoPE, softmax, the residual stream and the head are float32.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

EPS = 1e-6


def dense(width: int, dtype: DTypeLike, name: str | None = None, **kwargs) -> nn.Dense:
  """A float32 matrix (in, out) and bias, multiplied in `dtype`."""
  kwargs.setdefault("kernel_init", nn.initializers.xavier_uniform())
  return nn.Dense(width, dtype=dtype, name=name, **kwargs)


class LayerNorm(nn.Module):
  """Layer norm over channels in float32, affine or plain."""

  affine: bool = False
  eps: float = EPS

  @nn.compact
  def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    x = x.astype(jnp.float32)
    # Two passes: E x^2 - (E x)^2 would cancel in float32.
    x = x - x.mean(-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + self.eps)
    if not self.affine:
      return x
    scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
    bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
    return x * jnp.broadcast_to(scale, x.shape) + jnp.broadcast_to(bias, x.shape)


class RMSNorm(nn.Module):
  """x / rms(x) * scale over all heads together, in float32 (Wan's q and k norm)."""

  eps: float = EPS

  @nn.compact
  def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
    x = x.astype(jnp.float32)
    # Over all channels, not by head: WanRMSNorm comes before heads are split.
    x = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + self.eps)
    return x * jnp.broadcast_to(scale, x.shape)


def heads(x: Float[Array, "*b c"], n: int) -> Float[Array, "*b n d"]:
  """Splits channels into n heads of width d = c / n, heads outermost."""
  return x.reshape(*x.shape[:-1], n, -1)


def merge(x: Float[Array, "*b n d"]) -> Float[Array, "*b c"]:
  """Joins heads into c = n d channels: the inverse of `heads`."""
  return x.reshape(*x.shape[:-2], -1)


def sinusoid(timestep: Float[Array, "b t"], width: int) -> Float[Array, "b t c"]:
  """[cos(t f), sin(t f)] with f = 10000^(-i / half), cosines first (Wan's order).

  The timestep, in 0..1000, is multiplied in float32 by rates made in float64: the
  angle's error is below 1e-4 rad.
  """
  # sinusoidal_embedding_1d of Wan2.1, which computes in float64.
  half = width // 2
  rates = np.asarray(10000.0 ** (-np.arange(half, dtype=np.float64) / half), np.float32)
  angles = timestep.astype(jnp.float32)[..., None] * jnp.asarray(rates)[None, None]
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)


class MLP(nn.Module):
  """A dense layer to `hidden`, an activation, and a dense layer to `out`."""

  hidden: int
  out: int
  dtype: DTypeLike
  activation: str = "gelu_tanh"

  @nn.compact
  def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b e"]:
    act = {
      "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
      "gelu": lambda x: jax.nn.gelu(x, approximate=False),
      "silu": jax.nn.silu,
    }[self.activation]
    return dense(self.out, self.dtype, "out")(
      act(dense(self.hidden, self.dtype, "in")(x))
    )


def gated_width(width: int) -> int:
  """Hidden channels of a gated MLP: 2/3 of 4 widths, in whole multiples of 256."""
  return 256 * -(-(8 * width // 3) // 256)


class ConvEmbedding(nn.Module):
  """Embeds a sequence by convolutions over time: one, SiLU, then a gated pair and one
  that joins it, w2(silu(w1 x) * w3 x). They keep the length; the ends are zero.

  Attributes:
    width: of the tokens.
    taps: of every convolution, an odd number.
    dtype: of its products.
  """

  width: int
  taps: int
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: Float[Array, "b t s c"]) -> Float[Array, "b t s e"]:
    hidden = gated_width(self.width)

    def conv(channels, name, x, bias=False):
      return nn.Conv(
        channels,
        self.taps,
        use_bias=bias,
        dtype=self.dtype,
        kernel_init=nn.initializers.xavier_uniform(),
        name=name,
      )(x)

    # A stream of this sort has one token a frame, s = 1.
    x = jax.nn.silu(conv(self.width, "in", x[:, :, 0], bias=True))
    gate = jax.nn.silu(conv(hidden, "w1", x))
    return conv(self.width, "w2", gate * conv(hidden, "w3", x))[:, :, None]


def eager_gradients(module: nn.Module, x: Float[Array, "*b c"]) -> Float[Array, "*b e"]:
  """module(x), whose gradients by parameters and by x are made before either is used.

  Compilers put off the products that make weight gradients, and keep what these need:
  in a block's backward pass the FFN's activations, the largest, beside attention's.
  """
  run = lambda module, x: module(x)
  forward = lambda module, x: nn.vjp(run, module, x)
  backward = lambda vjp, gradient: jax.lax.optimization_barrier(vjp(gradient))
  return nn.custom_vjp(run, forward_fn=forward, backward_fn=backward)(module, x)
