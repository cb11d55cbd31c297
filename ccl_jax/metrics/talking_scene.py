"""Scores of talking scenes, generated or real: are picture, sound and caption one?

With m_k the mouth's curve at frame k and v(t) the voice's, both without their means,

  r(lag)      = sum_k m_k v(k / fps + lag) / (|m| |v|),   lag in [-0.4, 0.4] s
  sync_c      = max r - median r          sync_lag_ms = |argmax r|, by a parabola
  sync_r0     = r(0), their correlation   impact_f1   = contacts against clicks, 40 ms
  ser         = syllable edits / syllables quoted
  hue_error   = share of the captioned actors whose hue is absent from the picture
  place_error = how far they are from their captioned place, in frame widths

A curve that does not move has r = 0 everywhere, and the largest lag. What a caption
names decides which scores apply: those of speech need a talker, that of impacts a ball.
"""

import re
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ccl_jax.metrics.base import Unscorable
from ccl_jax.metrics.talking_curves import (
  HOP,
  RATE,
  WINDOW,
  Audio,
  Video,
  click_times,
  contact_times,
  hue_amount,
  mouth_curve,
  syllables_heard,
  voice_curve,
  voice_curves,
)
from ccl_jax.metrics.wer import edits

MAX_LAG = 0.4  # s
PLACES = {"on the left": 0.25, "in the middle": 0.5, "on the right": 0.75}
BALL_PLACES = {"on the left": 0.13, "in the middle": 0.5, "on the right": 0.87}


class Actor(NamedTuple):
  """Someone or something a caption names; only talkers have syllables."""

  kind: str
  hue: str
  place: str
  syllables: list[str]


def read_caption(text: str) -> list[Actor]:
  """The actors of a caption, in its order."""
  pattern = r'a (\w+) (face|ball) (?:bounces )?(\w+ the \w+)(?: says "([a-z ]*)")?'
  return [
    Actor("talker" if said else kind, hue, place, said.split())
    for hue, kind, place, said in re.findall(pattern, text)
  ]


def correlogram(
  mouth: Float[np.ndarray, " F"], voice: Float[np.ndarray, " i"], fps: float | int
) -> tuple[Float[np.ndarray, " lags"], Float[np.ndarray, " lags"]]:
  """Lags every 10 ms and r(lag), zeros where a curve does not move."""
  lags = np.arange(-MAX_LAG, MAX_LAG + 1e-9, 0.01)
  times = np.arange(len(mouth)) / fps
  clock = np.arange(len(voice)) * HOP / RATE
  m, v = mouth - mouth.mean(), np.interp(times, clock, voice)
  if mouth.std() < 0.01 or v.std() < 0.004:
    return lags, np.zeros(len(lags))
  shifted = times + lags[:, None]
  moved = np.interp(shifted, clock, voice - v.mean(), left=0, right=0)
  return lags, moved @ m / (np.linalg.norm(m) * np.linalg.norm(v - v.mean()))


