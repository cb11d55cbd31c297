"""Noise of clips and of their steps: by the clip's seed, and shared by nothing else."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.generation.noise import first_noise, fresh_noise
from ccl_jax.seeds import seed_bits

SHAPES = (("video", (1, 3, 8, 8, 4)), ("audio", (1, 50, 20)))
SEEDS = (3, 7, 2**40)


def latents(count):
  return {s: jnp.zeros((count, *shape[1:])) for s, shape in SHAPES}


def bits(*seeds):
  return jnp.stack([seed_bits(seed) for seed in seeds])


@pytest.fixture(scope="module")
def steps():
  """Fresh noise of three clips, by step."""
  draw = jax.jit(lambda i: fresh_noise(latents(3), bits(*SEEDS), i))
  return [jax.device_get(draw(i)) for i in range(3)]


def test_a_clip_has_its_noise_in_any_batch(steps):
  """Of its own seed, alone or beside others; of one seed for all, as drawn at once."""
  for i, made in enumerate(steps):
    for at, seed in enumerate(SEEDS):
      alone = fresh_noise(latents(1), bits(seed), jnp.int32(i))
      for s in alone:
        np.testing.assert_array_equal(made[s][at], alone[s][0])
    two = fresh_noise(latents(6), bits(*SEEDS), jnp.int32(i))
    assert {s: x.shape[0] for s, x in two.items()} == {"video": 6, "audio": 6}


def test_no_noise_is_related_to_another(steps):
  """Of two steps, clips or streams, nor to the noise that a clip begins with; and each
  is N(0, 1).
  """
  first = jax.device_get(first_noise(SHAPES, list(bits(*SEEDS))))
  n = min(np.prod(shape) for _, shape in SHAPES)
  each = [
    x[i].ravel()[:n]
    for made in (first, *steps)
    for x in made.values()
    for i in range(3)
  ]
  for x in each:
    assert abs(x.mean()) < 0.15 and abs(x.std() - 1) < 0.15
  for a, b in itertools.combinations(each, 2):
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.2
