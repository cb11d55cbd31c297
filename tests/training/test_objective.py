"""The objective by hand: a network whose velocity is known, the loss, its gradient and
what the step does with them; and what is drawn, against closed-form distributions.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ccl_jax.tasks import TASKS, Route, sample_tasks
from ccl_jax.training.state import new_state
from ccl_jax.training.step import (
  Draw,
  Recipe,
  draw,
  frame_sigma,
  hold_clean_streams,
  make_train_step,
  sample_losses,
)
from tests.stubs import recording

STREAMS = ("video", "audio")
NAMES = ("single", "a2v", "v2a", "joint")
B = 12
VIDEO, AUDIO = (B, 3, 2, 4, 5), (B, 7, 4)
RECIPE = Recipe(
  NAMES,
  (0.25,) * 4,
  shift=3.0,
  loss_weights=(2.0, 0.5),
  text_dropout=0.0,
  image_probability=0.5,
)


def _normal(seed, shape):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.fixture(scope="module")
def batch():
  """Texts hold the number of their sample, so that a microbatch says whose it is."""
  text = jnp.broadcast_to(jnp.arange(B, dtype=jnp.float32)[:, None, None], (B, 2, 3))
  return {
    "video": _normal(1, VIDEO),
    "audio": 0.5 + _normal(2, AUDIO),
    "text": text,
    "null_text": jnp.full((2, 3), -1.0),
  }


# By arithmetic alone ------------------------------------------------------------------


def test_the_velocity_error_of_numbers_that_fit_on_a_page():
  """Two frames of one number: x0 = 1, 2, eps = 3, -1, so the targets are 2, -3. With
  v = 0.5 the errors are 2.25 and 12.25. Of sound x0 = 2, eps = 0.5: target -1.5, 4.
  Sample 1's first frame is clean and does not count; sample 2 makes sound alone.
  """
  model, told = recording(
    lambda params, told: {s: jnp.full(x.shape, 0.5) for s, x in told.latents.items()}
  )
  stack = lambda rows: jnp.asarray(rows, jnp.float32)
  batch = {
    "video": stack([[1, 2]] * 3).reshape(3, 2, 1, 1, 1),
    "audio": stack([[2]] * 3)[..., None],
    "text": jnp.zeros((3, 2, 3)),
  }
  drawn = Draw(
    tasks=sample_tasks(jnp.array([0, 0, 2]), NAMES),
    sigma={"video": stack([0.5, 0.25, 0]), "audio": stack([0.5, 0.125, 0.75])},
    noise={
      "video": stack([[3, -1]] * 3).reshape(3, 2, 1, 1, 1),
      "audio": stack([[0.5]] * 3)[..., None],
    },
    null_text=jnp.array([False, True, False]),
    image=jnp.array([False, True, False]),
    last=jnp.zeros(3, bool),
  )
  losses = sample_losses(model, {}, batch, jnp.ones((2, 3)), drawn, Route())
  np.testing.assert_allclose(losses["video"], [(2.25 + 12.25) / 2, 12.25, 0])
  np.testing.assert_allclose(losses["audio"], [4, 4, 4])
  (run,) = told
  np.testing.assert_allclose(
    run.latents["video"][..., 0, 0, 0], [[2, 0.5], [1, 1.25], [1, 2]]
  )
  np.testing.assert_allclose(run.latents["audio"][..., 0], [[1.25], [1.8125], [0.875]])
  np.testing.assert_allclose(run.timesteps["video"], [[500, 500], [0, 250], [0, 0]])
  np.testing.assert_allclose(run.timesteps["audio"], [[500], [125], [750]])
  np.testing.assert_array_equal(run.text[:, 0, 0], [0, 1, 0])


# A whole step, from what the network was told -----------------------------------------


def velocity(params, told):
  """One trained number for each stream: v = p x."""
  return {s: params[s]["p"] * jnp.asarray(x) for s, x in told.latents.items()}


PARAMS = {"video": {"p": jnp.asarray(0.25)}, "audio": {"p": jnp.asarray(-0.5)}}


def run_step(batch, recipe=RECIPE, *, at=0, lr=0.5, params=PARAMS, **options):
  """(new state, metrics, what the network was told)."""
  model, told = recording(velocity)
  optimizer = optax.sgd(lr)
  state = new_state(params, optimizer)._replace(step=jnp.asarray(at, jnp.int32))
  step = make_train_step(model, optimizer, recipe, **({"seed": 1} | options))
  with jax.disable_jit():
    new, metrics = step(state, batch)
  return new, metrics, told


def by_hand(batch, told, weights=(2.0, 0.5)):
  """Loss, its gradient in the two numbers, and the mean losses by task, in float64.

  Which task a sample has is read from its route and its timesteps, its noise from
  x = (1 - sigma) x0 + sigma eps.
  """
  loss, gradient, by_task = 0.0, {}, np.full((4, 2), np.nan)
  # Video read, audio read, video generated, audio generated -> task.
  kinds = {
    (False, False, True, True): "single",
    (True, False, True, False): "a2v",
    (False, True, False, True): "v2a",
    (True, True, True, True): "joint",
  }
  tasks, errors, slopes = [], {s: [] for s in STREAMS}, {s: [] for s in STREAMS}
  for run in told:
    for i in range(len(run.text)):
      sample = int(run.text[i, 0, 0])
      made = []
      for s in STREAMS:
        x = run.latents[s][i].astype(np.float64)
        x0 = np.asarray(batch[s][sample], np.float64)
        sigma = np.broadcast_to(run.timesteps[s][i] / 1000.0, (len(x),))
        sigma = sigma.astype(np.float64).reshape(-1, *[1] * (x.ndim - 1))
        noised = sigma.ravel() > 0
        made.append(noised.any())
        if not noised.any():
          errors[s].append(None), slopes[s].append(None)
          continue
        x, x0, sigma = x[noised], x0[noised], sigma[noised]
        eps = (x - (1 - sigma) * x0) / sigma
        p = float(PARAMS[s]["p"])
        errors[s].append(np.mean((p * x - (eps - x0)) ** 2))
        slopes[s].append(np.mean(2 * (p * x - (eps - x0)) * x))
      tasks.append(kinds[(*(bool(run.reads[s][i]) for s in STREAMS), *made)])
  for j, (s, weight) in enumerate(zip(STREAMS, weights)):
    mine = [e for e in errors[s] if e is not None]
    loss += weight * np.mean(mine)
    gradient[s] = weight * np.mean([g for g in slopes[s] if g is not None])
    for k, name in enumerate(NAMES):
      rows = [e for e, t in zip(errors[s], tasks) if t == name and e is not None]
      by_task[k, j] = np.mean(rows) if rows else np.nan
  return loss, gradient, by_task, [tasks.count(n) for n in NAMES]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_step_by_hand(batch, accumulate):
  """Loss with weights 2 and 1/2, gradient, metrics, parameters and their average."""
  new, metrics, told = run_step(batch, accumulate=accumulate)
  assert len(told) == accumulate
  loss, gradient, by_task, drawn = by_hand(batch, told)
  assert min(drawn) > 0
  np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
  norm = (gradient["video"] ** 2 + gradient["audio"] ** 2) ** 0.5
  np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)
  np.testing.assert_allclose(metrics["by_task"], by_task, rtol=1e-5)
  assert np.isnan(by_task).sum() == 2  # sound of a2v and pictures of v2a
  np.testing.assert_array_equal(metrics["drawn"], drawn)
  assert int(new.step) == 1
  for s in STREAMS:
    before = float(PARAMS[s]["p"])
    after = before - 0.5 * gradient[s]
    np.testing.assert_allclose(new.params[s]["p"], after, rtol=1e-5)
    # At step 0 the average keeps a tenth of what it was.
    average = 0.1 * before + 0.9 * after
    np.testing.assert_allclose(new.ema[s]["p"], average, rtol=1e-5)


def test_microbatches_are_every_nth_sample(batch):
  """So that each device keeps its share of every one."""
  _, _, told = run_step(batch, accumulate=3)
  rows = [run.text[:, 0, 0].tolist() for run in told]
  assert rows == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]


def test_samples_draw_the_same_in_microbatches(batch):
  """Everything is drawn for the whole batch before it is cut."""
  _, _, (whole,) = run_step(batch)
  _, _, told = run_step(batch, accumulate=3)
  for n, run in enumerate(told):
    for s in STREAMS:
      np.testing.assert_array_equal(run.latents[s], whole.latents[s][n::3])
      np.testing.assert_array_equal(run.timesteps[s], whole.timesteps[s][n::3])


@pytest.mark.parametrize("task, stream", [("v2a", "audio"), ("a2v", "video")])
def test_a_task_of_one_stream_by_hand(batch, task, stream):
  """Its loss alone counts; what is held clean gets no gradient."""
  new, metrics, (run,) = run_step(batch, task=task)
  x = run.latents[stream].astype(np.float64)
  sigma = run.timesteps[stream].astype(np.float64) / 1000
  sigma = np.broadcast_to(sigma, x.shape[:2]).reshape(*x.shape[:2], *[1] * (x.ndim - 2))
  x0 = np.asarray(batch[stream], np.float64)
  noised = np.broadcast_to(sigma > 0, x.shape)
  eps = (x - (1 - sigma) * x0) / np.where(sigma > 0, sigma, 1)
  error = (float(PARAMS[stream]["p"]) * x - (eps - x0)) ** 2
  by_sample = [e[n].mean() for e, n in zip(error, noised)]
  weight = {"video": 2.0, "audio": 0.5}[stream]
  np.testing.assert_allclose(metrics["loss"], weight * np.mean(by_sample), rtol=1e-5)
  assert metrics["drawn"].tolist() == [12 * (n == task) for n in NAMES]
  other = "audio" if stream == "video" else "video"
  assert new.params[other]["p"] == PARAMS[other]["p"]
  assert new.params[stream]["p"] != PARAMS[stream]["p"]


@pytest.mark.parametrize("stream, weight", [("video", 2.0), ("audio", 0.5)])
def test_clips_of_one_stream_by_hand(batch, stream, weight):
  """They all draw the task single, and the other stream's column is not a number."""
  alone = {k: v for k, v in batch.items() if k in (stream, "text", "null_text")}
  recipe = dataclasses.replace(RECIPE, image_probability=0.0)
  _, metrics, (run,) = run_step(alone, recipe)
  assert metrics["drawn"].tolist() == [12, 0, 0, 0]
  x = run.latents[stream].astype(np.float64)
  sigma = run.timesteps[stream][:, :1].astype(np.float64) / 1000
  sigma = sigma.reshape(B, *[1] * (x.ndim - 1))
  x0 = np.asarray(batch[stream], np.float64)
  eps = (x - (1 - sigma) * x0) / sigma
  error = ((float(PARAMS[stream]["p"]) * x - (eps - x0)) ** 2).mean()
  np.testing.assert_allclose(metrics["loss"], weight * error, rtol=1e-5)
  column = STREAMS.index(stream)
  np.testing.assert_allclose(metrics["by_task"][0, column], error, rtol=1e-5)
  assert np.isnan(np.asarray(metrics["by_task"])[:, 1 - column]).all()
  assert np.isnan(np.asarray(metrics["by_task"])[1:, column]).all()


