"""Scores of talking scenes and films where the answer is known beforehand."""

import numpy as np
import pytest

from ccl_jax.metrics import films
from ccl_jax.metrics import talking_curves as curves
from ccl_jax.metrics import talking_scene as scores
from ccl_jax.metrics.base import Unscorable
from ccl_jax.metrics.talking_layout import Actor, layout_error, read_caption

RATE = 16000


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


def speaker(quoted=(), heard=(), mouth=None, voice=None, **more):
  """A speaker of the caption; its curves hold one number each."""
  curve = lambda x: None if x is None else np.array([x])
  about = dict(rival=None, seen_at=[], heard_at=[], on_screen=True) | more
  about["rival"] = curve(about["rival"])
  return scores.Speaker(list(quoted), list(heard), curve(voice), curve(mouth), **about)


def reading(*speakers, **more):
  about = dict(listeners=[], contacts=None, clicks=[], quotes_hold=True) | more
  return scores.Reading(np.zeros((3, 2, 2, 3), np.uint8), "", list(speakers), **about)


def test_syllables_are_compared_talker_by_talker():
  """One is short of one and another says one more: two errors of three syllables."""
  one = speaker(["ba", "do"], ["ba"])
  other = speaker(["mi"], ["mi", "do"])
  both = reading(one, other)
  got = scores.pair_scores("words", both, both, 25)
  assert got == {"ser": pytest.approx(2 / 3)}


def test_captions_of_all_kinds():
  faces = "a red face on the left, a blue face on the right"
  two = f'one of the two faces says "ba do", {faces}'
  assert read_caption(two) == [
    Actor("either", "", "", ["ba", "do"]),
    Actor("face", "red", "on the left", []),
    Actor("face", "blue", "on the right", []),
  ]
  off = 'a voice off screen says "mi", a green face in the middle is silent'
  assert read_caption(off) == [
    Actor("voice", "", "", ["mi"]),
    Actor("face", "green", "in the middle", []),
  ]
  small = 'a small red face on the left says "ba", a red ball bounces on the right'
  assert read_caption(small) == [
    Actor("talker", "red", "on the left", ["ba"], True),
    Actor("ball", "red", "on the right", []),
  ]
  assert read_caption("a cat yawns") == []


def test_middles_of_stretches():
  """Above 0.4 of the way from rest to the maximum, wherever the rest is."""
  curve = np.array([0, 0, 0.5, 1, 1, 0.5, 0, 0, 0.2, 0, 0.5, 0.8, 0.2, 0])
  # 0.4 lies 0.8 steps after 1 and 0.2 after 5; then 0.8 after 9 and 2/3 after 11.
  middle = 0.04 * np.array([(1.8 + 5.2) / 2, (9.8 + 11 + 2 / 3) / 2])
  for rest in (0.0, 0.3):
    got = curves.middles(rest + curve, 0.04, 0.06)
    np.testing.assert_allclose(got, middle, atol=1e-9)
  assert curves.middles(0.3 + 0.059 * curve, 0.04, 0.06) == []
  assert len(curves.middles(0.3 + 0.061 * curve, 0.04, 0.06)) == 2
  ends = np.array([1.0, 1.0, 0.0, 0.0, 0.0, 1.0])  # begun before, and not over
  np.testing.assert_allclose(
    curves.middles(ends, 1.0, 0.06), [(0 + 1.6) / 2, (4.4 + 5) / 2]
  )


def test_events_match_within_60_ms():
  assert scores.event_f1([1.0], [1.059]) == 1 and scores.event_f1([1.0], [1.061]) == 0
  assert scores.event_f1([0.5, 1.0], [0.5]) == pytest.approx(2 / 3)
  assert scores.event_f1([], []) == 0


def test_the_face_that_talks_is_the_one_that_follows(monkeypatch):
  """Here a mouth and a voice go together as well as their numbers' product says."""
  monkeypatch.setattr(
    scores, "synchrony", lambda m, v, fps: {"sync_r0": float(m[0] * v[0])}
  )
  for mouth, rival, right in ((0.8, 0.5, 1), (0.2, 0.5, 0), (0.5, 0.5, 0)):
    one = reading(
      speaker(mouth=mouth, voice=1.0, rival=rival, seen_at=[0.5], heard_at=[0.52])
    )
    got = scores.pair_scores("speech", one, one, 25)
    assert got == {"sync_r0": mouth, "event_f1": 1, "right_face": right}
  alone = reading(speaker(mouth=0.5, voice=1.0))
  assert "right_face" not in scores.pair_scores("speech", alone, alone, 25)
  gone = reading(speaker(mouth=None, voice=1.0))  # no face found: no score, never 0
  assert scores.pair_scores("speech", gone, gone, 25) == {}


