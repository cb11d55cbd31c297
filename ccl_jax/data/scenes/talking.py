"""The talking scene: synthetic clips whose sound and picture are synchronous exactly.

One seed draws everything. A face of some hue, somewhere, says syllables: frame k shows
its mouth open by e(k / fps), the amplitude of its voice at that time (talking_voice).
A ball bounces under gravity and clicks at each contact. A drifting texture, grey shapes
and a second face that mimes are there to mislead: nothing in the sound follows them.
The caption says who, where and what: `a red face on the left says "ba do ba", a blue
face on the right mimes, a green ball bounces in the middle`.

Units: times in seconds; places in fractions of the frame's width and height, lengths in
fractions of its shorter side, speeds in frame heights per second, y downwards.
"""

import hashlib
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32

from ccl_jax.data.scenes import picture as talking_picture
from ccl_jax.data.scenes import voice as talking_voice
from ccl_jax.data.scenes.picture import Ball, Face
from ccl_jax.data.scenes.voice import HUES, Syllable
from ccl_jax.data.spec import SAMPLES_PER_TOKEN, ClipSpec
from ccl_jax.errors import UsageError

PLACES = {"on the left": 0.25, "in the middle": 0.5, "on the right": 0.75}
BALL_PLACES = {"on the left": 0.13, "in the middle": 0.5, "on the right": 0.87}
EVENT = np.dtype([("time", "f8"), ("end", "f8"), ("kind", "U8"), ("index", "i4")])
RADIUS = 0.24  # of a face
TEST_SHARE = 4  # one combination in four is held out for the test split


class Scene(NamedTuple):
  """What a clip shows and lets hear: faces that talk, faces whose mouths are not heard,
  balls, and faces that are heard but not shown.
  """

  talkers: list[Face]
  mimes: list[Face]
  balls: list[Ball]
  unseen: list[Face] = []

  @property
  def voices(self) -> list[Face]:
    """All that are heard, those that are seen first."""
    return [*self.talkers, *self.unseen]

  def spoken(self) -> list[Syllable]:
    """What is heard of all voices, in the order of the onsets."""
    return sorted((s for f in self.voices for s in f.syllables), key=lambda s: s.onset)

  def events(self, until: float) -> np.ndarray:
    """Onset, end, kind and actor of every sound that starts before `until`."""
    rows = [
      (s.onset, s.end, "syllable", i)
      for i, face in enumerate(self.voices)
      for s in face.syllables
    ] + [
      (time, time + 4 * talking_voice.CLICK_DECAY, "contact", i)
      for i, ball in enumerate(self.balls)
      for time, _ in ball.contacts
    ]
    return np.array(sorted(r for r in rows if r[0] < until), EVENT)

  def clauses(self) -> list[str]:
    """The caption's parts, the talkers' first."""
    quotes = [" ".join(s.name for s in f.syllables) for f in self.talkers]
    says = [
      f'a {f.hue} face {f.place} says "{q}"' for f, q in zip(self.talkers, quotes)
    ]
    mimes = [f"a {f.hue} face {f.place} mimes" for f in self.mimes]
    return says + mimes + [f"a {b.hue} ball bounces {b.place}" for b in self.balls]

  def split(self) -> str:
    """Where the scene belongs: by a hash of who says what and where, or of the ball
    where nobody speaks, so the splits share no such combination.
    """
    return split_of(
      ", ".join(self.clauses()[: len(self.talkers)] or self.clauses()[-1:])
    )


def split_of(combination: str) -> str:
  """Where all clips of a combination of who says what and where belong."""
  digest = hashlib.blake2s(combination.encode()).digest()
  return "train" if digest[0] % TEST_SHARE else "test"


def draw_scene(
  rng: np.random.Generator,
  spec: ClipSpec,
  *,
  talker: float,
  duet: float,
  distractor: float,
  impacts: float,
  jitter: float,
) -> Scene:
  """Draws the actors; the probabilities are those of `draw_clip`."""
  hues = [str(h) for h in rng.permutation(list(HUES))]
  heard = spec.samples / spec.sample_rate
  spoken = talking_voice.utterance(rng, heard) if rng.random() < talker else []
  turns = np.zeros(len(spoken), int)
  if len(spoken) > 1 and rng.random() < duet:
    turns = rng.permutation(np.arange(len(spoken)) % 2)
  parts = [[s for s, t in zip(spoken, turns) if t == i] for i in np.unique(turns)]
  talkers = len(parts)
  if talkers < 2 and rng.random() < distractor:
    parts.append(talking_voice.utterance(rng, heard))
  places = [str(p) for p in rng.permutation(list(PLACES))]
  if len(parts) == 2:  # side by side, the middle last: it is free for a ball
    places = sorted(places, key="in the middle".__eq__)
  faces = []
  for hue, place, said in zip(hues, places, parts):
    dx, dy, grow = jitter * rng.uniform(-1, 1, 3)
    x, radius = PLACES[place] + 0.2 * dx, RADIUS * (1 + grow)
    faces.append(Face(hue, place, x, 0.5 + dy, radius, said))
  balls = []
  if rng.random() < impacts or not talkers:
    place = places[2]
    x = BALL_PLACES[place]
    balls = [talking_picture.throw(rng, hues[2], place, x, spec.seconds)]
  return Scene(faces[:talkers], faces[talkers:], balls)


