"""The pipeline: what a task takes, progress, and seeds, with an untrained model."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.generation import pipeline as module
from ccl_jax.generation.pipeline import Description, LoadedModel
from ccl_jax.generation.previews import pictures
from ccl_jax.generation.sampling import Sampling, Steps, sample_latents
from ccl_jax.generation.step_cache import Recorder
from ccl_jax.generation.windows import sample_windows, window
from ccl_jax.models.presets import build_model
from ccl_jax.tasks import GENERATIONS, INPUTS, check_inputs
from tests.close import difference
from tests.generation.parts import small_parts

SPEC = ClipSpec(5, 16, 16, 25.0)
FAST = Sampling(guidance="none", steps=3, solver="euler")


@pytest.fixture(scope="module")
def pipeline():
  model, params, codecs, _ = small_parts(SPEC)
  return LoadedModel(model, params, codecs, SPEC, shift=5.0)


def sound(pipeline, seed=0, **options):
  return pipeline.generate("t2a", ["a"], sampling=FAST, seed=seed, **options)["audio"]


def test_one_compilation_whoever_listens(pipeline, monkeypatch):
  """Each call's steps are told to its own listener."""
  traces, real = [], Steps.advance

  def counted(*args, **options):
    traces.append(args)
    return real(*args, **options)

  monkeypatch.setattr(Steps, "advance", counted)
  heard = {"first": [], "second": []}
  for name, steps in heard.items():
    sound(pipeline, progress=lambda i, steps=steps: steps.append(int(i)))
    assert sorted(steps) == [0, 1, 2], name
  assert len(traces) == 1
  silent = sound(pipeline)
  assert all(len(steps) == 3 for steps in heard.values())
  np.testing.assert_array_equal(silent, sound(pipeline, progress=print))
  assert len(traces) == 1  # with a listener and without one, of any length
  more = dataclasses.replace(FAST, steps=5, shift=2.0)
  assert pipeline.generate("t2a", ["a"], sampling=more)["audio"].shape == silent.shape
  assert len(traces) == 1


def test_seeds_of_a_clip(pipeline):
  first = sound(pipeline, 7)
  for same in (np.int64(7), np.array(7), [7], np.array([7])):
    np.testing.assert_array_equal(first, sound(pipeline, same))
  assert (first != sound(pipeline, 2**32 + 7)).any()
  for wrong in (True, 7.0, 2**64, [7, 8]):
    with pytest.raises(UsageError, match="seed"):
      sound(pipeline, wrong)


# By task: what it cannot do without, what is welcome, and what it has no use for.
TAKES = {
  "joint": ("", "image last_image extend", "audio video"),
  "ti2av": ("image", "last_image", "extend audio video"),
  "t2v": ("", "image last_image extend", "audio video"),
  "i2v": ("image", "last_image", "extend audio video"),
  "t2a": ("", "extend", "image last_image audio video"),
  "a2v": ("audio", "image last_image", "extend video"),
  "v2a": ("video", "", "image last_image extend audio"),
}


@pytest.mark.parametrize("task", GENERATIONS)
def test_one_place_says_what_a_task_takes(pipeline, task):
  needed, welcome, useless = (names.split() for names in TAKES[task])
  assert sorted([*needed, *welcome, *useless]) == sorted(INPUTS)
  given = dict.fromkeys(INPUTS, np.zeros(1)) | {"extend": {}}
  make = lambda names: pipeline.generate(
    task, ["a"], sampling=FAST, **{name: given[name] for name in names}
  )
  images = [name for name in welcome if name != "extend"]
  assert check_inputs(task, [*needed, *images]) is GENERATIONS[task]
  for name in images if "extend" in welcome else ():
    with pytest.raises(UsageError, match=f"{name} and extend: what goes on"):
      check_inputs(task, [name, "extend"])
  for name in needed:
    with pytest.raises(UsageError, match=f"task {task} needs {name}"):
      make([])
  for name in useless:
    with pytest.raises(UsageError, match=f"task {task} makes no use of {name}") as e:
      make([*needed, name])
    users = str(e.value).split(": ")[-1].split(", ")
    assert users == [n for n, takes in TAKES.items() if name not in takes[2].split()]


@pytest.mark.parametrize("task", GENERATIONS)
def test_a_model_of_image_to_video_makes_no_video_without_an_image(task):
  needed = TAKES[task][0].split()
  if "video" not in GENERATIONS[task].generated:
    assert check_inputs(task, needed, channels=True)
    return
  with pytest.raises(UsageError, match="needs image"):
    check_inputs(task, [n for n in needed if n != "image"], channels=True)
  assert check_inputs(task, {*needed, "image"}, channels=True)
  with pytest.raises(UsageError, match="needs last_image.*a first and a last frame"):
    check_inputs(task, {*needed, "image"}, channels=2)
  assert check_inputs(task, {*needed, "image", "last_image"}, channels=2)


