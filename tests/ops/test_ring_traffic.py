"""A ring of n devices sends its keys n - 1 times: what went round whole is not sent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.ops.context_parallel import self_attention
from ccl_jax.ops.kernels import Kernel
from ccl_jax.planning.program import Program
from ccl_jax.planning.traffic import collectives
from ccl_jax.sharding import make_mesh


@pytest.mark.parametrize(
  ("shape", "heads", "parts"), [((2, 1, 2, 2), 2, 2), ((1, 2, 4, 1), 3, 4)]
)
def test_keys_and_values_move_once_less_than_there_are_parts(shape, heads, parts):
  rng = np.random.default_rng(0)
  tokens = [
    jnp.asarray(rng.standard_normal((4, 3, 8, heads, 16)), jnp.float32)
    for _ in range(3)
  ]
  attend = lambda q, k, v: self_attention(q, k, v, Kernel("chunked", block_q=5))
  backward = jax.grad(lambda *x: attend(*x).sum(), argnums=(0, 1, 2))

  def permutations(f):
    with jax.set_mesh(make_mesh(shape)):
      text = jax.jit(f).lower(*tokens).compile().as_text()
    found = collectives(Program(text))
    return sum(c.times for c in found if c.kind == "collective-permute")

  assert permutations(attend) == 2 * (parts - 1)
  # Their gradients go the same way back.
  assert permutations(backward) == 2 * 2 * (parts - 1)
