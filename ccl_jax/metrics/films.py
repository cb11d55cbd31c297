"""Synchrony of any film: does the picture move when the sound is loud?

  motion_k   = mean |frame k - frame k-1|, over its mean in the clip
  loudness   = rms of the sound every 5 ms, over its mean in the clip

and their correlation over lags, as talking scenes are scored. It is weak evidence (a
speaker's lips are a small part of a picture) but needs no network, no face and no
caption; read it beside chance, the same pictures with other clips' sounds.
"""

import itertools

import numpy as np
from jaxtyping import Float

from ccl_jax.metrics.base import Unscorable
from ccl_jax.metrics.synchrony import means, summary, synchrony, with_lags
from ccl_jax.metrics.talking_curves import RATE, WINDOW, Audio, Video, spectrogram


def motion_curve(video: Video) -> Float[np.ndarray, " F"]:
  """Change from the frame before, relative to the clip's mean; the first frame's is
  that of the second.
  """
  pairs = itertools.pairwise(video)  # one at a time: a film is large
  change = [np.abs(np.subtract(b, a, dtype=np.int16)).mean() for a, b in pairs]
  curve = np.concatenate([change[:1], change]) / 255
  return curve / (curve.mean() + 1e-4)


def loudness_curve(audio: Audio) -> Float[np.ndarray, " i"]:
  """Root mean square amplitude every 5 ms, relative to the clip's mean."""
  rms = np.sqrt(spectrogram(audio).sum(1))
  return rms / (rms.mean() + 1e-4)


def score(video: Video, audio: Audio, fps: float | int) -> dict[str, float]:
  """`sync_r0` of one clip, and the lags that it has.

  Raises:
    Unscorable: it is too short.
  """
  if len(video) < 2 or len(audio) < WINDOW:
    raise Unscorable(
      f"{len(video)} frames and {len(audio) / RATE:.2f} s of sound; expected 2 frames "
      f"and {WINDOW / RATE} s at least"
    )
  return with_lags(synchrony(motion_curve(video), loudness_curve(audio), fps))


def film_scores(
  clips: list[dict], fps: float | int, shifts: int = 8
) -> dict[str, dict[str, dict[str, float]]]:
  """Mean `sync_r0` and lags of clips (video, audio), and of the same pictures with the
  sounds of the clips up to `shifts` places before.

  Returns {"given": {score: {mean, sem, n}}, "chance": ...}; no chance of a single clip.
  """
  motions = [motion_curve(c["video"]) for c in clips]
  sounds = [loudness_curve(c["audio"]) for c in clips]
  n = len(clips)
  pairs = {"given": [[(i, i)] for i in range(n)]}
  pairs["chance"] = [
    [(i, (i - s) % n) for s in range(1, min(shifts + 1, n))] for i in range(n)
  ]
  row = lambda chosen: means([synchrony(motions[i], sounds[j], fps) for i, j in chosen])
  return {k: summary([row(c) for c in chosen]) for k, chosen in pairs.items()}
