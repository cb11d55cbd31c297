"""The shared layers against their formulas, in float64 and one head at a time."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.models.scorers.synchformer_towers import DividedAttention, Pool
from ccl_jax.models.scorers.vit import Attention, Block

WIDTH, HEADS = 12, 3
TIMES, PLACES = 4, 5


def random_params(module, *args, seed=0):
  shapes = jax.eval_shape(module.init, jax.random.key(0), *args)["params"]
  rng = np.random.default_rng(seed)
  draw = lambda x: rng.standard_normal(x.shape).astype(np.float32) * 0.5
  return jax.tree.map(draw, shapes)


def tokens(*shape, seed=1):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def apply(module, p, x):
  return np.asarray(jax.jit(module.apply)({"params": p}, x))


def dense(p, x):
  return x @ p["kernel"].astype(np.float64) + p["bias"]


def attend(q, k, v, mask=None):
  """Head by head; a query sees the keys of its row of the mask."""
  out = []
  for head in np.split(np.arange(WIDTH), HEADS):
    logits = q[..., head] @ k[..., head].swapaxes(-1, -2) / math.sqrt(len(head))
    weights = np.exp(logits) * (1 if mask is None else mask)
    out.append(weights / weights.sum(-1, keepdims=True) @ v[..., head])
  return np.concatenate(out, -1)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("sink", [True, False])
def test_attention(fused, sink):
  module, x = Attention(HEADS, fused, sink), tokens(2, 7, WIDTH)
  p = random_params(module, x)
  got = apply(module, p, x)
  if fused:
    q, k, v = np.split(dense(p["qkv"], x), 3, -1)
  else:
    q, k, v = (dense(p[name], x) for name in ("query", "key", "value"))
  if sink:
    more = lambda x, name: np.concatenate([x, np.tile(p[name], (2, 1, 1))], 1)
    k, v = more(k, "sink_key"), more(v, "sink_value")
  np.testing.assert_allclose(got, dense(p["proj"], attend(q, k, v)), atol=2e-5)


@pytest.mark.parametrize("in_time", [True, False])
def test_divided_attention_is_attention_with_a_mask(in_time):
  module = DividedAttention(HEADS, TIMES, in_time, jnp.float32)
  x = tokens(2, 1 + TIMES * PLACES, WIDTH)
  p = random_params(module, x)
  place = np.arange(TIMES * PLACES)
  group = place % PLACES if in_time else place // PLACES
  mask = np.ones((len(place) + 1, len(place) + 1))
  mask[1:, 1:] = group[:, None] == group
  q, k, v = np.split(dense(p["qkv"], x), 3, -1)
  expected = dense(p["proj"], attend(q, k, v, mask))
  np.testing.assert_allclose(apply(module, p, x), expected, atol=2e-5)


def test_a_block_and_a_pool():
  x, eps = tokens(2, 7, WIDTH), 1e-6
  module = Pool(HEADS, 20, jnp.float32)
  p = random_params(module, x)

  def norm(p, x):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * p["scale"] + p["bias"]

  gelu = np.vectorize(lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))))
  b = p["block"]
  y = np.concatenate([np.tile(p["class_token"], (2, 1, 1)), x], 1).astype(np.float64)
  attention = attend(*np.split(dense(b["attn"]["qkv"], norm(b["norm1"], y)), 3, -1))
  y = y + dense(b["attn"]["proj"], attention)
  hidden = gelu(dense(b["mlp"]["in"], norm(b["norm2"], y)))
  y = y + dense(b["mlp"]["out"], hidden)
  got = apply(module, p, x)
  np.testing.assert_allclose(got, y[:, 0], atol=5e-5)


def test_in_bfloat16_only_the_products_are_rounded():
  x = tokens(2, 7, WIDTH)
  module = Block(HEADS, 20, 1e-6)
  p = random_params(module, x, None)
  run = lambda dtype: np.asarray(
    jax.jit(module.clone(dtype=dtype).apply)({"params": p}, x, None)[0]
  )
  exact, half = run(jnp.float32), run(jnp.bfloat16)
  error = np.sqrt(np.mean((half - exact) ** 2)) / exact.std()
  assert half.dtype == np.float32 and 1e-4 < error < 0.02
