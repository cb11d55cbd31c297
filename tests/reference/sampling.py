"""Latents from noise: everything is computed anew at every step.

A given stream is clean (timestep 0) and reads context tokens only. A given first frame
stands in the latent at every evaluation, with timestep 0; or in condition channels.

Where another clip's stream takes the place of its own, the video of clip i sees the
audio of clip i + 1, and the audio of clip i the video of i - 1: a run for each.
"""

import numpy as np

from tests.reference.guidance import guide
from tests.reference.model import velocities
from tests.reference.solvers import solve
from tests.reference.tasks import SAMPLING


def sample(
  params, config, task, noise, conditions, form, scales, solver, steps, shift, clip
):
  """Latents of the streams that the task makes.

  Args:
    noise: by stream that is made.
    conditions: `text` {"txt", "neg"}, each one array or by stream; clean latents
      `given` and `null` by stream; the first frame's latent `image`, or `condition`
      channels and `clip` tokens.
    scales: of the guidance form, by stream.
    clip: (grid, audio tokens) of the whole clip.
  """
  made, given, readers, _ = SAMPLING[task]
  b = len(next(iter(noise.values())))

  def run(x, timestep, text, keys):
    x = x | {s: conditions["given"][s] for s in given}
    frames = {s: latent.shape[1] for s, latent in x.items()}
    told = {s: np.full((b, frames[s]), timestep if s in made else 0.0) for s in x}
    if "image" in conditions and "video" in x:
      x["video"] = np.concatenate([conditions["image"], x["video"][:, 1:]], 1)
      told["video"][:, 0] = 0
    null = {"silent": "audio", "static": "video"}.get(keys)
    if null in x:
      x[null], told[null] = conditions["null"][null], 0 * told[null]
    if "condition" in conditions and "video" in x:
      x["video"] = np.concatenate([x["video"], conditions["condition"]], -1)
    reads = {s: np.full(b, s in readers and s != null and keys != "C") for s in x}
    texts = conditions["text"][text]
    texts = texts if isinstance(texts, dict) else {s: texts for s in x}
    if keys != "C+m'":
      return velocities(
        params, config, x, told, texts, reads, image=conditions.get("clip"), clip=clip
      )
    out = {}
    for s in x:  # whose other stream is the neighbour's
      other, places = ("audio", 1) if s == "video" else ("video", -1)
      turn = lambda of, o=other, n=places: {
        k: v[(np.arange(b) + n) % b] if k == o else v for k, v in of.items()
      }
      out[s] = velocities(params, config, turn(x), told, turn(texts), reads, clip=clip)[
        s
      ]
    return out

  def guided(x, timestep):
    known = {}

    def v(*at):
      if at not in known:
        known[at] = run(dict(x), timestep, *at)
      return known[at]

    return guide(form, v, {s: scales[s] for s in x})

  out = solve(solver, guided, noise, steps, shift)
  if "image" in conditions:
    out["video"] = np.concatenate([conditions["image"], out["video"][:, 1:]], 1)
  return out
