"""Attention on a mesh is attention: values and gradients, and what is moved for it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.ops.context_parallel import (
  frame_attention,
  self_attention,
  text_attention,
)
from ccl_jax.ops.kernels import Kernel
from ccl_jax.planning.program import Program
from ccl_jax.planning.traffic import collectives
from ccl_jax.sharding import make_mesh

CHUNKED = Kernel("chunked", block_q=5)
# mesh (data, fsdp, context, tensor) and heads, which context divides or not (ring)
CASES = [
  ((1, 2, 4, 1), 4, {"all-to-all"}),
  ((1, 1, 4, 2), 8, {"all-to-all"}),
  ((2, 1, 2, 2), 2, {"collective-permute"}),
  ((1, 2, 4, 1), 3, {"collective-permute"}),
  ((2, 4, 1, 1), 3, set()),
]


def normal(seed, *shape):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def on_mesh(f, w, shape, *args):
  """The values of f and the gradients of their product with w, whole and on a mesh, and
  the compiled program.
  """

  def product(*args):
    out = f(*args)
    return sum((a * b).sum() for a, b in zip(out, w, strict=True)), out

  program = jax.grad(product, argnums=tuple(range(len(args))), has_aux=True)
  whole = jax.jit(program)(*args)
  with jax.set_mesh(make_mesh(shape)):
    compiled = jax.jit(program).lower(*args).compile()
    return whole, compiled(*args), compiled.as_text()


def assert_close(got, want):
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert jnp.abs(a - b).max() <= 3e-6 * jnp.abs(b).max()


@pytest.mark.parametrize(("shape", "heads", "kinds"), CASES)
def test_self_attention(shape, heads, kinds):
  q, k, v, w = (normal(i, 4, 3, 8, heads, 16) for i in range(4))
  attend = lambda q, k, v: (self_attention(q, k, v, CHUNKED),)
  whole, parted, text = on_mesh(attend, (w,), shape, q, k, v)
  assert_close(parted, whole)
  seen = {c.kind for c in collectives(Program(text)) if c.elements > 1}
  assert kinds <= seen and not seen & ({"all-to-all", "collective-permute"} - kinds)


def test_text_keys_stay_where_they_are():
  q, w = normal(0, 4, 3, 8, 2, 16), normal(1, 4, 3, 8, 2, 16)
  k, v = normal(2, 4, 7, 2, 16), normal(3, 4, 7, 2, 16)
  attend = lambda q, k, v: (text_attention(q, k, v, CHUNKED),)
  whole, parted, text = on_mesh(attend, (w,), (1, 2, 4, 1), q, k, v)
  assert_close(parted, whole)
  kinds = {c.kind for c in collectives(Program(text)) if c.elements > 1}
  assert kinds <= {"all-gather", "all-reduce"}
  # What enters and leaves the program aside, the gradients of the text are summed.
  reduced = [c for c in collectives(Program(text)) if c.kind == "all-reduce"]
  assert max(c.elements for c in reduced) <= k.size


@pytest.mark.parametrize("shape", [(1, 2, 4, 1), (2, 1, 2, 2)])
@pytest.mark.parametrize("context", [True, False], ids=["context", "gate"])
def test_audio_to_the_frames_of_the_video(shape, context):
  keys = normal(0, 4, 3, 8, 2, 16), normal(1, 4, 3, 8, 2, 16)
  q, w = normal(2, 4, 3, 5, 2, 16), normal(3, 4, 3, 5, 2, 16)
  tokens = normal(4, 6, 2, 16), normal(5, 6, 2, 16)
  mask = jnp.asarray(np.random.default_rng(6).random((4, 1, 8)) < 0.6)

  def attend(q, keys, tokens):
    return frame_attention(q, tokens if context else None, keys, mask)

  weights = w, jnp.ones(w.shape[:3])
  whole, parted, _ = on_mesh(attend, weights, shape, q, keys, tokens)
  assert_close(parted, whole)
