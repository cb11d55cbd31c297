"""Held-out velocity loss of a run, by task and noise level.

The same clips, noise and texts at every evaluation, whatever the training has drawn: so
two evaluations differ by what was learned between them, and a run that resumes logs the
same numbers again.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ccl_jax.axes import STREAMS
from ccl_jax.models.cca import Geometry
from ccl_jax.models.joint import JointDiT, geometry_of
from ccl_jax.tasks import TASKS, Route, sample_tasks, servable
from ccl_jax.training.feed import Feed
from ccl_jax.training.step import Draw, Recipe, sample_losses

PyTree = Any
_KEY = 0x6E1D  # of the noise: no step of a training draws from it


def make_losses(
  model: JointDiT, recipe: Recipe, clip: Geometry | None = None
) -> Callable[[PyTree, Mapping[str, jax.Array], jax.Array, jax.Array, jax.Array], dict]:
  """A jitted function (params, batch, number, task, sigma) -> mean loss by stream.

  `number` seeds the noise, `task` is an index into the recipe's tasks, both streams are
  at `sigma` where the task generates them, the text is never dropped and no image is
  given; with `last`, a first and a last one are. A stream that is given clean has a
  loss of zero. `clip`: see `sample_losses`.
  """

  @functools.partial(jax.jit, static_argnames="last")
  def losses(params, batch, number, task, sigma, last=False):
    batch = dict(batch)
    null_text = batch.pop("null_text")
    batch.pop("video_std", None)  # the posterior's mean, as generation gives it
    latents = {s: batch[s] for s in STREAMS if s in batch}
    b = len(batch["text"])
    tasks = sample_tasks(jnp.full((b,), task), recipe.names)
    # The same noise at every evaluation; batches differ by their number.
    key = jax.random.fold_in(jax.random.key(_KEY), number)
    drawn = Draw(
      tasks=tasks,
      # Given streams are clean: sigma 0.
      sigma={s: jnp.where(tasks.generated[s], sigma, 0.0) for s in latents},
      noise={
        s: jax.random.normal(k, latents[s].shape)
        for s, k in zip(STREAMS, jax.random.split(key))
        if s in latents
      },
      null_text=jnp.zeros((b,), bool),
      image=jnp.full((b,), last),
      last=jnp.full((b,), last),
    )
    # A model of one stream has no exchange to route.
    route = tasks.route if len(latents) == len(STREAMS) else Route()
    by_sample = sample_losses(model, params, batch, null_text, drawn, route, clip)
    return {s: x.mean() for s, x in by_sample.items()}

  return losses


class Evaluation:
  """Evaluates parameters on the first batches of a held-out feed.

  Args:
    model, recipe: network and objective of the run.
    feed: of held-out clips; it starts over at every evaluation.
    batches: how many.
    sigmas: noise levels.
  """

  def __init__(
    self,
    model: JointDiT,
    recipe: Recipe,
    feed: Feed,
    batches: int,
    sigmas: Sequence[float],
  ):
    self._recipe, self._feed = recipe, feed
    self._batches, self._sigmas = batches, sigmas
    self._start = feed.batches.get_state()
    self._groups = [("held_out", False)]
    if recipe.last_image_probability:
      self._groups.append(("held_out_last", True))
    self._losses = make_losses(model, recipe, geometry_of(model, feed.clip))

  def __call__(self, params: PyTree) -> dict[str, float]:
    """Metrics held_out/TASK/STREAM, means over noise levels, and .../SIGMA of each; of
    a run whose videos may be given their last frame, also held_out_last/TASK/video of
    frames between a given first and a given last one.
    """
    # From the beginning: the same clips every time.
    self._feed.batches.set_state(self._start)
    sums: dict[str, list[float]] = {}
    for number in range(self._batches):
      batch = self._feed.encode(next(self._feed.batches))
      streams = tuple(s for s in STREAMS if s in batch)
      p = servable(self._recipe.names, self._recipe.probabilities, streams)
      served = [i for i, share in enumerate(p) if share]
      for task, sigma in itertools.product(served, self._sigmas):
        at = jnp.int32(number), jnp.int32(task), jnp.float32(sigma)
        name = self._recipe.names[task]
        for group, last in self._groups:
          losses = jax.device_get(self._losses(params, batch, *at, last=last))
          for s in TASKS[name].generated:
            if s in losses and (s == "video" or not last):
              row = sums.setdefault(f"{group}/{name}/{s}/{sigma:g}", [])
              row.append(float(losses[s]))
    means = {name: sum(row) / len(row) for name, row in sums.items()}
    overall: dict[str, list[float]] = {}
    for name, value in means.items():
      # Every noise level counts as much, however many batches it had.
      overall.setdefault(name.rpartition("/")[0], []).append(value)
    return {k: sum(v) / len(v) for k, v in overall.items()} | means

  def close(self) -> None:
    """Stops the threads that read the held-out clips."""
    self._feed.batches.close()
