"""What a step of sampling computes: no given stream, and no evaluation twice."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.extend import core as jex_core

from ccl_jax.axes import STREAMS
from ccl_jax.diffusion.guidance import GUIDANCE, Evaluation, runs
from ccl_jax.generation.sampling import sample_latents
from ccl_jax.models.presets import parameter_shapes
from ccl_jax.tasks import GENERATIONS
from tests.generation.test_sampling import (  # noqa: F401
  CLIP,
  EULER,
  channels_world,
  image,
  run,
  world,
)
from tests.models.conftest import TEXT as TEXT_SHAPE
from tests.models.conftest import small_model

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


def products(jaxpr) -> int:
  """Products with matrices of parameters in a jaxpr and in those within it, each as
  often as it stands: all blocks are one, as they are one scan.
  """
  total = 0
  for e in jaxpr.eqns:
    total += sum(map(products, jex_core.jaxprs_in_params(e.params)))
    if e.primitive.name == "dot_general":
      matrix = e.invars[1].aval.shape
      # RoPE moves partners by a product of this size, and attention has batch axes.
      total += len(matrix) == 2 and matrix != (HEAD, HEAD)
  return total


def counted(world, task, sampling, image=None):  # noqa: F811
  """Products of one step, and of all that precedes the loop over steps."""
  model, params, noise, clean, text = world
  kind = GENERATIONS[task]
  conditions = {
    "text": text,
    "given": {s: clean[s] for s in kind.given},
    "null": {s: 0.1 * clean[s] for s in STREAMS},
    **(image or {}),
  }
  made = {s: noise[s] for s in kind.generated}
  program = jax.make_jaxpr(
    lambda p, n, c: sample_latents(model, p, kind, n, c, sampling, clip=CLIP)
  )(params, made, conditions).jaxpr
  (loop,) = (
    e.params["jaxpr"]
    for e in program.eqns
    if e.primitive.name == "scan" and e.params["length"] == sampling.steps
  )
  return products(loop), products(program) - products(loop)


HEAD = 12  # width of the heads of both streams
ENDS = 5  # of patches and head one each, of the noise level three
SELF, FFN = 4, 2  # q, k, v, o; in and out
READ, OTHER = 2, 2  # q and o, of text as of the exchange; k and v of what is read
TEXT, IMAGE, CONTEXT = 2 + 2, 2 + 2, 2  # two embed, and k and v; of context tokens k, v
STREAM = ENDS + SELF + READ + FFN  # without the exchange


@pytest.mark.parametrize(
  ("variant", "task", "step", "before"),
  [
    ("context", "joint", 2 * (STREAM + READ + OTHER), 2 * (TEXT + CONTEXT)),
    ("context", "t2v", STREAM + READ, TEXT + CONTEXT),
    ("gate", "joint", 2 * (STREAM + READ + OTHER), 2 * TEXT),
    ("gate", "t2a", STREAM, TEXT),
    # Its queries and output are those of text attention.
    ("fusion", "joint", 2 * (STREAM + OTHER), 2 * TEXT),
    # The sound is seen with both texts.
    ("fusion", "a2v", STREAM, TEXT + 2 * (STREAM + TEXT + OTHER)),
  ],
)
def test_keys_of_texts_are_made_before_the_loop_over_steps(
  world, variant, task, step, before  # noqa: F811
):  # fmt: skip
  """Counted by the layers of the network, with both texts in one batch."""
  model = small_model(variant=variant).clone(depth=1)
  params = parameter_shapes(model, TEXT_SHAPE)
  sampling = dataclasses.replace(EULER, guidance="text")
  got = counted((model, params, *world[2:]), task, sampling)
  assert got == (step, before)


def test_keys_of_an_image_are_made_before_the_loop_over_steps(channels_world, image):  # noqa: F811
  got = counted(channels_world, "i2v", EULER, image)
  assert got == (STREAM + READ, TEXT + IMAGE + CONTEXT)


@pytest.mark.parametrize("batched", [True, False], ids=["batched", "apart"])
@pytest.mark.parametrize("guidance", ["none", "ucg2", "ucg3", "sync", "ucg2_shuffled"])
@pytest.mark.parametrize("task", ["a2v", "v2a"])
def test_no_given_stream_enters_the_loop_over_steps(world, task, guidance, batched):  # noqa: F811
  """A step has the products of the sampled stream alone, and before the loop stands one
  pass of the given stream for each text that is read with it.
  """
  sampling = dataclasses.replace(EULER, guidance=guidance, batched=batched)
  evaluations = GUIDANCE[guidance].used(GENERATIONS[task].generated).values()
  passes = 1 if batched else len(evaluations)
  sources = {(e.text, e.null) for e in evaluations if e.cross}
  given = STREAM + TEXT + READ + CONTEXT + OTHER
  step, before = counted(world, task, sampling)
  assert step == passes * (STREAM + READ)
  assert before == TEXT + CONTEXT + len(sources) * given
