"""The talking bench: every kind is what it says, at every size, exactly in time."""

import re

import numpy as np
import pytest

from ccl_jax.data.builders import talking_bench as builder
from ccl_jax.data.scenes.bench import KINDS, draw_bench, draw_scene, mouth_mask
from ccl_jax.data.scenes.picture import Face
from ccl_jax.data.scenes.talking import EVENT, split_of
from ccl_jax.data.scenes.voice import pitch
from ccl_jax.data.sources.open import open_source
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError

TINY, FULL, FILM = (
  ClipSpec(49, 32, 32, 25),
  ClipSpec(65, 64, 64, 25),
  ClipSpec(65, 64, 64, 24),
)
PLAIN = dict(shapes=0.0, texture=0.0, noise=0.0)


def quoted(clip):
  return re.search(r'"([a-z ]*)"', clip["text"])[1].split()


@pytest.mark.parametrize("spec", [TINY, FULL, FILM], ids=str)
def test_clips_have_their_sizes_and_their_events_are_heard(spec):
  for seed in range(12):
    clip = draw_bench(seed, spec)
    assert clip["kind"] == KINDS[seed % 6]
    t, h, w = spec.latent_shape
    frame = (spec.height, spec.width)
    assert clip["video"].shape == (spec.frames, *frame, 3)
    assert clip["audio"].shape == (spec.samples,)
    assert clip["video_mask"].shape == (t, h, w)
    assert clip["mouth_mask"].shape == clip["mime_mask"].shape == frame
    faces = 2 if clip["kind"] == "two_faces" else 1
    assert clip["mouth"].shape == (faces, spec.frames)
    events = clip["events"]
    assert events.dtype == EVENT and set(events["kind"]) == {"syllable"}
    assert set(events["index"]) == {0} and len(events) == len(clip["syllables"])
    if clip["kind"] != "contradiction":
      assert quoted(clip) == clip["syllables"]


def test_sound_begins_and_ends_with_its_events():
  for seed in range(12):
    clip = draw_bench(seed, FILM, **PLAIN)
    loud = np.abs(clip["audio"]) > 0
    inside = np.zeros(FILM.samples, bool)
    for e in clip["events"]:
      inside[int(np.ceil(e["time"] * 16000)) : int(np.ceil(e["end"] * 16000))] = True
      begin = int(np.ceil(e["time"] * 16000))
      assert loud[begin : begin + 32].any()  # within 2 ms
    assert not loud[~inside].any()


def test_a_mouth_is_open_by_the_voice_at_every_frame_and_in_its_mask():
  for seed in (0, 4, 5, 6, 10):  # plain, small, contradiction
    clip = draw_bench(seed, FULL, **PLAIN)
    dark = clip["video"].max(-1) < 100
    (mouth,) = clip["mouth"]
    inside = dark[:, clip["mouth_mask"]].sum(1)
    assert np.corrcoef(inside, mouth)[0, 1] > 0.98
    assert np.unique(dark[:, ~clip["mouth_mask"]].sum(1)).size <= 3  # edges, pupils
    assert not clip["mime_mask"].any()
    e = clip["events"]
    frames = np.arange(65) / 25
    sounds = ((frames[:, None] > e["time"]) & (frames[:, None] < e["end"])).any(1)
    np.testing.assert_array_equal(mouth > 0, sounds)


def test_two_faces_of_which_one_is_heard():
  """Both mouths move, and the caption is the same whoever talks."""
  sides = set()
  for seed in range(1, 61, 6):
    clip = draw_bench(seed, FULL, kinds=KINDS, **PLAIN)
    assert clip["text"].startswith('one of the two faces says "')
    left, right = re.findall(r"a (\w+) face (on the \w+)", clip["text"])
    assert (left[1], right[1]) == ("on the left", "on the right")
    own, other = clip["mouth"]
    assert own.max() > 0.4 and other.max() > 0.4
    assert np.corrcoef(own, other)[0, 1] < 0.6
    columns = [
      np.flatnonzero(clip[f"{k}_mask"].any(0)).mean() for k in ("mouth", "mime")
    ]
    talker = left if columns[0] < columns[1] else right
    sides.add(talker[1])
    # The voice's pitch is the talker's: its harmonics are where the power is.
    power = np.abs(np.fft.rfft(clip["audio"])) ** 2
    hertz = np.fft.rfftfreq(FULL.samples, 1 / 16000)
    at = lambda hue: (power * (1 + np.cos(2 * np.pi * hertz / pitch(hue)))).sum()
    assert at(talker[0]) > at((left if talker is right else right)[0])
  assert sides == {"on the left", "on the right"}


