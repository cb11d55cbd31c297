"""The talking bench: scenes in which the caption alone does not say what happens when.

Drawn with the parts of the talking scene, one kind a clip, clip i of the kind i mod n:

  plain          a face that talks: `a red face on the left says "ba do ba"`
  two_faces      two faces move their mouths, each to its own syllables, and one is
                 heard: `one of the two faces says "ba do ba", a red face on the left,
                 a blue face on the right`. Whose voice it is, its pitch says: every
                 hue has its own (scenes/voice.py)
  off_screen     a voice of nobody in the picture, and a face with its mouth shut: `a
                 voice off screen says "ba do", a red face on the left is silent`
  half_silent    a face that talks in the first or the second half of the clip only; the
                 caption does not say in which
  small          `a small red face ...`: half the radius, a quarter of the area
  contradiction  as plain, but picture and sound have two syllables more or less than
                 the caption quotes, and other ones: who follows the text is wrong

Time of every syllable is exact: `events`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from ccl_jax.data.scenes import voice as talking_voice
from ccl_jax.data.scenes.picture import Face, Painter
from ccl_jax.data.scenes.talking import (
  PLACES,
  RADIUS,
  Scene,
  film,
  openings,
  split_of,
)
from ccl_jax.data.scenes.voice import HUES, SYLLABLES, Syllable
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError

SMALL = 0.5  # of a face's radius
KINDS = (
  "plain",
  "two_faces",
  "off_screen",
  "half_silent",
  "small",
  "contradiction",
)


def draw_bench(
  seed: int,
  spec: ClipSpec,
  split: str = "train",
  *,
  kinds: Sequence[str] = KINDS,
  jitter: float = 0.08,
  shapes: float = 0.5,
  texture: float = 0.04,
  noise: float = 0.005,
) -> dict[str, Any]:
  """Draws one clip, the same for the same arguments; `kinds` are taken in turn.

  Returns what `talking.draw_clip` does, but `mouth` of all faces in the picture, the
  talker first, and: `kind`; `mouth_mask` bool (H, W), the pixels that the talker's
  mouth covers when it is widest (faces stand still), none where the voice is off
  screen; `mime_mask`, the same of the faces that are not heard. `events` are those of
  the voice, whose index is 0.

  Raises:
    UsageError: an unknown kind or split, or no kind.
  """
  if split not in ("train", "test"):
    raise UsageError(f"split must be 'train' or 'test', got {split!r}")
  unknown = [k for k in kinds if k not in KINDS]
  if unknown or not kinds:
    raise UsageError(f"kinds: got {list(kinds)}, expected some of {', '.join(KINDS)}")
  kind = kinds[seed % len(kinds)]
  rng = np.random.default_rng([seed, split == "test", KINDS.index(kind)])
  text = None
  while text is None or split_of(text) != split:
    scene, text = draw_scene(rng, kind, spec.samples / spec.sample_rate, jitter)
  made = film(rng, spec, scene, shapes=shapes, texture=texture, noise=noise)
  about = {"text": text, "id": f"bench-{split}-{seed}", "kind": kind}
  mouths = {
    "mouth": openings(scene.talkers + scene.mimes, spec),
    "mouth_mask": mouth_mask(scene.talkers, spec),
    "mime_mask": mouth_mask(scene.mimes, spec),
  }
  return made | about | mouths


def draw_scene(
  rng: np.random.Generator, kind: str, seconds: float, jitter: float
) -> tuple[Scene, str]:
  """A scene of a kind and its caption."""
  hues = [str(h) for h in rng.permutation(list(HUES))]
  places = [str(p) for p in rng.permutation(list(PLACES))]
  if kind == "two_faces":  # side by side
    places = sorted(places, key="in the middle".__eq__)

  def face(i: int, said: list[Syllable], size: float = 1.0) -> Face:
    dx, dy, grow = jitter * rng.uniform(-1, 1, 3)
    x, radius = PLACES[places[i]] + 0.2 * dx, size * RADIUS * (1 + grow)
    return Face(hues[i], places[i], x, 0.5 + dy, radius, said)

  said = talking_voice.utterance(rng, seconds)
  quoted = [s.name for s in said]
  if kind == "two_faces":
    talker, mime = face(0, said), face(1, talking_voice.utterance(rng, seconds))
    both = sorted((talker, mime), key=lambda f: f.x)
    shown = ", ".join(name(f) for f in both)
    caption = f"one of the two faces says {quote(quoted)}, {shown}"
    return Scene([talker], [mime], []), caption
  if kind == "off_screen":
    still = face(0, [])
    caption = f"a voice off screen says {quote(quoted)}, {name(still)} is silent"
    return Scene([], [still], [], [face(1, said)]), caption
  if kind == "half_silent":
    start = seconds / 2 * int(rng.integers(2))
    half = talking_voice.utterance(rng, seconds / 2)
    said = [s._replace(onset=s.onset + start, end=s.end + start) for s in half]
    quoted = [s.name for s in said]
  if kind == "contradiction":
    fewer = len(said) > 2 and rng.random() < 0.5
    count = len(said) + (-2 if fewer else 2)
    quoted = [str(n) for n in rng.choice(list(SYLLABLES), count)]
  scale, size = (SMALL, "small ") if kind == "small" else (1.0, "")
  talker = face(0, said, scale)
  return Scene([talker], [], []), f"{name(talker, size)} says {quote(quoted)}"


def name(face: Face, size: str = "") -> str:
  """How a caption calls a face."""
  return f"a {size}{face.hue} face {face.place}"


def quote(syllables: list[str]) -> str:
  """Syllables between quotation marks, as a caption has them."""
  return f'"{" ".join(syllables)}"'


def mouth_mask(faces: list[Face], spec: ClipSpec) -> Bool[np.ndarray, "H W"]:
  """The pixels that these faces' mouths cover when they are wide open."""
  mask = np.zeros((spec.height, spec.width), bool)
  painter = Painter(spec, np.zeros((1, spec.height, spec.width, 3), np.float32))
  for face in faces:
    mask |= painter.mouth(face, np.ones(1))[0] >= 0.5
  return mask