def test_steps_and_seeds_draw_their_own(batch):
  """A function of both: the same again after a restart, another one otherwise."""
  told = lambda **options: run_step(batch, **options)[2][0]
  first, again = told(at=4), told(at=4)
  np.testing.assert_array_equal(first.latents["audio"], again.latents["audio"])
  for other in (told(at=5), told(at=4, seed=2)):
    same = first.timesteps["audio"] == other.timesteps["audio"]
    assert (same & (first.timesteps["audio"] > 0)).mean() == 0


def test_the_average_by_hand(batch):
  """The share it keeps is (1 + n) / (10 + n) of step n, until that is `ema_decay`."""
  for at, keeps in ((2, 3 / 12), (10**6, 0.999)):
    start = {s: {"p": jnp.asarray(1.0)} for s in STREAMS}
    new, _, _ = run_step(batch, at=at, params=start, lr=10.0)
    for s in STREAMS:
      moved = float(new.params[s]["p"]) - 1
      assert abs(moved) > 1
      got = (float(new.ema[s]["p"]) - 1) / moved
      np.testing.assert_allclose(got, 1 - keeps, rtol=1e-3)
    assert int(new.step) == at + 1


def test_the_objective_that_nobody_changed():
  """The recipe of a caller who gives only tasks."""
  assert dataclasses.asdict(Recipe(("joint",), (1.0,))) == {
    "names": ("joint",), "probabilities": (1.0,), "sigma": "uniform", "shift": 5.0,
    "loss_weights": (1.0, 1.0), "text_dropout": 0.1, "image_probability": 0.0,
    "last_image_probability": 0.0, "shared_sigma": True, "detach": True,
  }  # fmt: skip


