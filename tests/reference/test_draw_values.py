"""What a training step draws: dropout, image conditions, noise and its levels."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.training.step import Recipe, draw
from tests.reference.tasks import TRAINING

NAMES = ("v2a", "single", "joint", "a2v")
SAMPLES = 4096
RECIPE = Recipe(NAMES, (0.4, 0.1, 0.3, 0.2), shift=3.0)


def drawn(**changes):
  recipe = dataclasses.replace(RECIPE, **changes)
  # Equal shapes: only the keys tell the streams apart.
  latents = {s: jnp.zeros((SAMPLES, 2)) for s in ("video", "audio")}
  got = jax.jit(lambda key: draw(key, latents, recipe))(jax.random.key(0))
  return jax.tree.map(np.asarray, got)


@pytest.fixture(scope="module")
def dropped():
  return drawn(text_dropout=1.0, image_probability=0.0)


@pytest.fixture(scope="module")
def kept():
  return drawn(text_dropout=0.0, image_probability=1.0, sigma="logit_normal")


@pytest.fixture(scope="module")
def half():
  return drawn(text_dropout=0.5, image_probability=0.5)


def test_dropout_and_images_at_their_ends(dropped, kept):
  assert dropped.null_text.all() and not dropped.image.any()
  assert not kept.null_text.any() and kept.image.all()


def test_tasks_are_drawn_as_often_as_they_should(dropped):
  counts = np.bincount(dropped.tasks.index, minlength=4) / SAMPLES
  np.testing.assert_allclose(counts, RECIPE.probabilities, atol=0.03)


def test_levels_follow_the_task_table(dropped):
  for i, name in enumerate(NAMES):
    _, generated, _, shared, _ = TRAINING[name]
    mine = dropped.tasks.index == i
    level = {s: x[mine] for s, x in dropped.sigma.items()}
    for s, x in level.items():
      assert (x > 0).all() if s in generated else (x == 0).all(), (name, s)
    if len(generated) == 2:
      same = level["video"] == level["audio"]
      assert same.all() if shared else not same.any(), name


def test_levels_are_shifted_draws(dropped, kept):
  """Quantiles: u = 1/4, 1/2, 3/4 are 1/2, 3/4, 9/10 at shift 3; and so for a logit."""
  video = lambda d: d.sigma["video"][d.sigma["video"] > 0]
  quartiles = np.quantile(video(dropped), [0.25, 0.5, 0.75])
  np.testing.assert_allclose(quartiles, [0.5, 0.75, 0.9], atol=0.03)
  sigmoid = 1 / (1 + np.exp(-np.array([-1.0, 0.0, 1.0])))  # at -1, 0, +1 deviations
  quantiles = np.quantile(video(kept), [0.158655, 0.5, 0.841345])
  np.testing.assert_allclose(quantiles, 3 * sigmoid / (1 + 2 * sigmoid), atol=0.03)


def test_noise_is_normal(dropped):
  for x in dropped.noise.values():
    assert abs(x.mean()) < 0.05 and abs(x.std() - 1) < 0.05


def test_what_is_drawn_is_independent(half):
  """Of all that has a key of its own, no two go together."""
  single = half.tasks.index == NAMES.index("single")
  both = single | (half.tasks.index == NAMES.index("joint"))
  values = {
    "task": half.tasks.index == NAMES.index("joint"),
    "text": half.null_text,
    "image": half.image,
    "video noise": half.noise["video"][:, 0],
    "audio noise": half.noise["audio"][:, 0],
    "video sigma": half.sigma["video"],
    "audio sigma": half.sigma["audio"],
  }
  values = {name: np.float64(x) for name, x in values.items()}
  for a, b in itertools.combinations(values, 2):
    # Levels depend on the task: they are compared within the right ones.
    sigmas = [n for n in (a, b) if "sigma" in n]
    among = {0: slice(None), 1: both, 2: single}[len(sigmas)]
    if "task" in (a, b) and sigmas:
      continue
    x, y = values[a][among], values[b][among]
    assert abs(np.corrcoef(x, y)[0, 1]) < 5 / len(x) ** 0.5, (a, b)
