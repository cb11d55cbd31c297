"""The pipeline: what reaches the sampler, from prompts, seeds, files and checkpoints.

Codecs of a few lines stand for the real ones, and the sampler only records.
"""

import dataclasses
import hashlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from safetensors.numpy import save_file

from ccl_jax.checkpoints.find import Parameters
from ccl_jax.codecs.bundle import Codecs
from ccl_jax.codecs.images import image_condition
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.generation import description, parameters
from ccl_jax.generation import pipeline as inference
from ccl_jax.generation.pipeline import LoadedModel
from ccl_jax.generation.sampling import Sampling
from ccl_jax.tasks import GENERATIONS
from ccl_jax.weights import wan
from tests.stubs import recording

SPEC = ClipSpec(9, 32, 48, 25.0)  # 3 x 4 x 6 latents, 11 tokens of sound
VIDEO, AUDIO = (3, 4, 6, 16), (11, 4)


class Pixels(struct.PyTreeNode):
  """A latent is x / 2 + 1/4 of the pixel in its corner: mid-grey is 1/4."""

  channels, stride = 16, (4, 8, 8)

  def encode(self, pixels):
    _, frames, height, width, _ = pixels.shape
    assert (frames % 4, height % 8, width % 8) == (1, 0, 0)  # as a VAE asks
    corner = pixels[:, ::4, ::8, ::8, :1] / 2 + 0.25
    return jnp.repeat(corner, 16, -1)

  def decode(self, latent):
    x = (latent[..., :1] - 0.25) * 2
    for axis, n in ((2, 8), (3, 8), (4, 3)):
      x = jnp.repeat(x, n, axis)
    return jnp.concatenate([x[:, :1], jnp.repeat(x[:, 1:], 4, 1)], 1)


class Waves(struct.PyTreeNode):
  """A latent is the first of its 512 samples and 1/8: silence is 1/8."""

  channels, hop = 4, 512

  def encode(self, wave):
    return jnp.repeat(wave[:, ::512, None] + 0.125, 4, -1)

  def decode(self, latent):
    return jnp.repeat(latent[..., 0] - 0.125, 512, 1)


class Bytes(struct.PyTreeNode):
  length, dim = 6, 3

  def tokenize(self, texts):
    ids = np.zeros((len(texts), 6), np.int32)
    for row, text in zip(ids, texts):
      row[: len(text)] = list(text.encode())
    return ids, ids > 0

  def encode(self, ids, mask):
    return jnp.repeat((ids * mask)[..., None].astype(jnp.float32), 3, -1)


class Clip(struct.PyTreeNode):
  """Nine tokens of the picture's mean."""

  def encode(self, pixels):
    mean = pixels.mean((1, 2, 3))[:, None, None]
    return jnp.broadcast_to(mean, (len(pixels), 9, 1280))


CODECS = Codecs(Pixels(), Waves(), Bytes(), Clip())


def rows_of(*texts):
  return np.asarray(CODECS.text.encode(*map(jnp.asarray, CODECS.text.tokenize(texts))))


@dataclasses.dataclass
class Call:
  """The arguments of the sampler."""

  task: object
  noise: dict
  conditions: dict
  sampling: Sampling
  options: dict


@pytest.fixture
def calls(monkeypatch):
  """What the sampler was asked for; it gives back noise as latents."""
  made = []

  def sampler(programs, model, params, task, noise, conditions, sampling, **options):
    host = lambda tree: jax.tree.map(np.asarray, tree)
    made.append(Call(task, host(noise), host(conditions), sampling, options))
    return dict(noise)

  monkeypatch.setattr(inference, "sample_windows", sampler)
  return made


def pipeline(*, channels=False, codecs=CODECS, spec=SPEC, **options):
  model, _ = recording(lambda params, told: {}, channels=channels)
  return LoadedModel(model, {}, codecs, spec, **options)


def generate(made, task, prompts, **options):
  with jax.disable_jit():
    return made.generate(task, prompts, **{"sampling": Sampling()} | options)


def pictures(*values, frames=()):
  """One flat picture (or film) of each value."""
  shape = (*frames, 32, 48, 3)
  return np.stack([np.full(shape, v, np.uint8) for v in values])


# Texts --------------------------------------------------------------------------------


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