# The posterior's deviation ------------------------------------------------------------


def test_a_video_with_a_deviation_is_drawn_once_for_input_and_target(batch):
  """With a deviation of 1000 the data is x0 = x / (1 - sigma), all but the noise, and
  the target -x0. A network that says so has an error of order 1, if the target is of
  the same draw; of another, or of the mean, it is 10^6.
  """
  model, told = recording(
    lambda params, told: {
      "video": params["p"]
      * -told.latents["video"]
      / (1 - told.timesteps["video"] / 1000)[..., None, None, None],
    }
  )
  recipe = Recipe(("single",), (1.0,), shift=0.2, image_probability=0.5)
  optimizer = optax.sgd(0.0)
  step = make_train_step(model, optimizer, recipe, seed=4)
  stored = {k: v for k, v in batch.items() if k != "audio"}
  stored["video_std"] = jnp.full(VIDEO, 1000.0)
  state = new_state({"p": jnp.ones(())}, optimizer)
  video, draws = np.asarray(batch["video"]), []
  with jax.disable_jit():
    for _ in range(2):
      state, metrics = step(state, stored)
      run = told.pop()
      clean = run.timesteps["video"][:, 0] == 0
      assert 0 < clean.sum() < B
      np.testing.assert_array_equal(run.latents["video"][clean, 0], video[clean, 0])
      # Of other frames, data and noise: deviation (1 - sigma) 1000 about the mean.
      keep = (1 - run.timesteps["video"][:, 1:] / 1000)[..., None, None, None]
      draws.append((run.latents["video"][:, 1:] / keep).ravel())
      np.testing.assert_allclose(draws[-1].std(), 1000, rtol=0.1)
      assert abs(draws[-1].mean()) < 5 * 1000 / len(draws[-1]) ** 0.5
      # eps - x0 + x / (1 - sigma) = eps / (1 - sigma)
      assert 0.5 < float(metrics["loss"]) < 2 * np.mean(1 / keep**2) + 1
  # Every step draws its own, and no sample that of another.
  assert abs(np.corrcoef(*draws)[0, 1]) < 5 / len(draws[0]) ** 0.5
  halves = draws[0].reshape(2, -1)
  assert abs(np.corrcoef(*halves)[0, 1]) < 5 / halves.shape[1] ** 0.5


