"""What reaches the sampler: prompts, noise and settings, and what a task refuses."""

import dataclasses

import numpy as np
import pytest

from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.generation.pipeline import LoadedModel
from ccl_jax.generation.sampling import Sampling
from ccl_jax.tasks import GENERATIONS
from tests.generation.standins import (
  AUDIO,
  CODECS,
  SPEC,
  VIDEO,
  generate,
  pictures,
  pipeline,
  rows_of,
)


def test_prompts_come_first_and_the_negative_prompt_second(calls):
  generate(pipeline(), "joint", ["a", "bc", "def"], negative="no")
  text = calls[0].conditions["text"]
  assert text.shape == (2, 3, 6, 3)
  np.testing.assert_array_equal(text[0], rows_of("a", "bc", "def"))
  np.testing.assert_array_equal(text[1], rows_of("no", "no", "no"))


def test_without_a_negative_prompt_there_is_none(calls):
  """That of the model, if it has one, is its caller's to give."""
  generate(pipeline(negative={"audio": "blur"}), "t2a", ["a"])
  assert (calls[0].conditions["text"][1] == 0).all()
  wanted = {"video": "", "audio": "blur"}
  assert pipeline(negative={"audio": "blur"}).negative == wanted
  assert pipeline().negative == {"video": "", "audio": ""}


def test_negative_prompts_by_stream_and_by_clip(calls):
  """The video's before the sound's; streams that share theirs are encoded once."""
  two = ["a", "bc"]
  text = lambda task, negative, **given: (
    generate(pipeline(), task, two, negative=negative, **given)
    and calls[-1].conditions["text"]
  )
  own = {"video": "dim", "audio": "hum"}
  both = text("joint", own)
  assert both.shape == (3, 2, 6, 3)
  np.testing.assert_array_equal(both[1], rows_of("dim", "dim"))
  np.testing.assert_array_equal(both[2], rows_of("hum", "hum"))
  each = text("joint", {"video": ["u", "v"], "audio": ["x", "y"]})
  np.testing.assert_array_equal(each[1:], [rows_of("u", "v"), rows_of("x", "y")])
  some = text("joint", {"audio": "hum"})  # who is not named has none
  assert (some[1] == 0).all()
  np.testing.assert_array_equal(some[2], rows_of("hum", "hum"))
  for task, want in (("t2v", "dim"), ("t2a", "hum")):
    alone = text(task, own)
    assert alone.shape[0] == 2
    np.testing.assert_array_equal(alone[1], rows_of(want, want))
  film = {"video": pictures(1, 2, frames=(9,))}
  assert text("v2a", own, **film).shape[0] == 3  # a given stream's keys have its own
  assert text("joint", dict.fromkeys(own, "no")).shape[0] == 2
  with pytest.raises(UsageError, match="3 negative prompts of the audio for 2"):
    text("joint", {"audio": ["a", "b", "c"]})


def test_streams_have_noise_of_their_own(calls):
  """A clip whose streams have as many numbers: 1 x 2 x 2 x 16 and 16 x 4."""
  spec = ClipSpec(1, 16, 16, 1.95)
  generate(pipeline(spec=spec), "joint", ["a"], seed=3)
  video, audio = (calls[0].noise[s].ravel() for s in ("video", "audio"))
  assert len(video) == len(audio) == 64
  assert len(np.intersect1d(video, audio)) == 0
  generate(pipeline(spec=spec), "t2a", ["a"], seed=3)
  np.testing.assert_array_equal(calls[1].noise["audio"].ravel(), audio)
  assert set(calls[1].noise) == {"audio"}


def test_noise_is_standard_normal_of_the_latents_shape(calls):
  prompts = ["a"] * 40
  generate(pipeline(), "joint", prompts, seed=1)
  for s, shape in (("video", VIDEO), ("audio", AUDIO)):
    noise = calls[0].noise[s]
    assert noise.shape == (40, *shape)
    assert abs(noise.mean()) < 5 / noise.size**0.5
    np.testing.assert_allclose(noise.std(), 1, rtol=5 / (2 * noise.size) ** 0.5)
    assert len(np.unique(noise)) > 0.99 * noise.size  # no two clips alike


