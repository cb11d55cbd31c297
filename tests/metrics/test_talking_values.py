"""Scores of talking scenes and films where the answer is known beforehand."""

import numpy as np
import pytest

from ccl_jax.metrics import films
from ccl_jax.metrics import talking_curves as curves
from ccl_jax.metrics import talking_scene as scores
from ccl_jax.metrics.base import Unscorable

RATE = 16000


def test_r_is_the_correlation_at_every_lag():
  """One sum at a time: of 25 frames per second a frame is 8 steps of a voice's curve,
  and a lag of 10 ms two.
  """
  rng = np.random.default_rng(0)
  mouth, voice = rng.uniform(0, 1, 30), rng.uniform(0, 1, 260)
  lags, r = scores.correlogram(mouth, voice, 25)
  np.testing.assert_allclose(lags, np.arange(-40, 41) / 100, atol=1e-12)
  at = np.array([voice[8 * k] for k in range(30)])
  m, v = mouth - mouth.mean(), voice - at.mean()
  length = np.sqrt((m**2).sum() * ((at - at.mean()) ** 2).sum())
  for i, lag in enumerate(range(-40, 41)):
    places = [8 * k + 2 * lag for k in range(30)]
    total = sum(m[k] * v[p] for k, p in enumerate(places) if 0 <= p < 260)
    assert r[i] == pytest.approx(total / length, abs=1e-9), lag


def test_a_lag_is_positive_where_the_voice_is_late():
  bump = lambda t, at: np.exp(-(((t - at) / 0.08) ** 2))
  mouth, clock = bump(np.arange(50) / 25, 0.9), np.arange(400) / 200
  for late in (0.13, -0.2):
    voice = bump(clock, 0.9 + late)
    lags, r = scores.correlogram(mouth, voice, 25)
    assert lags[r.argmax()] == pytest.approx(late) and r.max() > 0.98
    got = scores.synchrony(mouth, voice, 25)
    assert got["sync_lag_ms"] == pytest.approx(1000 * abs(late), abs=1)


@pytest.mark.parametrize(
  ("r", "lag", "c", "r0"),
  [
    # A parabola's summit lies where it is, between two lags or on either side of 0.
    (lambda x: 1 - (x - 0.123) ** 2, 123, None, 1 - 0.123**2),
    (lambda x: 1 - (x + 0.227) ** 2, 227, None, 1 - 0.227**2),
    # The highest is the last one: no summit inside, so the largest lag.
    (lambda x: x, 400, 0.4, 0),
    (lambda x: np.where(abs(x - 0.1) < 0.001, 0.7, 0.2), 100, 0.5, 0.2),
    (lambda x: 0 * x, 400, 0, 0),
  ],
)
def test_scores_of_a_known_curve(monkeypatch, r, lag, c, r0):
  lags = np.arange(-40, 41) / 100
  monkeypatch.setattr(scores, "correlogram", lambda *_: (lags, r(lags)))
  got = scores.synchrony(np.zeros(3), np.zeros(3), 25)
  assert got["sync_lag_ms"] == pytest.approx(lag, abs=0.01)
  assert got["sync_r0"] == pytest.approx(r0)
  expected = r(lags).max() - sorted(r(lags))[40] if c is None else c
  assert got["sync_c"] == pytest.approx(expected)


def test_contacts_match_the_nearest_click_within_40_ms():
  f1 = lambda *events, **more: scores.impact_f1(*events, frames=65, fps=25, **more)
  assert f1([1.0], [1.039]) == 1 and f1([1.0], [1.041]) == 0
  assert f1([1.0], [1.25], tolerance=0.25) == 1  # its end belongs to it
  # The nearest, so that the other one is left for the next contact.
  assert f1([0.5, 0.53], [0.52, 0.49]) == 1
  # Three of each, of which two meet; and as many clicks that no contact has.
  assert f1([0.5, 1.0, 1.5], [0.5, 1.0, 2.0]) == pytest.approx(2 / 3)
  assert f1([0.5], [0.5, 1.0, 1.5]) == pytest.approx(2 / 4)


def test_the_first_and_the_last_frames_do_not_count():
  """At 10 per second and of 20 frames: more than 0.25 s and less than 1.65 s."""
  f1 = lambda *events: scores.impact_f1(*events, frames=20, fps=10)
  assert f1([0.26], [0.26]) == f1([1.64], [1.64]) == 1
  for outside in (0.25, 1.65):
    assert f1([outside, 1.0], [1.0]) == f1([1.0], [1.0, outside]) == 1


CAPTION = 'a red face on the left says "ba do" and a blue face on the right says "mi"'