def test_a_voice_off_screen():
  for seed in range(2, 38, 6):
    clip = draw_bench(seed, TINY, **PLAIN)
    assert re.search(
      r'^a voice off screen says ".*", a \w+ face .* is silent$', clip["text"]
    )
    assert len(clip["events"]) and np.abs(clip["audio"]).max() > 0.05
    assert (clip["video"] == clip["video"][0]).all() and not clip["mouth"].any()
    assert not clip["mouth_mask"].any() and clip["mime_mask"].any()
    assert not clip["video_mask"].any() and clip["audio_mask"].any()
    scene, _ = draw_scene(np.random.default_rng(seed), "off_screen", 2.0, 0.0)
    assert scene.unseen[0].hue != scene.mimes[0].hue


def test_one_half_is_silent():
  halves = set()
  for seed in range(3, 75, 6):
    clip = draw_bench(seed, FULL, **PLAIN)
    half = FULL.samples // 2
    first, second = clip["audio"][:half], clip["audio"][half:]
    assert bool(first.any()) != bool(second.any())
    halves.add(bool(first.any()))
    assert "half" not in clip["text"] and quoted(clip) == clip["syllables"]
  assert halves == {True, False}


def test_a_small_face_has_a_quarter_of_the_area():
  area = lambda seed: (np.ptp(draw_bench(seed, FULL, jitter=0.0, **PLAIN)["video"][0]
                              .astype(int), axis=-1) > 60).sum()  # fmt: skip
  assert area(4) / area(0) == pytest.approx(0.25, abs=0.04)
  assert draw_bench(4, FULL)["text"].startswith("a small ")


def test_words_that_contradict_the_sound():
  counts = set()
  for seed in range(5, 125, 6):
    clip = draw_bench(seed, TINY)
    assert quoted(clip) != clip["syllables"]
    counts.add(len(quoted(clip)) - len(clip["syllables"]))
  assert counts == {-2, 2}
  assert quoted(
    draw_bench(5, ClipSpec(5, 16, 16, 25))
  )  # one syllable: three are quoted


def test_the_seed_decides_everything_and_the_splits_share_no_caption():
  for seed in range(6):
    first, again = draw_bench(seed, TINY), draw_bench(seed, TINY)
    for key, value in first.items():
      assert np.array_equal(value, again[key]), key
    assert not np.array_equal(first["audio"], draw_bench(seed + 6, TINY)["audio"])
    assert split_of(first["text"]) == "train"
    assert split_of(draw_bench(seed, TINY, "test")["text"]) == "test"
  # The kinds that are asked for, in turn.
  some = [draw_bench(i, TINY, kinds=("small", "plain"))["kind"] for i in range(4)]
  assert some == ["small", "plain", "small", "plain"]
  for bad in ((), ("plain", "loud")):
    with pytest.raises(UsageError, match="kinds: got .* expected some of plain, two_"):
      draw_bench(0, TINY, kinds=bad)
  with pytest.raises(UsageError, match="'val'"):
    draw_bench(0, TINY, "val")


def test_a_mask_is_the_widest_mouth():
  """Half a radius wide and 0.48 high, 0.4 of the radius below the middle: pixels whose
  centre lies inside.
  """
  face = Face("red", "", 0.5, 0.25, 0.25, [])
  mask = mouth_mask([face], ClipSpec(5, 64, 128, 25))
  y, x = np.mgrid[:64, :128] + 0.5
  q = ((x - 64) / 8) ** 2 + ((y - 16 - 6.4) / (0.48 * 16)) ** 2
  assert (mask != (q <= 1)).sum() <= 4 and mask.sum() > 150


def test_a_build_gives_back_the_clips_by_their_index(tmp_path):
  asked = dict(n_train=3, n_test=2, seed=6, shapes=0.0)
  train = open_source("talking_bench", TINY, tmp_path, "train", **asked)
  test = open_source("talking_bench", TINY, tmp_path, "test", **asked)
  assert (len(train), len(test)) == (3, 2)
  for split, clips in (("train", train), ("test", test)):
    for i in range(len(clips)):
      wanted = draw_bench(6 + i, TINY, split, shapes=0.0)
      assert wanted.keys() == clips[i].keys()
      for key, value in wanted.items():
        assert np.array_equal(value, clips[i][key]), key
        assert type(value) is type(clips[i][key]), key
        assert getattr(value, "dtype", 0) == getattr(clips[i][key], "dtype", 0), key
  # Other kinds or another rate are another set beside it.
  open_source("talking_bench", TINY, tmp_path, n_train=1, n_test=1, kinds=["plain"])
  slower = ClipSpec(49, 32, 32, 24)
  builder.build(tmp_path, slower, n_train=1, n_test=1)
  assert len(list((tmp_path / "talking_bench").iterdir())) == 3