def test_the_clip_of_a_seed_stays_what_it_was(calls):
  """Stored numbers: who gives a seed again wants the same clip again."""
  generate(pipeline(), "joint", ["a"], seed=7)
  noise = calls[0].noise
  np.testing.assert_allclose(noise["video"].ravel()[:3], NOISE_OF_7["video"], rtol=1e-5)
  np.testing.assert_allclose(noise["audio"].ravel()[:3], NOISE_OF_7["audio"], rtol=1e-5)
  generate(pipeline(), "joint", ["a"])
  generate(pipeline(), "joint", ["a"], seed=0)
  np.testing.assert_array_equal(calls[1].noise["video"], calls[2].noise["video"])
  assert (calls[0].noise["video"] != calls[1].noise["video"]).all()


NOISE_OF_7 = {
  "video": [1.1140472, 0.14163129, -0.5224542],
  "audio": [0.4541335, 0.9391628, -0.26894313],
}


def test_a_seed_for_each_clip_makes_it_as_if_alone(calls):
  seeds, prompts = [8, 3, 5], ["x", "yy", "zzz"]
  images = pictures(10, 100, 200)
  generate(pipeline(), "ti2av", prompts, seed=seeds, image=images)
  for i in range(3):
    generate(
      pipeline(), "ti2av", prompts[i : i + 1], seed=seeds[i], image=images[i : i + 1]
    )
    alone = calls[-1]
    for s in ("video", "audio"):
      np.testing.assert_array_equal(calls[0].noise[s][i : i + 1], alone.noise[s])
    text = calls[0].conditions["text"]
    np.testing.assert_array_equal(text[:, i : i + 1], alone.conditions["text"])
    image = calls[0].conditions["held"]["video"]["latent"]
    np.testing.assert_array_equal(
      image[i : i + 1], alone.conditions["held"]["video"]["latent"]
    )


def test_seeds_are_one_or_as_many_as_prompts(calls):
  generate(pipeline(), "t2a", ["a", "b"], seed=[4])
  generate(pipeline(), "t2a", ["a", "b"], seed=4)
  np.testing.assert_array_equal(calls[0].noise["audio"], calls[1].noise["audio"])
  with pytest.raises(UsageError, match="2 seeds for 3 prompts"):
    generate(pipeline(), "t2a", ["a", "b", "c"], seed=[1, 2])
  assert len(calls) == 2


@pytest.mark.parametrize(
  "height, width, channels, plain",
  [
    (480, 832, 3.0, 5.0),  # Wan2.1's smaller size is the border, and is small
    (832, 480, 3.0, 5.0),
    (400, 992, 3.0, 5.0),  # by area, not by side
    (480, 848, 5.0, 5.0),
    (496, 832, 5.0, 5.0),
    (720, 1280, 5.0, 5.0),
    (32, 48, 3.0, 5.0),
  ],
)
def test_shift_is_wans_by_size_and_by_kind(height, width, channels, plain):
  spec = ClipSpec(9, height, width, 16.0)
  assert pipeline(channels=True).shift(spec) == channels
  assert pipeline().shift(spec) == plain
  # Where a training said otherwise, that holds.
  assert pipeline(channels=True, shift=2.5).shift(spec) == 2.5
  assert pipeline(shift=2.5).shift(spec) == 2.5


