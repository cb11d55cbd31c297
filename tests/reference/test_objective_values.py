"""Loss and gradients of a training step against the reference.

Gradients are compared with central differences of the reference in float64, along a
random direction for every parameter by itself. States that a task detaches are held in
the reference as the unmoved parameters make them.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ccl_jax.models.cca import Geometry
from ccl_jax.training.state import TrainState
from ccl_jax.training.step import Recipe, draw, make_train_step
from tests.reference import objective
from tests.reference.conftest import (
  AUDIO,
  COLUMNS,
  FRAMES,
  GLOBAL,
  PAPER,
  ROWS,
  config_of,
  doubled,
  leaves,
  make_batch,
  make_model,
  make_params,
  moved,
  rule_of,
)
from tests.reference.tasks import TRAINING

NAMES = ("a2v", "joint", "single", "v2a")
WEIGHTS = {"video": 2.0, "audio": 0.5}
RECIPE = Recipe(
  NAMES, (0.25,) * 4, shift=2.0, loss_weights=(2.0, 0.5), text_dropout=0.4,
  image_probability=0.4,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
  """A training step.

  Attributes:
    cross: the kind of exchange.
    recipe: what is not as in `RECIPE`.
    task: of the whole batch, or None for one by sample.
    samples, seed: of the batch; seeds are such that every kind of sample is drawn.
    channels: Wan2.1's image condition, in place of a first frame.
    posterior: the video is drawn anew from a mean and a deviation.
    alone: the only stream of the clips; they all draw the task `single`.
  """

  cross: dict
  task: str | None
  samples: int
  seed: int = 0
  accumulate: int = 1
  channels: bool = False
  posterior: bool = False
  alone: str | None = None
  recipe: dict = dataclasses.field(default_factory=dict)


CASES = {
  "by_sample": Case({}, None, 9, seed=0),
  "gate": Case(
    PAPER | {"variant": "gate", "tarp_centre": "floor", "cross_rope": "temporal"},
    None,
    8,
    seed=2,
    accumulate=2,
  ),
  "a2v": Case(PAPER | {"tarp_centre": "floor"}, "a2v", 3, posterior=True),
  "v2a": Case(PAPER | {"cross_rope": "temporal"}, "v2a", 3, channels=True),
  "joint": Case(GLOBAL, "joint", 3),
  "single": Case({}, "single", 3),
  "own_sigma": Case(
    {"video_window": 3, "context_values": False}, "joint", 3,
    recipe={"shared_sigma": False, "text_dropout": (0.0, 0.9, 0.0, 0.0)},
  ),
  "attached": Case({}, "a2v", 3, recipe={"detach": False}),
  "video_alone": Case({}, None, 3, alone="video"),
  "audio_alone": Case({}, None, 3, alone="audio"),
}  # fmt: skip
# Token counts of a film, by whose rates a stream alone is timed.
CLIP = Geometry(t=9, h=3, w=2, a=33)
WHOLE = ((FRAMES, ROWS, COLUMNS), AUDIO)


def recipe_of(case):
  return dataclasses.replace(RECIPE, **case.recipe)


def gradients_as_state():
  """An optimizer that keeps the gradients and moves nothing."""
  zeros = lambda tree: jax.tree.map(jnp.zeros_like, tree)
  return optax.GradientTransformation(zeros, lambda g, state, params: (zeros(g), g))


def our_step(case, model, params, batch):
  """(loss and other metrics, gradients) of the package's step."""
  optimizer = gradients_as_state()
  step = make_train_step(
    model, optimizer, recipe_of(case), seed=case.seed, accumulate=case.accumulate,
    task=case.task, clip=CLIP,
  )  # fmt: skip
  params, batch = jax.tree.map(jnp.asarray, (params, batch))
  state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), params)
  new, metrics = jax.jit(step)(state, batch)
  gradients = jax.tree.map(np.asarray, new.opt_state)
  return jax.tree.map(np.asarray, metrics), doubled(gradients)


def drawn_by(case, batch):
  """What the step draws, in the reference's terms."""
  latents = {s: jnp.asarray(batch[s]) for s in ("video", "audio") if s in batch}
  task = "single" if case.alone else case.task
  task = None if task is None else NAMES.index(task)
  key = jax.random.fold_in(jax.random.key(case.seed), 0)
  got = jax.jit(lambda key: draw(key, latents, recipe_of(case), task))(key)
  return {
    "tasks": [NAMES[i] for i in got.tasks.index],
    "sigma": {s: np.float64(x) for s, x in got.sigma.items()},
    "noise": {s: np.float64(x) for s, x in got.noise.items()},
    "null_text": np.asarray(got.null_text),
    "image": np.asarray(got.image),
  }


