"""Steps that leave something out: which they are, and what they give."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.diffusion.guidance import CONDITIONAL, GUIDANCE
from ccl_jax.generation import sampling as module
from ccl_jax.generation.sampling import Sampling, Steps, sample_latents
from ccl_jax.generation.shortcuts import (
  FULL,
  HELD,
  OFF,
  Keeps,
  Kind,
  guidance_of,
  keeps_of,
  names_of,
  runs_of,
)
from ccl_jax.generation.windows import sample_windows, window, windows_of
from ccl_jax.models.joint import JointDiT
from ccl_jax.models.presets import build_model
from ccl_jax.tasks import GENERATIONS
from tests.stubs import reading_texts

LEVELS = np.array([1.0, 0.8, 0.6, 0.4, 0.2])
JOINT = GENERATIONS["joint"]


@pytest.mark.parametrize(
  "interval, every, expected",
  [
    (None, None, [FULL] * 5),
    (None, 1, [FULL] * 5),
    (None, 2, [FULL, HELD, FULL, HELD, FULL]),
    (None, 9, [FULL, HELD, HELD, HELD, HELD]),
    # The lower end is out, the upper one in.
    ((0.4, 0.8), None, [OFF, FULL, FULL, OFF, OFF]),
    ((0.0, 1.0), None, [FULL] * 5),
    # What is held begins with the interval.
    ((0.1, 0.7), 2, [OFF, OFF, FULL, HELD, FULL]),
  ],
)
def test_what_a_step_does_about_guidance(interval, every, expected):
  assert guidance_of(LEVELS, interval, every) == expected


def test_a_form_ends_in_the_prompts_own_evaluation():
  """Which is what is left of it without guidance."""
  for form in GUIDANCE.values():
    assert {names[-1] for names in form.ladder.values()} == {CONDITIONAL}
    used = form.used(("video", "audio"))
    for guidance in (HELD, OFF):
      assert names_of(guidance, used, True) == ("cond",)
  used = GUIDANCE["ucg3"].used(("video", "audio"))
  assert names_of(FULL, used, True) == ("context+neg+cond",)
  assert names_of(FULL, used, False) == ("context", "neg", "cond")
  # Of a video alone, two are one: it has the name of the first.
  alone = GUIDANCE["modality"].used(("video",), ("video",))
  assert names_of(FULL, alone, True) == names_of(OFF, alone, True) == ("alone",)


def test_windows_are_of_one_kind_and_one_size():
  off, full = Kind(OFF), Kind(FULL)
  kinds = [off] * 4 + [full] * 12 + [off] * 4
  assert runs_of(kinds) == [(0, 4, off), (4, 12, full), (16, 4, off)]
  assert window(4, 12, 4) == 2 and window(16) == 2 and window(4, 11, 5) == 1
  windows = windows_of(kinds)
  assert [at for at, _, _ in windows] == list(range(0, 20, 2))
  assert [size for _, size, _ in windows] == [2] * 10
  assert [kind for _, _, kind in windows] == [off] * 2 + [full] * 6 + [off] * 2


def test_what_is_handed_on():
  assert keeps_of([Kind()]) == keeps_of([Kind(OFF)]) == Keeps(False, False)
  assert keeps_of([Kind(), Kind(HELD)]) == Keeps(guidance=True)
  assert keeps_of([Kind(), Kind(cached=True)]) == Keeps(blocks=True)


# A network whose samples are known exactly -------------------------------------------

P, N = 4.0, 1.0  # what the network makes of the prompt and of the negative prompt
SHAPES = {"video": (2, 3, 4, 6, 16), "audio": (2, 7, 20)}
CONDITIONS = {
  "text": jnp.stack([jnp.full((2, 1, 1), P), jnp.full((2, 1, 1), N)]),
  "given": {},
}
S = {"video": 3.0, "audio": 1.5}
BASE = Sampling(
  "text",
  {s: {"s": x} for s, x in S.items()},
  steps=5,
  shift=1.0,
  solver="euler",
)


@pytest.fixture
def network(monkeypatch):
  """A network of velocity text * time, all of it what its blocks add; and the number of
  rows of every call, None where no block was run.
  """
  calls = []

  def apply(self, variables, x, sigma, text, *_, added=None, tell_added=False, **__):
    rows = len(x["video"])
    note = lambda ran=added is None: calls.append(rows if ran else None)
    jax.debug.callback(note, ordered=True)
    if added is None:
      value = lambda s: text[s][:, 0, 0] * sigma[s][:, 0] / 1000
      added = {s: value(s).reshape(-1, 1, 1, 1) for s in x}
    out = {
      s: jnp.broadcast_to(r.reshape(-1, *[1] * (x[s].ndim - 1)), x[s].shape)
      for s, r in added.items()
    }
    return (out, added) if tell_added else out

  monkeypatch.setattr(JointDiT, "apply", reading_texts(apply))
  return calls


def made(sampling, windows=False):
  """How far each stream has moved from its noise: one number."""
  rng = np.random.default_rng(0)
  noise = {s: jnp.asarray(rng.normal(size=x), jnp.float32) for s, x in SHAPES.items()}
  model = build_model("tiny")
  if windows:
    out = sample_windows({}, model, {}, JOINT, noise, CONDITIONS, sampling)
  else:
    out = jax.jit(lambda n: sample_latents(model, {}, JOINT, n, CONDITIONS, sampling))(
      noise
    )
  jax.effects_barrier()
  for s, x in out.items():
    moved = np.asarray(x - noise[s], np.float64)
    np.testing.assert_allclose(moved, moved.mean(), atol=1e-3)
  return {s: float((x - noise[s]).mean()) for s, x in out.items()}


def close(got, want):
  for s in SHAPES:
    assert got[s] == pytest.approx(want[s], abs=5e-4), s


@pytest.mark.parametrize("windows", [False, True])
def test_guidance_on_an_interval(network, windows):
  """Levels 1, 0.8, .. 0.2, each step down by 0.2; guided at 0.8 and 0.6."""
  how = dataclasses.replace(BASE, guidance_interval=(0.4, 0.8))
  inside = 0.2 * (0.8 + 0.6)
  outside = 0.2 * (1.0 + 0.4 + 0.2)
  want = {s: -inside * (N + k * (P - N)) - outside * P for s, k in S.items()}
  close(made(how, windows), want)
  assert network == [2, 4, 4, 2, 2]  # rows: two clips, and two evaluations inside


@pytest.mark.parametrize("windows", [False, True])
def test_guidance_at_every_second_step(network, windows):
  """Between, what it added at the step before is added again: (s - 1) (P - N) times the
  level of then.
  """
  how = dataclasses.replace(BASE, guidance_every=2)
  levels, held = LEVELS.sum(), 2 * 1.0 + 2 * 0.6 + 0.2
  want = {s: -0.2 * (P * levels + (k - 1) * (P - N) * held) for s, k in S.items()}
  close(made(how, windows), want)
  assert network == [4, 2, 4, 2, 4]


@pytest.mark.parametrize("batched", [True, False])
def test_steps_without_blocks(network, monkeypatch, batched):
  """A step that runs none has the velocity of the last that did, of each evaluation."""
  skip = [False, False, True, True, False]
  monkeypatch.setattr(module, "cached_steps", lambda cache, wanted: skip)
  how = dataclasses.replace(BASE, cache="x", batched=batched)
  levels = 1.0 + 0.8 + 0.8 + 0.8 + 0.2
  want = {s: -0.2 * levels * (N + k * (P - N)) for s, k in S.items()}
  close(made(how, windows=True), want)
  computed = [4] if batched else [2, 2]
  none = [None] * len(computed)
  assert network == [*computed, *computed, *none, *none, *computed]


def test_steps_without_blocks_and_without_guidance(network, monkeypatch):
  """A step that needs other evaluations than the last is not told to skip; the ones
  that may take what was kept of their own.
  """
  asked = []

  def cached(cache, wanted):
    asked.append(wanted)
    return [False, False, True, False, True]

  monkeypatch.setattr(module, "cached_steps", cached)
  how = dataclasses.replace(BASE, cache="x", guidance_interval=(0.4, 0.8))
  want = {
    s: -0.2 * (P * 1.0 + 2 * 0.8 * (N + k * (P - N)) + P * 2 * 0.4)
    for s, k in S.items()
  }
  close(made(how), want)
  assert network == [2, 4, None, 2, None]
  assert asked[0] == [("cond",), ("neg+cond",), ("neg+cond",), ("cond",), ("cond",)]


def test_a_watcher_sees_what_blocks_add(network):
  """Of every step, with the rows of all evaluations that ran together."""
  seen = []
  noise = {s: jnp.zeros(x) for s, x in SHAPES.items()}
  args = {}, build_model("tiny"), {}, JOINT, noise, CONDITIONS, BASE
  plain = sample_windows(*args)
  watched = sample_windows(*args, watch=lambda i, memory: seen.append((i, memory)))
  jax.tree.map(np.testing.assert_array_equal, plain, watched)
  assert [i for i, _ in seen] == [0, 1, 2, 3, 4]
  for i, memory in seen:
    assert set(memory) == {"neg+cond/video", "neg+cond/audio"}
    for x in memory.values():
      want = LEVELS[i] * np.array([N, N, P, P])
      np.testing.assert_allclose(x.ravel(), want, rtol=1e-5)


def test_schedules_that_are_named():
  """The levels of `--schedule` are those of its file."""
  how = dataclasses.replace(BASE, schedule="rcm", solver="renoise", steps=2)
  got = Steps(build_model("tiny"), JOINT, how).schedule.timesteps
  np.testing.assert_allclose(got, [987.65, 933.78], atol=0.005)
