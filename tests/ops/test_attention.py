"""Cross-modal attention against its definition, and its masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.ops.attention import context_attention


def normal(*shape, seed):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def shares(q, k):
  """softmax(q k^T / sqrt(d)) in float64, for (b, q, n, d)."""
  q, k = (np.asarray(x, np.float64) for x in (q, k))
  logits = np.einsum("bqnd,bknd->bnqk", q, k) / np.sqrt(q.shape[-1])
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  return weights / weights.sum(-1, keepdims=True)


def reference(q, k, v):
  return np.einsum("bnqk,bknd->bqnd", shares(q, k), np.asarray(v, np.float64))


@pytest.fixture(scope="module")
def parts():
  """Queries, 4 context tokens, 6 keys a frame, and a mask with one empty row."""
  q = normal(2, 3, 5, 2, 8, seed=0)
  context = normal(4, 2, 8, seed=1), normal(4, 2, 8, seed=2)
  keys = normal(2, 3, 6, 2, 8, seed=3), normal(2, 3, 6, 2, 8, seed=4)
  mask = np.random.default_rng(5).random((2, 3, 6)) < 0.5
  mask[1, 2] = False
  return q, context, keys, jnp.asarray(mask)


def test_one_softmax_over_context_and_keys(parts):
  q, context, keys, mask = parts
  out, share = jax.jit(context_attention)(q, context, keys, mask)
  for b in range(2):
    for f in range(3):
      seen = np.asarray(mask[b, f])
      k, v = (np.concatenate([c, x[b, f][seen]])[None] for c, x in zip(context, keys))
      expected = reference(q[b, f][None], k, v)[0]
      np.testing.assert_allclose(out[b, f], expected, atol=1e-5)
      on_context = shares(q[b, f][None], k)[0, ..., :4].sum(-1).mean(0)
      np.testing.assert_allclose(share[b, f], on_context, rtol=1e-5)
  np.testing.assert_allclose(share[1, 2], 1.0, rtol=1e-6)


@pytest.mark.parametrize("loud", [0, 1])
def test_logits_beyond_the_range_of_exp(parts, loud):
  """Of context or of keys: hundreds apart, the louder part takes everything."""
  q, context, keys, _ = parts
  context, keys = list(context), list(keys)
  (context, keys)[loud][0] *= 500
  out, share = context_attention(q, tuple(context), tuple(keys))
  k = np.concatenate([context[0], keys[0][1, 2]])[None]
  v = np.concatenate([context[1], keys[1][1, 2]])[None]
  expected = reference(q[1, 2][None], k, v)[0]
  np.testing.assert_allclose(out[1, 2], expected, atol=1e-4)
  on_context = shares(q[1, 2][None], k)[0, ..., :4].sum(-1).mean(0)
  np.testing.assert_allclose(share[1, 2], on_context, atol=1e-4)


def test_masked_keys_have_no_gradient(parts):
  q, context, keys, mask = parts
  loss = lambda k: (context_attention(q, context, (k, keys[1]), mask)[0] ** 2).sum()
  grad = jax.jit(jax.grad(loss))(keys[0])
  seen = np.abs(np.asarray(grad)).sum((-1, -2)) > 0
  np.testing.assert_array_equal(seen, mask)


def test_context_alone_and_keys_alone(parts):
  q, context, keys, _ = parts
  alone, share = context_attention(q, context, None)
  flat = q.reshape(2, 15, 2, 8)
  k, v = (jnp.broadcast_to(x, (2, *x.shape)) for x in context)
  np.testing.assert_allclose(
    alone.reshape(flat.shape), reference(flat, k, v), atol=1e-5
  )
  np.testing.assert_allclose(share, 1.0, rtol=1e-6)
  gated, share = context_attention(q, None, keys)
  np.testing.assert_allclose(
    gated[0, 1], reference(q[0, 1][None], keys[0][0, 1][None], keys[1][0, 1][None])[0],
    atol=1e-5,
  )  # fmt: skip
  np.testing.assert_array_equal(share, 0.0)


def test_by_hand():
  """A query of ones of width 4: keys of log 3 and of zeros weigh 3 to 1, as the logit
  is divided by the width's root, 2; a context token weighs as any key does.
  """
  ones, one_third = jnp.ones((1, 1, 1, 1, 4)), np.log(3) / 2
  keys = jnp.stack([jnp.full((1, 4), one_third), jnp.zeros((1, 4))])[None, None]
  values = jnp.stack([jnp.full((1, 4), 8.0), jnp.zeros((1, 4))])[None, None]
  context = jnp.zeros((1, 1, 4)), jnp.full((1, 1, 4), 5.0)
  out, share = context_attention(ones, None, (keys, values))
  np.testing.assert_allclose(out, 6, rtol=1e-6)
  out, share = context_attention(ones, context, (keys, values))
  np.testing.assert_allclose(out, (3 * 8 + 5) / 5, rtol=1e-6)
  np.testing.assert_allclose(share, 1 / 5, rtol=1e-6)
  hidden = jnp.asarray([[[False, True]]])
  out, share = context_attention(ones, context, (keys, values), hidden)
  np.testing.assert_allclose([out.max(), share.max()], [2.5, 0.5], rtol=1e-6)


def test_large_logits_do_not_overflow(parts):
  """Only the largest key is seen; it may be a context token or not."""
  q, context, keys, mask = parts
  out, share = context_attention(1000 * q, context, keys, mask)
  assert np.isfinite(out).all() and np.isfinite(share).all()
  x = np.einsum("bfqnd,rnd->bfnqr", q, context[0])
  y = np.einsum("bfqnd,bfknd->bfnqk", q, keys[0])
  y = np.where(np.asarray(mask)[:, :, None, None], y, -np.inf)
  wins = (x.max(-1) > y.max(-1)).mean(2)
  np.testing.assert_allclose(share, wins, atol=1e-3)