def test_which_scores_apply():
  talks, away = speaker(["ba"]), speaker(["ba"], on_screen=False)
  listens = dict(listeners=[np.array([0.0, 0.2])])
  kinds = scores.kinds_of
  assert kinds(reading(talks)) == ["speech", "words", "layout"]
  assert kinds(reading(away, **listens)) == ["words", "stillness", "layout"]
  assert kinds(reading(contacts=[])) == ["impacts", "layout"]
  assert kinds(reading(talks, quotes_hold=False)) == ["speech", "layout"]
  # Of a given sound no words, of a given picture neither layout nor stillness.
  every = reading(talks, contacts=[], **listens)
  assert kinds(every, ("audio",)) == ["speech", "stillness", "impacts", "layout"]
  assert kinds(every, ("video",)) == ["speech", "words", "impacts"]
  got = scores.pair_scores("stillness", every, every, 25)
  assert got == {"listener_motion": pytest.approx(0.1)}


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
  got = layout_error(disc(0.5, 0.5, 14, (200, 0, 0)), caption)
  assert got["hue_error"] == 0 and got.get("face_missing", 0) == 0
  assert got["place_error"] == pytest.approx(place, abs=0.002)


def test_what_is_absent_is_half_a_width_off():
  video = disc(0.25, 0.5, 14, (200, 0, 0))
  both = "a red face on the left and a blue face on the right"
  got = layout_error(video, both)
  place = pytest.approx(0.25, abs=0.002)
  assert got == {"hue_error": 0.5, "place_error": place, "face_missing": 0.5}
  # Less than a fifth of three quarters of its disc, which is the least: a radius of
  # 14.4 is demanded here, and 0.684 of a red disc (200 / 255 - 0.1) counts.
  least = np.sqrt(0.2 * 0.75 / (200 / 255 - 0.1)) * 14.4
  for radius, absent in ((least - 0.4, 1), (least + 0.4, 0)):
    got = layout_error(disc(0.25, 0.5, radius, (200, 0, 0)), "a red face on the left")
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
  got = curves.voice_curves(tone(1300), ["purple"])[0]
  np.testing.assert_allclose(got[8:-8], expected, rtol=1e-4)
  between = curves.voice_curves(tone(4.5 * 260), ["purple"])[
    0
  ]  # what leaks is all there is
  np.testing.assert_allclose(between[8:-8], np.sqrt(0.08 * (1 - weight) / 3), rtol=1e-3)
  for hertz in (0.3 * 260, 15 * 260):  # below and above the voice's band
    assert curves.voice_curves(tone(hertz), ["purple"])[0][8:-8].max() < 0.02


def test_a_moment_belongs_to_one_voice():
  both = curves.voice_curves(tone(1300), ["red", "purple"])
  assert both.shape == (2, 101)
  alone = curves.voice_curves(tone(1300), ["purple"])[0]
  # 1300 Hz is red's tenth harmonic too: they share it by the eighth power.
  red = curves.voice_curves(tone(1300), ["red"])[0]
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
  each = [15, 11, 7]  # a clip's mean over the others
  assert got["chance"]["x"] == {
    "mean": 11, "sem": pytest.approx(np.std(each) / 2**0.5), "n": 3
  }  # fmt: skip
  seen.clear()
  films.film_scores.__wrapped__([{"video": i, "audio": i} for i in range(5)], 25.0, 2)
  assert seen[5:7] == [(0, 40), (0, 30)] and len(seen) == 5 + 10
  assert films.film_scores.__wrapped__(clips[:1], 25.0)["chance"] == {}


def test_chance_of_scenes_is_of_other_clips(monkeypatch):
  """Pictures i with sounds j score 10 i + j."""
  monkeypatch.setattr(scores, "read_clip", lambda clip, fps, given: clip["text"])
  monkeypatch.setattr(scores, "kinds_of", lambda text, given: ["layout"])
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
  clip = lambda k, quoted, heard: reading(
    *(
      speaker(q, h, mouth=k + i, voice=k + i)
      for i, (q, h) in enumerate(zip(quoted, heard))
    )
  )
  one = clip(0, [["ba", "do"], ["mi"]], [["ba"], ["mi"]])
  two = clip(10, [["ke"], ["lu"]], [["ba", "do"], []])
  own = scores.pair_scores("speech", one, one, 25)
  assert pairs == [(0, 0), (1, 1)] and own["r"] == 1
  assert scores.pair_scores("words", one, one, 25) == {"ser": pytest.approx(1 / 3)}
  pairs.clear()
  other = scores.pair_scores("speech", one, two, 25)
  assert pairs == [(0, 10), (0, 11), (1, 10), (1, 11)] and other["r"] == 11
  # "ba do" is heard, or nothing: 0 and 2 errors; "mi" against these: 2 and 1. They are
  # of 2 + 2 + 1 + 1 syllables.
  wrong = scores.pair_scores("words", one, two, 25)
  assert wrong == {"ser": pytest.approx(5 / 6)}


def test_kinds_are_scored_apart_and_together(monkeypatch):
  monkeypatch.setattr(scores, "read_clip", lambda clip, fps, given: clip["text"])
  monkeypatch.setattr(scores, "kinds_of", lambda text, given: ["layout"])
  score = lambda kind, seen, sounds, fps: {"x": float(seen)}
  monkeypatch.setattr(scores, "pair_scores", score)
  clips = [{"text": str(i), "kind": "ab"[i % 2]} for i in range(4)]
  got = scores.score_kinds(clips, 25, np.random.default_rng(0), given=("audio",))
  mean = {k: table["given"]["x"]["mean"] for k, table in got.items()}
  assert mean == {"all": 1.5, "a": 1, "b": 2}
