"""How much one stream knows of the other, by noise level: two losses, no sampling.

With x0 the latents of a stream, y0 those of the other, and the same noise in both,

  x_sigma = (1 - sigma) x0 + sigma eps,   target eps - x0
  L(y)    = |v(x_sigma, y, text) - target|^2, the mean over a clip's latent
  information_i = L_i(another clip's y0) - L_i(own y0)

where y is clean in `a2v` and `v2a`, and in `joint` at the same sigma as x, with the
same noise for every y0. Only y0 differs, so the differences are paired by clip: 128
clips resolve about half a percent of the loss. Information is zero for a network that
does not use the other stream.

Chance is the same difference between the streams of two other clips. A ceiling is known
only where the data's distribution is.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ccl_jax.axes import other
from ccl_jax.diffusion import flow
from ccl_jax.errors import UsageError
from ccl_jax.models.joint import JointDiT
from ccl_jax.seeds import noise_key
from ccl_jax.tasks import TASKS, static_route

Latents = Mapping[str, jax.Array]
# (parameters, noisy latents, their sigma (b,), conditions) -> velocities, by stream
Velocity = Callable[[Any, Latents, Latents, Any], Latents]
TASKS_READING = tuple(name for name, task in TASKS.items() if task.reads)


def network_velocity(model: JointDiT, task: str) -> Velocity:
  """The velocity of a network under a task; the condition is text (b, l, e)."""
  route = static_route(TASKS[task])

  def velocity(params, x, sigma, text):
    time = {s: 1000.0 * v[:, None] for s, v in sigma.items()}
    return model.apply({"params": params}, x, time, text, route)

  return velocity


def information(
  velocity: Velocity,
  params: Any,
  latents: Mapping[str, np.ndarray],
  condition: Any,
  task: str,
  sigmas: Sequence[float],
  *,
  batch: int = 32,
  seed: int = 0,
) -> dict[str, dict[float, dict[str, float]]]:
  """What the streams that a task generates take from the other one.

  Args:
    velocity: of the network, such as `network_velocity`, and its parameters `params`.
    latents: clean, (clips, ...) by stream.
    condition: a tree of arrays (clips, ...), such as the texts; always the clip's own.
    task: of `TASKS_READING`.
    sigmas: noise levels in (0, 1].
    batch: clips at once, at least three; an incomplete last batch is left out, so that
      one program serves.
    seed: of the noise.

  Returns {stream: {sigma: scores}}, means over clips and their standard errors:
  `loss` with the true other stream, `shuffled` with another clip's, their paired
  difference `information` and its `sem`, `share` = information / shuffled and its
  `share_sem`, `chance` and `chance_sem`, and `n`.

  Raises:
    UsageError: the task reads nothing, a sigma is out of range, or clips are too few.
  """
  if task not in TASKS_READING:
    known = ", ".join(TASKS_READING)
    raise UsageError(f"information: got the task {task!r}, expected one of {known}")
  if bad := [s for s in sigmas if not 0 < s <= 1]:
    raise UsageError(f"information: sigma {bad[0]} is not in (0, 1]")
  clips = len(next(iter(latents.values())))
  batch = min(batch, clips)
  if batch < 3:
    raise UsageError(f"information: got {batch} clips at once, expected three at least")
  streams = TASKS[task].reads
  losses = jax.jit(functools.partial(_losses, velocity, TASKS[task].generated))
  rows = {(s, sigma): [] for s in streams for sigma in sigmas}
  for number in range(clips // batch):
    part = slice(number * batch, (number + 1) * batch)
    cut = functools.partial(jax.tree.map, lambda x: jnp.asarray(x[part]))
    key = jax.random.fold_in(noise_key(seed), number)
    given = cut(dict(latents)), cut(condition), key
    for sigma in sigmas:
      at = losses(params, *given, jnp.float32(sigma))
      for s in streams:
        rows[s, sigma].append(np.asarray(at[s], np.float64))
  table: dict = {s: {} for s in streams}
  for (s, sigma), parts in rows.items():
    table[s][sigma] = _scores(*np.concatenate(parts, 1))
  return table


def _losses(velocity, generated, params, latents, condition, key, sigma):
  """Rows (3, b) by stream: with the own, the next and the next but one clip's other."""
  noise = {
    s: jax.random.normal(k, latents[s].shape)
    for s, k in zip(sorted(latents), jax.random.split(key, len(latents)))
  }
  b = len(noise["video"])
  level = {s: jnp.full((b,), sigma if s in generated else 0.0) for s in latents}
  noisy = lambda s, x: flow.interpolate(x, noise[s], level[s])
  rows = {}
  for s in generated:
    target = flow.velocity_target(latents[s], noise[s])
    rows[s] = []
    for shift in range(3):
      y = other(s)
      x = {s: noisy(s, latents[s]), y: noisy(y, jnp.roll(latents[y], -shift, 0))}
      error = (velocity(params, x, level, condition)[s] - target) ** 2
      rows[s].append(error.mean(range(1, error.ndim)))
  return {s: jnp.stack(r) for s, r in rows.items()}


def _scores(own, shuffled, third) -> dict[str, float]:
  n = len(own)
  sem = lambda x: float(x.std(ddof=1) / n**0.5)
  gain, chance = shuffled - own, third - shuffled
  share = gain.mean() / shuffled.mean()
  scores = {
    "loss": own.mean(),
    "shuffled": shuffled.mean(),
    "information": gain.mean(),
    "sem": sem(gain),
    "share": share,
    "share_sem": sem(gain - share * shuffled) / shuffled.mean(),
    "chance": chance.mean(),
    "chance_sem": sem(chance),
  }
  return {k: float(v) for k, v in scores.items()} | {"n": n}