def test_syllables_are_compared_talker_by_talker(monkeypatch):
  """Red is short of one and blue says one more: two errors of three syllables."""
  heard = [("red", "ba"), ("blue", "mi"), ("blue", "do")]
  monkeypatch.setattr(scores, "syllables_heard", lambda audio, hues: heard)
  assert scores.ser(np.zeros(9), CAPTION) == pytest.approx(2 / 3)


def disc(x, y, radius, colour, height=60, width=100):
  """Two frames with a disc; x and y as shares of the picture, the radius in pixels."""
  rows, columns = np.mgrid[:height, :width] + 0.5
  inside = np.hypot(rows - y * height, columns - x * width) < radius
  frame = np.full((height, width, 3), 64, np.uint8)
  frame[inside] = colour
  return np.stack([frame, frame])


def test_the_amount_of_a_hue():
  colours = [
    (255, 0, 0), (255, 255, 0), (0, 255, 0), (0, 255, 255), (0, 0, 255), (255, 0, 255)
  ]  # fmt: skip
  video = np.array(colours, np.uint8)[None, None]
  for i, hue in enumerate(("red", "yellow", "green", "cyan", "blue", "purple")):
    got = curves.hue_amount(video, hue)[0, 0]
    np.testing.assert_allclose(got, np.eye(6)[i], atol=1e-6)
  # Half as bright, half white, grey, and 30 degrees off: C = sqrt(3)/2 of cos 30.
  more = np.array([[[(102, 0, 0), (255, 153, 153), (90, 90, 90), (200, 100, 0)]]])
  got = curves.hue_amount(more.astype(np.uint8), "red")[0, 0]
  off = 200 / 255 * np.sqrt(0.75) * (2 * np.cos(np.pi / 6) - 1)
  np.testing.assert_allclose(got, [0.4, 0.4, 0, off], atol=1e-6)


def test_a_face_is_where_its_blob_is():
  still = curves.hue_amount(disc(0.3, 0.6, 14, (200, 0, 0)), "red")[0]
  x, y, radius = curves.face_box(still)
  assert (x, y) == (pytest.approx(29.5, abs=0.1), pytest.approx(35.5, abs=0.1))
  assert radius == pytest.approx(14, abs=0.2)
  # A fiftieth of the picture is the least.
  tiny = np.zeros((20, 50))
  tiny[5:10, 5:9] = 1
  assert curves.face_box(tiny) is not None
  tiny[5, 5] = 0
  assert curves.face_box(tiny) is None


def test_a_mouth_is_what_the_lower_half_lacks():
  """From 0.405 of the radius above the centre on; of ten frames a fifth may be more
  closed than the one that it is held against.
  """
  video = np.repeat(disc(0.5, 0.5, 20, (200, 0, 0))[:1], 10, 0)
  red = video[0, ..., 1] == 0
  lower = np.mgrid[:60, :100][0] >= 22
  lost = [0.5, 0.25, 0.75, 0.1, 0.6, 0.5, 0.2, 0, 0, 0]
  for frame, share in zip(video, lost):
    frame[red & lower] = (round(200 * (1 - share)), 0, 0)
  video[8][red & ~lower] = (20, 0, 0)
  np.testing.assert_allclose(curves.mouth_curve(video, "red"), lost, atol=1e-6)
  video[7:9][:, red & lower] = (255, 0, 0)
  np.testing.assert_allclose(
    curves.mouth_curve(video, "red")[9], 1 - 200 / 255, atol=1e-6
  )
  video[8][red & lower] = (200, 0, 0)
  np.testing.assert_allclose(curves.mouth_curve(video, "red")[9], 0, atol=1e-6)


@pytest.mark.parametrize(
  ("caption", "place"),
  [
    ("a red face on the left", 0.25),
    ("a red face in the middle", 0.0),
    ("a red ball bounces on the left", 0.37),
    ("a red ball bounces on the right", 0.37),
  ],
)
def test_the_place_is_off_by_shares_of_the_width(caption, place):
  got = scores.layout_error(disc(0.5, 0.5, 14, (200, 0, 0)), caption)
  assert got["hue_error"] == 0
  assert got["place_error"] == pytest.approx(place, abs=0.002)


def test_what_is_absent_is_half_a_width_off():
  video = disc(0.25, 0.5, 14, (200, 0, 0))
  both = "a red face on the left and a blue face on the right"
  got = scores.layout_error(video, both)
  assert got == {"hue_error": 0.5, "place_error": pytest.approx(0.25, abs=0.002)}
  # Less than a fifth of three quarters of its disc, which is the least: a radius of
  # 14.4 is demanded here, and 0.684 of a red disc (200 / 255 - 0.1) counts.
  least = np.sqrt(0.2 * 0.75 / (200 / 255 - 0.1)) * 14.4
  for radius, absent in ((least - 0.4, 1), (least + 0.4, 0)):
    got = scores.layout_error(
      disc(0.25, 0.5, radius, (200, 0, 0)), "a red face on the left"
    )
    assert got["hue_error"] == absent, radius