# Noise --------------------------------------------------------------------------------


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


# Inputs -------------------------------------------------------------------------------


def test_given_streams_are_encoded_and_the_made_ones_decoded(calls):
  """Byte 51 is -0.6, whose latent is -0.05; sound of 0.3 is 0.425."""
  video = pictures(51, 204, frames=(9,))
  out = generate(pipeline(), "v2a", ["a", "b"], video=video)
  given = calls[0].conditions["given"]
  assert set(given) == {"video"} and calls[0].task == GENERATIONS["v2a"]
  assert given["video"].shape == (2, *VIDEO)
  np.testing.assert_allclose(given["video"][0], -0.05, rtol=1e-5)
  np.testing.assert_allclose(given["video"][1], 0.55, rtol=1e-5)
  assert set(calls[0].noise) == {"audio"} == set(out)
  assert isinstance(out["audio"], np.ndarray) and out["audio"].dtype == np.float32
  assert out["audio"].shape == (2, 11 * 512)
  np.testing.assert_allclose(
    out["audio"][:, ::512], calls[0].noise["audio"][..., 0] - 0.125, rtol=1e-5
  )
  audio = np.full((2, 11 * 512), 0.3)  # float64, as readers give it
  out = generate(pipeline(), "a2v", ["a", "b"], audio=audio)
  np.testing.assert_allclose(calls[1].conditions["given"]["audio"], 0.425, rtol=1e-5)
  assert calls[1].conditions["given"]["audio"].dtype == np.float32
  assert set(out) == {"video"} and "held" not in calls[1].conditions
  assert out["video"].shape == (2, 9, 32, 48, 3) and out["video"].dtype == np.uint8
  latent = calls[1].noise["video"][..., 0]
  pixel = np.clip((latent - 0.25) * 2, -1, 1)
  np.testing.assert_allclose(
    out["video"][:, 0, ::8, ::8, 0].astype(float), (pixel[:, 0] + 1) * 127.5, atol=0.51
  )


@pytest.mark.parametrize("task", ["i2v", "ti2av", "joint", "t2v", "a2v"])
def test_an_image_is_the_first_latent_frame(calls, task):
  """Welcome in all that makes a video: byte 255 is 1, whose latent is 0.75."""
  audio = {"audio": np.zeros((2, 11 * 512), np.float32)} if task == "a2v" else {}
  generate(pipeline(), task, ["a", "b"], image=pictures(255, 0), **audio)
  conditions = calls[0].conditions
  held = conditions["held"]
  assert held.keys() == {"video"} and held["video"]["latent"].shape == (2, 3, 4, 6, 16)
  np.testing.assert_array_equal(held["video"]["mask"], [[True, False, False]] * 2)
  np.testing.assert_allclose(held["video"]["latent"][0, 0], 0.75)
  np.testing.assert_allclose(held["video"]["latent"][1, 0], -0.25)
  assert not {"condition", "clip", "null"} & set(conditions)


def test_a_model_of_condition_channels_gets_them_and_clip_tokens(calls):
  made = pipeline(channels=True)
  generate(made, "i2v", ["a", "b"], image=pictures(255, 0))
  conditions = calls[0].conditions
  assert "held" not in conditions
  np.testing.assert_allclose(
    conditions["clip"], [[[1.0] * 1280] * 9, [[-1.0] * 1280] * 9]
  )
  assert_condition(conditions["condition"], first=[0.75, -0.25])


def assert_condition(condition, first):
  """Mask channels, then the latent: the picture, then mid-grey, whose latent is 1/4."""
  assert condition.shape == (len(first), 3, 4, 6, 4 + 16)
  np.testing.assert_array_equal(condition[:, 0, ..., :4], 1)
  np.testing.assert_array_equal(condition[:, 1:, ..., :4], 0)
  for row, value in zip(condition, first):
    np.testing.assert_allclose(row[0, ..., 4:], value)
    np.testing.assert_allclose(row[1:, ..., 4:], 0.25)


def test_a_condition_on_an_image_by_value():
  first = jnp.stack([jnp.full((32, 48, 3), v) for v in (1.0, -1.0, 0.5)])
  condition, clip = image_condition(CODECS, first, 9)
  assert_condition(np.asarray(condition), first=[0.75, -0.25, 0.5])
  np.testing.assert_allclose(clip[:, 0, 0], [1, -1, 0.5])


