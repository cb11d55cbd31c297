"""What is heard and seen where the parts of a long clip meet, beside their insides.

Of a clip of talking scenes, at instants where parts meet and at instants half-way
between these:

  lag     how late the sound is, in the span of a trained clip around the instant: the
          summit of the mean correlation of mouth and voice (metrics/synchrony.py), with
          that correlation at lag 0
  colour  |mean colour of the 4 frames before - of the 4 after|, mean over the channels,
          of 255
  picture mean |frame k - frame k - 1| at the instant, of 255
  level   |dB of the 0.25 s of sound before - of those after|, silence being -60 dB

What moves or speaks has such steps everywhere: a join is good where it has no more than
the insides. And of the clip as a whole

  drift   |mean colour of its first frames - of its last|, as many as a trained clip has
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from ccl_jax.metrics.synchrony import LAGS, R, lag_of, pooled_lags, synchrony
from ccl_jax.metrics.talking_curves import HOP, RATE, mouth_curve, voice_curves

COLOURED, LEVEL = 4, 0.25  # frames, seconds on either side
QUIET = 1e-3

Video = UInt8[np.ndarray, "F H W 3"]
Audio = Float[np.ndarray, " n"]


class Clip(NamedTuple):
  """A long clip of a talking face.

  Attributes:
    video, audio: what is seen, RGB, and heard, at 16 kHz.
    hue: of the face.
    joins: frames that are the first after a join.
  """

  video: Video
  audio: Audio
  hue: str
  joins: Sequence[int]


def insides(joins: Sequence[int], frames: int) -> list[int]:
  """The frames half-way between joins, and between these and the clip's ends: of as
  many, the next that is as far from the beginning of a latent frame as a join is, since
  pictures differ more from one latent frame to the next than within.

  Args:
    joins: frames.
    frames: of the clip.
  """
  ends = [0, *joins, frames]
  middles = [(a + b) // 2 for a, b in itertools.pairwise(ends)]
  phases = [*joins, joins[-1]]
  return [x + (join - x) % 4 for x, join in zip(middles, phases)]


def steps_at(clip: Clip, at: int, fps: float) -> dict[str, float]:
  """The steps of picture and sound at a frame: see the module."""
  before, after = (
    clip.video[max(at - COLOURED, 0) : at],
    clip.video[at : at + COLOURED],
  )
  mean = lambda x: x.mean((0, 1, 2), dtype=np.float64)
  sample, width = round(at / fps * RATE), round(LEVEL * RATE)
  level = lambda x: 20 * np.log10(max(float(np.sqrt(np.mean(x**2))), QUIET))
  sound = clip.audio[max(sample - width, 0) : sample], clip.audio[sample:][:width]
  last, first = clip.video[at - 1].astype(np.float64), clip.video[at]
  return {
    "colour": float(np.abs(mean(after) - mean(before)).mean()),
    "picture": float(np.abs(first - last).mean()),
    "level dB": abs(level(sound[1]) - level(sound[0])),
  }


def span_at(clip: Clip, at: int, frames: int, fps: float) -> dict | None:
  """`metrics.synchrony.synchrony` of the span of so many frames around a frame; None
  where the clip does not reach, or no face is.
  """
  first = at - frames // 2
  if first < 0 or first + frames > len(clip.video):
    return None
  mouth = mouth_curve(clip.video[first : first + frames], clip.hue)
  if mouth is None:
    return None
  samples = [round(x / fps * RATE) // HOP * HOP for x in (first, first + frames)]
  voice = voice_curves(clip.audio[samples[0] : samples[1]], [clip.hue])[0]
  return synchrony(mouth, voice, fps)


def seams(clips: Sequence[Clip], frames: int, fps: float) -> dict[str, float]:
  """Means over all joins of clips, and over their insides.

  Args:
    clips: of talking faces.
    frames: of a trained clip.
    fps: frames per second.

  Returns:
    {"drift", "STEP join", "STEP inside"} of each step, {"r0 ...", "lag ms ...",
    "lag sem ..."}; a lag that has no summit is not there.
  """
  colour = lambda x: x.mean((0, 1, 2), dtype=np.float64)
  ends = [(colour(c.video[:frames]), colour(c.video[-frames:])) for c in clips]
  out = {"drift": float(np.mean([np.abs(a - b).mean() for a, b in ends]))}
  of = {"join": lambda c: c.joins, "inside": lambda c: insides(c.joins, len(c.video))}
  for where, places in of.items():
    rows = [steps_at(c, at, fps) for c in clips for at in places(c)]
    for name in rows[0]:
      out[f"{name} {where}"] = float(np.mean([row[name] for row in rows]))
    spans = [span_at(c, at, frames, fps) for c in clips for at in places(c)]
    r = np.stack([span[R] for span in spans if span is not None] or [_NONE])
    out[f"r0 {where}"] = float(r[:, 0, len(LAGS) // 2].mean())
    lag = lag_of(r[:, 0].mean(0))
    if lag is not None:
      out[f"lag ms {where}"] = lag
      pooled = pooled_lags(r).get("sync_lag_ms")
      if pooled is not None:
        out[f"lag sem {where}"] = pooled["sem"]
  return out


_NONE = np.zeros((4, len(LAGS)))
