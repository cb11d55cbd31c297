"""Temporally aligned partitioning: which tokens of the other stream a token may see.

Paper section 4.1, with t latent frames and a audio tokens.

  audio to video  frame i sees a window of w = 3c audio tokens, c = floor(a / t),
                  centred on m_i: tokens m_i - floor(w/2) .. m_i + ceil(w/2) - 1,
                  those outside the clip masked.
      "aligned"   m_i = floor((i + 1/2) a / t)
      "floor"     m_i = floor(c / 2) + c i, the paper's literal form: equal when t
                  divides a, and drifting early by up to a second when it does not
  video to audio  token j sees the s tokens of frame floor(j t / a).

Both are a batch of frames: queries (b, t, q, n, d) against keys (b, t, k, n, d). The
audio tokens of one frame are contiguous, so video keys are never repeated: the queries
are padded to g per frame instead. Index tables are numpy, static for a clip's sizes.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int

CENTRES = ("aligned", "floor")


class Windows(NamedTuple):
  """Audio tokens that each latent frame sees; `valid` is False outside the clip."""

  index: Int[np.ndarray, "t w"]
  valid: Bool[np.ndarray, "t w"]


class Groups(NamedTuple):
  """Audio tokens gathered by their nearest frame, padded to g, and the way back."""

  index: Int[np.ndarray, "t g"]
  valid: Bool[np.ndarray, "t g"]
  place: Int[np.ndarray, "a"]  # of token j in the flattened (t g)


def audio_windows(t: int, a: int, centre: str = "aligned") -> Windows:
  """The window of every latent frame.

  Raises:
    ValueError: fewer audio tokens than latent frames, or an unknown centre rule.
  """
  c = a // t
  if c < 1:
    raise ValueError(
      f"got {a} audio tokens for {t} latent frames; expected at least {t}"
    )
  i = np.arange(t)
  if centre == "aligned":
    middle = (2 * i + 1) * a // (2 * t)
  elif centre == "floor":
    middle = c // 2 + c * i
  else:
    raise ValueError(f"unknown tarp centre {centre!r}; expected one of {CENTRES}")
  w = 3 * c
  tokens = middle[:, None] - w // 2 + np.arange(w)
  valid = (tokens >= 0) & (tokens < a)
  return Windows(np.clip(tokens, 0, a - 1), valid)


def frame_groups(t: int, a: int) -> Groups:
  """The audio tokens of every latent frame: token j belongs to floor(j t / a)."""
  frame = np.arange(a) * t // a
  first = np.searchsorted(frame, np.arange(t))
  size = np.bincount(frame, minlength=t)
  slot = np.arange(size.max())
  index = np.minimum(first[:, None] + slot, a - 1)
  place = frame * len(slot) + np.arange(a) - first[frame]
  return Groups(index, slot < size[:, None], place)


def audio_time(t: int, a: int) -> np.ndarray:
  """Latent-frame time of every audio token, j t / a."""
  return np.arange(a) * (t / a)


def to_windows(
  x: Float[Array, "b a n d"], windows: Windows
) -> Float[Array, "b t w n d"]:
  """The audio tokens that each latent frame sees, w of them; mask by `valid`."""
  return x[:, windows.index]


def to_groups(x: Float[Array, "b a n d"], groups: Groups) -> Float[Array, "b t g n d"]:
  """The audio tokens of each latent frame, padded to g by repeating tokens."""
  return x[:, groups.index]


def from_groups(x: Float[Array, "b t g c"], groups: Groups) -> Float[Array, "b a c"]:
  """The audio tokens in their order, without padding: the inverse of `to_groups`."""
  b, t, g, c = x.shape
  return x.reshape(b, t * g, c)[:, groups.place]