def test_a_condition_on_two_images_by_value():
  """FLF2V's: grey between them; of the last latent frame's four pictures the mask has
  the last; the last image's CLIP tokens follow the first one's.
  """
  flat = lambda *values: jnp.stack([jnp.full((32, 48, 3), v) for v in values])
  condition, clip = image_condition(CODECS, flat(1.0, -1.0), 9, flat(0.5, -0.5))
  mask, latent = np.asarray(condition[..., :4]), np.asarray(condition[..., 4:])
  np.testing.assert_array_equal(mask[:, 0], 1)
  np.testing.assert_array_equal(mask[:, 1], 0)
  np.testing.assert_array_equal(mask[:, 2], np.broadcast_to([0, 0, 0, 1], (2, 4, 6, 4)))
  np.testing.assert_allclose(latent[0, :, 0, 0, 0], [0.75, 0.25, 0.5])
  np.testing.assert_allclose(latent[1, :, 0, 0, 0], [-0.25, 0.25, 0.0])
  assert clip.shape == (2, 18, 1280)
  np.testing.assert_allclose(clip[:, 0, 0], [1, -1])
  np.testing.assert_allclose(clip[:, 9, 0], [0.5, -0.5])


@pytest.mark.parametrize("first", [False, True])
def test_a_last_image_is_the_last_latent_frame(calls, first):
  """By itself or beside a first one: byte 255 is 1, whose latent is 0.75."""
  made = pipeline(trained_last=True)
  image = {"image": pictures(0, 0)} if first else {}
  generate(made, "joint", ["a", "b"], last_image=pictures(255, 0), **image)
  held = calls[0].conditions["held"]
  assert held.keys() == {"video"}
  np.testing.assert_array_equal(held["video"]["mask"], [[first, False, True]] * 2)
  np.testing.assert_allclose(held["video"]["latent"][:, 2, 0, 0, 0], [0.75, -0.25])
  with pytest.raises(UsageError, match="last_image: this model was trained without"):
    generate(pipeline(), "joint", ["a"], last_image=pictures(255))


def test_what_a_film_ends_with_is_what_the_clip_begins_with(calls):
  """5 frames, 2 latents, and 3 tokens, at timestep 0 (`sampling.with_held`)."""
  film = np.zeros((1, 5, 32, 48, 3), np.uint8)
  film[:, 4] = 255
  extend = {"video": film, "audio": np.full((1, 3 * 512), 0.5, np.float32)}
  generate(pipeline(), "joint", ["a"], extend=extend)
  held = calls[0].conditions["held"]
  np.testing.assert_array_equal(held["video"]["mask"], [[True, True, False]])
  np.testing.assert_allclose(held["video"]["latent"][0, :2, 0, 0, 0], [-0.25, 0.75])
  np.testing.assert_array_equal(held["audio"]["mask"], [[True] * 3 + [False] * 8])
  np.testing.assert_allclose(held["audio"]["latent"][0, :3], 0.625)
  for wrong, words in (
    ({"video": film}, "extend: got video; expected video, audio"),
    (extend | {"video": film[:, :4]}, r"extend: video has the shape \(1, 4"),
    (extend | {"audio": extend["audio"][:, :700]}, r"extend: audio has the shape"),
    (extend | {"video": np.zeros((1, 9, 32, 48, 3), np.uint8)}, "below 9"),
  ):
    with pytest.raises(UsageError, match=words):
      generate(pipeline(), "joint", ["a"], extend=wrong)