def test_a_caller_hears_what_the_command_says(pipeline):
  """A text is one prompt; what is no prompt, setting or clip is one line, and nothing
  is compiled for it.
  """
  make = lambda prompts="a", task="t2a", **o: pipeline.generate(
    task, prompts, **{"sampling": FAST} | o
  )
  np.testing.assert_array_equal(make("a b")["audio"], make(["a b"])["audio"])
  assert make("ab")["audio"].shape == (1, SPEC.samples)
  programs = len(pipeline._compiled)
  film, wave = np.zeros((1, 5, 16, 16, 3), np.uint8), np.zeros((1, SPEC.samples))
  for wrong, words in (
    ({"prompts": []}, "expected a text, or a list of texts"),
    ({"sampling": Sampling(steps=0)}, "--steps: got 0; expected a whole number from 1"),
    ({"sampling": Sampling(shift=float("nan"))}, "--shift: got nan"),
    (
      {"sampling": Sampling(solver="heun")},
      "--solver: got heun; expected one of unipc",
    ),
    (
      {"sampling": Sampling(scales={"audio": {"s": float("nan")}})},
      "--scale_audio: got",
    ),
    ({"sampling": Sampling("ucg9")}, "guidance 'ucg9' is unknown"),
    (
      {"task": "v2a", "video": film[:, :4]},
      r"\(1, 4, 16, 16, 3\); expected \(1, 5, 16",
    ),
    ({"task": "v2a", "video": film, "prompts": ["a", "b"]}, r"expected \(2, 5, 16"),
    ({"task": "a2v", "audio": wave[0]}, "audio: got an array of shape"),
    ({"task": "joint", "image": film}, "image: got an array of shape"),
  ):
    with pytest.raises(UsageError, match=words) as e:
      make(**wrong)
    assert "\n" not in str(e.value)
  assert len(pipeline._compiled) == programs


def test_steps_are_counted_for_who_looks(pipeline, monkeypatch):
  """A phase at a time; of a program that is there none is a compilation."""
  told = []
  monkeypatch.setattr(module.display, "is_shown", lambda: True)
  monkeypatch.setattr(module.display, "phase", lambda *phase: told.append(phase))
  monkeypatch.setattr(module.display, "at", lambda done: told.append(done))
  fresh = LoadedModel(pipeline.model, pipeline.params, pipeline.codecs, SPEC, shift=5.0)
  assert [window(n) for n in (1, 3, 16, 50, 47, 48)] == [1, 1, 2, 5, 1, 6]
  steps = [("sampling", 3), 1, ("sampling", 3), 2, ("sampling", 3), 3, ("decoding",)]
  # The prompt and the negative one; then they are known.
  texts = [("encoding texts", 2, "")]
  for first in ([*texts, ("compiling",)], [("encoding",)]):
    sound(fresh)
    assert told == [*first, *steps]
    told.clear()


def test_steps_are_counted_of_every_window(pipeline):
  """16 steps are eight windows of two."""
  seen = []
  sampling = dataclasses.replace(FAST, steps=16)
  pipeline.generate("t2a", ["a"], sampling=sampling, progress=seen.append)
  assert seen == list(range(16))


def test_windows_are_one_sampling(pipeline):
  """History and given keys go from window to window, by the solver asked for."""
  keys = jax.random.split(jax.random.key(0), 3)
  shapes = {"video": (2, *SPEC.latent_shape, 16), "audio": (2, SPEC.audio_tokens, 20)}
  noise, given = (
    {s: jax.random.normal(k, shapes[s])} for s, k in zip(("video", "audio"), keys)
  )
  conditions = {"text": jax.random.normal(keys[2], (2, 2, 4, 16)), "given": given}
  kind, programs, results = GENERATIONS["a2v"], {}, []
  for solver in ("unipc", "euler"):
    scales = {s: {"s": 2.0} for s in ("video", "audio")}
    how = Sampling("ucg2", scales, steps=16, shift=2.0, solver=solver)
    args = pipeline.model, pipeline.params, kind, noise, conditions
    whole = jax.jit(lambda n, c, how=how: sample_latents(*args[:3], n, c, how))
    expected = whole(noise, conditions)["video"]
    got = sample_windows(programs, *args, how)["video"]
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)
    results.append(got)
  assert float(abs(results[0] - results[1]).max()) > 1e-2


OWN = {"form": "sync", "scales": {"video": [2.0], "audio": [2.5]}}


