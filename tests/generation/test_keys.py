"""Keys that steps share: whose rows they are, and where they lie on a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from ccl_jax.diffusion.guidance import Evaluation
from ccl_jax.generation.keys import of_groups, taken
from ccl_jax.models.presets import parameter_shapes
from ccl_jax.sharding import make_mesh, parameter_shardings
from tests.models.conftest import small_model

NEG, COND = Evaluation(text=False), Evaluation()


def keys(*rows):
  """Of one block, with the values of their rows; of context tokens 7 rows."""
  own = jnp.array([rows], float)[..., None, None, None]
  context = jnp.arange(7.0)[None, :, None, None]
  return {"video": {"text": (own, 10 * own), "context": (context, context)}}


def rows_of(found):
  pair = found["video"]["text"]
  np.testing.assert_array_equal(pair[1], 10 * pair[0])
  assert found["video"]["context"][0].shape == (1, 7, 1, 1)  # of no clip
  return pair[0].ravel().tolist()


def test_rows_are_those_of_the_evaluations():
  """Of two clips: 1 and 2 of the first evaluation, 3 and 4 of the second."""
  both = keys(1, 2, 3, 4)
  assert rows_of(taken(both, [0, 0, 1], 2)) == [1, 2, 1, 2, 3, 4]
  found = of_groups({(NEG, COND): both}, [(NEG, COND), (COND,)], 2)
  assert {k: rows_of(x) for k, x in found.items()} == {
    (NEG, COND): [1, 2, 3, 4],
    (COND,): [3, 4],
  }
  alone = of_groups({(NEG,): keys(1, 2), (COND,): keys(3, 4)}, [(COND,)], 2)
  assert rows_of(alone[COND,]) == [3, 4]


def test_keys_of_texts_lie_spread_over_devices():
  """Rows by clips, tokens as parts of the video, and heads: none holds them all."""
  model = small_model().clone(streams=small_model().streams[:1], cross=None)
  shapes = parameter_shapes(model, (8, 24))
  mesh = make_mesh((2, 1, 2, 2))
  placed = jax.tree.map(
    lambda x, s: x.update(sharding=s), shapes, parameter_shardings(shapes, mesh)
  )
  run = lambda p, text: model.apply({"params": p}, {}, {}, text, collect=True)[1]
  with jax.set_mesh(mesh):
    text = {"video": jax.ShapeDtypeStruct((4, 8, 24), jnp.float32)}
    compiled = jax.jit(run).lower(placed, text).compile()
  found = compiled.output_shardings["video"]["text"]
  assert [s.spec for s in found] == [
    PartitionSpec(None, "data", "context", "tensor")
  ] * 2
