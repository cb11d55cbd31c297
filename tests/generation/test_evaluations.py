"""What a step of sampling computes: no given stream, and no evaluation twice."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core as jex_core

from ccl_jax.axes import STREAMS
from ccl_jax.diffusion.guidance import GUIDANCE, Evaluation, runs
from ccl_jax.generation.sampling import sample_latents
from ccl_jax.models.joint import token_geometry
from ccl_jax.tasks import GENERATIONS, Route
from tests.generation.test_sampling import EULER, run, world  # noqa: F401

NEG, COND = Evaluation(text=False), Evaluation()
NEG_ALONE, COND_ALONE = Evaluation(False, cross=False), Evaluation(cross=False)
ANCHORS = {
  ("ucg3", "t2v"): (NEG_ALONE, COND_ALONE),
  ("multimodal", "t2a"): (NEG_ALONE, COND_ALONE),
  ("ucg2", "t2v"): (NEG_ALONE, COND_ALONE),
  ("text", "t2a"): (NEG_ALONE, COND_ALONE),
  ("sync", "t2v"): (COND_ALONE,),  # there is no sound to silence
  ("none", "t2a"): (COND_ALONE,),
  ("ucg3", "a2v"): (NEG_ALONE, NEG, COND),
  ("sync", "a2v"): (Evaluation(null="audio"), COND),
  ("ucg3", "joint"): (NEG_ALONE, NEG, COND),
  ("ucg2_null", "t2v"): (NEG_ALONE, COND_ALONE),
  ("ucg2_null", "v2a"): (Evaluation(False, null="video"), COND),
  ("ucg2_shuffled", "t2a"): (NEG_ALONE, COND_ALONE),
  ("ucg2_shuffled", "joint"): (Evaluation(False, shuffled=True), COND),
  ("modality", "t2v"): (COND_ALONE,),  # there is no other stream to guide by
  ("ucg3_text", "t2a"): (NEG_ALONE, COND_ALONE),
  ("multimodal2", "a2v"): (NEG_ALONE, COND),
}


@pytest.mark.parametrize(("form", "task"), ANCHORS)
def test_equal_evaluations_are_one(form, task):
  kind = GENERATIONS[task]
  used = GUIDANCE[form].used(kind.generated, kind.generated + kind.given)
  wanted = ANCHORS[form, task]
  assert runs(used, batched=True) == (wanted,)
  assert runs(used, batched=False) == tuple((e,) for e in wanted)


@pytest.mark.parametrize("batched", [True, False])
def test_ucg3_of_one_stream_is_text_guidance(world, batched):  # noqa: F811
  """v(neg, C) = v(neg, C + m) where there is no other stream: eq. 6 is then
  v(neg) + s_t [v(txt) - v(neg)], whatever s_m.
  """
  three = {"video": {"s_m": 9.0, "s_t": 4.0}}
  both = [
    dataclasses.replace(EULER, guidance=form, scales=scales, batched=batched)
    for form, scales in (("ucg3", three), ("text", {"video": {"s": 4.0}}))
  ]
  got, want = (run(world, "t2v", sampling)["video"] for sampling in both)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def matmuls(jaxpr) -> int:
  """Matrix products in a jaxpr and in those within it, each as often as it stands."""
  total = 0
  for e in jaxpr.eqns:
    total += e.primitive.name == "dot_general"
    total += sum(map(matmuls, jex_core.jaxprs_in_params(e.params)))
  return total


def matmuls_of(f, *args) -> int:
  return matmuls(jax.make_jaxpr(f)(*args).jaxpr)


@pytest.mark.parametrize("batched", [True, False], ids=["batched", "apart"])
@pytest.mark.parametrize("guidance", ["none", "ucg2", "ucg3", "sync", "ucg2_shuffled"])
@pytest.mark.parametrize("task", ["a2v", "v2a"])
def test_no_given_stream_enters_the_loop_over_steps(world, task, guidance, batched):  # noqa: F811
  """A step has the products of the sampled stream alone, and before the loop stands one
  pass of the given stream for each text that is read with it.
  """
  model, params, noise, clean, text = world
  kind = GENERATIONS[task]
  (s,), (g,) = kind.generated, kind.given
  sampling = dataclasses.replace(EULER, guidance=guidance, batched=batched)
  conditions = {
    "text": text,
    "given": {g: clean[g]},
    "null": {s: 0.1 * clean[s] for s in STREAMS},
  }
  program = jax.make_jaxpr(
    lambda p, n, c: sample_latents(model, p, kind, n, c, sampling)
  )(params, {s: noise[s]}, conditions)
  (loop,) = (
    e.params["jaxpr"]
    for e in program.eqns
    if e.primitive.name == "scan" and e.params["length"] == sampling.steps
  )

  level = jnp.zeros((2, 1))
  options = {"geometry": token_geometry(model.streams, noise)}

  def keys_of(params):
    given = {g: clean[g]}, {g: level}
    out = model.apply({"params": params}, *given, text[0], collect=True, **options)
    return out[1]

  def alone(reads):
    def velocity(params, x, keys):
      route = Route({s: reads})
      return model.apply(
        {"params": params}, {s: x}, {s: level}, text[0], route, keys=keys, **options
      )

    keys = jax.eval_shape(keys_of, params) if reads else {}
    return matmuls_of(velocity, params, noise[s], keys)

  evaluations = GUIDANCE[guidance].used((s,)).values()
  reads = [e.cross for e in evaluations]
  in_step = alone(any(reads)) if batched else sum(map(alone, reads))
  assert matmuls(loop) == in_step
  sources = {(e.text, e.null) for e in evaluations if e.cross}
  before = len(sources) * matmuls_of(keys_of, params)
  assert matmuls(program.jaxpr) == in_step + before
