"""What the compiler of TPUs makes of rotary positions and attention, where it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.ops import rope
from ccl_jax.ops.kernels import Kernel
from ccl_jax.planning.kernels import call_of
from ccl_jax.planning.program import Program
from ccl_jax.planning.topologies import one_chip, text_of
from ccl_jax.sharding import compiler_options


def compiled(function, *shapes):
  """The program of a function of bfloat16 arrays and of its gradient, on one v6e."""
  placed = one_chip("v6e")
  arrays = [jax.ShapeDtypeStruct(s, jnp.bfloat16, sharding=placed) for s in shapes]

  def both(*x):
    out, gradient = jax.vjp(function, *x)
    return out, gradient(out)

  options = compiler_options(jax.sharding.Mesh([*placed.device_set], "x"))
  lowered = jax.jit(both, compiler_options=options).lower(*arrays)
  return Program(text_of(lowered.compile()))


def scheduled(program):
  """The instructions that run one after another."""
  return [
    i for name in program.runs if name not in program.fused
    for i in program.computations[name]
  ]  # fmt: skip


def in_pairs(x, table):
  """Wan2.1's formula: channels in pairs, as complex numbers."""
  cos, sin = (y[None, :, None, ::2] for y in table)
  even, odd = x[..., ::2].astype(jnp.float32), x[..., 1::2].astype(jnp.float32)
  turned = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], -1)
  return turned.reshape(x.shape).astype(x.dtype)


def test_rotary_positions_move_no_channel_to_another_lane(libtpu):
  """Nothing is laid out anew, as it is for the formula in pairs of channels: that took
  a quarter of a train step.
  """
  tokens, heads, width = 777, 10, 128
  table = rope.line(np.arange(tokens), width)
  ours = compiled(
    lambda x: rope.rotate(x, table, jnp.bfloat16), (1, tokens, heads, width)
  )
  moves = lambda program: [
    i.op
    for i in scheduled(program)
    if i.op in ("transpose", "copy") and i.arrays[0].elements >= tokens * heads * width
  ]
  assert not moves(ours)
  pairs = compiled(lambda x: in_pairs(x, table), (1, tokens, heads, width))
  assert len(moves(pairs)) >= 2  # in and out


@pytest.mark.parametrize(("queries", "keys"), [(1500, 1500), (1500, 77), (2048, 2048)])
def test_attention_of_odd_lengths_needs_no_mask(libtpu, queries, keys):
  """Padded keys are taken out by the log-sum-exp: no kernel reads a mask."""
  heads, width = 2, 128
  kernel = Kernel("splash")
  program = compiled(
    lambda q, k, v: kernel(q, k, v),
    (1, queries, heads, width), (1, keys, heads, width), (1, keys, heads, width),
  )  # fmt: skip
  calls = [call_of(i) for i in scheduled(program) if "splash" in i.name]
  calls = [call for call in calls if call]
  assert [call.form.kernel for call in calls] == [
    "splash_mha_fwd_residuals", "splash_mha_dkv_no_residuals",
  ]  # fmt: skip
  assert not any(call.form.masked for call in calls)
  assert calls[1].form.fused
