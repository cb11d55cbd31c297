"""One training step: draw, corrupt, predict, compare, update (section 4.4).

Flow matching: x_sigma = (1 - sigma) x0 + sigma eps, target eps - x0. The task of a
sample decides which streams are noised, what cross-modal attention sees and where the
loss is:

  L = lv 1[video generated] Lv + la 1[audio generated] La                       (eq. 7)

each L the mean over the samples that generate that stream. Everything is drawn for the
whole batch before it is cut into microbatches, so accumulation changes no number.

A batch is {"video": (b, t, h, w, c), "audio": (b, a, c), "text": (b, l, e)} of clean
latents and embeddings, "null_text" (l, e) that stands for no text, and for Wan2.1-I2V's
form of image condition "condition" (b, t, h, w, 20) and "image" (b, 257, 1280). A batch
of one stream alone serves the tasks that need no other (`tasks.servable`).

With "video_std" (b, t, h, w, c), "video" is the mean of the VAE's posterior, and every
step draws the latents of the frames it noises anew:

  x0 = mean + std n,  n ~ N(0, 1)

A frame that is given clean, an image condition among them, stays the mean: that is what
sampling gives.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from ccl_jax.axes import STREAMS, other
from ccl_jax.diffusion import flow
from ccl_jax.models.adapter import Adapter
from ccl_jax.models.cca import Geometry
from ccl_jax.models.joint import JointDiT, token_geometry
from ccl_jax.seeds import noise_key
from ccl_jax.tasks import (
  TASKS,
  Route,
  SampleTasks,
  Task,
  draw_tasks,
  sample_tasks,
  servable,
)
from ccl_jax.training.optim import ema_update
from ccl_jax.training.state import TrainState

PyTree = Any
_POSTERIOR, _LAST = 5, 6  # folded into a step's key, of which `draw` splits off 0 to 4


@dataclasses.dataclass(frozen=True)
class Recipe:
  """The training objective.

  Attributes:
    names, probabilities: the tasks and how often each is drawn.
    sigma: "uniform" or "logit_normal", then shifted by `shift`.
    loss_weights: lv and la.
    text_dropout: probability that a sample's text is replaced by the null text, one for
      all tasks or one for each of `names`.
    image_probability: probability that a generated video is given its first frame.
    last_image_probability: that it is given its last one, alone or beside the first.
    shared_sigma: the task `joint` has one noise level for both streams, else two.
    detach: a clean stream's states enter the exchange detached.
  """

  names: tuple[str, ...]
  probabilities: tuple[float, ...]
  sigma: str = "uniform"
  shift: float = 5.0
  loss_weights: tuple[float, float] = (1.0, 1.0)
  text_dropout: float | tuple[float, ...] = 0.1
  image_probability: float = 0.0
  last_image_probability: float = 0.0
  shared_sigma: bool = True
  detach: bool = True


class Draw(NamedTuple):
  """The random numbers of a step, by sample.

  Attributes:
    tasks: the task of every sample.
    sigma: noise level by stream; 0 where the task gives the stream clean.
    noise: N(0, 1), shaped like the latents.
    null_text: whether the text is dropped.
    image: whether a generated video is given its first frame.
    last: whether it is given its last one.
  """

  tasks: SampleTasks
  sigma: Mapping[str, Float[Array, "b"]]
  noise: Mapping[str, Float[Array, "b ..."]]
  null_text: Bool[Array, "b"]
  image: Bool[Array, "b"]
  last: Bool[Array, "b"]


def draw(
  key: jax.Array,
  latents: Mapping[str, Array],
  recipe: Recipe,
  task: int | Int[Array, ""] | None = None,
) -> Draw:
  """Draws a step's tasks, noise levels and noise for the whole batch.

  Args:
    key: of the step.
    latents: by stream, of which only the shapes matter.
    recipe: the objective.
    task: index of one task for all samples; None: drawn by sample.
  """
  b = jax.tree.leaves(latents)[0].shape[0]
  k_task, k_sigma, k_noise, k_text, k_image = jax.random.split(key, 5)
  if task is None:
    index = draw_tasks(k_task, b, recipe.probabilities)
  else:
    index = jnp.full((b,), task)
  tasks = sample_tasks(index, recipe.names)
  sigma = {
    s: flow.draw_sigma(k, (b,), kind=recipe.sigma, shift=recipe.shift)
    for s, k in zip(STREAMS, jax.random.split(k_sigma))
  }
  if recipe.shared_sigma:
    # Both streams of a joint task are at one noise level, as in sampling.
    sigma["audio"] = jnp.where(tasks.shared_sigma, sigma["video"], sigma["audio"])
  dropout = jnp.broadcast_to(jnp.asarray(recipe.text_dropout), len(recipe.names))
  return Draw(
    tasks=tasks,
    sigma={s: jnp.where(tasks.generated[s], sigma[s], 0.0) for s in latents},
    noise={
      s: jax.random.normal(k, latents[s].shape)
      for s, k in zip(STREAMS, jax.random.split(k_noise))
      if s in latents
    },
    null_text=jax.random.bernoulli(k_text, dropout[index], (b,)),
    image=jax.random.bernoulli(k_image, recipe.image_probability, (b,)),
    last=jax.random.bernoulli(
      jax.random.fold_in(key, _LAST), recipe.last_image_probability, (b,)
    ),
  )


def frame_sigma(drawn: Draw, latents: Mapping[str, Array]) -> dict[str, Array]:
  """Noise level of every frame: (b, t) for a video whose first or last one may be
  clean; (b, 1).
  """
  sigma = {s: drawn.sigma[s][:, None] for s in latents}
  t = latents["video"].shape[1] if "video" in latents else 1
  if t > 1:  # of a still, nothing is left
    frame = jnp.arange(t)[None]
    clean = (frame == 0) & drawn.image[:, None]
    if t > 2:  # nor of two frames, beside a first one
      clean |= (frame == t - 1) & drawn.last[:, None]
    sigma["video"] = jnp.where(clean, 0.0, sigma["video"])
  return sigma


def draw_video(
  key: jax.Array,
  mean: Float[Array, "b t h w c"],
  std: Float[Array, "b t h w c"],
  sigma: Float[Array, "b t"],
) -> Float[Array, "b t h w c"]:
  """The posterior's mean, and a draw from it in the frames that are noised.

  Args:
    key: of the draw.
    mean, std: of the posterior.
    sigma: noise level of every frame.
  """
  noised = (sigma > 0)[:, :, None, None, None]
  # x0 = mean + std n in noised frames; clean ones stay the mean.
  return mean + jnp.where(noised, std * jax.random.normal(key, mean.shape), 0)


def sample_losses(
  model: JointDiT,
  params: PyTree,
  batch: Mapping[str, Array],
  null_text: Float[Array, "l e"],
  drawn: Draw,
  route: Route,
  clip: Geometry | None = None,
) -> dict[str, Float[Array, "b"]]:
  """Mean squared velocity error of every sample, by stream, over its noised frames.

  Args:
    model, params: the network.
    batch: of clean latents, see the module's docstring.
    null_text: the embedding in place of a dropped text.
    drawn: noise levels and noise.
    route: what cross-modal attention sees.
    clip: token counts of some film; a stream that `batch` lacks is thought as long.
  """
  latents = {s: batch[s].astype(jnp.float32) for s in STREAMS if s in batch}
  sigma = frame_sigma(drawn, latents)
  # x_sigma = (1 - sigma) x0 + sigma eps, frame by frame.
  inputs = {s: flow.interpolate(latents[s], drawn.noise[s], sigma[s]) for s in latents}
  if "condition" in batch:
    inputs["video"] = jnp.concatenate([inputs["video"], batch["condition"]], -1)
  text = jnp.where(drawn.null_text[:, None, None], null_text[None], batch["text"])
  velocity = model.apply(
    {"params": params},
    inputs,
    {s: 1000.0 * sigma[s] for s in latents},
    text,
    route,
    image={"video": batch["image"]} if "image" in batch else None,
    geometry=token_geometry(model.streams, latents).completed(clip),
  )
  losses = {}
  for s in latents:
    # |v - (eps - x0)|^2; clean frames have nothing to predict.
    error = (velocity[s] - flow.velocity_target(latents[s], drawn.noise[s])) ** 2
    frames = error.mean(range(2, error.ndim))
    noised = jnp.broadcast_to(sigma[s] > 0, frames.shape)
    # A clean frame has no loss, and is not counted.
    losses[s] = jnp.where(noised, frames, 0.0).sum(1) / jnp.maximum(noised.sum(1), 1)
  return losses


def hold_clean_streams(params: PyTree, task: Task) -> PyTree:
  """Stops gradients at the parameters of the streams that a task does not generate.

  Their gradient is zero already (detached states, no loss); saying so at the root lets
  the compiler drop their whole backward pass.
  """
  held = set()
  for s in task.detached:
    held |= {s, f"{other(s)}_to_{s}"}

  def leaf(path, x):
    names = {k.key for k in path[:2]} - {"blocks"}
    return jax.lax.stop_gradient(x) if names & held else x

  return jax.tree_util.tree_map_with_path(leaf, params)


def make_train_step(
  model: JointDiT,
  optimizer: optax.GradientTransformation,
  recipe: Recipe,
  *,
  seed: int,
  accumulate: int = 1,
  ema_decay: float = 0.999,
  task: str | None = None,
  clip: Geometry | None = None,
  adapter: Adapter | None = None,
) -> Callable[..., tuple[TrainState, dict]]:
  """A pure function (state, batch) -> (state, metrics), to be jitted.

  With an adapter it is one of (state, batch, base): the state's parameters are the part
  that is trained, and `base` are those of the model, which stay as they are.

  Args:
    model, optimizer, recipe: parts of the run.
    seed: with the step's number, of all that is drawn.
    accumulate: microbatches that a batch is cut into, one after the other.
    ema_decay: of the moving average.
    task: one task for the whole batch with a static route; None draws by sample.
    clip: see `sample_losses`; needed where clips lack a stream that the model has.
    adapter: the part of the model that is trained; None: all of it.

  Metrics: `loss`, `grad_norm`, `update_norm`; `by_task` (tasks, streams): mean loss of
  each task and stream in this batch, not a number where no sample drew it; `drawn`
  (tasks,): samples.
  """
  static = None if task is None else TASKS[task]
  weights = dict(zip(STREAMS, recipe.loss_weights))

  def losses(params, batch, null_text, drawn):
    if static is None:
      route = drawn.tasks.route
    else:
      # Exact either way; with it the compiler drops the clean stream's backward pass.
      params = hold_clean_streams(params, static) if recipe.detach else params
      on = lambda names: {s: True for s in names}
      route = Route(on(static.reads), on(static.detached))
    if not recipe.detach:
      route = Route(route.reads)
    # A stream alone has nothing to read: context tokens are all it sees.
    if len(drawn.noise) == 1:
      route = Route()
    return sample_losses(model, params, batch, null_text, drawn, route, clip)

  def objective(params, batch, null_text, drawn, counts):
    by_sample = losses(params, batch, null_text, drawn)
    # Eq. 7: each stream's loss over the samples of the whole batch that generate it.
    total = sum(
      weights[s] * jnp.where(drawn.tasks.generated[s], v, 0.0).sum() / counts[s]
      for s, v in by_sample.items()
    )
    return total, by_sample

  def step(state, batch, base=None):
    null_text, std = batch["null_text"], batch.get("video_std")
    batch = {k: v for k, v in batch.items() if k not in ("null_text", "video_std")}
    # By seed and step alone: a run that resumes draws what it would have drawn.
    key = jax.random.fold_in(noise_key(seed), state.step)
    latents = {s: batch[s] for s in STREAMS if s in batch}
    index = None if task is None else recipe.names.index(task)
    p = servable(recipe.names, recipe.probabilities, tuple(latents))
    drawn = draw(key, latents, dataclasses.replace(recipe, probabilities=p), index)
    if std is not None:
      sigma = frame_sigma(drawn, latents)["video"]
      posterior = jax.random.fold_in(key, _POSTERIOR)
      batch["video"] = draw_video(posterior, batch["video"], std, sigma)
    counts = {s: jnp.maximum(drawn.tasks.generated[s].sum(), 1) for s in latents}
    whole = lambda x: x if adapter is None else adapter.applied(base, x)
    gradient = jax.value_and_grad(
      lambda params, *rest: objective(whole(params), *rest), has_aux=True
    )

    def micro(total, part):
      part_batch, part_draw = part
      (loss, by_sample), grads = gradient(
        state.params, part_batch, null_text, part_draw, counts
      )
      return jax.tree.map(jnp.add, total, (loss, grads)), by_sample

    if accumulate == 1:
      (loss, by_sample), grads = gradient(state.params, batch, null_text, drawn, counts)
    else:
      zero = jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.params)
      parts = jax.tree.map(lambda x: _microbatches(x, accumulate), (batch, drawn))
      (loss, grads), by_sample = jax.lax.scan(micro, zero, parts)
      by_sample = jax.tree.map(_joined, by_sample)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = ema_update(state.ema, params, ema_decay, state.step)
    metrics = {
      "loss": loss,
      "grad_norm": optax.global_norm(grads),
      "update_norm": optax.global_norm(updates),
      "by_task": _by_task(by_sample, drawn.tasks, len(recipe.names)),
      "drawn": jax.nn.one_hot(drawn.tasks.index, len(recipe.names)).sum(0),
    }
    return TrainState(state.step + 1, params, opt_state, ema), metrics

  return step


def _microbatches(x: Array, n: int) -> Array:
  """Splits a batch by taking every n-th sample to one microbatch, so that each device
  keeps its share of every one.
  """
  return x.reshape(x.shape[0] // n, n, *x.shape[1:]).swapaxes(0, 1)


def _joined(x: Array) -> Array:
  return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])


def _by_task(by_sample, tasks: SampleTasks, n: int) -> Float[Array, "tasks streams"]:
  """Mean loss by task and stream; not a number where no sample counts."""
  member = jax.nn.one_hot(tasks.index, n)
  columns = []
  for s in STREAMS:
    if s not in by_sample:
      columns.append(jnp.full((n,), jnp.nan))
      continue
    counted = member * tasks.generated[s][:, None]
    columns.append((counted * by_sample[s][:, None]).sum(0) / counted.sum(0))
  return jnp.stack(columns, -1)