def test_a_long_clip_is_sampled_in_parts(calls):
  """25 frames, of parts of 9 that share 4: latents 0 to 2, and each one of its own and
  2 more; noise is the same where they overlap, and texts and sounds are every part's.
  """
  spec = dataclasses.replace(SPEC, frames=25)
  sampling = Sampling(guidance="text", window=9, overlap=4)
  audio = np.arange(spec.samples, dtype=np.float32)[None] / 1e5
  generate(pipeline(), "a2v", ["a"], spec=spec, sampling=sampling, audio=audio)
  (call,) = calls
  join = call.options["join"]
  assert join.parts == 5 and join.starts == (0, 1, 2, 3, 4)
  assert call.noise["video"].shape == (5, *VIDEO)
  np.testing.assert_array_equal(call.noise["video"][0, 2], call.noise["video"][1, 1])
  assert (call.noise["video"][0, 1] != call.noise["video"][1, 0]).all()
  assert call.conditions["text"].shape[:2] == (2, 5)
  sound = call.conditions["given"]["audio"]
  assert sound.shape == (5, *AUDIO)
  starts = np.array(join.token_starts) * 512 / 1e5
  np.testing.assert_allclose(sound[:, 0, 0], starts + 0.125, rtol=1e-5)
  image = pictures(255)
  generate(pipeline(), "t2v", ["a"], spec=spec, sampling=sampling, image=image)
  held = calls[1].conditions["held"]["video"]["mask"]
  assert held[0].tolist() == [True, False, False] and not held[1:].any()
  shuffled = dataclasses.replace(sampling, guidance="ucg2_shuffled")
  with pytest.raises(UsageError, match="--window: guidance ucg2_shuffled takes the"):
    generate(pipeline(), "joint", ["a", "b"], spec=spec, sampling=shuffled)


def test_a_given_film_is_its_own_image(calls):
  film = pictures(0, 0, frames=(9,))
  film[:, 0] = 255
  generate(pipeline(channels=True), "v2a", ["a", "b"], video=film)
  assert_condition(calls[0].conditions["condition"], first=[0.75, 0.75])
  np.testing.assert_allclose(calls[0].conditions["clip"], 1)
  generate(pipeline(), "v2a", ["a", "b"], video=film)
  assert not {"condition", "clip", "held"} & set(calls[1].conditions)


def test_another_size_of_clip_is_another_size_of_noise(calls):
  made = pipeline(channels=True)
  generate(made, "ti2av", ["a"], image=pictures(9))
  long = ClipSpec(13, 32, 48, 25.0)
  generate(made, "ti2av", ["a"], image=pictures(9), spec=long)
  assert calls[0].noise["video"].shape == (1, *VIDEO)
  assert calls[1].noise["video"].shape == (1, 4, 4, 6, 16)
  assert calls[1].conditions["condition"].shape == (1, 4, 4, 6, 20)
  assert calls[1].noise["audio"].shape == (1, 16, 4)


# What stands for no sound, and for no motion ------------------------------------------

SYNC = Sampling(guidance="sync")


@pytest.mark.parametrize("form", ["sync", "ucg2_null"])
def test_null_streams_are_silence_and_the_codecs_mean(calls, form):
  """Latents of 0 are pixels of -1/2: held still, as a film, that is 0 again."""
  generate(pipeline(), "joint", ["a", "b"], sampling=Sampling(guidance=form))
  null = calls[0].conditions["null"]
  assert null["audio"].shape == (2, *AUDIO) and null["video"].shape == (2, *VIDEO)
  np.testing.assert_allclose(null["audio"], 0.125)
  np.testing.assert_allclose(null["video"], 0.0, atol=1e-6)
  generate(pipeline(), "joint", ["a", "b"])
  assert "null" not in calls[1].conditions


class Moving(Pixels):
  """The first latent frame is a picture's, the others are a film's: 1 more."""

  def encode(self, pixels):
    first = jnp.arange(super().encode(pixels).shape[1])[None, :, None, None, None] == 0
    return super().encode(pixels) + jnp.where(first, 0.0, 1.0)


def test_a_null_video_is_a_still_film_and_no_repeated_latent(calls):
  made = pipeline(codecs=CODECS._replace(video=Moving()))
  generate(made, "ti2av", ["a"], sampling=SYNC, image=pictures(255))
  null = calls[0].conditions["null"]["video"]
  np.testing.assert_allclose(null[0, :, 0, 0, 0], [0.75, 1.75, 1.75], rtol=1e-6)


STILL = pictures(204, 51)  # latents of 0.55 and -0.05
STANDING = [
  # task, given, what the null video's latents are
  ("ti2av", {"image": pictures(255, 0), "still": STILL}, [0.75, -0.25]),
  ("joint", {"image": pictures(255, 0)}, [0.75, -0.25]),
  ("joint", {"still": STILL}, [0.55, -0.05]),
]


