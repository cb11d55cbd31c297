"""Scores of talking scenes, generated or real: are picture, sound and caption one?

  sync_r0, sync_lag_ms, lag_..._ms: mouths against voices (`synchrony`)
  event_f1        = syllables seen against syllables heard, their middles within 60 ms
  right_face      = of two faces, does the one whose pitch is heard follow the voice
                    better than the other
  listener_motion = how much a face's mouth moves while the voice is off screen, the
                    curve's standard deviation
  impact_f1       = contacts against clicks, 40 ms
  ser             = syllable edits / syllables quoted
  hue_error, place_error, face_missing (`talking_layout`)

What a caption names decides which scores apply: those of speech need a talker in the
picture, that of impacts a ball. Synchrony is scored where the talker's face is found,
and `face_missing` tells how often it is not; a mouth that does not move has r = 0.

Nothing is scored of a stream that was given: no words of a given sound, no layout and
no stillness of a given picture. Where a given stream's events are known exactly they
are what the other one's are held against.
"""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from ccl_jax.metrics.base import Unscorable
from ccl_jax.metrics.synchrony import Row, means, summary, synchrony, with_lags
from ccl_jax.metrics.talking_curves import (
  HOP,
  RATE,
  WINDOW,
  Audio,
  Video,
  click_times,
  contact_times,
  main_pitch,
  middles,
  mouth_curve,
  syllables_heard,
  voice_curves,
)
from ccl_jax.metrics.talking_layout import layout_error, read_caption
from ccl_jax.metrics.wer import edits

FALSE_QUOTES = ("contradiction",)  # kinds of the bench that say other words than quoted
# What a score is of, and the stream that, where it was given, leaves nothing to score.
KINDS = {
  "speech": None,
  "words": "audio",
  "stillness": "video",
  "impacts": None,
  "layout": "video",
}


def f1(seen: list[float], heard: list[float], tolerance: float) -> float:
  """F1 of times seen and times heard, each matched once, in seconds."""
  left, total, hits = list(heard), len(heard) + len(seen), 0
  for t in seen:
    close = [c for c in left if abs(c - t) <= tolerance]
    if close:
      left.remove(min(close, key=lambda c, t=t: abs(c - t)))
      hits += 1
  return 2 * hits / total if total else 0.0


def impact_f1(
  contacts: list[float],
  clicks: list[float],
  *,
  frames: int,
  fps: float | int,
  tolerance: float = 0.04,
) -> float:
  """F1 of contacts seen and clicks heard. The first and the last frames do not count:
  no flight can be seen on both sides of them.
  """
  first, last = 2.5 / fps, (frames - 3.5) / fps
  inside = lambda times: [t for t in times if first < t < last]
  return f1(inside(contacts), inside(clicks), tolerance)


def event_f1(seen: list[float], heard: list[float], tolerance: float = 0.06) -> float:
  """F1 of the middles of syllables seen and heard."""
  return f1(seen, heard, tolerance)


class Speaker(NamedTuple):
  """A voice of a clip, and the face it belongs to.

  Attributes:
    quoted, heard: syllables of the caption, and of the sound.
    voice: its curve.
    mouth: the curve of its face; None where there is no such face.
    rival: of the other face, where the caption leaves open which one talks.
    seen_at, heard_at: middles of the syllables in s, by the picture and the sound.
    on_screen: whether the caption has it in the picture.
  """

  quoted: list[str]
  heard: list[str]
  voice: np.ndarray
  mouth: np.ndarray | None
  rival: np.ndarray | None
  seen_at: list[float]
  heard_at: list[float]
  on_screen: bool


class Reading(NamedTuple):
  """All that the scores of a set need of one clip, read once.

  `listeners` are the mouths of the faces beside a voice off screen; `contacts` is None
  without a ball; `quotes_hold` is whether the caption quotes what its sound says.
  """

  video: Video
  text: str
  speakers: list[Speaker]
  listeners: list[np.ndarray]
  contacts: list[float] | None
  clicks: list[float]
  quotes_hold: bool


def read_clip(clip: dict, fps: float | int, given: Collection[str] = ()) -> Reading:
  """Reads the curves and the events of a clip: video, audio, text, and where it has
  them `kind` and, for a stream that was given, `events`.
  """
  video, audio, text = clip["video"], clip["audio"], clip["text"]
  actors = read_caption(text)
  faces = [a.hue for a in actors if a.kind in ("face", "talker")]
  balls = [a.hue for a in actors if a.kind == "ball"]
  talkers = [a for a in actors if a.kind not in ("face", "ball")]
  hues = [_hue_of(a.kind, a.hue, audio, faces) for a in talkers]
  voices = voice_curves(audio, hues) if hues else []
  heard = syllables_heard(audio, hues) if hues else []
  speakers = []
  for i, (a, hue, voice) in enumerate(zip(talkers, hues, voices)):
    mouth = None if a.kind == "voice" else mouth_curve(video, hue)
    others = [f for f in faces if f != hue] if a.kind == "either" else []
    truth = _exact(clip, i)
    seen_at = [] if mouth is None else middles(mouth, 1 / fps, 0.06)
    heard_at = middles(voice, HOP / RATE, 0.02)
    speaker = Speaker(
      quoted=a.syllables,
      heard=[name for h, name in heard if h == hue],
      voice=voice,
      mouth=mouth,
      rival=mouth_curve(video, others[0]) if others else None,
      seen_at=truth if "video" in given and truth is not None else seen_at,
      heard_at=truth if "audio" in given and truth is not None else heard_at,
      on_screen=a.kind != "voice",
    )
    speakers.append(speaker)
  silent = faces if any(a.kind == "voice" for a in actors) else []
  curves = [mouth_curve(video, hue) for hue in silent]
  return Reading(
    video=video,
    text=text,
    speakers=speakers,
    listeners=[c for c in curves if c is not None],
    contacts=contact_times(video, balls[0], fps) if balls else None,
    clicks=click_times(audio),
    quotes_hold=clip.get("kind") not in FALSE_QUOTES,
  )


