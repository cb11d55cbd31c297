"""What a talking scene's caption names, and whether the picture shows it there.

hue_error    = share of the captioned actors whose hue is absent from the picture
place_error  = how far they are from their captioned place, in frame widths
face_missing = share of the captioned faces of which no face is found, so that their
               synchrony has no score
"""

import re
from typing import NamedTuple

import numpy as np

from ccl_jax.metrics.talking_curves import Video, closed, face_box, hue_amount

PLACES = {"on the left": 0.25, "in the middle": 0.5, "on the right": 0.75}
BALL_PLACES = {"on the left": 0.13, "in the middle": 0.5, "on the right": 0.87}
PATTERN = re.compile(
  r"(?:a (small )?(\w+) (face|ball) (?:bounces )?(\w+ the \w+)"
  r'|(one of the two faces|a voice off screen))(?: says "([a-z ]*)")?'
)
NAMELESS = {"one of the two faces": "either", "a voice off screen": "voice"}


class Actor(NamedTuple):
  """Someone or something a caption names.

  `kind` is "talker", "face" (which is quoted nothing), "ball", "either" (one of the two
  faces that the caption names too) or "voice" (off screen); the last two have neither
  hue nor place. Talkers, "either" and "voice" have syllables.
  """

  kind: str
  hue: str
  place: str
  syllables: list[str]
  small: bool = False


def read_caption(text: str) -> list[Actor]:
  """The actors of a caption, in its order."""
  actors = []
  for small, hue, kind, place, nameless, said in PATTERN.findall(text):
    kind = NAMELESS.get(nameless) or ("talker" if said else kind)
    actors.append(Actor(kind, hue, place, said.split(), bool(small)))
  return actors


def layout_error(video: Video, text: str) -> dict[str, float]:
  """Hue and place of the actors against the caption. An actor is absent where the
  picture holds less than 0.2 of its hue as its size demands; then it counts as half a
  frame out of place.
  """
  hue_errors, place_errors, missing = [], [], []
  height, width = video.shape[1:3]
  for a in read_caption(text):
    if not a.hue:
      continue
    radius = 0.11 if a.kind == "ball" else 0.12 if a.small else 0.24
    demanded = 0.75 * np.pi * (radius * min(height, width)) ** 2
    amount = hue_amount(video, a.hue)
    columns = np.maximum(amount - 0.1, 0).mean(0).sum(0)
    absent = columns.sum() < 0.2 * demanded
    x = columns @ (np.arange(width) + 0.5) / width / max(columns.sum(), 1e-6)
    place = (BALL_PLACES if a.kind == "ball" else PLACES)[a.place]
    hue_errors.append(absent)
    place_errors.append(0.5 if absent else abs(x - place))
    if a.kind != "ball":
      missing.append(face_box(closed(amount)) is None)
  errors = dict(hue_error=hue_errors, place_error=place_errors, face_missing=missing)
  return {name: float(np.mean(values)) for name, values in errors.items() if values}
