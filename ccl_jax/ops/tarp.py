"""Temporally aligned partitioning: which tokens of the other stream a token may see.

With t latent frames and a audio tokens. A causal video codec makes latent frame 0 of
one picture and every later one of four, so a clip has F = 4 t - 3 pictures. Time is
counted in pictures from the clip's begin, each of which stands for its whole period:

  "causal"   latent frame i >= 1 lasts from 4 i - 3 to 4 i + 1, frame 0 from 0 to 1: its
             middle is 4 i - 1, or 1/2. Token j lies at f_j = (j + 1/2) F / a.
  "uniform"  the paper's (section 4.1): latent frames of equal length, token j at
             j t / a of them.

  audio to video  a frame sees w tokens around its middle, `window` times the c of one
      "causal"    c = ceil(4 a / F); the tokens whose middles are within w / 2 of the
                  frame's. At window 1 each token is in the window of its own frame
      "uniform"   c = floor(a / t); tokens m_i - floor(w/2) .. m_i + ceil(w/2) - 1
         "aligned"  m_i = floor((i + 1/2) a / t)
         "floor"    m_i = floor(c / 2) + c i, the paper's literal form: equal when t
                    divides a, and drifting early by up to a second when it does not
  video to audio  a token sees the s tokens of the frame that it lies in, or of some
                  frames around it: floor((f_j + 3) / 4), or floor(j t / a)

Both are a batch of frames: queries (b, t, q, n, d) against keys (b, t, k, n, d). The
audio tokens of one frame are contiguous, so video keys are never repeated: the queries
are padded to g per frame instead. Index tables are numpy, static for a clip's sizes.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int

TIMES = ("causal", "uniform")
CENTRES = ("aligned", "floor")


class Windows(NamedTuple):
  """Tokens, or frames, that each frame sees; `valid` is False outside the clip."""

  index: Int[np.ndarray, "t w"]
  valid: Bool[np.ndarray, "t w"]


class Groups(NamedTuple):
  """Audio tokens gathered by their nearest frame, padded to g, and the way back."""

  index: Int[np.ndarray, "t g"]
  valid: Bool[np.ndarray, "t g"]
  place: Int[np.ndarray, "a"]  # of token j in the flattened (t g)


def audio_windows(
  t: int, a: int, times: str = "causal", centre: str = "aligned", window: int = 1
) -> Windows:
  """The audio tokens that every latent frame sees.

  Args:
    times: of `TIMES`.
    centre: of `CENTRES`, for "uniform" times.
    window: width, in multiples of the tokens of one frame.

  Raises:
    ValueError: an unknown rule; or "uniform" times, and fewer tokens than frames.
  """
  i = np.arange(t)
  if _causal(times):
    pictures = 4 * t - 3
    w = window * min(-(-4 * a // pictures), a)
    middle = np.maximum(8 * i - 2, 1)  # in half pictures
    # ceil(middle a / (2 F) - w / 2 - 1 / 2), the middle being in tokens then
    first = -(((w + 1) * pictures - middle * a) // (2 * pictures))
  else:
    c = a // t
    if c < 1:
      raise ValueError(
        f"got {a} audio tokens for {t} latent frames; expected at least {t}"
      )
    w = window * c
    if centre == "aligned":
      middle = (2 * i + 1) * a // (2 * t)
    elif centre == "floor":
      middle = c // 2 + c * i
    else:
      raise ValueError(f"unknown tarp centre {centre!r}; expected one of {CENTRES}")
    first = middle - w // 2
  return _inside(first[:, None] + np.arange(w), a)


def frame_windows(t: int, window: int) -> Windows:
  """The frames i - window // 2 .. i + window // 2 around every latent frame i."""
  return _inside(np.arange(t)[:, None] + np.arange(window) - window // 2, t)


def frame_groups(t: int, a: int, times: str = "causal") -> Groups:
  """The audio tokens of every latent frame."""
  j = np.arange(a)
  frame = j * t // a
  if _causal(times):
    frame = ((2 * j + 1) * (4 * t - 3) // (2 * a) + 3) // 4
  first = np.searchsorted(frame, np.arange(t))
  size = np.bincount(frame, minlength=t)
  slot = np.arange(size.max())
  index = np.minimum(first[:, None] + slot, a - 1)
  place = frame * len(slot) + np.arange(a) - first[frame]
  return Groups(index, slot < size[:, None], place)


def audio_time(t: int, a: int, times: str = "causal") -> np.ndarray:
  """Time of every audio token in latent frames, that of frame i being i.

  Frame i lasts from i - 1/2 to i + 1/2 if times are causal: (f_j + 1) / 4, and
  f_j - 1/2 within frame 0. Otherwise j t / a.
  """
  if not _causal(times):
    return np.arange(a) * (t / a)
  f = (np.arange(a) + 0.5) * ((4 * t - 3) / a)
  return np.where(f < 1, f - 0.5, (f + 1) / 4)


def tokens_per_frame(t: int, a: int, times: str = "causal") -> float:
  """Audio tokens that a latent frame lasts: 4 a / F, or a / t."""
  return 4 * a / (4 * t - 3) if _causal(times) else a / t


def _causal(times: str) -> bool:
  if times not in TIMES:
    raise ValueError(f"unknown times {times!r}; expected one of {TIMES}")
  return times == "causal"


def _inside(index: Int[np.ndarray, "t w"], n: int) -> Windows:
  """Indices into n tokens or frames, those outside masked."""
  return Windows(np.clip(index, 0, n - 1), (index >= 0) & (index < n))


def to_windows(
  x: Float[Array, "b a n d"], windows: Windows
) -> Float[Array, "b t w n d"]:
  """The audio tokens that each latent frame sees, w of them; mask by `valid`."""
  return x[:, windows.index]


def to_neighbours(
  x: Float[Array, "b t s n d"], windows: Windows
) -> Float[Array, "b t k n d"]:
  """Every frame's tokens and its neighbours', the frames of one place side by side:
  what is spread over devices by place stays where it is.
  """
  b, t, _, *rest = x.shape
  return x[:, windows.index].swapaxes(2, 3).reshape(b, t, -1, *rest)


def to_groups(x: Float[Array, "b a n d"], groups: Groups) -> Float[Array, "b t g n d"]:
  """The audio tokens of each latent frame, padded to g by repeating tokens."""
  return x[:, groups.index]


def from_groups(x: Float[Array, "b t g c"], groups: Groups) -> Float[Array, "b a c"]:
  """The audio tokens in their order, without padding: the inverse of `to_groups`."""
  b, t, g, c = x.shape
  return x.reshape(b, t * g, c)[:, groups.place]