# What is drawn ------------------------------------------------------------------------

N = 8000
LIMIT = 1.63 / N**0.5  # of the Kolmogorov-Smirnov distance: 1 % of honest draws exceed


def _distance(sample, cdf):
  """Largest gap between the sample's distribution and the closed form."""
  x = np.sort(np.asarray(sample, np.float64))
  f = cdf(x)
  n = len(x)
  return max(
    np.abs(f - np.arange(n) / n).max(), np.abs(f - np.arange(1, n + 1) / n).max()
  )


def _normal_cdf(x):
  return np.asarray(jax.scipy.special.ndtr(jnp.asarray(x, jnp.float32)), np.float64)


@pytest.fixture(scope="module")
def many():
  """draw(recipe) of N clips, each stream of two numbers in equal layout."""
  latents = {"video": jnp.zeros((N, 2, 1, 1, 1)), "audio": jnp.zeros((N, 2, 1))}

  def of(**changes):
    base = Recipe(("single",), (1.0,), shift=3.0, text_dropout=0.3)
    recipe = dataclasses.replace(base, **changes)
    with jax.disable_jit():
      drawn = draw(jax.random.key(11), latents, recipe)
    return jax.tree.map(np.asarray, drawn)

  return of


def test_sigma_is_a_shifted_uniform_draw(many):
  """Sigma = 3u / (1 + 2u), so P(sigma < x) = x / (3 - 2x)."""
  drawn = many()
  for s in STREAMS:
    assert _distance(drawn.sigma[s], lambda x: x / (3 - 2 * x)) < LIMIT