@pytest.mark.parametrize(
  ("own", "asked", "form", "scales", "shift"),
  [
    ({}, Sampling(), "ucg2", {}, 2.5),
    (OWN, Sampling(), "sync", {"video": {"s": 2.0}, "audio": {"s": 2.5}}, 2.5),
    (
      OWN,
      Sampling(scales={"video": {"s": 4.0}}, shift=7.0),
      "sync",
      {"video": {"s": 4.0}, "audio": {"s": 2.5}},
      7.0,
    ),
    (OWN, Sampling("ucg2"), "ucg2", {}, 2.5),  # another form has scales of its own
  ],
)
def test_what_a_caller_leaves_out_is_the_runs_own(own, asked, form, scales, shift):
  """The guidance of its report and the shift of its training."""
  about = Description(build_model("tiny"), SPEC, own, trained_shift=2.5)
  got = about.sampling(asked, SPEC)
  assert (got.guidance, got.scales, got.shift, got.steps) == (form, scales, shift, 50)


@pytest.fixture
def latents(monkeypatch):
  """Clips are their latents: a sound of theirs magnifies rounding."""
  monkeypatch.setattr(module, "decode", lambda codecs, latents: latents)


def test_every_step_is_shown(pipeline, monkeypatch, latents):
  """The last prediction is the clip; a given first frame is in every one."""
  parts = pipeline.model, pipeline.params, pipeline.codecs, SPEC
  pipeline, seen = LoadedModel(*parts, shift=5.0), []
  given = np.full((1, 16, 16, 3), 200, np.uint8)
  sampling = dataclasses.replace(FAST, steps=16)
  made = pipeline.generate(
    "ti2av", ["a"], sampling=sampling, image=given, preview=lambda *x: seen.append(x)
  )
  assert [x[:2] for x in seen] == [(i, 16) for i in range(1, 17)]
  videos = [x[2]["video"] for x in seen]
  assert videos[0].shape == (1, 2, 2, 2, 3) and (videos[0] != videos[8]).any()
  assert all((x[:, 0] == videos[0][:, 0]).all() for x in videos)
  last = pictures(made, pipeline._colours)
  for stream, picture in last.items():
    off = picture.astype(int) - seen[-1][2][stream]
    assert abs(off).max() <= 1 and picture.std() > 0
  with pytest.raises(KeyboardInterrupt):  # whoever listens can end it
    sound(pipeline, preview=_interrupt)


def _interrupt(*_):
  raise KeyboardInterrupt


def test_a_calibration_and_what_it_saves(pipeline, tmp_path, monkeypatch, latents):
  """By two runs: one that measures, and one that runs as many blocks as it should."""
  parts = pipeline.model, pipeline.params, pipeline.codecs, SPEC
  origin = {"fingerprints": {"params": "abc"}}
  recorder, file = Recorder(), tmp_path / "c.json"
  how = Sampling("ucg2", steps=6, solver="euler")
  make = lambda how, **more: LoadedModel(*parts, shift=5.0, origin=origin).generate(
    "t2a", ["a"], sampling=how, **more
  )["audio"]
  plain = make(how, watch=recorder)
  np.testing.assert_allclose(make(how), plain, atol=1e-5)
  recorder.write(file, "t2a", "ucg2", "abc")
  about = json.loads(file.read_text())
  assert about["ratios"].keys() == {"context", "cond"}
  for streams in about["ratios"].values():
    assert streams.keys() == {"audio"} and len(streams["audio"]) == 6
    assert streams["audio"][0] == 1.0 and len(set(streams["audio"])) == 6

  ran, real = [], type(pipeline.model).apply

  def apply(self, *args, added=None, **kwargs):
    if kwargs.get("collect"):  # of texts
      return real(self, *args, **kwargs)
    jax.debug.callback(lambda whole=added is None: ran.append(whole), ordered=True)
    kwargs |= {} if added is None else {"added": added}
    return real(self, *args, **kwargs)

  monkeypatch.setattr(type(pipeline.model), "apply", apply)
  cached = dataclasses.replace(how, cache=f"{file}:9")
  out = make(cached)
  jax.effects_barrier()
  assert ran == [True, False, False, True, False, False]
  assert 1e-3 < difference(out, plain) < 1
  with pytest.raises(UsageError, match="guidance ucg2, and this is none"):
    make(dataclasses.replace(cached, guidance="none"))
  file.write_text(file.read_text().replace('"abc"', '"xyz"'))
  with pytest.raises(UsageError, match="params xyz, and this is abc"):
    make(cached)


def test_fresh_noise_is_a_clips_own(pipeline, latents):
  """A clip that is re-noised at every step is the same alone and beside others."""
  how = Sampling(schedule="rcm", steps=2)
  parts = pipeline.model, pipeline.params, pipeline.codecs, SPEC
  fresh = LoadedModel(*parts, shift=5.0)
  make = lambda seeds: fresh.generate(
    "t2a", ["a"] * len(seeds), sampling=how, seed=seeds
  )["audio"]
  both = make([3, 2**40])
  for i, seed in enumerate((3, 2**40)):
    np.testing.assert_allclose(make([seed])[0], both[i], atol=1e-5)
  assert difference(both[0], both[1]) > 0.5