@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize(("task", "given", "values"), STANDING)
def test_a_null_video_is_a_picture_that_stands_still(
  calls, task, given, values, channels
):
  """The given first frame, before what the caller has for a clip without one."""
  if channels and "image" not in given:
    return
  made = pipeline(channels=channels)
  generate(made, task, ["a", "b"], sampling=SYNC, **given)
  null = calls[0].conditions["null"]["video"]
  assert null.shape == (2, *VIDEO)
  for row, value in zip(null, values):
    np.testing.assert_allclose(row, value, rtol=1e-5)


@pytest.mark.parametrize("channels", [False, True])
def test_a_given_film_stands_still_at_its_first_frame(calls, channels):
  film = pictures(0, 0, frames=(9,))
  film[:, 0], film[1, 0] = 255, 51
  generate(pipeline(channels=channels), "v2a", ["a", "b"], sampling=SYNC, video=film)
  null = calls[0].conditions["null"]
  assert set(null) == {"video"}  # the sound is anchored on no sound of its own
  np.testing.assert_allclose(null["video"][0], 0.75, rtol=1e-5)
  np.testing.assert_allclose(null["video"][1], -0.05, rtol=1e-5)


def test_null_streams_are_those_that_anchor_a_stream(calls):
  sound = {"audio": np.full((2, 11 * 512), 0.5, np.float32)}
  generate(pipeline(), "a2v", ["a", "b"], sampling=SYNC, **sound)
  null = calls[0].conditions["null"]
  assert set(null) == {"audio"} and null["audio"].shape == (2, *AUDIO)
  np.testing.assert_allclose(null["audio"], 0.125)
  for task in ("t2v", "t2a"):
    generate(pipeline(), task, ["a", "b"], sampling=SYNC)
    assert "null" not in calls[-1].conditions


# Settings -----------------------------------------------------------------------------


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


# Mistakes -----------------------------------------------------------------------------


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


# Loading ------------------------------------------------------------------------------

TINY = {"preset": "tiny", "dtype": "float32"}


@pytest.fixture
def folder(monkeypatch):
  """A folder of a stated kind, and what was read of it."""
  read = {"checked": [], "fits": []}
  checked, fits = read["checked"], read["fits"]

  def of(about, name, metadata=None, codecs=CODECS, bundle=pathlib.Path("own")):
    def restore(place, part, abstract, *, step=None):
      read.update(place=place, part=part, abstract=abstract, step=step)
      return 0, "parameters", metadata or {}

    def load(place, only):
      read["codecs"] = place
      return Codecs(**{name: getattr(codecs, name) for name in only})

    found = Parameters(pathlib.Path("there"), name, about, bundle)
    for module in (description, parameters):
      monkeypatch.setattr(module, "find_parameters", lambda *_: found)
    monkeypatch.setattr(parameters, "identity", lambda *_: "fingerprint")
    prints = lambda codecs: {n: n for n, x in codecs._asdict().items() if x}
    monkeypatch.setattr(inference, "fingerprints", prints)
    monkeypatch.setattr(inference, "require_same", lambda *given: checked.append(given))
    monkeypatch.setattr(inference, "require_fit", lambda *given: fits.append(given))
    monkeypatch.setattr(parameters, "restore_params", restore)
    monkeypatch.setattr(inference, "load_codecs", load)
    return read

  return of


NO_NEGATIVE = {"video": "", "audio": ""}
CLIP_OF_RUN = {"frames": 17, "height": 32, "width": 64, "fps": 24.0}


def test_a_run_is_read_as_it_was_trained(folder):
  about = {"model": TINY, "clip": CLIP_OF_RUN, "codecs": {"video": "a"}}
  read = folder(about, "ema", {"objective": {"shift": 2.0}})
  made = LoadedModel.load("run")
  assert read["place"] == pathlib.Path("there/checkpoints")
  assert (read["part"], read["step"]) == ("ema", None)
  assert read["codecs"] == pathlib.Path("own") and made.codecs == CODECS
  prints = {name: name for name in Codecs._fields}
  assert read["checked"][0][:2] == (prints, {"video": "a"})  # the same as in training
  assert made.params == "parameters" and made.negative == NO_NEGATIVE
  assert made.spec == ClipSpec(17, 32, 64, 24.0)
  assert made.shift(made.spec) == 2.0
  # Text of the codec's width, 3.
  text = read["abstract"]["video"]["text_embedding"]["in"]["kernel"]
  assert text.shape == (3, 128)
  LoadedModel.load("run", weights="params", step=40, codecs="mine")
  assert (read["part"], read["step"], read["codecs"]) == ("params", 40, "mine")


