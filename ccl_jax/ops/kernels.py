"""Attention kernels behind one function: softmax(q k^T / sqrt(d)) v.

  dense    XLA; the logits (q x k) in memory. Small inputs, and the reference
  chunked  XLA, `block_q` queries at a time, logits made again in the backward pass:
           memory grows with q + k. Processors, long clips
  splash   Pallas kernel of TPUs (jax.experimental); differentiable, never the logits
  cudnn    flash attention of cuDNN (jax.nn), bfloat16, on Hopper and Ampere
  tokamax  the package's kernels, of whichever device (optional)

Products are in the dtype of q, softmax is float32. What runs where the model is placed
is the caller's choice, since a program may be compiled for another device than the
host's; `default_kernel` makes one. A kernel works on the arrays of one device: see
ops/context_parallel.py for more.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from ccl_jax.errors import UsageError
from ccl_jax.ops import splash

NAMES = ("dense", "chunked", "splash", "cudnn", "tokamax")
PARTS = 3 << 29  # bytes that splash's backward pass may take for parts of gradients
# Names of outputs and log-sum-exps: of those that remat may keep, and of the others.
SAVED, CHEAP = "attention", "attention of few keys"

Q = Float[Array, "b q n d"]
K = Float[Array, "b k n d"]


@dataclasses.dataclass(frozen=True)
class Kernel:
  """A kernel and its block sizes.

  Attributes:
    name: one of `NAMES`.
    block_q, block_kv: rows of a block, forward. On a TPU multiples of 128; lengths are
      padded up to them, so that 32,760 tokens fill 2^15 with any power of two. The
      defaults need `sharding.compiler_options`.
    block_kv_compute: part of a block that is multiplied at once.
    block_q_dkv, block_kv_dkv: of the backward pass. It keeps a gradient of the queries
      for every block of keys, and sums them: large blocks are few. Where one does not
      divide the padded keys, the largest part of it that does is taken.
    interpret: run a TPU kernel on a processor, slowly.
  """

  name: str = "dense"
  block_q: int = 2048
  block_kv: int = 2048
  block_kv_compute: int = 1024
  block_q_dkv: int = 1024
  block_kv_dkv: int = 8192
  interpret: bool = False

  def __post_init__(self):
    if self.name not in NAMES:
      raise UsageError(
        f"model.attention: got {self.name!r}; expected one of {', '.join(NAMES)}"
      )

  def __call__(self, q: Q, k: K, v: K) -> Q:
    return _RUN[self.name](self, q, k, v)


def default_kernel(platform: str) -> Kernel:
  """Kernel for a platform: splash on "tpu", cuDNN on "gpu" and "cuda", else dense."""
  return Kernel(
    {"tpu": "splash", "gpu": "cudnn", "cuda": "cudnn"}.get(platform, "dense")
  )


def keeps_attention(primitive: Any, *arguments: Any, **parameters: Any) -> bool:
  """A policy of `jax.checkpoint`: self-attention's outputs and log-sum-exps are kept.

  Args:
    primitive, arguments, parameters: of an operation, as JAX asks a policy.
  """
  # JAX gives the log-sum-exps of cuDNN no name.
  if primitive.name.startswith("dot_product_attention_fwd"):
    return _name(*arguments[:2]) == SAVED
  return _NAMED(primitive, *arguments, **parameters)


def _name(q: Any, k: Any) -> str:
  """What remat may keep is self-attention's: to make an output again takes time by its
  keys, to keep it takes memory by its queries; of a text there are few keys.
  """
  return SAVED if k.shape[1] >= q.shape[1] else CHEAP


def _dense(kernel: Kernel, q: Q, k: K, v: K) -> Q:
  """The softmax is divided by its sum after the product: one pass over q x k less."""
  logits = jnp.einsum("bqnd,bknd->bnqk", q, k, preferred_element_type=jnp.float32)
  top = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
  # The scale is applied after the maximum is taken off: exact zeros at the top.
  weights = jnp.exp((logits - top) * q.shape[-1] ** -0.5)
  total = weights.sum(-1).swapaxes(1, 2)[..., None]
  out = jnp.einsum(
    "bnqk,bknd->bqnd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32
  )
  out = (out / total).astype(v.dtype)
  return checkpoint_name(out, _name(q, k))


def _chunked(kernel: Kernel, q: Q, k: K, v: K) -> Q:
  b, length, n, d = q.shape
  name = _name(q, k)
  size = min(kernel.block_q, length)
  count = -(-length // size)
  q = jnp.pad(q, ((0, 0), (0, count * size - length), (0, 0), (0, 0)))
  blocks = q.reshape(b, count, size, n, d).swapaxes(0, 1)
  block = jax.checkpoint(lambda q: _dense(kernel, q, k, v))
  out = jax.lax.map(block, blocks).swapaxes(0, 1).reshape(b, count * size, n, d)
  return checkpoint_name(out[:, :length], name)


def _splash(kernel: Kernel, q: Q, k: K, v: K) -> Q:
  # Blocks of the forward and of the backward pass must both divide the length.
  q_size = _padded(q.shape[1], kernel.block_q, kernel.block_q_dkv)
  k_size = _padded(k.shape[1], kernel.block_kv, kernel.block_kv_compute)
  fit = lambda block, size: math.gcd(min(block, size), size)
  keys_dkv = fit(kernel.block_kv_dkv, k_size)
  blocks = {
    "block_q": fit(kernel.block_q, q_size),
    "block_kv": fit(kernel.block_kv, k_size),
    "block_kv_compute": fit(kernel.block_kv_compute, k_size),
    "block_q_dkv": fit(kernel.block_q_dkv, q_size),
    "block_kv_dkv": keys_dkv,
    "block_kv_dkv_compute": fit(kernel.block_q_dkv, keys_dkv),
    # One kernel for all gradients: q k^T and d_out v^T are multiplied once, not twice.
    "use_fused_bwd_kernel": True,
  }
  b, _, heads, d = q.shape
  parts = b * (k_size // keys_dkv) * q_size * d * q.dtype.itemsize
  fitting = [n for n in range(1, heads + 1) if heads % n == 0 and n * parts <= PARTS]
  program = splash.Program(
    heads=heads,
    together=max(fitting, default=1),
    sizes=(q_size, k_size),
    valid=k.shape[1],
    blocks=tuple(blocks.items()),
    saved=_name(q, k),
    interpret=kernel.interpret,
  )
  # Splash does not scale its logits.
  scaled = q * q.shape[-1] ** -0.5
  scaled = jnp.pad(scaled, ((0, 0), (0, q_size - q.shape[1]), (0, 0), (0, 0)))
  heads_first = lambda x: x.swapaxes(1, 2)
  attend = functools.partial(splash.attend, program)
  out = jax.vmap(attend)(heads_first(scaled), heads_first(k), heads_first(v))
  return out.swapaxes(1, 2)[:, : q.shape[1]].astype(q.dtype)


def _padded(length: int, *blocks: int) -> int:
  """The length in whole blocks, each a multiple of the smaller ones; less than a block
  is whole lanes.
  """
  lanes = -(-length // 128) * 128
  unit = max((b for b in blocks if b <= lanes), default=lanes)
  return -(-lanes // unit) * unit


def _cudnn(kernel: Kernel, q: Q, k: K, v: K) -> Q:
  """Odd lengths are padded by one: the backward pass refuses them."""
  b, q_length, k_length = q.shape[0], q.shape[1], k.shape[1]
  even = lambda x: jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0)))
  lengths = {}
  # What was padded must be told, else the zero key would take its share.
  if k_length % 2:
    lengths["key_value_seq_lengths"] = jnp.full((b,), k_length, jnp.int32)
    lengths["query_seq_lengths"] = jnp.full((b,), q_length, jnp.int32)
  out = jax.nn.dot_product_attention(
    even(q), even(k), even(v), implementation="cudnn", **lengths
  )
  return out[:, :q_length]


def _tokamax(kernel: Kernel, q: Q, k: K, v: K) -> Q:
  try:
    import tokamax
  except ImportError as e:
    raise UsageError(
      "model.attention=tokamax needs the package tokamax: pip install tokamax"
    ) from e
  from absl import flags

  if not flags.FLAGS.is_parsed():  # it reads settings of its own from absl's flags
    flags.FLAGS.mark_as_parsed()
  return checkpoint_name(tokamax.dot_product_attention(q, k, v), _name(q, k))


_NAMED = jax.checkpoint_policies.save_only_these_names(SAVED)
_RUN = {
  "dense": _dense,
  "chunked": _chunked,
  "splash": _splash,
  "cudnn": _cudnn,
  "tokamax": _tokamax,
}