def test_every_setting_reaches_the_sampler_though_programs_are_kept(calls):
  """Another size or window is another program; other scales are the same one, and so
  is one with a listener.
  """
  made = pipeline(channels=True)
  seen = print
  options = [
    {},
    {},
    {"sampling": Sampling(steps=7)},
    {"sampling": Sampling(scales={"video": {"s": 2.0}})},
    {"sampling": Sampling(scales={"video": {"s": 3.0}})},
    {"reuse_keys": False},
    {"progress": seen},
    {"spec": ClipSpec(13, 32, 48, 25.0)},
    {},
  ]
  for more in options:
    generate(made, "ti2av", ["a"], image=pictures(9), **more)
  for call, more in zip(calls, options, strict=True):
    sampling = more.get("sampling", Sampling())
    scales = {s: {"s": 5.0} for s in ("video", "audio")} | sampling.scales
    # The shift of small clips of a model with an image.
    own = {"guidance": "ucg2", "shift": 3.0, "skip_block": -1, "solver": "unipc"}
    own["steps"] = sampling.steps or 50
    assert call.sampling == dataclasses.replace(sampling, scales=scales, **own)
    assert call.options["reuse_keys"] == more.get("reuse_keys", True)
    assert (call.options["progress"] is not None) == ("progress" in more)
    spec = more.get("spec", SPEC)  # latents in patches of 2 x 2
    assert call.options["clip"] == (spec.latent_frames, 2, 3, spec.audio_tokens)
  frames = [call.conditions["condition"].shape[1] for call in calls]
  assert frames == [3] * 7 + [4, 3]
  assert len(made._seen) == 4
  generate(made, "i2v", ["a"], image=pictures(9))
  assert calls[-1].task == GENERATIONS["i2v"] and len(made._seen) == 5


@pytest.mark.parametrize(
  "task, given, message",
  [
    ("dance", {}, "unknown task 'dance'"),
    ("v2a", {}, "task v2a needs video: give --video FILE"),
    ("a2v", {}, "task a2v needs audio: give --audio FILE"),
    ("i2v", {}, "task i2v needs image: give --image FILE"),
    ("ti2av", {}, "task ti2av needs image: give --image FILE"),
    ("v2a", {"audio": np.zeros((1, 5632), np.float32)}, "task v2a needs video"),
    ("t2v", {"audio": np.zeros((1, 5632), np.float32)}, "t2v makes no use of audio"),
    ("t2a", {"image": pictures(9)}, "t2a makes no use of image"),
  ],
)
def test_what_a_task_needs(calls, task, given, message):
  with pytest.raises(UsageError, match=message):
    generate(pipeline(), task, ["a"], **given)
  assert not calls


GIVEN = {
  "audio": np.zeros((1, 5632), np.float32),
  "video": pictures(9, frames=(9,)),
}


def test_what_a_model_lacks(calls):
  model = pipeline().model
  for own, other, task in (
    ("video", "audio", "joint"), ("video", "audio", "t2a"), ("audio", "video", "a2v"),
    ("audio", "video", "v2a"), ("video", "audio", "v2a"),
  ):  # fmt: skip
    streams = tuple(x for x in model.streams if x[0] == own)
    alone = LoadedModel(model.clone(streams=streams, cross=None), {}, CODECS, SPEC)
    message = f"task {task} needs the {other} stream; this model has {own}"
    given = {s: GIVEN[s] for s in GENERATIONS[task].given}
    with pytest.raises(UsageError, match=message):
      generate(alone, task, ["a"], **given)
  for task in ("t2v", "joint", "a2v"):
    given = {s: GIVEN[s] for s in GENERATIONS[task].given}
    with pytest.raises(UsageError, match="made for image to video"):
      generate(pipeline(channels=True), task, ["a"], **given)
  generate(pipeline(channels=True), "t2a", ["a"])


@pytest.mark.parametrize(
  "codec, tasks",
  [("video", ("t2v", "v2a", "joint")), ("audio", ("t2a", "a2v", "joint"))],
)
def test_what_a_bundle_lacks(calls, codec, tasks):
  bare = pipeline(codecs=CODECS._replace(**{codec: None}))
  for task in tasks:
    given = {s: GIVEN[s] for s in GENERATIONS[task].given}
    with pytest.raises(UsageError, match=f"needs {codec} codec, and the bundle has"):
      generate(bare, task, ["a"], **given)
  other = "t2a" if codec == "video" else "t2v"
  generate(bare, other, ["a"])
  blind = CODECS._replace(image=None)
  with pytest.raises(UsageError, match="needs image codec"):
    generate(pipeline(channels=True, codecs=blind), "i2v", ["a"], image=pictures(9))
  generate(pipeline(codecs=blind), "i2v", ["a"], image=pictures(9))
