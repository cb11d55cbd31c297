"""Attention over heads of width d, softmax in float32.

`attention` is the plain form: self-attention and text cross-attention.
`context_attention` is the cross-modal form of the paper's eqs. 3 and 4: one softmax
over the learnable context tokens and the keys of the other stream,

  softmax(Q [K_c ; K]^T / sqrt(d)) [V_c ; V],

where the context keys are shared by every frame and sample and so are never repeated.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

MASKED = -1e30  # finite: a row with every key masked stays finite, and so its gradient


def attention(
  q: Float[Array, "b q n d"], k: Float[Array, "b k n d"], v: Float[Array, "b k n d"]
) -> Float[Array, "b q n d"]:
  logits = jnp.einsum("bqnd,bknd->bnqk", q, k, preferred_element_type=jnp.float32)
  weights = jax.nn.softmax(logits * q.shape[-1] ** -0.5)
  return jnp.einsum("bnqk,bknd->bqnd", weights.astype(v.dtype), v)


def context_attention(
  q: Float[Array, "b f q n d"],
  context: tuple[Float[Array, "r n d"], Float[Array, "r n d"]] | None,
  keys: tuple[Float[Array, "b f k n d"], Float[Array, "b f k n d"]] | None,
  mask: Bool[Array, "#b #f k"] | None = None,
) -> tuple[Float[Array, "b f q n d"], Float[Array, "b f q"]]:
  """Attention of every frame's queries to context tokens and to the frame's keys.

  Args:
    q: queries by frame.
    context: keys and values of the context tokens, or None for the gated variant.
    keys: keys and values of the other stream, or None for context tokens only.
    mask: True where a key of `keys` may be seen.

  Returns:
    The attended values, and the share of attention that fell on the context tokens
    (mean over heads).
  """
  scale = q.shape[-1] ** -0.5
  logits, r = [], 0
  if context is not None:
    r = context[0].shape[0]
    logits.append(
      jnp.einsum("bfqnd,rnd->bfnqr", q, context[0], preferred_element_type=jnp.float32)
    )
  if keys is not None:
    seen = jnp.einsum(
      "bfqnd,bfknd->bfnqk", q, keys[0], preferred_element_type=jnp.float32
    )
    if mask is not None:
      seen = jnp.where(mask[:, :, None, None, :], seen, MASKED)
    logits.append(seen)
  weights = jax.nn.softmax(jnp.concatenate(logits, -1) * scale)
  share = weights[..., :r].sum(-1).mean(2)
  weights = weights.astype(q.dtype)
  out = 0.0
  if context is not None:
    out += jnp.einsum("bfnqr,rnd->bfqnd", weights[..., :r], context[1])
  if keys is not None:
    out += jnp.einsum("bfnqk,bfknd->bfqnd", weights[..., r:], keys[1])
  return out, share
