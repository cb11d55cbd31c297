"""The talking scene's sound and picture against its formulas, at chosen instants."""

import numpy as np
import pytest

from ccl_jax.data.scenes import picture as talking_picture
from ccl_jax.data.scenes import voice as talking_voice
from ccl_jax.data.scenes.picture import Ball, Face, Painter, ball_height, throw
from ccl_jax.data.scenes.talking import (
  EVENT,
  Scene,
  draw_clip,
  heard_tokens,
  seen_pixels,
)
from ccl_jax.data.scenes.voice import Syllable, clicks, envelope, spectrum, voice
from ccl_jax.data.spec import ClipSpec

SPEC = ClipSpec(9, 32, 48, 25)


def test_pitches():
  assert talking_voice.pitch("red") == 130
  assert talking_voice.pitch("purple") == pytest.approx(260)
  assert talking_voice.pitch("green") == pytest.approx(130 * 2**0.4)
  assert talking_voice.click_frequency("red") == 3000
  assert talking_voice.click_frequency("purple") == pytest.approx(6000)


def test_an_envelope_rises_and_falls_smoothly():
  """On at 1, off at 2, peak 0.8: full from 1.3 to 1.7, half of it at 1.15."""
  syllable = [Syllable("ba", 1.0, 2.0, 0.8)]
  times = np.array([0.9, 1.0, 1.075, 1.15, 1.3, 1.5, 1.7, 1.85, 2.0, 2.1])
  rise = 0.25**2 * (3 - 0.5)  # a quarter of the way up
  expected = [0, 0, 0.8 * rise, 0.4, 0.8, 0.8, 0.8, 0.4, 0, 0]
  np.testing.assert_allclose(envelope(syllable, times), expected, atol=1e-9)
  two = [*syllable, Syllable("do", 3.0, 3.2, 0.5)]
  np.testing.assert_allclose(envelope(two, np.array([1.5, 3.1])), [0.8, 0.5])


def test_a_spectrum_has_two_resonances_and_unit_power():
  frequencies = np.array([100.0, 500.0, 620.0, 1200.0])
  got = spectrum((500, 1200), frequencies)
  assert (got**2).sum() / 2 == pytest.approx(1)
  low = lambda f, at: 1 / (1 + ((f - at) / 120) ** 2)
  raw = np.array([low(f, 500) + 0.8 * low(f, 1200) for f in frequencies])
  np.testing.assert_allclose(got / got[1], raw / raw[1])


def test_a_voice_is_as_loud_as_its_envelope_and_begins_with_its_onset():
  times = np.arange(16000) / 16000
  said = [Syllable("mi", 0.2, 0.8, 1.0)]
  wave = voice(said, "red", times)
  assert not wave[times < 0.2].any() and not wave[times >= 0.8].any()
  middle = wave[(times >= 0.4) & (times < 0.6)]  # after the glide has begun
  power = lambda x: np.abs(np.fft.rfft(x)) ** 2
  assert talking_voice.VOICE_TOP == 2700
  spectrum_of = power(wave)
  assert spectrum_of[2700:].sum() < 1e-3 * spectrum_of.sum()
  # From 0.5 of its length on it is the vowel alone, of rms A.
  vowel = wave[(times >= 0.5) & (times < 0.62)]
  assert np.sqrt((vowel**2).mean()) == pytest.approx(0.16, rel=0.05)
  # From (250, 1000) Hz at its onset to (280, 2500) Hz, in harmonics of 130 Hz.
  begin = wave[(times >= 0.24) & (times < 0.3)]
  band = lambda x, low, high: power(x)[
    int(low * len(x) / 16000) : int(high * len(x) / 16000) + 1
  ].sum()
  assert band(begin, 850, 1200) > 3 * band(begin, 2250, 2700)
  assert band(vowel, 2250, 2700) > 10 * band(vowel, 850, 1200)
  assert np.abs(middle).max() < 1


