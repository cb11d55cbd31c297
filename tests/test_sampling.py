"""Sampling: reused keys, guidance in one batch or several, given frames and streams."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.sampling import Sampling, sample_latents
from ccl_jax.tasks import GENERATIONS
from tests.models.conftest import TEXT, random_params, small_model

EULER = Sampling(guidance="ucg2", steps=3, shift=2.0, solver="euler")


@pytest.fixture(scope="session")
def world():
  """(model, params, noise and clean latents of two clips, texts)."""
  model = small_model().clone(depth=1)
  params = jax.tree.map(lambda x: 0.5 * x, random_params(model))
  rng = np.random.default_rng(2)
  normal = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
  latents = lambda: {"video": normal(2, 4, 6, 4, 6), "audio": normal(2, 11, 5)}
  return model, params, latents(), latents(), normal(2, 2, *TEXT)


def run(world, task, sampling=EULER, **kwargs):
  model, params, noise, clean, text = world
  kind = GENERATIONS[task]
  conditions = {
    "text": text,
    "given": {s: clean[s] for s in kind.given},
    "null": {s: 0.1 * clean[s] for s in clean},
  }
  if kind.image:
    conditions["image"] = clean["video"][:, :1]
  made = {s: noise[s] for s in kind.generated}
  return jax.jit(
    lambda p, n, c: sample_latents(model, p, kind, n, c, sampling, **kwargs)
  )(params, made, conditions)


@pytest.mark.parametrize("task", ["a2v", "v2a"])
@pytest.mark.parametrize("guidance", ["ucg2", "sync"])
def test_reused_keys_change_nothing(world, task, guidance):
  sampling = dataclasses.replace(EULER, guidance=guidance)
  reused = run(world, task, sampling)
  again = run(world, task, sampling, reuse_keys=False)
  assert set(reused) == set(GENERATIONS[task].generated)
  for s in reused:
    np.testing.assert_allclose(reused[s], again[s], rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("guidance", ["ucg3", "sync"])
def test_one_batch_equals_one_after_the_other(world, guidance):
  sampling = dataclasses.replace(EULER, guidance=guidance)
  together = run(world, "joint", sampling)
  apart = run(world, "joint", dataclasses.replace(sampling, batched=False))
  for s in together:
    np.testing.assert_allclose(together[s], apart[s], rtol=2e-4, atol=2e-4)


def test_scale_one_is_the_conditional_prediction(world):
  ones = {s: {"s": 1.0} for s in ("video", "audio")}
  guided = run(world, "joint", dataclasses.replace(EULER, scales=ones))
  plain = run(world, "joint", dataclasses.replace(EULER, guidance="none"))
  for s in guided:
    np.testing.assert_allclose(guided[s], plain[s], rtol=1e-5, atol=1e-5)


def test_given_image_stays_and_matters(world):
  made = run(world, "ti2av")
  np.testing.assert_array_equal(made["video"][:, 0], world[3]["video"][:, 0])
  other = run(world, "joint")
  assert np.abs(made["video"][:, 1:] - other["video"][:, 1:]).max() > 1e-2


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
  np.testing.assert_allclose(alone["video"], full["video"], rtol=1e-5, atol=1e-5)
