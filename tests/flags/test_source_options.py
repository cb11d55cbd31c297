"""Options of data sources: which media pass, and what scenes have how often."""

import pathlib
from types import SimpleNamespace

import numpy as np
import pytest

from ccl_jax.data.media import decode as media
from ccl_jax.data.scenes import picture as talking_picture
from ccl_jax.data.scenes.talking import draw_clip, draw_scene
from ccl_jax.data.sources.captions import Caption
from ccl_jax.data.sources.media_builder import Entry, MediaBuilder, MediaConfig
from ccl_jax.data.spec import ClipSpec

ENTRY = Entry("a", ("a",), Caption("a dog barks"), "line 1")


def passes(seconds=2.0, height=48, width=64, sound=True, text="a dog barks", **options):
  """Whether a file of this sort is taken by a set with these options."""
  there = media.MediaInfo(height > 0, sound, 0.0, seconds, 25.0, height, width)
  builder = SimpleNamespace(
    builder_config=MediaConfig("x", **options), part=lambda entry, info: entry.caption
  )
  entry = ENTRY._replace(caption=Caption(text, start=0.0, end=seconds))
  name = "a.mp4" if height else "a.wav"
  try:
    MediaBuilder._example(builder, pathlib.Path("."), name, entry, lambda *_: there)
  except media.MediaError:
    return False
  return True


@pytest.mark.parametrize(
  ("option", "least", "taken"),
  [
    ("min_seconds", 2.0, True), ("min_seconds", 2.01, False),
    ("max_seconds", 2.0, True), ("max_seconds", 1.99, False),
    ("min_side", 48, True), ("min_side", 49, False),
  ],
)  # fmt: skip
def test_borders_of_what_is_taken(option, least, taken):
  """A film of 2 s, 48 x 64: the shorter side counts, and the border itself passes."""
  assert passes(**{option: least}) is taken
  assert passes(height=64, width=48, **{option: least}) is taken


def test_a_sound_has_no_side():
  assert passes(height=0, width=0, min_side=999)
  assert not passes(height=0, width=0, min_seconds=3.0)


def test_speech_is_asked_for_or_kept_out():
  for text, speaks in (("a man says hello", True), ("a dog barks", False)):
    assert passes(text=text, speech="with") is speaks
    assert passes(text=text, speech="without") is not speaks
    assert passes(text=text, speech="")


SPEC = ClipSpec(33, 32, 48, 25.0)
ALWAYS = dict(talker=1.0, duet=0.0, distractor=0.0, impacts=0.0, jitter=0.0)


def scenes(count=300, **chances):
  rng = np.random.default_rng(0)
  return [draw_scene(rng, SPEC, **(ALWAYS | chances)) for _ in range(count)]


def share(found):
  return np.mean([bool(x) for x in found])


@pytest.mark.parametrize("chance", [0.0, 0.25, 1.0])
def test_chances_of_what_a_scene_has(chance):
  """talker, duet, distractor and impacts; a scene without a talker has a ball."""
  wide = 4 * (chance * (1 - chance) / 300) ** 0.5 + 1e-9
  near = lambda value, expected: abs(value - expected) <= wide
  made = scenes(talker=chance)
  assert near(share(s.talkers for s in made), chance)
  assert all(bool(s.talkers) != bool(s.balls) for s in made)
  # Two can take turns where two syllables or more are said.
  made = scenes(duet=chance)
  several = [s for s in made if len(s.spoken()) > 1]
  assert len(several) > 200
  assert near(share(len(s.talkers) == 2 for s in several), chance * 1.0)
  assert near(share(s.mimes for s in scenes(distractor=chance)), chance)
  made = scenes(impacts=chance)
  assert near(share(s.balls for s in made), chance) and all(s.talkers for s in made)


def test_jitter_moves_faces():
  """Up and down by up to that share of the frame, a fifth of it sideways."""
  faces = lambda jitter: [s.talkers[0] for s in scenes(jitter=jitter)]
  assert {f.y for f in faces(0.0)} == {0.5} and len({f.x for f in faces(0.0)}) == 3
  up = np.array([f.y - 0.5 for f in faces(0.1)])
  assert 0.08 < np.abs(up).max() <= 0.1 and abs(up.mean()) < 0.02
  size = np.array([f.radius for f in faces(0.1)]) / faces(0.0)[0].radius
  assert 0.9 <= size.min() < 0.92 and 1.08 < size.max() <= 1.1


def test_squares_and_texture_of_the_background(monkeypatch):
  """`shapes` is the chance of each of two squares; texture a contrast."""
  drawn = []
  square = lambda self, rng, times: drawn.append(1)
  monkeypatch.setattr(talking_picture.Painter, "square", square)
  plain = dict(talker=0.0, noise=0.0)
  for chance, expected in ((0.0, 0.0), (0.3, 0.6), (1.0, 2.0)):
    drawn.clear()
    for seed in range(40):
      draw_clip(seed, ClipSpec(5, 16, 16, 25.0), shapes=chance, texture=0.0, **plain)
    assert abs(len(drawn) / 40 - expected) <= (0.4 if 0 < chance < 1 else 0)
  clip = lambda texture: draw_clip(3, SPEC, shapes=0.0, texture=texture, **plain)
  above = {t: clip(t)["video"][:, :4].astype(float) for t in (0.0, 0.04, 0.08)}
  contrast = {t: (above[t] - above[0.0]).std() for t in above}
  assert contrast[0.0] == 0 and contrast[0.04] > 1
  assert 1.9 < contrast[0.08] / contrast[0.04] < 2.1
