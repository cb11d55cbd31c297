"""Sampling with a real network: reused keys, images in channels, one stream alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.errors import UsageError
from ccl_jax.generation.sampling import Sampling, sample_latents
from ccl_jax.models.cca import Geometry
from ccl_jax.tasks import GENERATIONS
from tests.close import assert_close, difference
from tests.models.conftest import TEXT, random_params, small_model
from tests.parts import assert_every_part_matters

# In units of the latents' rms. Three steps of a network whose float32 outputs are off
# by some 1e-6; guidance multiplies this by up to its scale, 4 to 5.
EXACT = 1e-5
CLIP = Geometry(t=4, h=3, w=2, a=11)
EULER = Sampling(guidance="ucg2", steps=3, shift=2.0, solver="euler")


@pytest.fixture(scope="session")
def world():
  """(model, params, noise and clean latents of two clips, texts)."""
  model = small_model().clone(depth=1)
  params = random_params(model)
  rng = np.random.default_rng(2)
  normal = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
  latents = lambda: {"video": normal(2, 4, 6, 4, 6), "audio": normal(2, 11, 5)}
  return model, params, latents(), latents(), normal(2, 2, *TEXT)


@pytest.fixture(scope="session")
def channels_world(world):
  """The same with an image in condition channels and CLIP tokens (Wan2.1 I2V)."""
  streams = dict(world[0].streams)
  streams["video"] = dataclasses.replace(
    streams["video"], in_channels=26, image_tokens=True, text_tokens=TEXT[0]
  )
  model = world[0].clone(streams=tuple(streams.items()))
  return model, random_params(model), *world[2:]


@pytest.fixture(scope="session")
def image():
  rng = np.random.default_rng(3)
  normal = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
  return {"condition": normal(2, 4, 6, 4, 20), "clip": normal(2, 9, 1280)}


def run(world, task, sampling=EULER, image=None, **kwargs):
  model, params, noise, clean, text = world
  kind = GENERATIONS[task]
  conditions = {
    "text": text,
    "given": {s: clean[s] for s in kind.given},
    "null": {s: 0.1 * clean[s] for s in clean},
  }
  if image:
    conditions |= image
  elif kind.image:
    first = jnp.arange(clean["video"].shape[1]) == 0
    mask = jnp.broadcast_to(first, clean["video"].shape[:2])
    conditions["held"] = {"video": {"latent": clean["video"], "mask": mask}}
  made = {s: noise[s] for s in kind.generated}
  return jax.jit(
    lambda p, n, c: sample_latents(model, p, kind, n, c, sampling, clip=CLIP, **kwargs)
  )(params, made, conditions)


def test_every_part_matters(world, channels_world, image):
  """Or the tests below would see nothing."""
  model, params, noise, _, text = world
  times = {s: jnp.array([[700.0], [300.0]]) for s in noise}
  inputs = {"latents": noise, "timesteps": times, "text": text[0]}
  assert_every_part_matters(model, params, inputs)
  video = jnp.concatenate([noise["video"], image["condition"]], -1)
  inputs |= {"latents": noise | {"video": video}, "image": {"video": image["clip"]}}
  assert_every_part_matters(*channels_world[:2], inputs)


@pytest.mark.parametrize("task", ["a2v", "v2a"])
@pytest.mark.parametrize("guidance", ["ucg3", "sync"])  # keys of both texts, of nulls
def test_reused_keys_change_nothing(world, task, guidance):
  sampling = dataclasses.replace(EULER, guidance=guidance)
  reused = run(world, task, sampling)
  again = run(world, task, sampling, reuse_keys=False)
  assert set(reused) == set(GENERATIONS[task].generated)
  assert_close(reused, again, EXACT)


def test_a_skipped_block_is_that_of_a_given_streams_keys_too(world):
  """Together or one by one, with keys made once or not; and it is heard."""
  model = small_model()
  two = (model, random_params(model), *world[2:])
  sampling = dataclasses.replace(EULER, guidance="ucg3", skip_block=0)
  once = run(two, "a2v", sampling)
  again = run(
    two, "a2v", dataclasses.replace(sampling, batched=False), reuse_keys=False
  )
  assert_close(once, again, EXACT)
  usual = run(two, "a2v", dataclasses.replace(sampling, skip_block=None))
  assert difference(once["video"], usual["video"]) > 0.05


@pytest.mark.parametrize(
  ("form", "block", "words"),
  [
    ("ucg2", 1, "--skip_block: got 1; expected 0 to 0"),
    ("sync", 0, "--skip_block does nothing with guidance sync"),
  ],
)
def test_a_block_that_cannot_be_skipped(world, form, block, words):
  sampling = dataclasses.replace(EULER, guidance=form, skip_block=block)
  with pytest.raises(UsageError, match=words):
    run(world, "joint", sampling)


def test_an_image_in_channels_reaches_every_evaluation(channels_world, image):
  """A given film's keys, made once, hold its image; both parts of the image matter."""
  reused = run(channels_world, "v2a", image=image)
  again = run(channels_world, "v2a", image=image, reuse_keys=False)
  assert_close(reused, again, EXACT)
  made = run(channels_world, "i2v", image=image)["video"]
  assert made.shape[-1] == 6
  for part in image:
    other = run(channels_world, "i2v", image=image | {part: -image[part]})["video"]
    assert difference(other, made) > 0.1, part


def test_one_stream_runs_alone(world):
  """t2v needs no audio parameters at all."""
  model, params, noise, clean, text = world
  bare = {
    "video": params["video"],
    "blocks": {k: params["blocks"][k] for k in ("video", "audio_to_video")},
  }
  alone = run((model, bare, noise, clean, text), "t2v")
  full = run(world, "t2v")
  assert set(alone) == {"video"}
  assert_close(alone, full, EXACT)


@pytest.mark.parametrize("batched", [True, False])
def test_a_step_without_guidance_has_the_prompts_own_keys(world, batched):
  """Of a given sound, of which a batch of evaluations has a row for each: no step with
  guidance to speak of is a run without any.
  """
  some = dataclasses.replace(EULER, batched=batched, guidance_interval=(0.0, 0.1))
  none = dataclasses.replace(EULER, guidance="none")
  assert_close(run(world, "a2v", some), run(world, "a2v", none), EXACT)
