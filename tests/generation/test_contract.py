"""Training and sampling tell the network the same, and it is what the paper says.

A network that only records stands in for the real one. What it must be told is written
out here, value by value: at noise level sigma the timestep 1000 sigma; a stream that is
given, and a first frame that is given, clean and at timestep 0; who reads whom; the
prompt, or else the null text (training) or the negative prompt (sampling).
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ccl_jax.errors import UsageError
from ccl_jax.generation.sampling import Sampling, sample_latents
from ccl_jax.models.cca import Geometry
from ccl_jax.tasks import GENERATIONS
from ccl_jax.training.state import new_state
from ccl_jax.training.step import Recipe, make_train_step
from tests.stubs import recording

B = 3
VIDEO, AUDIO, TEXT = (B, 3, 4, 6, 5), (B, 7, 4), (B, 2, 3)
# A clip's tokens: 3 frames of 2 x 3 (patches of 2 x 2), and 7 of sound.
GEOMETRY = Geometry(3, 2, 3, 7)
STREAMS = {"video", "audio"}

# What a state of the network is: noised streams, streams that read the other one.
# The training task that teaches it, and the generation that asks for it.
TAUGHT = {
  # task: noised, given, reads, equal noise levels
  "single": ({"video", "audio"}, set(), set(), False),
  "a2v": ({"video"}, {"audio"}, {"video"}, False),
  "v2a": ({"audio"}, {"video"}, {"audio"}, False),
  "joint": ({"video", "audio"}, set(), {"video", "audio"}, True),
}
ASKED = {
  # generation: noised, given, reads where the exchange is on, first frame given
  "joint": ({"video", "audio"}, set(), {"video", "audio"}, False),
  "ti2av": ({"video", "audio"}, set(), {"video", "audio"}, True),
  "t2v": ({"video"}, set(), set(), False),
  "i2v": ({"video"}, set(), set(), True),
  "t2a": ({"audio"}, set(), set(), False),
  "a2v": ({"video"}, {"audio"}, {"video"}, False),
  "v2a": ({"audio"}, {"video"}, {"audio"}, False),
}
# Evaluations of every form of guidance, in order: the text, and what stands for the
# other stream: itself, context tokens, silence (no sound), a static picture, or that of
# another clip.
FORMS = {
  "none": ["prompt other"],
  "text": ["negative other", "prompt other"],
  "ucg2": ["negative context", "prompt other"],
  "ucg3": ["negative context", "negative other", "prompt other"],
  "multimodal": ["negative context", "negative other", "prompt other"],
  "multimodal2": ["negative context", "prompt other"],
  "sync": ["prompt silent", "prompt static", "prompt other"],
  "modality": ["prompt context", "prompt other"],
  "ucg2_null": ["negative silent", "negative static", "prompt other"],
  "ucg2_shuffled": ["negative another", "prompt other"],
  "ucg3_text": ["negative context", "prompt context", "prompt other"],
}


def _filled(shape, first):
  """Sample i of the batch is first + i throughout."""
  rows = first + jnp.arange(B, dtype=jnp.float32)
  return jnp.broadcast_to(rows.reshape(B, *[1] * (len(shape) - 1)), shape)


def _normal(seed, shape):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


PROMPT, NEGATIVE, NEGATIVE_SOUND = (_filled(TEXT, n) for n in (10, -40, -70))
NEXT = np.array([1, 2, 0])  # the clip whose audio is beside the video, where shuffled
CLEAN = {"video": _filled(VIDEO, 50), "audio": _filled(AUDIO, 60)}
CONDITION, CLIP = _filled((*VIDEO[:-1], 20), 70), _filled((B, 9, 1280), 80)


# Training -----------------------------------------------------------------------------


def train_once(task, static, *, image=0.0, dropout=0.0, batch=None, channels=False):
  """What one step of training tells the network, every sample of one task."""
  told_zero = lambda params, told: {
    s: jnp.zeros((*x.shape[:-1], 5 if s == "video" else 4)) * params["p"]
    for s, x in told.latents.items()
  }
  model, told = recording(told_zero, channels=channels)
  names = tuple(TAUGHT)
  recipe = Recipe(
    names,
    tuple(float(n == task) for n in names),
    shift=1.0,
    text_dropout=dropout,
    image_probability=image,
  )
  optimizer = optax.sgd(1.0)
  step = make_train_step(
    model, optimizer, recipe, seed=3, task=task if static else None
  )
  if batch is None:
    batch = CLEAN
  batch = batch | {"text": PROMPT, "null_text": jnp.full(TEXT[1:], 99.0)}
  with jax.disable_jit():
    step(new_state({"p": jnp.ones(())}, optimizer), batch)
  (run,) = told
  return run


def assert_noised(latent, clean, timestep):
  """The latent is (1 - sigma) x0 + sigma eps, and the timestep 1000 sigma.

  Data are constant, so mean and deviation over a latent's elements say what sigma is.
  """
  latent, clean = latent.reshape(B, -1), np.asarray(clean).reshape(B, -1)
  sigma = timestep.reshape(B, -1)[:, -1] / 1000
  n = latent.shape[1]
  assert (sigma > 0.02).all() and (sigma < 1).all() and len(set(sigma)) == B
  mean = (1 - sigma) * clean[:, 0]
  assert (np.abs(latent.mean(1) - mean) < 5 * sigma / n**0.5).all()
  np.testing.assert_allclose(latent.std(1), sigma, rtol=5 / (2 * n) ** 0.5)


@pytest.mark.parametrize("static", [False, True], ids=["by sample", "by step"])
@pytest.mark.parametrize("task", TAUGHT)
def test_training_tells_what_the_task_says(task, static):
  noised, given, reads, shared = TAUGHT[task]
  run = train_once(task, static)
  assert set(run.latents) == STREAMS
  for s in STREAMS:
    steps = 3 if s == "video" else 1  # of video, every frame has its own
    assert run.timesteps[s].shape == (B, steps)
    assert (run.timesteps[s] == run.timesteps[s][:, :1]).all()
    if s in given:
      assert (run.timesteps[s] == 0).all()
      np.testing.assert_array_equal(run.latents[s], CLEAN[s])
    else:
      assert_noised(run.latents[s], CLEAN[s], run.timesteps[s])
    assert (run.reads.get(s, np.zeros(B, bool)) == (s in reads)).all()
    assert (run.detached.get(s, np.zeros(B, bool)) == (s in given)).all()
    if static:  # and so the keys that nobody sees are never computed
      assert run.route.reads.get(s, False) is (s in reads)
  if noised == STREAMS:
    same = run.timesteps["video"][:, :1] == run.timesteps["audio"]
    assert (same == shared).all()
  np.testing.assert_array_equal(run.text, PROMPT)
  assert not run.keys and not run.collect and not run.image


def test_training_gives_a_first_frame_clean_at_timestep_zero():
  run = train_once("joint", False, image=1.0)
  np.testing.assert_array_equal(run.latents["video"][:, 0], CLEAN["video"][:, 0])
  assert (run.timesteps["video"][:, 0] == 0).all()
  rest = run.timesteps["video"][:, 1:]
  assert (rest > 0).all() and (rest == rest[:, :1]).all()
  np.testing.assert_array_equal(rest[:, :1], run.timesteps["audio"])
  assert_noised(run.latents["video"][:, 1:], CLEAN["video"][:, 1:], rest)


def test_training_puts_condition_channels_behind_the_latent_and_passes_clip_tokens():
  batch = CLEAN | {"condition": CONDITION, "image": CLIP}
  run = train_once("joint", False, batch=batch, channels=True)
  assert_noised(run.latents["video"][..., :5], CLEAN["video"], run.timesteps["video"])
  np.testing.assert_array_equal(run.latents["video"][..., 5:], CONDITION)
  assert set(run.image) == {"video"}
  np.testing.assert_array_equal(run.image["video"], CLIP)


@pytest.mark.parametrize("dropout, expected", [(0.0, PROMPT), (1.0, 99.0)])
def test_training_drops_the_text_as_often_as_told(dropout, expected):
  run = train_once("single", False, dropout=dropout)
  np.testing.assert_array_equal(run.text, np.broadcast_to(expected, TEXT))


@pytest.mark.parametrize("stream", ["video", "audio"])
def test_training_on_one_stream_alone_reads_nothing(stream):
  run = train_once("single", False, batch={stream: CLEAN[stream]})
  assert set(run.latents) == {stream}
  assert not run.route.reads and not run.route.detached  # nor a mask of them
  assert_noised(run.latents[stream], CLEAN[stream], run.timesteps[stream])


# Sampling -----------------------------------------------------------------------------

NOISE = {"video": _normal(1, VIDEO), "audio": _normal(2, AUDIO)}
IMAGE = _filled((B, 1, *VIDEO[2:]), 30)
SILENCE, STATIC = _filled(AUDIO, 200), _filled(VIDEO, 300)
# Euler, two steps at shift 2: sigma = 2u / (1 + u) of u = 1, 1/2, and 0 at the end.
EULER = Sampling("ucg2", steps=2, shift=2.0, solver="euler")
SIGMAS = (1.0, 2 / 3)


def answer(params, told):
  """Per sample: a hundredth of the stream's text, and 1/2 where the stream reads the
  other one, or 1/4 where that is silence or a static picture.
  """
  out = {}
  for s, x in told.latents.items():
    source = "audio" if s == "video" else "video"
    if source in told.latents:
      read = told.latents[source].reshape(len(x), -1)[:, 0]
    elif s in told.keys:
      read = told.keys[s][0].reshape(len(x), -1)[:, 0]
    else:
      read = np.zeros(len(x))
    weight = np.where(read >= 200, 0.25, 0.5)
    reads = told.reads.get(s, np.zeros(len(x), bool))
    v = told.texts[s][:, 0, 0] / 100 + np.where(reads, weight, 0)
    shape = (*x.shape[:-1], 5 if s == "video" else 4)
    v = v.astype(np.float32).reshape(-1, *[1] * (len(shape) - 1))
    out[s] = jnp.asarray(np.broadcast_to(v, shape))
  return out


def keys_of(told):
  """Keys for the absent stream: one number a sample, its source's and its text's."""
  (source,) = told.latents
  into = "audio" if source == "video" else "video"
  rows = lambda x: jnp.asarray(x.reshape(len(x), -1)[:, 0]).reshape(1, -1, 1, 1, 1, 1)
  return {into: (rows(told.latents[source]), rows(told.text))}


def sampled(
  task, form, *, channels=False, sampling=EULER, texts=(PROMPT, NEGATIVE), **options
):
  """(latents, runs of a stream that is given, runs of the others). Texts come before
  all of these, each once, in one run.
  """
  variant = "gate" if form.startswith("multimodal") else "context"
  model, told = recording(answer, channels=channels, variant=variant, collect=keys_of)
  noised, given, _, image = ASKED[task]
  conditions = {
    "text": jnp.stack(texts),
    "given": {s: CLEAN[s] for s in given},
    "null": {"audio": SILENCE, "video": STATIC},
  }
  if channels:
    conditions |= {"condition": CONDITION, "clip": CLIP}
  elif image:
    held = jnp.zeros_like(NOISE["video"]).at[:, :1].set(IMAGE)
    mask = jnp.zeros(held.shape[:2], bool).at[:, 0].set(True)
    conditions["held"] = {"video": {"latent": held, "mask": mask}}
  noise = {s: NOISE[s] for s in noised}
  sampling = dataclasses.replace(sampling, guidance=form)
  with jax.disable_jit():
    out = sample_latents(
      model, {}, GENERATIONS[task], noise, conditions, sampling, **options
    )
  if options.get("reuse_keys", True):
    own, *told = told
    assert not own.latents and own.collect and set(own.texts) == noised
    for text in own.texts.values():
      assert len({x.tobytes() for x in text}) == len(text)
    image = {"video": np.tile(CLIP, (len(text) // B, 1, 1))} if channels else {}
    np.testing.assert_equal(own.image, image)
  kept = [t for t in told if t.collect]
  assert all(t.latents for t in told)
  return out, kept, [t for t in told if not t.collect]


def evaluations(task, form):
  """Those of the form that guide a stream which the task makes; for one stream alone
  they differ by their texts only, and equal ones are one.
  """
  idle = {("video",): "static", ("audio",): "silent"}
  noised, given, _, _ = ASKED[task]
  wanted = [e for e in FORMS[form] if e.split()[1] != idle.get(tuple(noised))]
  if len(noised | given) == 1:
    return [f"{text} context" for text in dict.fromkeys(e.split()[0] for e in wanted)]
  return wanted


def assert_told(run, task, evaluation, step, *, with_given, channels=False):
  """One evaluation: text, latents, timesteps, geometry, and who reads whom."""
  noised, given, reads, image = ASKED[task]
  text, sees = evaluation.split()
  null = {"silent": "audio", "static": "video"}.get(sees)
  shuffled = sees == "another"
  at = lambda s: NEXT if shuffled and s == "audio" else np.arange(B)
  for s, told in run.texts.items():
    want = PROMPT if text == "prompt" else NEGATIVE
    np.testing.assert_array_equal(told, want[at(s)])
  assert run.geometry.a == (7 if "audio" in noised | given else 0)
  assert run.geometry[:3] == (GEOMETRY[:3] if "video" in noised | given else (0, 0, 0))
  assert set(run.latents) == noised | (given if with_given else set())
  for s in run.latents:
    latent, timestep = run.latents[s], run.timesteps[s]
    if channels and s == "video":
      latent, behind = latent[..., :5], latent[..., 5:]
      np.testing.assert_array_equal(behind, CONDITION)
    expected = np.full(latent.shape[:2], 1000 * SIGMAS[step])
    if s == null:
      expected[:] = 0
      np.testing.assert_array_equal(latent, SILENCE if s == "audio" else STATIC)
    elif s in given:
      expected[:] = 0
      np.testing.assert_array_equal(latent, CLEAN[s][at(s)])
    elif image and s == "video" and not channels:
      expected[:, 0] = 0
      np.testing.assert_array_equal(latent[:, :1], IMAGE)
    if step == 0 and s in noised and s != null:
      first = 1 if image and s == "video" and not channels else 0
      np.testing.assert_array_equal(latent[:, first:], NOISE[s][at(s)][:, first:])
    assert timestep.shape[1] in (1, latent.shape[1])
    np.testing.assert_allclose(
      np.broadcast_to(timestep, expected.shape), expected, rtol=1e-6
    )
  for s in STREAMS:
    sees_other = s in reads and sees != "context" and s != null
    assert (run.reads.get(s, np.zeros(B, bool)) == sees_other).all(), s
  assert not any(flags.any() for flags in run.detached.values())
  assert not run.image  # its keys are told, with those of the text
  if given and not with_given:
    # Keys of the given stream: of its null where that is asked for, and of this text.
    # Where nothing is read, as above, any will do.
    (s,) = given
    source = {"audio": SILENCE, "video": STATIC}[s] if null == s else CLEAN[s]
    (pair,) = run.keys.values()
    if sees != "context":
      want = (PROMPT if text == "prompt" else NEGATIVE)[at(s)]
      first = source[at(s)].reshape(B, -1)[:, 0]
      np.testing.assert_array_equal(pair[0].ravel(), first)
      np.testing.assert_array_equal(pair[1].ravel(), want.reshape(B, -1)[:, 0])
  else:
    assert not run.keys


def guided(task, form, stream):
  """The guided velocity of a stream by sample, with the scales each form starts from:
  written out from the equations of guidance.
  """
  reads = 1 if stream in ASKED[task][2] else 0
  prompt, negative = np.array([0.10, 0.11, 0.12]), np.array([-0.40, -0.39, -0.38])
  full, no_text, nothing = prompt + 0.5 * reads, negative + 0.5 * reads, negative
  null = 0.25 * reads
  match form:
    case "none":
      return full
    case "text":
      return no_text + (4 if stream == "video" else 3) * (full - no_text)
    case "ucg2" | "multimodal2":
      return nothing + 5 * (full - nothing)
    case "ucg2_null":
      return negative + null + 5 * (full - negative - null)
    case "ucg2_shuffled":  # the network of this test reads no more than that it reads
      return no_text + 5 * (full - no_text)
    case "modality":
      return prompt + 3 * (full - prompt)
    case "ucg3_text":
      return nothing + 5 * (prompt - nothing) + 3 * (full - prompt)
    case "ucg3" | "multimodal":
      return nothing + 3 * (no_text - nothing) + 5 * (full - no_text)
    case "sync":
      return prompt + null + 3 * (full - prompt - null)


CASES = list(itertools.product(ASKED, FORMS))


@pytest.mark.parametrize("task, form", CASES, ids=[f"{t}-{f}" for t, f in CASES])
def test_sampling_tells_what_training_taught(task, form):
  """Each step is one run of all evaluations, one after the other on the batch axis; and
  what comes out is the noise less the guided velocity, which is constant here.
  """
  out, kept, runs = sampled(task, form)
  wanted = evaluations(task, form)
  assert len(runs) == 2
  for step, run in enumerate(runs):
    assert {len(text) for text in run.texts.values()} == {len(wanted) * B}
    for i, evaluation in enumerate(wanted):
      part = run.rows(slice(i * B, (i + 1) * B))
      assert_told(part, task, evaluation, step, with_given=False)
  noised, given, _, image = ASKED[task]
  assert set(out) == noised
  for s in out:
    v = guided(task, form, s).reshape(B, *[1] * (NOISE[s].ndim - 1))
    first = 1 if image and s == "video" else 0
    np.testing.assert_allclose(
      out[s][:, first:], NOISE[s][:, first:] - v, rtol=1e-5, atol=1e-5
    )
  if image:
    np.testing.assert_array_equal(out["video"][:, :1], IMAGE)
  assert bool(kept) == bool(given)
  for run in kept:
    (s,) = given
    assert set(run.latents) == given and not any(x.any() for x in run.reads.values())
    assert run.timesteps[s].shape[0] == B and (run.timesteps[s] == 0).all()
    assert run.geometry == GEOMETRY and not run.image
  # Once for each text and latent, not once for each step.
  seen = {
    (run.text[0, 0, 0], x[0].ravel()[0]) for run in kept for x in run.latents.values()
  }
  assert len(seen) == len(kept)


@pytest.mark.parametrize("form", ["ucg3", "sync", "ucg2_shuffled"])
@pytest.mark.parametrize("task", ["joint", "a2v", "v2a"])
def test_evaluations_one_by_one_with_the_given_stream_beside_them(task, form):
  """The given stream is in the batch: clean, at timestep 0, reading nothing."""
  sampling = dataclasses.replace(EULER, batched=False)
  out, kept, runs = sampled(task, form, sampling=sampling, reuse_keys=False)
  wanted = evaluations(task, form)
  assert not kept and len(runs) == 2 * len(wanted)
  for i, run in enumerate(runs):
    step, evaluation = divmod(i, len(wanted))
    assert_told(run, task, wanted[evaluation], step, with_given=True)
    # A route that is the same for all samples is static.
    assert all(isinstance(flag, bool) for flag in run.route.reads.values())
  for s in out:
    v = guided(task, form, s).reshape(B, *[1] * (NOISE[s].ndim - 1))
    np.testing.assert_allclose(out[s], NOISE[s] - v, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("task", ["i2v", "ti2av", "a2v"])
def test_an_image_in_channels_is_behind_the_latent_in_every_evaluation(task):
  out, _, runs = sampled(task, "text", channels=True)
  for step, run in enumerate(runs):
    for i, evaluation in enumerate(FORMS["text"]):
      part = run.rows(slice(i * B, (i + 1) * B))
      assert_told(part, task, evaluation, step, with_given=False, channels=True)
  assert out["video"].shape == VIDEO


def test_a_given_film_has_its_image_beside_it():
  _, kept, _ = sampled("v2a", "text", channels=True)
  assert len(kept) == 2
  for run in kept:
    np.testing.assert_array_equal(run.latents["video"][..., :5], CLEAN["video"])
    np.testing.assert_array_equal(run.latents["video"][..., 5:], CONDITION)
    np.testing.assert_array_equal(run.image["video"], CLIP)


@pytest.mark.parametrize("reuse_keys", [True, False])
@pytest.mark.parametrize("task", ["joint", "a2v", "v2a"])
def test_every_stream_has_its_own_negative_prompt(task, reuse_keys):
  """The sound's behind the video's; of a given stream its keys have it."""
  out, kept, runs = sampled(
    task, "text", texts=(PROMPT, NEGATIVE, NEGATIVE_SOUND), reuse_keys=reuse_keys
  )
  own = {"video": NEGATIVE, "audio": NEGATIVE_SOUND}
  for run in runs:
    for s, told in run.texts.items():
      np.testing.assert_array_equal(told, np.concatenate([own[s], PROMPT]))
  for run in kept:
    ((s, told),) = run.texts.items()
    assert any(np.array_equal(told, text) for text in (PROMPT, own[s]))
  firsts = {"video": -0.40, "audio": -0.70}
  for s in out:  # 0.1 and its place, and what the reading adds
    low, high = firsts[s] + np.arange(B) / 100 + 0.5, 0.1 + np.arange(B) / 100 + 0.5
    v = low + (4 if s == "video" else 3) * (high - low)
    got = (NOISE[s] - out[s]).reshape(B, -1)
    np.testing.assert_allclose(got, np.repeat(v[:, None], got.shape[1], 1), rtol=1e-4)


def test_one_clip_has_no_other_to_be_shuffled_with():
  model, told = recording(answer)
  noise = {s: x[:1] for s, x in NOISE.items()}
  conditions = {"text": jnp.stack([PROMPT[:1], NEGATIVE[:1]]), "given": {}}
  sampling = dataclasses.replace(EULER, guidance="ucg2_shuffled")
  run = lambda task, noise: sample_latents(
    model, {}, GENERATIONS[task], noise, conditions, sampling
  )
  with jax.disable_jit():
    with pytest.raises(UsageError, match="got 1 clip; expected 2 at least"):
      run("joint", noise)
    run("t2a", {"audio": noise["audio"]})  # a stream alone has none to see
  assert len(told) == 3  # its texts, and two steps


def test_scales_are_those_of_their_stream():
  scales = {"video": {"s_m": 2.0}, "audio": {"s_t": 7.0}}
  sampling = dataclasses.replace(EULER, scales=scales)
  out, _, _ = sampled("joint", "ucg3", sampling=sampling)
  prompt, negative = np.array([0.10, 0.11, 0.12]), np.array([-0.40, -0.39, -0.38])
  # s_m weighs what reading adds (1/2), s_t what the prompt adds.
  video = negative + 2 * 0.5 + 5 * (prompt - negative)
  audio = negative + 3 * 0.5 + 7 * (prompt - negative)
  np.testing.assert_allclose(
    out["video"][:, 0, 0, 0, 0], NOISE["video"][:, 0, 0, 0, 0] - video, atol=1e-5
  )
  np.testing.assert_allclose(
    out["audio"][:, 0, 0], NOISE["audio"][:, 0, 0] - audio, atol=1e-5
  )


# Shift 5, two steps. u of UniPC starts at 0.999, of DPM++ at 1; both tell whole
# timesteps: 1000 * 5u / (1 + 4u) of u = 0.999, 0.4995 and of u = 1, 1/2.
@pytest.mark.parametrize(
  "solver, expected",
  [("unipc", [999, 833]), ("dpmpp", [1000, 833]), ("euler", [1000, 833.3333])],
)
def test_the_timesteps_of_every_solver(solver, expected):
  sampling = Sampling(guidance="none", steps=2, shift=5.0, solver=solver)
  _, _, runs = sampled("t2v", "none", sampling=sampling)
  got = [float(run.timesteps["video"][0, 0]) for run in runs]
  np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_what_sampling_starts_from():
  """The settings of a caller who gives none."""
  assert dataclasses.asdict(Sampling()) == {
    "guidance": None, "scales": {}, "steps": None, "shift": None, "solver": None,
    "batched": True, "skip_block": None,  # None: the model's own, or what fits
    "schedule": None, "guidance_interval": None, "guidance_every": None, "cache": None,
    "window": None, "overlap": None,
  }  # fmt: skip


def test_streams_that_never_exchange_have_no_context_tokens():
  """So the forms that need them do not serve, and all evaluations read nothing."""
  model, told = recording(answer, variant=None)
  sample = lambda form: sample_latents(
    model, {}, GENERATIONS["t2v"], {"video": NOISE["video"]},
    {"text": jnp.stack([PROMPT, NEGATIVE]), "given": {}},
    dataclasses.replace(EULER, guidance=form),
  )  # fmt: skip
  with jax.disable_jit():
    sample("text")
    assert len(told) == 3 and not any(x.any() for x in told[1].reads.values())
    with pytest.raises(UsageError, match="'ucg2' needs another model"):
      sample("ucg2")


def test_progress_counts_the_steps():
  seen = []
  sampled("t2a", "none", progress=lambda i: seen.append(int(i)))
  assert seen == [0, 1]