def test_a_click_rings_from_its_contact_on():
  times = np.arange(8000) / 16000
  got = clicks([(0.1, 1.25), (0.3, 9.0)], "cyan", times)
  hertz = 3000 * 2 ** (180 / 300)
  ring = lambda t: np.exp(-t / 0.008) * np.sin(2 * np.pi * hertz * t)
  expected = np.zeros(8000)
  for begin, size in ((0.1, 0.15), (0.3, 0.3)):  # louder with speed, up to 2.5
    on = (times >= begin) & (times < begin + 0.096)
    expected[on] += size * ring(times[on] - begin)
  np.testing.assert_allclose(got, expected, atol=1e-12)


def test_a_ball_falls_bounces_and_keeps_a_share_of_its_speed():
  ball = Ball("red", "", 0.5, [(0.0, 0.4, 0.5), (0.8, 0.0, 1.0)], [(0.8, 2.0)])
  times = np.array([0.0, 0.1, 0.2, 0.8, 0.9, 1.2])
  expected = [0.4, 0.4 + 0.05 - 0.025, 0.4 + 0.1 - 0.1, 0, 0.1 - 0.025, 0]
  np.testing.assert_allclose(ball_height(ball, times), expected, atol=1e-9)
  thrown = throw(np.random.default_rng(3), "red", "", 0.5, 3.0)
  assert thrown.arcs[0][0] == 0 and len(thrown.arcs) == 1 + len(thrown.contacts) > 3
  for (begin, height, speed), (time, impact) in zip(thrown.arcs, thrown.contacts):
    fallen = height + speed * (time - begin) - 2.5 * (time - begin) ** 2
    assert fallen == pytest.approx(0, abs=1e-9)
    assert impact == pytest.approx(5 * (time - begin) - speed)
    assert impact > 0.6 and time < 3.0
  rebounds = [speed for *_, speed in thrown.arcs[1:]]
  kept = [r / impact for r, (_, impact) in zip(rebounds, thrown.contacts)]
  assert np.ptp(kept) < 1e-9 and 0.8 <= kept[0] <= 0.95


def test_areas_of_shapes():
  """Coverage adds up to the area: radii and sides are of the shorter side."""
  painter = Painter(SPEC, np.zeros((9, 32, 48, 3), np.float32))
  disc = painter.ellipse(0.5, 0.5, 0.25, 0.125)
  assert disc.shape == (1, 32, 48)
  assert disc.sum() == pytest.approx(np.pi * 8 * 4, rel=0.02)
  rows, columns = disc[0].sum(1), disc[0].sum(0)
  assert rows @ np.arange(0.5, 32) / disc.sum() == pytest.approx(16)
  assert columns @ np.arange(0.5, 48) / disc.sum() == pytest.approx(24)
  assert np.flatnonzero(columns).tolist() == list(range(16, 32))
  moving = painter.box(np.array([0.25, 0.5]), np.array([0.5, 0.25]), 0.25)
  assert moving.shape == (2, 32, 48)
  np.testing.assert_allclose(moving.sum((1, 2)), 64, rtol=0.01)
  assert moving[0, 16, 12] == 1 and moving[1, 8, 24] == 1 and moving[1, 16, 12] == 0


def test_paint_lies_over_what_is_there():
  canvas = np.full((2, 32, 48, 3), 0.2, np.float32)
  painter = Painter(ClipSpec(5, 32, 48, 25), canvas)
  coverage = np.zeros((1, 32, 48), np.float32)
  coverage[0, 3, 4], coverage[0, 5, 6] = 1, 0.25
  painter.paint(coverage, np.float32([1, 0.6, 0.2]))
  np.testing.assert_allclose(canvas[:, 3, 4], [[1, 0.6, 0.2]] * 2, rtol=1e-6)
  np.testing.assert_allclose(canvas[:, 5, 6], [[0.4, 0.3, 0.2]] * 2, rtol=1e-6)
  assert (np.delete(canvas[:, 3], 4, 1) == np.float32(0.2)).all()


def test_colours():
  np.testing.assert_allclose(talking_picture.colour("red"), [0.95, 0.19, 0.19])
  np.testing.assert_allclose(talking_picture.colour("cyan"), [0.19, 0.95, 0.95])


def face(hue, place, *said):
  syllables = [Syllable(n, a, b, 0.9) for n, a, b in said]
  return Face(hue, place, 0.5, 0.5, 0.2, syllables)


