"""Cross-modal attention (paper eqs. 3 and 4): one softmax over the learnable context
tokens and the keys of the other stream,

  softmax(Q [K_c ; K]^T / sqrt(d)) [V_c ; V],

where the context keys are shared by every frame and sample and so are never repeated.
Softmax is float32. The keys may be spread over devices: what is summed over them is
then joined (ops/context_parallel.py).
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

MASKED = -1e30  # finite: a row with every key masked stays finite, and so its gradient
Keys = tuple[Float[Array, "... n d"], Float[Array, "... n d"]]


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
  same = lambda x: x
  return joined_softmax(q, context, keys, mask, maximum=same, total=same, heads=same)


def joined_softmax(
  q: Float[Array, "b f q n d"],
  context: Keys | None,
  keys: Keys | None,
  mask: Bool[Array, "#b #f k"] | None,
  *,
  maximum: Callable[[Array], Array],
  total: Callable[[Array], Array],
  heads: Callable[[Array], Array],
) -> tuple[Float[Array, "b f q n d"], Float[Array, "b f q"]]:
  """`context_attention` over keys of which this is a part.

  Args:
    maximum, total: the maximum and the sum over all parts.
    heads: the mean over devices that hold other heads.
  """
  scale = q.shape[-1] ** -0.5
  product = lambda form, k: (
    scale * jnp.einsum(form, q, k, preferred_element_type=jnp.float32)
  )
  x_context = x_keys = None
  tops = []
  if context is not None:
    # Logits of eq. 3: Q K_c^T / sqrt(d), with the same keys for every frame.
    x_context = product("bfqnd,rnd->bfnqr", context[0])
    tops.append(x_context.max(-1))
  if keys is not None:
    # And Q K^T / sqrt(d), with keys of their own for every frame.
    x_keys = product("bfqnd,bfknd->bfnqk", keys[0])
    if mask is not None:
      x_keys = jnp.where(mask[:, :, None, None, :], x_keys, MASKED)
    tops.append(maximum(lax.stop_gradient(x_keys.max(-1))))
  # The maximum cancels: it is there for range, and has no gradient.
  top = lax.stop_gradient(jnp.stack(tops).max(0))[..., None]
  # Eq. 4 without a concatenation: both parts of one softmax over [K_c ; K], added.
  weights, out, on_context = 0.0, 0.0, 0.0
  if context is not None:
    w = jnp.exp(x_context - top)
    weights += w.sum(-1)
    on_context = w.sum(-1)
    out += jnp.einsum("bfnqr,rnd->bfqnd", w.astype(q.dtype), context[1])
  if keys is not None:
    w = jnp.exp(x_keys - top)
    weights += total(w.sum(-1))
    part = jnp.einsum("bfnqk,bfknd->bfqnd", w.astype(q.dtype), keys[1])
    out += total(part.astype(jnp.float32))
  share = heads((on_context / weights).mean(2))
  out = out / weights.swapaxes(2, 3)[..., None]
  return out.astype(q.dtype), share