def test_loras_are_added_to_what_is_read(folder, monkeypatch, tmp_path):
  """To the stacks that the pipeline holds, in their dtypes; the origin says so."""
  folder(
    {"model": TINY | {"dtype": "bfloat16"}, "clip": CLIP_OF_RUN, "codecs": {}}, "ema"
  )
  half = lambda tree: jax.tree.map(lambda x: jnp.full(x.shape, 0.5, x.dtype), tree)
  monkeypatch.setattr(
    parameters, "restore_params", lambda _, __, abstract, step: (0, half(abstract), {})
  )
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  files = [tmp_path / "1.safetensors", tmp_path / "2.safetensors"]
  # Wan's names of the video stream, and our own of the exchange.
  a, b, c, d = draw(4, 128), draw(384, 4), draw(2, 128), draw(128, 2)
  layer = "diffusion_model.blocks.3.ffn.0"
  save_file({f"{layer}.lora_A.weight": a, f"{layer}.lora_B.weight": b}, files[0])
  layer = "blocks.1.audio_to_video.q"
  save_file({f"{layer}.lora_A.weight": c, f"{layer}.lora_B.weight": d}, files[1])
  made = LoadedModel.load("run", loras=[(files[0], 0.5), f"{files[1]}:-2"])
  video = made.params["blocks"]["video"]["ffn"]["in"]["kernel"]
  q = made.params["blocks"]["audio_to_video"]["q"]["kernel"]
  assert video.dtype == q.dtype == jnp.bfloat16
  for got, changed, dw in ((video, 3, 0.5 * (b @ a).T), (q, 1, -2 * (d @ c).T)):
    want = np.full(got.shape, 0.5)
    want[changed] += dw
    np.testing.assert_allclose(got.astype(np.float32), want, rtol=2**-8, atol=1e-4)
    assert (np.asarray(got[0]) == 0.5).all()
  assert made.origin["lora"] == [f"{files[0]}:0.5", f"{files[1]}:-2.0"]
  for path in files:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert made.origin["fingerprints"][str(path)] == digest
  folder({"kind": "joint", "model": TINY | {"preset": "small"}}, "params")
  with pytest.raises(UsageError, match="2.safetensors does not fit this model"):
    LoadedModel.load("joined", loras=[(files[1], 1.0)])
  # One that may be chosen later is no part of the model, but fits it too.
  read = folder({"kind": "joint", "model": TINY}, "params")
  made = LoadedModel.load("joined", choices=[str(files[0])])
  assert made.params == "parameters" and "lora" not in made.origin
  read = folder({"kind": "joint", "model": TINY | {"preset": "small"}}, "params")
  read.clear()
  with pytest.raises(UsageError, match="2.safetensors does not fit this model"):
    LoadedModel.load("joined", choices=[str(files[1])])
  assert "abstract" not in read


def test_a_trained_part_is_put_into_its_model(folder, monkeypatch):
  about = {
    "model": TINY, "clip": CLIP_OF_RUN, "codecs": {},
    "base": {"folder": "B", "step": 5, "identity": "fingerprint"},
    "lora": {"rank": 2, "alpha": 3.0, "layers": "exchange", "whole": ""},
  }  # fmt: skip
  folder(about, "ema")
  rng, read, asked = np.random.default_rng(0), [], []
  draw = lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype)
  find = parameters.find_parameters

  def restore(place, name, abstract, *, step):
    read.append((name, step, jax.tree.map(draw, abstract)))
    return step or 7, read[-1][2], {"objective": {"shift": 2.0}}

  def found(*given):
    asked.append(given)
    return find(*given)

  monkeypatch.setattr(parameters, "restore_params", restore)
  monkeypatch.setattr(parameters, "find_parameters", found)
  kept = jax.device_get
  monkeypatch.setattr(inference.jax, "jit", lambda f, **_: f)  # nothing is donated
  made = LoadedModel.load("run", weights="params")
  (_, step, base), (name, newest, part) = read
  assert asked[-1] == (pathlib.Path("there", "B"), 5) and step == 5
  assert (name, newest, made.origin["step"]) == ("params", None, 7)
  q = lambda tree: kept(tree["blocks"]["audio_to_video"]["q"]["kernel"])
  ab = q(part["adapted"])["a"].astype(np.float64) @ q(part["adapted"])["b"]
  np.testing.assert_allclose(q(made.params), q(base) + 1.5 * ab, rtol=1e-5, atol=1e-5)
  kernel = lambda tree: kept(tree["video"]["head"]["kernel"])
  np.testing.assert_array_equal(kernel(made.params), kernel(base))
  monkeypatch.setattr(parameters, "identity", lambda *_: "another")
  with pytest.raises(UsageError, match="B has other parameters than those that"):
    LoadedModel.load("run")


