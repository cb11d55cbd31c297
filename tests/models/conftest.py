"""A small joint model of awkward sizes in which every part matters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.models.cca import CrossConfig
from ccl_jax.models.joint import JointDiT
from ccl_jax.models.presets import init_params, parameter_shapes
from ccl_jax.models.stream import StreamConfig
from ccl_jax.tasks import Route
from tests.params import living_params

TEXT = (7, 24)


def small_model(**cross) -> JointDiT:
  cross = {"video_tokens": 5, "audio_tokens": 3} | cross
  return JointDiT(
    streams=(
      ("video", StreamConfig(48, 64, 4, in_channels=6, out_channels=6)),
      (
        "audio",
        StreamConfig(
          36, 48, 3, in_channels=5, out_channels=5, patch=(1, 1, 1), positions="line"
        ),
      ),
    ),
    depth=2,
    cross=CrossConfig(**cross),
  )


def random_params(model: JointDiT, seed: int = 0):
  """Parameters with which every part of the model matters."""
  shapes = parameter_shapes(model, TEXT)
  return living_params(shapes, seed)


def run(model: JointDiT, params, inputs, route=Route(), keys=None, **kwargs):
  """A jitted forward pass with a route of Python bools."""
  reads, detached = (tuple(sorted(part.items())) for part in route)
  program = _program(model, reads, detached, tuple(kwargs.items()))
  return program(params, inputs, keys)


@functools.cache
def _program(model: JointDiT, reads: tuple, detached: tuple, kwargs: tuple):
  """One for all tests that run the same."""
  route = Route(dict(reads), dict(detached))
  apply = lambda p, x, keys: model.apply(
    {"params": p}, **x, route=route, keys=keys, **dict(kwargs)
  )
  return jax.jit(apply)


@pytest.fixture(scope="session")
def model():
  return small_model()


@pytest.fixture(scope="session")
def params(model):
  return random_params(model)


@pytest.fixture(scope="session")
def fresh(model):
  """Parameters as training begins with."""
  return jax.jit(lambda k: init_params(model, k, TEXT))(jax.random.key(3))


@pytest.fixture(scope="session")
def inputs():
  """Two samples of 4 latent frames, 3 x 2 tokens each, and 11 audio tokens."""
  rng = np.random.default_rng(1)
  normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  text = normal(2, *TEXT)
  text[:, 5:] = 0
  return jax.tree.map(
    jnp.asarray,
    {
      "latents": {
        "video": normal(2, 4, 6, 4, 6),
        "audio": normal(2, 11, 5),
      },
      "timesteps": {
        "video": np.array([[900.0] * 4, [0.0, 400.0, 400.0, 400.0]], np.float32),
        "audio": np.array([[300.0], [400.0]], np.float32),
      },
      "text": text,
    },
  )
