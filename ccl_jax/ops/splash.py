"""Splash attention of TPUs for any length, without a mask.

The kernel (jax.experimental) works on whole blocks, so keys are padded. A mask that
hides the padding is applied in every block, a third of the forward pass. Here nothing
is masked: the softmax runs over all k + p keys, and what the p keys of padding add to
its sum is taken out afterwards. With x the logits of a query and L the log-sum-exp over
all keys, where padding is p copies of key 0 with values of zero,

  share = p e^(x_0 - L),   out = out_all / (1 - share),   L_k = L + log(1 - share).

Copies of a key that is there keep this well-conditioned whatever the logits are: e^x_0
is part of the sum itself, so share <= p / (p + 1), and a logit's rounding is magnified
at most p + 1 times, where key 0 has all the weight. Zeros in their place would have the
logit 0, beside which all others may vanish.

The backward kernels are exact with `out` and L_k: they need P = e^(x - L_k) and
D = sum(out * d_out). What the copies receive is cut off; what they give to the queries,
-P_0 D k_0 each, is taken back.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

Queries = Float[Array, "n q d"]
Keys = Float[Array, "n k d"]


@dataclasses.dataclass(frozen=True)
class Program:
  """The kernels of one shape.

  Attributes:
    heads: n.
    together: heads that the backward pass works on at a time; a divisor of n.
    sizes: of queries and of keys, in whole blocks.
    valid: keys before padding.
    blocks: the arguments of splash's `BlockSizes`, by name.
    saved: the name under which remat may keep outputs and log-sum-exps.
    interpret: run on a processor, slowly.
  """

  heads: int
  together: int
  sizes: tuple[int, int]
  valid: int
  blocks: tuple[tuple[str, int | bool], ...]
  saved: str
  interpret: bool

  def kernel(self, heads: int) -> Any:
    """Splash of some heads over all keys; returns log-sum-exps beside its output."""
    from jax.experimental.pallas.ops.tpu.splash_attention import (
      splash_attention_kernel as splash,
    )
    from jax.experimental.pallas.ops.tpu.splash_attention import (
      splash_attention_mask as masks,
    )

    return splash.make_splash_mha(
      masks.MultiHeadMask([masks.FullMask(self.sizes)] * heads),
      block_sizes=splash.BlockSizes(**dict(self.blocks)),
      head_shards=1,
      q_seq_shards=1,
      save_residuals=True,
      interpret=self.interpret,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend(program: Program, q: Queries, k: Keys, v: Keys) -> Queries:
  """softmax(q k^T) v by head, of queries that are scaled already.

  Args:
    program: the kernels for these lengths.
    q: queries, in whole blocks.
    k, v: keys and values, as many as are valid.
  """
  return _forward(program, q, k, v)[0]


def _forward(program: Program, q: Queries, k: Keys, v: Keys):
  padding = program.sizes[1] - program.valid
  k_all, v_all = _padded(k, v, padding)
  out, (lse,) = program.kernel(program.heads)(q, k_all, v_all)
  if padding:
    share = padding * jnp.exp(_first_logits(q, k) - lse)
    out = (out / (1 - share)[..., None]).astype(q.dtype)
    lse = lse + jnp.log1p(-share)
  out = checkpoint_name(out, program.saved)
  lse = checkpoint_name(lse, program.saved)
  return out, (q, k, v, out, lse)


def _backward(program: Program, kept, d_out: Queries):
  q, k, v, out, lse = kept
  padding = program.sizes[1] - program.valid
  arrays = (q, *_padded(k, v, padding), out, lse, d_out)
  rounds = program.heads // program.together
  if rounds == 1:
    dq, dk, dv = _gradients(program, *arrays)
  else:
    parts = [x.reshape(rounds, program.together, *x.shape[1:]) for x in arrays]
    grads = jax.lax.map(lambda some: _gradients(program, *some), tuple(parts))
    dq, dk, dv = (x.reshape(program.heads, *x.shape[2:]) for x in grads)
  if padding:
    d = (out.astype(jnp.float32) * d_out.astype(jnp.float32)).sum(-1)
    taken = padding * jnp.exp(_first_logits(q, k) - lse) * d
    dq = dq + (taken[..., None] * k[:, :1].astype(jnp.float32)).astype(dq.dtype)
  return dq, dk[:, : program.valid], dv[:, : program.valid]


def _gradients(program: Program, q, k, v, out, lse, d_out):
  """Those of queries, and of keys and values with their padding."""
  from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as splash,
  )

  kernel = program.kernel(program.together)
  no_segments = no_sinks = None
  residuals = (
    q, k, v, no_segments, no_sinks, out, lse, kernel.dq_mask_info, kernel.dkv_mask_info,
  )  # fmt: skip
  settings = {"save_residuals": False, "residual_checkpoint_name": None}
  # Public names lead to this function only with log-sum-exps of the kernel's own.
  grads = splash._splash_attention_bwd(
    **(kernel.kwargs | settings), res=residuals, do=d_out
  )
  return grads[3:6]


attend.defvjp(_forward, _backward)


def _padded(k: Keys, v: Keys, padding: int) -> tuple[Array, Array]:
  """Copies of key 0, with values of zero, after the others."""
  copies = jnp.broadcast_to(k[:, :1], (len(k), padding, k.shape[2]))
  return jnp.concatenate([k, copies], 1), jnp.pad(v, ((0, 0), (0, padding), (0, 0)))


def _first_logits(q: Queries, k: Keys) -> Float[Array, "n q"]:
  return jnp.einsum("nqd,nd->nq", q, k[:, 0], preferred_element_type=jnp.float32)
