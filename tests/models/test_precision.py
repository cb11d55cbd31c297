"""What is computed and stored in which dtype, part by part, in bfloat16."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from ccl_jax.models.cca import Geometry
from ccl_jax.models.precision import stored_as
from ccl_jax.models.presets import build_model, parameter_shapes
from tests.models.conftest import random_params, run, small_model
from tests.models.operations import operations
from tests.models.test_joint import BOTH

HALF, FULL = jnp.dtype("bfloat16"), jnp.dtype("float32")
# Products of matrices: (modules, dtype of what is multiplied, of the result).
PRODUCTS = [
  ("/(time_embedding/(in|out)|time_projection|head)$", FULL, FULL),
  ("/(self_attn|cross_attn)/b[a-z,]+->[a-z]+$", HALF, FULL),  # logits and values
  ("_to_(audio|video)/bfqnd,[a-z]+->bfnq[rk]$", HALF, FULL),  # logits
  ("_to_(audio|video)/bfnq[rk],[a-z]+->bfqnd$", HALF, HALF),  # values
  ("/(patch_embedding|(text|image)_embedding/(in|out))$", HALF, HALF),
  (
    "/(self_attn|cross_attn(.keys)?|(audio|video)_to_(audio|video)(.(context_)?keys)?)"
    "/[qkvo](_img)?$",
    HALF,
    HALF,
  ),
  ("/ffn/(in|out)$", HALF, HALF),
  ("(self_attn|_to_(audio|video)(.keys)?)/rope$", FULL, FULL),
]
# Sums and products of single numbers in bfloat16: biases of matrices, activations
# between two of them, and what text and image are added up to before theirs.
SINGLE_HALF = "/([qkvo](_img)?|in|out|(patch|text|image)_embedding|ffn|cross_attn)$"


@pytest.fixture(scope="module")
def program():
  model = build_model("tiny", image_form="channels", attention="dense")
  assert model.dtype == HALF
  return operations(model, Geometry(t=3, h=2, w=5, a=13))


def test_products_of_matrices(program):
  seen = set()
  for o in program:
    if o.name != "dot_general":
      continue
    pattern, inputs, out = next(p for p in PRODUCTS if re.search(p[0], o.path))
    seen.add(pattern)
    assert {x.dtype for x in o.inputs} == {inputs} and o.out.dtype == out, o.path
  assert len(seen) == len(PRODUCTS)


def test_all_else_is_float32(program):
  """Norms, softmax, sinusoids, rotations, modulations and the residual stream."""
  for o in program:
    if re.search("/(JointDiT|blocks|blocks._exchange|norm[^/]*|ln_[^/]*)$", o.path):
      assert o.out.dtype != HALF, (o.path, o.name)
    if o.name in ("exp", "rsqrt", "cos", "sin", "div", "reduce_max", "reduce_sum"):
      assert o.out.dtype == FULL, (o.path, o.name)
    elif o.name in ("mul", "add", "sub") and o.out.dtype == HALF:
      if o.name == "add" and not o.inputs[0].shape:
        continue  # the zero that the sum over kinds of keys begins with
      assert re.search(SINGLE_HALF, o.path), (o.path, o.name)


FLOAT32 = (
  r"(head|time_projection|time_embedding/(in|out))/(kernel|bias)",
  r"(modulation|head_modulation|context)",
  r"(norm3|ln_q|ln_kv|image_norm_in|image_norm_out)/(scale|bias)",
  r"(norm_q|norm_k|norm_k_img)/scale",
)


def test_what_is_stored_in_which_dtype():
  model = build_model("tiny", image_form="channels")
  shapes = parameter_shapes(model, (9, 32))
  seen = set()
  for path, x in traverse_util.flatten_dict(stored_as(shapes, HALF), sep="/").items():
    full = [p for p in FLOAT32 if re.search(f"/{p}$", path)]
    assert x.dtype == (FULL if full else HALF), path
    seen.update(full)
  assert seen == set(FLOAT32)


def test_stored_so_they_give_the_same_bits(inputs):
  model = small_model().clone(depth=1, dtype=HALF)
  params = random_params(model)
  shapes = jax.eval_shape(lambda: params)
  stored = jax.tree.map(lambda x, s: x.astype(s.dtype), params, stored_as(shapes, HALF))
  exact, same = run(model, params, inputs, BOTH), run(model, stored, inputs, BOTH)
  jax.tree.map(np.testing.assert_array_equal, same, exact)
