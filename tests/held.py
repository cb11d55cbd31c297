"""A given first frame as the sampler takes it."""

import numpy as np


def first_frame(latent, frames: int) -> dict:
  """{"video": {"latent", "mask"}}: of `frames` latent frames the first is given.

  Args:
    latent: of the first frame, (b, 1, h, w, c).
    frames: latent frames of the clip.
  """
  b, _, *place = latent.shape
  # What is not given is never read.
  rest = np.full((b, frames - 1, *place), np.nan, latent.dtype)
  mask = np.broadcast_to(np.arange(frames) == 0, (b, frames))
  return {"video": {"latent": np.concatenate([latent, rest], 1), "mask": mask}}
