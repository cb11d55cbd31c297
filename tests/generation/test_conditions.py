"""What reaches the sampler of what is given: sound, films and pictures, and what stands
for none of them.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.codecs.images import image_condition
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.generation.sampling import Sampling
from ccl_jax.tasks import GENERATIONS
from tests.generation.standins import (
  AUDIO,
  CODECS,
  SPEC,
  VIDEO,
  Pixels,
  generate,
  pictures,
  pipeline,
)


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
