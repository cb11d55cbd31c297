"""What is learnt: flow matching and the objective of the tasks (eq. 7).

  x_sigma = (1 - sigma) x0 + sigma eps,  target eps - x0,  timestep 1000 sigma
  L = lv 1[video generated] Lv + la 1[audio generated] La

each the mean over the samples that generate that stream. The first frame of a given
image is clean: sigma 0, timestep 0, no loss.
"""

import numpy as np

from tests.reference.model import STREAMS, velocities
from tests.reference.tasks import TRAINING


def shifted(u, s):
  return s * u / (1 + (s - 1) * u)


def member(tasks, column, stream):
  """(b,): whether `stream` is in that column of the task's row."""
  return np.array([stream in TRAINING[name][column] for name in tasks])


def noise_levels(tasks, sigma, frames, image, one_level=True):
  """By stream, (b, frames): 0 where a stream is clean, one level where it is shared;
  `one_level`: it may be.
  """
  shared = np.array([TRAINING[name][3] and one_level for name in tasks])
  sigma = {**sigma}
  if "audio" in sigma and "video" in sigma:
    sigma["audio"] = np.where(shared, sigma["video"], sigma["audio"])
  out = {}
  for s in sigma:
    level = np.where(member(tasks, 1, s), sigma[s], 0.0)
    out[s] = np.repeat(level[:, None], frames[s], 1)
  if "video" in out and frames["video"] > 1:
    out["video"][image, 0] = 0.0
  return out


def sample_losses(
  params, config, batch, drawn, frozen=None, collect=None, clip=None, one_level=True
):
  """By stream, (b,): the mean square error of the velocity over the noised frames.

  Args:
    batch: latents `video`, `audio`; `text`, `null_text`; for Wan2.1's form of image
      condition the channels `condition` and the tokens `image`.
    drawn: `tasks` (names), `sigma` and `noise` by stream, `null_text` (b,): the text
      is dropped, `image` (b,): the first frame is given.
    frozen, collect, clip: see `velocities`.
    one_level: of both streams in the task joint.
  """
  x0 = {s: batch[s] for s in STREAMS if s in batch}
  frames = {s: x.shape[1] for s, x in x0.items()}
  levels = {s: drawn["sigma"][s] for s in x0}
  sigma = noise_levels(drawn["tasks"], levels, frames, drawn["image"], one_level)
  noised = {}
  for s, x in x0.items():
    level = sigma[s].reshape(*sigma[s].shape, *[1] * (x.ndim - 2))
    noised[s] = (1 - level) * x + level * drawn["noise"][s]
  if "condition" in batch:
    noised["video"] = np.concatenate([noised["video"], batch["condition"]], -1)
  dropped = drawn["null_text"][:, None, None]
  v = velocities(
    params,
    config,
    noised,
    {s: 1000 * level for s, level in sigma.items()},
    np.where(dropped, batch["null_text"], batch["text"]),
    {s: member(drawn["tasks"], 2, s) for s in x0},
    image=batch.get("image"),
    detached=frozen and {s: member(drawn["tasks"], 4, s) for s in x0},
    frozen=frozen,
    collect=collect,
    clip=clip,
  )
  losses = {}
  for s in x0:
    error = (v[s] - (drawn["noise"][s] - x0[s])) ** 2
    by_frame = error.reshape(*error.shape[:2], -1).mean(-1)
    counted = sigma[s] > 0
    losses[s] = (by_frame * counted).sum(1) / np.maximum(counted.sum(1), 1)
  return losses


def objective(losses, tasks, weights):
  total = 0.0
  for s, x in losses.items():
    makes = member(tasks, 1, s)
    if makes.any():
      total += weights[s] * x[makes].mean()
  return total