def tone(hertz, amplitude=0.4, seconds=0.5):
  return amplitude * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)


def test_a_spectrum_sums_to_the_mean_square():
  power = curves.spectrogram(tone(1000, 0.4))
  assert power.shape == (8000 // 80 + 1, 321)
  np.testing.assert_allclose(power.sum(1)[8:-8], 0.08, rtol=1e-6)
  assert power[50].argmax() == 40  # of 25 Hz each
  # Column i is about sample 80 i: half of its window has sound where that begins.
  late = np.concatenate([np.zeros(4000), tone(1000, 0.4)])
  assert curves.spectrogram(late).sum(1)[50] == pytest.approx(0.04, rel=0.01)


def test_a_voice_is_heard_at_its_harmonics():
  """Purple's pitch is 260 Hz, its fifth harmonic 1300. A Hann window leaks a sixth of
  the power to 25 Hz on either side.
  """
  assert curves.pitch("purple") == pytest.approx(260) and curves.pitch("red") == 130
  weight = (1 + np.cos(2 * np.pi * 25 / 260)) / 2
  expected = np.sqrt(0.08 * (2 / 3 + weight / 3))
  got = curves.voice_curve(tone(1300), "purple")
  np.testing.assert_allclose(got[8:-8], expected, rtol=1e-4)
  between = curves.voice_curve(tone(4.5 * 260), "purple")  # what leaks is all there is
  np.testing.assert_allclose(between[8:-8], np.sqrt(0.08 * (1 - weight) / 3), rtol=1e-3)
  for hertz in (0.3 * 260, 15 * 260):  # below and above the voice's band
    assert curves.voice_curve(tone(hertz), "purple")[8:-8].max() < 0.02


def test_a_moment_belongs_to_one_voice():
  both = curves.voice_curves(tone(1300), ["red", "purple"])
  assert both.shape == (2, 101)
  alone = curves.voice_curve(tone(1300), "purple")
  # 1300 Hz is red's tenth harmonic too: they share it by the eighth power.
  red = curves.voice_curve(tone(1300), "red")
  share = alone[50] ** 16 / (alone[50] ** 16 + red[50] ** 16)
  assert both[1, 50] == pytest.approx(alone[50] * share, rel=1e-6)
  assert both[0, 50] == pytest.approx(red[50] * (1 - share), rel=1e-6)


def test_clicks_are_heard_when_they_begin():
  """6 ms of 4 kHz; below 2.9 kHz nothing is a click, and 100 ms part two: of two that
  are nearer the louder one counts.
  """
  wave = 0.2 * tone(500, 1.0, 2.0)
  burst = 0.3 * tone(4000, 1.0, 0.006)
  for at, loud in ((0.4, 1), (0.7, 1), (0.79, 0.5), (1.5, 0.5)):
    wave[round(at * RATE) :][: len(burst)] += loud * burst
  got = curves.click_times(wave)
  np.testing.assert_allclose(got, [0.4, 0.7, 1.5], atol=0.002)


def ball(y):
  """Frames with a red ball whose centre is at these shares of the height."""
  rows, columns = np.mgrid[:200, :40] + 0.5
  far = np.hypot(rows / 200 - np.reshape(y, (-1, 1, 1)), (columns - 20) / 200)
  red = np.clip((0.08 - far) * 200, 0, 1)
  return (np.stack([red, 0 * red, 0 * red], -1) * 255).astype(np.uint8)


@pytest.mark.parametrize("contact", [0.333, 0.36, 0.381])
def test_a_ball_touches_the_ground_where_fall_and_rise_meet(contact):
  """Free flight, 5 heights per second squared: at the ground 1.2 down and 1.0 up."""
  t = np.arange(18) / 25 - contact
  y = 0.9 + np.where(t < 0, 1.2, -1.0) * t + 2.5 * t**2
  (got,) = curves.contact_times(ball(y), "red", 25)
  assert got == pytest.approx(contact, abs=0.002)


def test_change_between_frames_is_relative_to_its_mean():
  video = np.zeros((5, 4, 6, 3), np.uint8)
  video[1:] += 200
  video[3] -= 100  # and back: 200, 0, 100, 100
  got = films.motion_curve(video)
  change = np.array([200, 200, 0, 100, 100]) / 255
  np.testing.assert_allclose(got, change / (change.mean() + 1e-4), rtol=1e-6)


def test_loudness_is_relative_to_its_mean():
  wave = np.concatenate([tone(1000, 0.2), tone(1000, 0.6)])
  got = films.loudness_curve(wave)
  assert len(got) == 201
  np.testing.assert_allclose(got[8:92], 0.5, rtol=0.02)
  np.testing.assert_allclose(got[108:-8], 1.5, rtol=0.02)


def test_a_film_must_have_two_frames_and_a_window_of_sound():
  video, wave = np.zeros((2, 8, 8, 3), np.uint8), np.zeros(640)
  assert films.score(video, wave, 25)["sync_r0"] == 0
  for less in ((video[:1], wave), (video, wave[1:])):
    with pytest.raises(Unscorable, match=r"expected 2 frames and 0\.04 s at least"):
      films.score(*less, 25)


def test_chance_of_films_is_of_the_sounds_before(monkeypatch):
  """Clip i's motion is i and its sound 10 i; with three clips all others are chance."""
  monkeypatch.setattr(films, "motion_curve", lambda x: x)
  monkeypatch.setattr(films, "loudness_curve", lambda x: 10 * x)
  seen = []

  def synchrony(motion, sound, fps):
    seen.append((motion, sound))
    return {"x": motion + sound}

  monkeypatch.setattr(films, "synchrony", synchrony)
  clips = [{"video": i, "audio": i} for i in range(3)]
  got = films.film_scores.__wrapped__(clips, 25.0)
  given = [0, 11, 22]
  assert got["given"]["x"] == {
    "mean": 11, "sem": pytest.approx(np.std(given) / 2**0.5), "n": 3
  }  # fmt: skip
  chance = seen[3:]
  assert sorted(chance) == [(0, 10), (0, 20), (1, 0), (1, 20), (2, 0), (2, 10)]
  assert (
    got["chance"]["x"]["mean"] == pytest.approx(11) and got["chance"]["x"]["n"] == 3
  )
  seen.clear()
  films.film_scores.__wrapped__([{"video": i, "audio": i} for i in range(5)], 25.0, 2)
  assert seen[5:7] == [(0, 40), (0, 30)] and len(seen) == 5 + 10


def test_chance_of_scenes_is_of_other_clips(monkeypatch):
  """Pictures i with sounds j score 10 i + j."""
  monkeypatch.setattr(scores, "read_clip", lambda clip, fps: clip["text"])
  monkeypatch.setattr(scores, "kinds_of", lambda text: ["layout"])
  score = lambda kind, seen, sounds, fps: {"x": 10.0 * int(seen) + int(sounds)}
  monkeypatch.setattr(scores, "pair_scores", score)
  clips = [{"text": str(i)} for i in range(4)]
  table = scores.score_set(clips, 25, np.random.default_rng(0))
  given = [0, 11, 22, 33]
  assert table["given"]["x"] == {
    "mean": 16.5, "sem": pytest.approx(np.std(given) / 3**0.5), "n": 4
  }  # fmt: skip
  # Each picture with all three others: (6 - i) / 3 besides its own 10 i.
  chance = [10 * i + (6 - i) / 3 for i in range(4)]
  assert table["chance"]["x"] == {
    "mean": pytest.approx(np.mean(chance)),
    "sem": pytest.approx(np.std(chance) / 3**0.5),
    "n": 4,
  }


def test_a_talker_has_its_own_voice_or_every_voice_of_another_clip(monkeypatch):
  pairs = []

  def synchrony(mouth, voice, fps):
    pairs.append((int(mouth[0]), int(voice[0])))
    return {"r": float(mouth[0] + voice[0])}

  monkeypatch.setattr(scores, "synchrony", synchrony)
  reading = lambda k, quoted, heard: scores.Reading(
    np.zeros((1, 2, 2, 3), np.uint8), "", quoted,
    [np.array([k + i]) for i in range(2)], [np.array([k + i]) for i in range(2)],
    heard, None, [],
  )  # fmt: skip
  one = reading(0, [["ba", "do"], ["mi"]], [["ba"], ["mi"]])
  two = reading(10, [["ke"], ["lu"]], [["ba", "do"], []])
  own = scores.pair_scores("speech", one, one, 25)
  assert pairs == [(0, 0), (1, 1)] and own == {"r": 1, "ser": pytest.approx(1 / 3)}
  pairs.clear()
  other = scores.pair_scores("speech", one, two, 25)
  assert pairs == [(0, 10), (0, 11), (1, 10), (1, 11)] and other["r"] == 11
  # "ba do" is heard, or nothing: 0 and 2 errors; "mi" against these: 2 and 1. They are
  # of 2 + 2 + 1 + 1 syllables.
  assert other["ser"] == pytest.approx(5 / 6)