def _hue_of(kind: str, hue: str, audio: Audio, faces: list[str]) -> str:
  """Whose voice it is: the talker's, or where the caption leaves it open by the pitch,
  among the faces of the caption or, off screen, among all.
  """
  if kind == "talker":
    return hue
  if kind == "voice" or not faces:
    return main_pitch(audio)
  return faces[int(voice_curves(audio, faces).sum(1).argmax())]


def _exact(clip: dict, index: int) -> list[float] | None:
  """The middles of a voice's syllables as they were drawn, where that is known."""
  if "events" not in clip:
    return None
  events = clip["events"]
  own = events[(events["kind"] == "syllable") & (events["index"] == index)]
  return [float(t) for t in (own["time"] + own["end"]) / 2]


def pair_scores(kind: str, seen: Reading, sounds: Reading, fps: float | int) -> Row:
  """Scores of one clip's picture with a clip's sound, its own or another's. A talker is
  scored with its own voice, or with every voice of another clip.
  """
  if kind == "layout":
    return layout_error(seen.video, sounds.text)
  if kind == "stillness":
    return means([{"listener_motion": float(c.std())} for c in seen.listeners])
  if kind == "impacts":
    found = impact_f1(seen.contacts, sounds.clicks, frames=len(seen.video), fps=fps)
    return {"impact_f1": found}
  pairs = [
    (a, b)
    for i, a in enumerate(seen.speakers)
    for j, b in enumerate(sounds.speakers)
    if i == j or seen is not sounds
  ]
  if kind == "words":
    wrong = sum(edits(a.quoted, b.heard).total for a, b in pairs)
    return {"ser": wrong / sum(len(a.quoted) for a, _ in pairs)}
  return means([_speech(a, b, fps) for a, b in pairs if a.mouth is not None])


def _speech(seen: Speaker, sounds: Speaker, fps: float | int) -> Row:
  row = synchrony(seen.mouth, sounds.voice, fps)
  row["event_f1"] = event_f1(seen.seen_at, sounds.heard_at)
  if seen.rival is not None:
    rival = synchrony(seen.rival, sounds.voice, fps)["sync_r0"]
    row["right_face"] = float(row["sync_r0"] > rival)
  return row


def kinds_of(reading: Reading, given: Collection[str] = ()) -> list[str]:
  """Which kinds of scores apply to a clip of which these streams were given."""
  applies = {
    "speech": any(s.on_screen for s in reading.speakers),
    "words": bool(reading.speakers) and reading.quotes_hold,
    "stillness": bool(reading.listeners),
    "impacts": reading.contacts is not None,
    "layout": True,
  }
  return [kind for kind, of in KINDS.items() if applies[kind] and of not in given]


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
  return with_lags({name: value for row in rows for name, value in row.items()})


def score_set(
  clips: list[dict],
  fps: float | int,
  rng: np.random.Generator,
  derangements: int = 8,
  given: Collection[str] = (),
) -> dict[str, dict[str, dict[str, float]]]:
  """Mean scores of clips (video, audio, text) beside chance: the same pictures with the
  sounds of other clips, and for the layout with their captions. What a face does beside
  a voice off screen has no chance.

  Args:
    given: the streams that were not generated, of which nothing is scored.

  Returns {"given": {score: {mean, sem, n}}, "chance": ...}; n counts the clips to which
  a score applies, and a clip's chance is its mean over the derangements.
  """
  readings = [read_clip(c, fps, given) for c in clips]
  return _table(readings, fps, rng, derangements, given)


def score_kinds(
  clips: list[dict],
  fps: float | int,
  rng: np.random.Generator,
  derangements: int = 8,
  given: Collection[str] = (),
) -> dict[str, dict]:
  """`score_set` of all clips under "all", and of those of each `kind` of the bench."""
  groups = {"all": []}
  for clip in clips:
    reading = read_clip(clip, fps, given)
    groups["all"].append(reading)
    groups.setdefault(clip["kind"], []).append(reading)
  return {k: _table(g, fps, rng, derangements, given) for k, g in groups.items()}


def _table(readings, fps, rng, derangements, given):
  table = {"given": {}, "chance": {}}
  for kind in KINDS:
    group = [r for r in readings if kind in kinds_of(r, given)]
    order = [group[i] for i in rng.permutation(len(group))]
    shifts = range(1, min(derangements + 1, len(group)))
    rows = {"given": [pair_scores(kind, r, r, fps) for r in order], "chance": []}
    for i, seen in enumerate(order if shifts and kind != "stillness" else []):
      others = [pair_scores(kind, seen, order[i - s], fps) for s in shifts]
      rows["chance"].append(means(others))
    for name in table:
      table[name] |= summary(rows[name])
  return table