def drawn_video(case, batch, drawn):
  """The posterior's mean, and a draw from it where the video is noised."""
  key = jax.random.fold_in(jax.random.fold_in(jax.random.key(case.seed), 0), 5)
  n = np.float64(jax.random.normal(key, batch["video"].shape))
  sigma = objective.noise_levels(
    drawn["tasks"], {"video": drawn["sigma"]["video"]}, {"video": n.shape[1]},
    drawn["image"],
  )["video"]  # fmt: skip
  noised = (sigma > 0)[:, :, None, None, None]
  return np.float64(batch["video"]) + noised * batch["video_std"] * n


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradients(name):
  case = CASES[name]
  model = make_model(case.channels, **case.cross)
  params, config = make_params(model, seed=0), config_of(**rule_of(case.cross))
  batch = make_batch(case.samples, 1, case.channels)
  if case.posterior:
    batch["video_std"] = 0.3 + np.abs(batch["video"][::-1])
  if case.alone:
    batch = {k: x for k, x in batch.items() if k in (case.alone, "text", "null_text")}
  metrics, gradients = our_step(case, model, params, batch)

  drawn = drawn_by(case, batch)
  clean = doubled(batch)
  if case.posterior:
    clean["video"] = drawn_video(case, batch, drawn)
  frozen, exact = [], doubled(params)
  options = {"clip": WHOLE, "one_level": recipe_of(case).shared_sigma}
  losses = objective.sample_losses(
    exact, config, clean, drawn, collect=frozen, **options
  )
  if not recipe_of(case).detach:
    frozen = None
  _check_metrics(metrics, losses, drawn, gradients)

  def moved_loss(path, step):
    losses = objective.sample_losses(
      moved(exact, path, step), config, clean, drawn, frozen, **options
    )
    return objective.objective(losses, drawn["tasks"], WEIGHTS)

  rng, h = np.random.default_rng(2), 1e-5
  whole = np.sqrt(sum((g**2).sum() for _, g in leaves(gradients)))
  for path, gradient in leaves(gradients):
    u = rng.standard_normal(gradient.shape)
    expected = (moved_loss(path, h * u) - moved_loss(path, -h * u)) / (2 * h)
    # A direction of unit normals meets a gradient at about the gradient's norm.
    error = abs((gradient * u).sum() - expected)
    bound = 1e-4 * np.sqrt((gradient**2).sum()) + 1e-7 * whole
    assert error <= bound, ("/".join(path), error, bound, expected)


def _check_metrics(metrics, losses, drawn, gradients):
  """The objective, its parts by task and stream, and the norm of all gradients."""
  total = objective.objective(losses, drawn["tasks"], WEIGHTS)
  np.testing.assert_allclose(metrics["loss"], total, rtol=1e-5)
  tasks = np.array(drawn["tasks"])
  np.testing.assert_array_equal(metrics["drawn"], [(tasks == n).sum() for n in NAMES])
  by_task = np.full((4, 2), np.nan)
  for i, n in enumerate(NAMES):
    for j, s in enumerate(("video", "audio")):
      if (tasks == n).any() and s in losses and s in TRAINING[n][1]:
        by_task[i, j] = losses[s][tasks == n].mean()
  np.testing.assert_allclose(metrics["by_task"], by_task, rtol=1e-5)
  norm = np.sqrt(sum((g**2).sum() for _, g in leaves(gradients)))
  np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)


@pytest.mark.parametrize("name", ["by_sample", "gate"])
def test_the_seeds_draw_every_kind_of_sample(name):
  """Else a case would compare less than it says."""
  case = CASES[name]
  drawn = drawn_by(case, make_batch(case.samples, 1))
  tasks = np.array(drawn["tasks"])
  assert set(tasks) == set(NAMES)
  makes = {s: objective.member(tasks, 1, s) for s in ("video", "audio")}
  assert makes["video"].sum() != makes["audio"].sum()
  assert {*drawn["image"][makes["video"]]} == {True, False}
  assert {*drawn["null_text"]} == {True, False}
