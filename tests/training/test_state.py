"""Where the parts of a training state lie: what mirrors a parameter lies as it does."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P

from ccl_jax.sharding import make_mesh
from ccl_jax.training.optim import ParamGroup, make_optimizer
from ccl_jax.training.state import (
  TrainState,
  abstract_state,
  new_state,
  state_shardings,
)

# A scanned kernel (depth, in, out), a head, and a scale.
PARAMS = {
  "blocks": {"video": {"ffn": {"in": {"kernel": jnp.ones((3, 8, 12))}}}},
  "video": {"head": {"kernel": jnp.ones((8, 5))}, "head_modulation": jnp.ones((2, 8))},
}


def _state():
  optimizer = make_optimizer(
    [ParamGroup("blocks.*", 1e-3, 0.0), ParamGroup("video/.*", 0.0, 0.0)],
    PARAMS, warmup_steps=1, total_steps=3, schedule="constant", b1=0.9, b2=0.99,
    eps=1e-8, clip_norm=1.0, moment_dtype="bfloat16",
  )  # fmt: skip
  return new_state(PARAMS, optimizer)


def test_shardings_by_value():
  """A mesh of 2 for fsdp, 2 for tensor, 2 for data: kernels are split by both of their
  axes, and so are the two moments and the average; the rest is small.
  """
  mesh = make_mesh((2, 2, 1, 2))
  shardings = state_shardings(_state(), mesh)
  specs = jax.tree.map(lambda x: x.spec, shardings)
  kernel, head = P(None, "fsdp", "tensor"), P("fsdp", None)
  for tree in (specs.params, specs.ema):
    assert tree["blocks"]["video"]["ffn"]["in"]["kernel"] == kernel
    assert tree["video"]["head"]["kernel"] == head
    assert tree["video"]["head_modulation"] == P(None, "fsdp")
  for name in ("mu", "nu"):
    moments = optax.tree_utils.tree_get(specs.opt_state, name)
    assert moments["blocks"]["video"]["ffn"]["in"]["kernel"] == kernel
  assert specs.step == P()
  assert optax.tree_utils.tree_get(
    specs.opt_state, "count", filtering=lambda path, _: "adam" in str(path).lower()
  ) == P()  # fmt: skip
  assert all(x.mesh == mesh for x in jax.tree.leaves(shardings))


def test_an_abstract_state_has_shapes_dtypes_and_shardings():
  state, mesh = _state(), make_mesh((2, 2, 1, 2))
  abstract = abstract_state(state, mesh)
  assert isinstance(abstract, TrainState)
  expected = jax.tree.leaves(state_shardings(state, mesh))
  for x, s, sharding in zip(
    jax.tree.leaves(abstract), jax.tree.leaves(state), expected, strict=True
  ):
    assert (x.shape, x.dtype, x.sharding) == (s.shape, s.dtype, sharding)
  # Of shapes alone the same comes out: nothing has to be computed first.
  shapes = jax.eval_shape(lambda: state)
  again = jax.tree.leaves(abstract_state(shapes, mesh))
  assert [x.sharding for x in again] == expected


def test_a_new_state():
  """Step 0, and an average that is a copy: the step gives away its buffers."""
  state = _state()
  assert int(state.step) == 0 and state.step.dtype == jnp.int32
  pairs = zip(jax.tree.leaves(state.params), jax.tree.leaves(state.ema))
  for p, e in pairs:
    np.testing.assert_array_equal(e, p)
    assert e.unsafe_buffer_pointer() != p.unsafe_buffer_pointer()
  moments = [optax.tree_utils.tree_get(state.opt_state, n) for n in ("mu", "nu")]
  assert all((x == 0).all() for x in jax.tree.leaves(moments))