SCENE = Scene(
  [
    face("red", "on the left", ("ba", 0.3, 0.5), ("do", 0.1, 0.2)),
    face("blue", "on the right", ("mi", 0.25, 0.28)),
  ],
  [face("cyan", "in the middle", ("lu", 0.0, 0.1))],
  [Ball("green", "in the middle", 0.5, [], [(0.15, 1.0), (0.9, 1.0)])],
)


def test_events_are_what_sounds_in_order():
  got = SCENE.events(0.9)
  assert got.dtype == EVENT
  assert got[["kind", "index"]].tolist() == [
    ("syllable", 0), ("contact", 0), ("syllable", 1), ("syllable", 0),
  ]  # fmt: skip
  np.testing.assert_allclose(got["time"], [0.1, 0.15, 0.25, 0.3])
  np.testing.assert_allclose(got["end"], [0.2, 0.15 + 0.032, 0.28, 0.5])
  assert len(SCENE.events(0.901)) == 5  # until, but not at
  assert [s.name for s in SCENE.spoken()] == ["do", "mi", "ba"]


def test_a_caption_says_who_where_and_what():
  assert SCENE.clauses() == [
    'a red face on the left says "ba do"',
    'a blue face on the right says "mi"',
    "a cyan face in the middle mimes",
    "a green ball bounces in the middle",
  ]


def test_a_token_is_heard_where_an_event_lasts_into_it():
  """Tokens are 32 ms: an event that ends as one begins is not in it."""
  spec = ClipSpec(9, 16, 16, 25)  # 11 tokens
  rows = [(0.032, 0.064, "syllable", 0), (0.1, 0.1001, "contact", 0)]
  got = heard_tokens(np.array(rows, EVENT), spec)
  assert np.flatnonzero(got).tolist() == [1, 3] and got.shape == (11,)
  rows = [(0.031, 0.065, "syllable", 0)]
  got = heard_tokens(np.array(rows, EVENT), spec)
  assert np.flatnonzero(got).tolist() == [0, 1, 2]


def test_a_latent_pixel_is_seen_where_a_twentieth_of_it_is_covered():
  """Of 8 x 8 pixels of frame 0 alone, then of four frames together."""
  cover = np.zeros((9, 32, 48), np.float32)
  cover[0, :4, 16] = 0.85  # of 64 pixels 4: 0.053
  cover[0, 16:20, 0] = 0.75  # 0.047
  cover[1, 24:, 32] = cover[2, 24:28, 33] = 1  # twelve of 256: 0.047
  cover[5:, 16:20, 40] = 0.9  # all four frames: 0.056
  got = seen_pixels([cover, np.zeros((1, 32, 48), np.float32)], SPEC)
  assert got.shape == (3, 4, 6)
  assert np.argwhere(got).tolist() == [[0, 0, 2], [2, 2, 5]]
  still = np.zeros((1, 32, 48), np.float32)
  still[0, :16, :16] = 1
  assert seen_pixels([still], SPEC)[:, :2, :2].all()


def test_probabilities_of_none_and_all():
  """By construction: a ball at its contacts, faces that stand still without jitter."""
  alone = dict(talker=1.0, duet=0.0, distractor=0.0, impacts=0.0, jitter=0.0)
  places = {"on the left": 0.25, "in the middle": 0.5, "on the right": 0.75}
  for seed in range(6):
    quiet = dict(shapes=0.0, texture=0.0, noise=0.0)
    clip = draw_clip(seed, ClipSpec(5, 64, 96, 25), **alone, **quiet)
    place = next(p for p in places if p in clip["text"])
    inside = np.ptp(clip["video"][0].astype(int), axis=-1) > 100
    columns = inside.sum(0) @ np.arange(0.5, 96) / inside.sum()
    ink = (0.12 * 255, 0.03 * 255, 0.06 * 255)  # 30.6, 7.65 and 15.3: to the nearest
    assert (clip["video"] == np.round(ink)).all(-1).any()
    assert columns / 96 == pytest.approx(places[place], abs=0.01)
    assert inside.any(0).sum() == pytest.approx(2 * 0.24 * 64, abs=2)