def test_a_joined_model_starts_from_wans_settings(folder):
  read = folder({"kind": "joint", "model": TINY}, "params")
  made = LoadedModel.load("joined", weights="ema")
  assert read["part"] == "params"  # it has no average
  assert made.spec == ClipSpec(81, 480, 832, 16.0)
  assert made.shift(made.spec) == 5.0 and made.negative == NO_NEGATIVE


@pytest.mark.parametrize(
  ("about", "name"),
  [
    ({"kind": "joint", "model": TINY}, "params"),
    ({"model": TINY, "clip": CLIP_OF_RUN, "codecs": {}}, "ema"),
  ],
)
def test_what_started_from_a_model_has_its_negative_prompt(folder, about, name):
  """A joined model's config.json and a run's metadata say so, by stream."""
  folder(about | {"negative": {"video": "grey"}}, name)
  assert LoadedModel.load("there").negative == {"video": "grey", "audio": ""}


def test_a_converted_model_has_its_negative_prompt(folder):
  sizes = {
    "width": 24, "ffn": 32, "heads": 2, "in_channels": 36, "out_channels": 16,
    "image_tokens": True, "depth": 1, "text_dim": 3,
  }  # fmt: skip
  read = folder({"kind": "wan-dit", "sizes": sizes}, "params")
  made = LoadedModel.load("wan")
  own = wan.negative_prompt(sizes)
  assert made.negative == {"video": own, "audio": ""} and own
  assert made.model.dtype == jnp.bfloat16 and made.takes_channels
  assert made.spec == ClipSpec(81, 480, 832, 16.0) and made.shift(made.spec) == 3.0
  kernel = read["abstract"]["blocks"]["video"]["ffn"]["in"]["kernel"]
  assert kernel.dtype == jnp.bfloat16


def test_a_converted_ti2v_has_its_own_clip(folder):
  """121 frames of 704 x 1280 at 24 a second, whose aspect ratio a first frame sets."""
  sizes = {
    "width": 24, "ffn": 32, "heads": 2, "in_channels": 48, "out_channels": 48,
    "image_tokens": False, "depth": 1, "text_dim": 3,
  }  # fmt: skip
  read = folder({"kind": "wan-dit", "sizes": sizes}, "params")
  made = LoadedModel.load("ti2v")
  assert made.spec == ClipSpec(121, 704, 1280, 24.0, stride=16)
  assert (made.shift(made.spec), made.about.area) == (5.0, 704 * 1280)
  assert made.shift(ClipSpec(121, 448, 800, 24.0, stride=16)) == 5.0
  assert made.negative["video"].startswith("色调艳丽") and not made.takes_channels
  assert read["fits"] == [(CODECS._replace(text=None), {"video": 48}, 16)]
  folder({"kind": "joint", "model": TINY, "clip": CLIP_OF_RUN}, "params")
  made = LoadedModel.load("joined")
  assert made.spec == ClipSpec(17, 32, 64, 24.0) and made.about.area is None


def test_codecs_must_be_there_and_read_text(folder):
  about = {"model": TINY, "codecs": {}}
  folder(about, "ema", bundle=None)
  with pytest.raises(UsageError, match="run has no codecs"):
    LoadedModel.load("run")
  folder(about, "ema", codecs=CODECS._replace(text=None))
  with pytest.raises(UsageError, match="have no text codec"):
    LoadedModel.load("run")