def test_sigma_is_a_shifted_logit_normal_draw(many):
  """The shift moves the logit by log 3: log(sigma / (1 - sigma)) ~ N(log 3, 1)."""
  drawn = many(sigma="logit_normal")
  for s in STREAMS:
    logit = np.log(drawn.sigma[s]) - np.log1p(-drawn.sigma[s].astype(np.float64))
    assert _distance(logit - np.log(3), _normal_cdf) < LIMIT


def test_noise_is_standard_normal_and_of_each_stream_its_own(many):
  drawn = many()
  flat = [drawn.noise[s].reshape(-1) for s in STREAMS]
  for x in flat:
    assert _distance(x[:N], _normal_cdf) < LIMIT
  assert abs(np.corrcoef(*flat)[0, 1]) < 0.04
  assert abs(np.corrcoef(flat[0][::2], flat[0][1::2])[0, 1]) < 0.06


def test_what_is_drawn_is_independent(many):
  """Levels of two streams, tasks, texts and images share no random bits."""
  drawn = many(text_dropout=0.5, image_probability=0.5)
  columns = [
    drawn.sigma["video"], drawn.sigma["audio"], drawn.null_text, drawn.image,
    drawn.noise["video"].reshape(N, -1)[:, 0], drawn.noise["audio"][:, 0, 0],
  ]  # fmt: skip
  r = np.corrcoef(np.stack(columns).astype(np.float64))
  assert np.abs(r - np.eye(len(columns))).max() < 5 / N**0.5
  tasks = many(names=("single", "joint"), probabilities=(0.5, 0.5), text_dropout=0.5)
  columns = [
    tasks.tasks.index, tasks.sigma["video"], tasks.null_text,
    tasks.noise["video"].reshape(N, -1)[:, 0],
  ]  # fmt: skip
  r = np.corrcoef(np.stack(columns).astype(np.float64))
  assert np.abs(r - np.eye(len(columns))).max() < 5 / N**0.5


def test_text_is_dropped_as_often_as_its_task_says(many):
  """Within five standard errors; where rates are equal, the same texts."""
  p = {"names": ("single", "joint"), "probabilities": (0.5, 0.5)}
  drawn = many(**p, text_dropout=(0.8, 0.1))
  for i, rate in enumerate((0.8, 0.1)):
    dropped = drawn.null_text[drawn.tasks.index == i]
    assert abs(dropped.mean() - rate) < 5 * (rate * (1 - rate) / len(dropped)) ** 0.5
  one, each = many(**p, text_dropout=0.4), many(**p, text_dropout=(0.4, 0.4))
  np.testing.assert_array_equal(one.null_text, each.null_text)


def test_levels_of_joint_are_one_or_two(many):
  """Two are those of the task single, of the same draw."""
  one = many(names=("joint",))
  np.testing.assert_array_equal(one.sigma["video"], one.sigma["audio"])
  two, single = many(names=("joint",), shared_sigma=False), many()
  for s in STREAMS:
    np.testing.assert_array_equal(two.sigma[s], single.sigma[s])


