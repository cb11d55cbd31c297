"""Sampled latents against the reference: tasks, guidance forms, solvers, conditions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.generation.sampling import Sampling, sample_latents
from ccl_jax.models.cca import Geometry
from ccl_jax.tasks import GENERATIONS
from tests.held import first_frame
from tests.reference import sampling
from tests.reference.conftest import (
  AUDIO,
  COLUMNS,
  FRAMES,
  GLOBAL,
  PAPER,
  ROWS,
  config_of,
  doubled,
  make_batch,
  make_model,
  make_params,
  rule_of,
)
from tests.reference.tasks import SAMPLING

ONE = {"video": {"s": 4.0}, "audio": {"s": 2.5}}
TWO = {"video": {"s_m": 2.0, "s_t": 3.0}, "audio": {"s_m": 1.5, "s_t": 0.5}}
NO_SCALES = {"video": {}, "audio": {}}


@dataclasses.dataclass(frozen=True)
class Case:
  """A run; `cross`: the kind of exchange."""

  task: str
  guidance: str
  solver: str
  steps: int
  scales: dict
  cross: dict = dataclasses.field(default_factory=dict)
  channels: bool = False
  batched: bool = True
  negatives: bool = False  # the streams have negative prompts of their own


CASES = {
  "joint_text": Case("joint", "text", "euler", 2, ONE, GLOBAL),
  "joint_ucg2": Case(
    "joint", "ucg2", "unipc", 4, ONE, PAPER | {"tarp_centre": "floor"}
  ),
  "joint_ucg3": Case("joint", "ucg3", "dpmpp", 3, TWO, {"cross_rope": "temporal"}),
  "joint_sync": Case("joint", "sync", "euler", 2, ONE),
  "joint_multimodal": Case(
    "joint", "multimodal", "unipc", 3, TWO, {"variant": "gate"}, batched=False
  ),
  "joint_text_first": Case("joint", "ucg3_text", "euler", 2, TWO, negatives=True),
  "joint_null": Case("joint", "ucg2_null", "euler", 2, ONE, negatives=True),
  "joint_shuffled": Case("joint", "ucg2_shuffled", "euler", 2, ONE, negatives=True),
  "joint_multimodal2": Case(
    "joint", "multimodal2", "euler", 2, ONE, {"variant": "gate"}, batched=False
  ),
  "a2v_modality": Case("a2v", "modality", "euler", 2, ONE),
  "a2v_shuffled": Case("a2v", "ucg2_shuffled", "euler", 2, ONE),
  "v2a_shuffled": Case("v2a", "ucg2_shuffled", "euler", 2, ONE, negatives=True),
  "ti2av_none": Case("ti2av", "none", "unipc", 3, NO_SCALES),
  "a2v_sync": Case("a2v", "sync", "euler", 2, ONE),
  "a2v_apart": Case("a2v", "ucg2", "euler", 2, ONE, batched=False),
  "v2a_ucg3": Case("v2a", "ucg3", "dpmpp", 3, TWO, PAPER),
  "t2v_ucg2": Case("t2v", "ucg2", "euler", 2, ONE),
  "t2a_text": Case("t2a", "text", "euler", 2, ONE),
  "i2v_channels": Case("i2v", "text", "unipc", 3, ONE, channels=True),
}
SHIFT = 3.0


@pytest.mark.parametrize("name", CASES)
def test_latents(name):
  case = CASES[name]
  model = make_model(case.channels, **case.cross)
  params, b = make_params(model, seed=3), 3
  made, given, _, image = SAMPLING[case.task]
  clean, start, null, negative = (make_batch(b, n, case.channels) for n in range(4))
  pick = lambda batch, streams: {s: batch[s] for s in streams}
  shared = {"given": pick(clean, given), "null": pick(null, ("video", "audio"))}
  if case.channels:
    shared |= {"condition": clean["condition"], "clip": clean["image"]}
  elif image:
    shared["image"] = clean["video"][:, :1]
  text = {"txt": clean["text"], "neg": negative["text"]}
  if case.negatives:
    text["neg"] = {"video": negative["text"], "audio": null["text"]}

  options = Sampling(
    case.guidance, case.scales, case.steps, SHIFT, case.solver, case.batched
  )
  kind = GENERATIONS[case.task]
  run = lambda params, noise, conditions: sample_latents(
    model, params, kind, noise, conditions, options,
    clip=Geometry(FRAMES, ROWS, COLUMNS, AUDIO),
  )  # fmt: skip
  ours = jax.tree.map(jnp.asarray, shared)
  if "image" in ours:
    ours["held"] = first_frame(ours.pop("image"), clean["video"].shape[1])
  others = text["neg"].values() if case.negatives else [text["neg"]]
  ours["text"] = jnp.stack([text["txt"], *others])
  got = jax.jit(run)(params, pick(start, made), ours)

  expected = sampling.sample(
    doubled(params), config_of(**rule_of(case.cross)), case.task,
    doubled(pick(start, made)),
    doubled(shared) | {"text": doubled(text)}, case.guidance, case.scales, case.solver,
    case.steps, SHIFT, ((FRAMES, ROWS, COLUMNS), AUDIO),
  )  # fmt: skip
  assert set(got) == made
  for s, want in expected.items():
    error = np.abs(got[s] - want).max() / want.std()
    assert error < 1e-4, (s, error)
  if "image" in shared:
    np.testing.assert_array_equal(got["video"][:, :1], shared["image"])