def synchrony(
  mouth: Float[np.ndarray, " F"], voice: Float[np.ndarray, " i"], fps: float | int
) -> dict[str, float]:
  """The three scores of one mouth and one voice."""
  lags, r = correlogram(mouth, voice, fps)
  k = int(r[1:-1].argmax()) + 1
  bend = 2 * r[k] - r[k - 1] - r[k + 1]
  lag = lags[k] + 0.005 * (r[k + 1] - r[k - 1]) / bend if bend > 0 else lags[r.argmax()]
  return {
    "sync_c": float(r.max() - np.median(r)),
    "sync_lag_ms": float(1000 * min(abs(lag), MAX_LAG)),
    "sync_r0": float(r[len(r) // 2]),
  }


def sync_scores(
  video: Video, audio: Audio, fps: float | int, text: str = ""
) -> dict[str, float]:
  """Synchrony of a clip, the mean over the talkers that the caption names; where it
  names none, of the picture's largest hue with the sound's strongest pitch.
  """
  hues = [a.hue for a in read_caption(text) if a.kind == "talker"]
  voices = voice_curves(audio, hues) if hues else [voice_curve(audio)]
  mouths = [mouth_curve(video, h) for h in hues or [None]]
  return _mean([synchrony(m, v, fps) for m, v in zip(mouths, voices)])


def impact_f1(
  contacts: list[float],
  clicks: list[float],
  *,
  frames: int,
  fps: float | int,
  tolerance: float = 0.04,
) -> float:
  """F1 of contacts seen and clicks heard, each matched once. The first and the last
  frames do not count: no flight can be seen on both sides of them.
  """
  first, last = 2.5 / fps, (frames - 3.5) / fps
  left = [t for t in clicks if first < t < last]
  seen = [t for t in contacts if first < t < last]
  total, hits = len(left) + len(seen), 0
  for t in seen:
    close = [c for c in left if abs(c - t) <= tolerance]
    if close:
      left.remove(min(close, key=lambda c, t=t: abs(c - t)))
      hits += 1
  return 2 * hits / total if total else 0.0


def ser(audio: Audio, text: str) -> float:
  """Syllable error rate of the voices against the syllables that the caption quotes,
  over all talkers; NaN without a talker.
  """
  talkers = [a for a in read_caption(text) if a.kind == "talker"]
  if not talkers:
    return float("nan")
  heard = syllables_heard(audio, [a.hue for a in talkers])
  wrong = [edits(a.syllables, [n for h, n in heard if h == a.hue]) for a in talkers]
  return sum(x.total for x in wrong) / sum(len(a.syllables) for a in talkers)


def layout_error(video: Video, text: str) -> dict[str, float]:
  """Hue and place of the actors against the caption. An actor is absent where the
  picture holds less than 0.2 of its hue as its size demands; then it counts as half a
  frame out of place.
  """
  actors, errors = read_caption(text), []
  height, width = video.shape[1:3]
  for a in actors:
    radius = 0.11 if a.kind == "ball" else 0.24
    demanded = 0.75 * np.pi * (radius * min(height, width)) ** 2
    columns = np.maximum(hue_amount(video, a.hue) - 0.1, 0).mean(0).sum(0)
    absent = columns.sum() < 0.2 * demanded
    x = columns @ (np.arange(width) + 0.5) / width / max(columns.sum(), 1e-6)
    place = (BALL_PLACES if a.kind == "ball" else PLACES)[a.place]
    off = 0.5 if absent else abs(x - place)
    errors.append({"hue_error": float(absent), "place_error": float(off)})
  return _mean(errors)


class Reading(NamedTuple):
  """All that the scores of a set need of one clip, read once; lists are per talker."""

  video: Video
  text: str
  quoted: list[list[str]]
  mouths: list[np.ndarray]
  voices: list[np.ndarray]
  heard: list[list[str]]
  contacts: list[float] | None  # None without a ball
  clicks: list[float]


def read_clip(clip: dict, fps: float | int) -> Reading:
  """Reads the curves and the events of a clip (video, audio, text)."""
  video, audio, text = clip["video"], clip["audio"], clip["text"]
  talkers = [a for a in read_caption(text) if a.kind == "talker"]
  balls = [a.hue for a in read_caption(text) if a.kind == "ball"]
  hues = [a.hue for a in talkers]
  heard = syllables_heard(audio, hues) if hues else []
  return Reading(
    video=video,
    text=text,
    quoted=[a.syllables for a in talkers],
    mouths=[mouth_curve(video, h) for h in hues],
    voices=list(voice_curves(audio, hues)) if hues else [],
    heard=[[name for h, name in heard if h == hue] for hue in hues],
    contacts=contact_times(video, balls[0], fps) if balls else None,
    clicks=click_times(audio),
  )


def pair_scores(
  kind: str, seen: Reading, sounds: Reading, fps: float | int
) -> dict[str, float]:
  """Scores of one clip's picture with a clip's sound, its own or another's. A talker is
  scored with its own voice, or with every voice of another clip.
  """
  if kind == "layout":
    return layout_error(seen.video, sounds.text)
  if kind == "impacts":
    f1 = impact_f1(seen.contacts, sounds.clicks, frames=len(seen.video), fps=fps)
    return {"impact_f1": f1}
  talkers, voices = range(len(seen.mouths)), range(len(sounds.voices))
  pairs = [(i, j) for i in talkers for j in voices if i == j or seen is not sounds]
  scores = _mean([synchrony(seen.mouths[i], sounds.voices[j], fps) for i, j in pairs])
  wrong = sum(edits(seen.quoted[i], sounds.heard[j]).total for i, j in pairs)
  return scores | {"ser": wrong / sum(len(seen.quoted[i]) for i, _ in pairs)}


def kinds_of(reading: Reading) -> list[str]:
  """Which kinds of scores apply to a clip."""
  kinds = {"speech": bool(reading.mouths), "impacts": reading.contacts is not None}
  return [kind for kind, applies in kinds.items() if applies] + ["layout"]


def score(video: Video, audio: Audio, text: str, fps: float | int) -> dict[str, float]:
  """All scores that apply to one clip.

  Raises:
    Unscorable: the caption names no actor, or the clip is too short.
  """
  if not read_caption(text):
    raise Unscorable("its prompt is no caption of a talking scene")
  if len(video) < 3 or len(audio) < WINDOW:
    raise Unscorable(
      f"{len(video)} frames and {len(audio) / RATE:.2f} s of sound; expected 3 frames "
      f"and {WINDOW / RATE} s at least"
    )
  reading = read_clip({"video": video, "audio": audio, "text": text}, fps)
  rows = [pair_scores(kind, reading, reading, fps) for kind in kinds_of(reading)]
  return {name: value for row in rows for name, value in row.items()}


def score_set(
  clips: list[dict], fps: float | int, rng: np.random.Generator, derangements: int = 8
) -> dict[str, dict[str, dict[str, float]]]:
  """Mean scores of clips (video, audio, text) beside chance: the same pictures with the
  sounds of other clips, and for the layout with their captions.

  Returns {"given": {score: {mean, sem, n}}, "chance": ...}; n counts the clips to which
  a score applies, and a clip's chance is its mean over the derangements.
  """
  readings = [read_clip(c, fps) for c in clips]
  groups = {
    kind: [r for r in readings if kind in kinds_of(r)]
    for kind in ("speech", "impacts", "layout")
  }
  table = {"given": {}, "chance": {}}
  for kind, group in groups.items():
    order = [group[i] for i in rng.permutation(len(group))]
    shifts = range(1, min(derangements + 1, len(group)))
    rows = {"given": [pair_scores(kind, r, r, fps) for r in order], "chance": []}
    for i, seen in enumerate(order if shifts else []):
      others = [pair_scores(kind, seen, order[i - s], fps) for s in shifts]
      rows["chance"].append(_mean(others))
    for name in table:
      table[name] |= _summary(rows[name])
  return table


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
  return {k: float(np.mean([r[k] for r in rows])) for k in rows[0]} if rows else {}


def _summary(rows: list[dict[str, float]]) -> dict[str, dict[str, float]]:
  n = len(rows)
  return {
    k: {"mean": m, "sem": float(np.std([r[k] for r in rows]) / max(n - 1, 1) ** 0.5)}
    | {"n": n}
    for k, m in _mean(rows).items()
  }
