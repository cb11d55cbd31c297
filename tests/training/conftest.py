"""A tiny model, its optimizer and a batch of random latents."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.models.cca import CrossConfig
from ccl_jax.models.joint import JointDiT
from ccl_jax.models.presets import parameter_shapes
from ccl_jax.models.stream import StreamConfig
from ccl_jax.training.optim import ParamGroup, make_optimizer
from ccl_jax.training.state import new_state
from ccl_jax.training.step import Recipe
from tests.params import living_params

TEXT = (5, 16)
RECIPE = Recipe(
  names=("single", "a2v", "v2a", "joint"),
  probabilities=(0.25, 0.25, 0.25, 0.25),
  shift=2.0,
  text_dropout=0.3,
  image_probability=0.5,
)


@pytest.fixture(scope="session")
def small():
  """(model, optimizer, fresh state): one block of width 24."""
  model = JointDiT(
    streams=(
      ("video", StreamConfig(24, 32, 2, in_channels=4, out_channels=4, frequencies=16)),
      (
        "audio",
        StreamConfig(
          24, 32, 2, in_channels=3, out_channels=3, patch=(1, 1, 1),
          positions="line", frequencies=16,
        ),
      ),
    ),
    depth=1,
    cross=CrossConfig(video_tokens=3, audio_tokens=2),
  )  # fmt: skip
  shapes = parameter_shapes(model, TEXT)
  optimizer = make_optimizer(
    [ParamGroup(".*", 1e-3, 0.01)], shapes, warmup_steps=0, total_steps=10,
    schedule="constant", b1=0.9, b2=0.99, eps=1e-8, clip_norm=1.0,
    moment_dtype="float32",
  )  # fmt: skip
  params = living_params(shapes)
  return model, optimizer, jax.jit(lambda p: new_state(p, optimizer))(params)


@pytest.fixture(scope="session")
def batch():
  """Sixteen clips of 3 latent frames (2 x 4 tokens) and 7 audio tokens."""
  rng = np.random.default_rng(1)
  shapes = {
    "video": (16, 3, 4, 8, 4),
    "audio": (16, 7, 3),
    "text": (16, *TEXT),
    "null_text": TEXT,
  }
  return {
    k: jnp.asarray(rng.standard_normal(s), jnp.float32) for k, s in shapes.items()
  }