def draw_clip(
  seed: int,
  spec: ClipSpec,
  split: str = "train",
  *,
  talker: float = 0.9,
  duet: float = 0.15,
  distractor: float = 0.3,
  impacts: float = 0.3,
  jitter: float = 0.08,
  shapes: float = 0.5,
  texture: float = 0.04,
  noise: float = 0.005,
) -> dict[str, Any]:
  """Draws one clip, the same for the same arguments.

  Probabilities: of a talker (else there is a ball), of two talkers who take turns, of a
  second face that mimes, of a ball beside a talker, of each of two drifting squares.
  `jitter` moves faces up or down by up to that share of the frame, a fifth of it
  sideways, and scales them by up to that much; at 0 they stand at three places.
  Levels: contrast of the texture, rms of the noise (a voice's is 0.16 at its peak).

  Returns `video` uint8 (F, H, W, 3), `audio` float32 (n,), `text`, `id`, and for
  analysis `events` (time, end, kind "syllable" or "contact", index of the talker or
  ball), `syllables` in the order spoken, `mouth` float32 (talkers, F), and the masks of
  the foreground, `video_mask` (t, H / 8, W / 8) per pixel of the latent and
  `audio_mask` (a,) per token.
  """
  if split not in ("train", "test"):
    raise UsageError(f"split must be 'train' or 'test', got {split!r}")
  rng = np.random.default_rng([seed, split == "test"])
  scene = None
  while scene is None or scene.split() != split:
    scene = draw_scene(
      *(rng, spec),
      talker=talker,
      duet=duet,
      distractor=distractor,
      impacts=impacts,
      jitter=jitter,
    )
  about = {"text": ", ".join(scene.clauses()), "id": f"talking-{split}-{seed}"}
  made = film(rng, spec, scene, shapes=shapes, texture=texture, noise=noise)
  return made | about | {"mouth": openings(scene.talkers, spec)}


def film(
  rng: np.random.Generator,
  spec: ClipSpec,
  scene: Scene,
  *,
  shapes: float,
  texture: float,
  noise: float,
) -> dict[str, Any]:
  """Picture and sound of a scene: `video`, `audio`, `events`, `syllables` and the masks
  of what sounds; the keywords are those of `draw_clip`.
  """
  frame_times = np.arange(spec.frames) / float(spec.rate)
  times = np.arange(spec.samples) / spec.sample_rate

  canvas = talking_picture.texture(rng, spec, frame_times, texture)
  painter = talking_picture.Painter(spec, canvas)
  for _ in range(rng.binomial(2, shapes)):
    painter.square(rng, frame_times)
  for face in scene.mimes:
    painter.face(face, frame_times)
  seen = [painter.face(face, frame_times) for face in scene.talkers]
  seen += [painter.ball(ball, frame_times) for ball in scene.balls]

  audio = noise * talking_voice.background(rng, times, spec.sample_rate)
  for face in scene.voices:
    audio += talking_voice.voice(face.syllables, face.hue, times)
  for ball in scene.balls:
    audio += talking_voice.clicks(ball.contacts, ball.hue, times)

  events = scene.events(times[-1])
  return {
    "video": (255 * painter.canvas.clip(0, 1) + 0.5).astype(np.uint8),
    "audio": audio.clip(-1, 1).astype(np.float32),
    "events": events,
    "syllables": [s.name for s in scene.spoken()],
    "video_mask": seen_pixels(seen, spec),
    "audio_mask": heard_tokens(events, spec),
  }


def openings(faces: list[Face], spec: ClipSpec) -> Float32[np.ndarray, "faces F"]:
  """How far the mouths are open at every frame, 0 to 1."""
  times = np.arange(spec.frames) / float(spec.rate)
  rows = [talking_voice.envelope(f.syllables, times) for f in faces]
  return np.float32(rows).reshape(-1, spec.frames)


def seen_pixels(coverages: list, spec: ClipSpec) -> Bool[np.ndarray, "t h w"]:
  """Whether an actor that sounds covers a twentieth of a latent pixel: of a square of
  `spec.stride` pixels of frame 0, then of four frames each.
  """
  n = spec.stride
  rows, columns = spec.height // n, spec.width // n
  seen = np.zeros((spec.frames, rows, columns), np.float32)
  for c in coverages:
    seen = np.maximum(seen, c.reshape(-1, rows, n, columns, n).mean((2, 4)))
  later = seen[1:].reshape(-1, 4, rows, columns).mean(1)
  return np.concatenate([seen[:1], later]) > 0.05


def heard_tokens(events: np.ndarray, spec: ClipSpec) -> Bool[np.ndarray, " a"]:
  """Whether a syllable or a click sounds within a token's 32 ms."""
  start = np.arange(spec.audio_tokens)[:, None] * SAMPLES_PER_TOKEN / spec.sample_rate
  end = start + SAMPLES_PER_TOKEN / spec.sample_rate
  return ((events["time"] < end) & (events["end"] > start)).any(1)