def test_how_often_each_thing_is_drawn(many):
  """Tasks 0.1, 0.15, 0.15, 0.6, texts dropped 0.3, images 0.2: within five standard
  errors.
  """
  drawn = many(names=NAMES, probabilities=(0.1, 0.15, 0.15, 0.6), image_probability=0.2)
  shares = np.bincount(drawn.tasks.index, minlength=4) / N
  p = np.array([0.1, 0.15, 0.15, 0.6])
  assert (np.abs(shares - p) < 5 * (p * (1 - p) / N) ** 0.5).all()
  for got, p in ((drawn.null_text, 0.3), (drawn.image, 0.2)):
    assert abs(got.mean() - p) < 5 * (p * (1 - p) / N) ** 0.5
  video, audio = drawn.sigma["video"], drawn.sigma["audio"]
  for i, name in enumerate(NAMES):
    mine = drawn.tasks.index == i
    assert (video[mine] > 0).all() if name != "v2a" else (video[mine] == 0).all()
    assert (audio[mine] > 0).all() if name != "a2v" else (audio[mine] == 0).all()
    assert (video[mine] == audio[mine]).all() == (name == "joint")
  fixed = draw(jax.random.key(0), {"audio": jnp.zeros((3, 2, 1))}, RECIPE, task=2)
  assert fixed.tasks.index.tolist() == [2, 2, 2]


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_a_first_frame_is_given_as_often_as_told(many, probability):
  """Never to a still, of which nothing would be left to learn."""
  drawn = jax.tree.map(jnp.asarray, many(image_probability=probability))
  latents = {s: drawn.noise[s] for s in STREAMS}
  sigma = frame_sigma(drawn, latents)
  assert sigma["video"].shape == (N, 2) and sigma["audio"].shape == (N, 1)
  assert ((np.asarray(sigma["video"])[:, 0] == 0) == (probability == 1)).all()
  np.testing.assert_array_equal(sigma["video"][:, 1], drawn.sigma["video"])
  still = frame_sigma(drawn, {"video": latents["video"][:, :1]})["video"]
  np.testing.assert_array_equal(still[:, 0], drawn.sigma["video"])


@pytest.mark.parametrize(("image", "last"), [(0.0, 1.0), (1.0, 1.0), (0.0, 0.0)])
def test_a_last_frame_is_given_as_often_as_told(many, image, last):
  """By itself or beside the first; not where nothing would be left between."""
  recipe = {"image_probability": image, "last_image_probability": last}
  drawn = jax.tree.map(jnp.asarray, many(**recipe))
  of = lambda t: frame_sigma(drawn, {"video": jnp.zeros((N, t, 1, 1, 1))})["video"]
  clean = np.asarray(of(4) == 0)
  noised = np.asarray(drawn.sigma["video"]) > 0
  assert (clean[:, -1] == (last == 1) | ~noised).all()
  assert (clean[:, 0] == (image == 1) | ~noised).all()
  assert not clean[noised][:, 1:-1].any()
  assert not np.asarray(of(2) == 0)[noised][:, 1].any()


def test_a_last_frame_is_drawn_by_itself(many):
  """As often as told, whether or not a first one is given; other draws stay as they
  were without it.
  """
  drawn = many(image_probability=0.5, last_image_probability=0.25)
  without = many(image_probability=0.5)
  assert abs(drawn.last.mean() - 0.25) < 0.1
  both = (drawn.last & drawn.image).mean()
  assert abs(both - 0.125) < 0.08
  np.testing.assert_array_equal(drawn.image, without.image)
  np.testing.assert_array_equal(drawn.sigma["video"], without.sigma["video"])
  assert not without.last.any()


# Gradients that a task does not have --------------------------------------------------


@pytest.mark.parametrize(
  "task, held",
  [
    ("single", ()),
    ("joint", ()),
    ("a2v", ("audio", "blocks/audio", "blocks/video_to_audio")),
    ("v2a", ("video", "blocks/video", "blocks/audio_to_video")),
  ],
)
def test_parameters_are_held_where_a_stream_is_given(task, held):
  parts = ("video", "audio", "video_to_audio", "audio_to_video")
  params = {s: {"a": jnp.ones(()), "b": {"c": jnp.ones(())}} for s in parts[:2]}
  params["blocks"] = {s: {"q": {"kernel": jnp.ones(())}} for s in parts}
  total = lambda p: sum(jax.tree.leaves(hold_clean_streams(p, TASKS[task])))
  gradient = jax.grad(total)(params)
  flat = jax.tree_util.tree_leaves_with_path(gradient)
  for path, value in flat:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    assert value == (0 if any(name.startswith(f"{h}/") for h in held) else 1), name
