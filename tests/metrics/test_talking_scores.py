"""The scores of talking scenes tell real pairs from chance, and are hard to fool."""

import numpy as np
import pytest

from ccl_jax.data.scenes import picture as talking_picture
from ccl_jax.data.scenes import talking as talking_scene
from ccl_jax.data.scenes import voice as talking_voice
from ccl_jax.data.scenes.talking import draw_clip
from ccl_jax.data.spec import ClipSpec
from ccl_jax.metrics import talking_curves as curves
from ccl_jax.metrics import talking_scene as scores
from ccl_jax.metrics.base import Unscorable

SMALL, DEFAULT = ClipSpec(33, 32, 32, 25), ClipSpec(65, 64, 64, 25)
ODD, SLOW = ClipSpec(49, 48, 80, 24), ClipSpec(33, 32, 32, 16)


def speech(seed, spec, **mixture):
  return draw_clip(seed, spec, talker=1.0, **mixture)


def blurred(video):
  """What a strong linear codec leaves: 2 x 2 pixels at half contrast, and noise."""
  f, h, w, _ = video.shape
  small = video.reshape(f, h // 2, 2, w // 2, 2, 3).mean((2, 4))
  noise = np.random.default_rng(0).normal(0, 12, video.shape)
  soft = 64 + 0.5 * small.repeat(2, 1).repeat(2, 2) + noise
  return soft.clip(0, 255).astype(np.uint8)


def shifted(audio, seconds):
  """The sound, late by so much."""
  n = round(seconds * 16000)
  late = np.roll(audio, n)
  late[:n] = 0
  return late


def test_the_legend_is_the_scene_s():
  assert curves.HUES == talking_voice.HUES
  assert curves.SYLLABLES == talking_voice.SYLLABLES
  assert curves.BANDWIDTH == talking_voice.BANDWIDTH
  assert curves.GRAVITY == talking_picture.GRAVITY
  assert scores.PLACES == talking_scene.PLACES
  assert scores.BALL_PLACES == talking_scene.BALL_PLACES
  for hue in curves.HUES:
    assert curves.pitch(hue) == talking_voice.pitch(hue)
    assert talking_voice.click_frequency(hue) > curves.CLICK_FLOOR


def test_a_caption_is_read_back():
  clip = speech(0, SMALL, duet=1.0, impacts=1.0)
  actors = scores.read_caption(clip["text"])
  assert [a.kind for a in actors] == ["talker", "talker", "ball"]
  said = [s for a in actors for s in a.syllables]
  assert sorted(said) == sorted(clip["syllables"])
  mimes = scores.read_caption("a red face on the left mimes")
  assert mimes == [scores.Actor("face", "red", "on the left", [])]


@pytest.mark.parametrize(
  "spec,count", [(SMALL, 100), (DEFAULT, 30), (ODD, 30), (SLOW, 60)]
)
def test_real_clips_score_high_and_chance_does_not(spec, count):
  clips = [draw_clip(i, spec, "test", impacts=0.5) for i in range(count)]
  table = scores.score_set(clips, spec.fps, np.random.default_rng(0), derangements=6)
  given, chance = table["given"], table["chance"]
  assert given["sync_r0"]["n"] == sum("says" in c["text"] for c in clips)
  assert given["sync_r0"]["mean"] > 0.97
  assert given["sync_c"]["mean"] > 0.85
  assert given["sync_lag_ms"]["mean"] < 8
  assert given["ser"]["mean"] < 0.01
  assert given["impact_f1"]["mean"] > 0.97
  assert given["hue_error"]["mean"] == 0
  assert given["place_error"]["mean"] < 0.02
  assert abs(chance["sync_r0"]["mean"]) < 0.1
  assert chance["sync_c"]["mean"] < given["sync_c"]["mean"] - 0.3
  assert chance["sync_lag_ms"]["mean"] > 120
  assert chance["ser"]["mean"] > 0.7
  assert chance["impact_f1"]["mean"] < 0.35
  assert chance["hue_error"]["mean"] > 0.5
  assert 0 < given["sync_r0"]["sem"] < 0.01


@pytest.mark.parametrize("spec", [SMALL, DEFAULT, SLOW], ids=str)
def test_a_late_sound_scores_its_delay(spec):
  lags = []
  for seed in range(6):
    clip = speech(seed, spec, duet=0.0)
    sound = shifted(clip["audio"], 0.1)
    score = scores.sync_scores(clip["video"], sound, spec.fps, clip["text"])
    lags.append(score["sync_lag_ms"])
    assert abs(lags[-1] - 100) < 16
    assert score["sync_r0"] < 0.7
  assert abs(np.mean(lags) - 100) < 8


def test_blur_and_noise_do_not_hide_synchrony():
  def worn(clip):
    noise = np.random.default_rng(1).normal(0, 0.01, clip["audio"].shape)
    audio = (0.5 * clip["audio"] + noise).astype(np.float32)
    return clip | {"video": blurred(clip["video"]), "audio": audio}

  clips = [worn(draw_clip(i, SMALL, impacts=0.5)) for i in range(30)]
  table = scores.score_set(clips, 25, np.random.default_rng(0), derangements=2)
  assert table["given"]["sync_r0"]["mean"] > 0.9
  assert table["given"]["sync_lag_ms"]["mean"] < 10
  assert table["given"]["ser"]["mean"] < 0.15
  assert table["given"]["impact_f1"]["mean"] > 0.8
  assert table["given"]["hue_error"]["mean"] < 0.1


def test_noise_is_not_synchronous():
  rng, r0, c = np.random.default_rng(2), [], []
  for seed in range(40):
    clip = speech(seed, SMALL)
    video = rng.integers(0, 256, clip["video"].shape, dtype=np.uint8)
    audio = rng.normal(0, 0.1, SMALL.samples).astype(np.float32)
    for pair in ((video, audio), (clip["video"], audio), (video, clip["audio"])):
      score = scores.sync_scores(*pair, 25, clip["text"])
      r0.append(score["sync_r0"])
      c.append(score["sync_c"])
  assert abs(np.mean(r0)) < 0.06 and np.mean(c) < 0.6
  assert np.mean([scores.ser(audio, speech(s, SMALL)["text"]) for s in range(20)]) > 0.7


def test_what_does_not_move_scores_zero_and_never_nan():
  clip = speech(1, SMALL, duet=0.0)
  still = clip["video"][:1].repeat(33, 0)
  grey, silence = np.full_like(clip["video"], 128), np.zeros_like(clip["audio"])
  for video in (still, grey):
    for audio in (clip["audio"], silence):
      for text in (clip["text"], ""):
        score = scores.sync_scores(video, audio, 25, text)
        assert score == {"sync_c": 0, "sync_lag_ms": 400, "sync_r0": 0}
  assert scores.sync_scores(clip["video"], silence, 25, clip["text"])["sync_r0"] == 0
  assert scores.ser(silence, clip["text"]) == 1
  assert scores.layout_error(grey, clip["text"])["hue_error"] == 1
  assert curves.click_times(silence) == []
  assert curves.contact_times(grey, "red", 25) == []


def test_hue_and_pitch_are_found_without_a_caption():
  found = []
  for seed in range(20):
    clip = speech(seed, SMALL, duet=0.0, distractor=0.0)
    hue = scores.read_caption(clip["text"])[0].hue
    found.append(
      curves.main_hue(clip["video"]) == hue == curves.main_pitch(clip["audio"])
    )
    score = scores.sync_scores(clip["video"], clip["audio"], 25)
    assert score["sync_r0"] > 0.9
  assert np.mean(found) > 0.9


def test_the_mime_s_mouth_is_not_the_voice_s():
  own, mimes = [], []
  for seed in range(20):
    clip = speech(seed, SMALL, duet=0.0, distractor=1.0)
    voice = curves.voice_curve(clip["audio"], scores.read_caption(clip["text"])[0].hue)
    for actor, rows in zip(
      scores.read_caption(clip["text"]), (own, mimes), strict=False
    ):
      mouth = curves.mouth_curve(clip["video"], actor.hue)
      rows.append(scores.synchrony(mouth, voice, 25)["sync_r0"])
  assert np.mean(own) > 0.95 and abs(np.mean(mimes)) < 0.2


def test_contacts_and_clicks_are_timed_within_a_few_ms():
  for seed in range(8):
    clip = draw_clip(seed, DEFAULT, talker=0.0, distractor=0.0)
    hue = scores.read_caption(clip["text"])[0].hue
    truth = clip["events"]["time"]
    truth = truth[(truth > 0.1) & (truth < 2.4)]
    for times in (
      curves.contact_times(clip["video"], hue, 25),
      curves.click_times(clip["audio"]),
    ):
      for t in truth:
        assert min(abs(np.array(times) - t)) < 0.006
      assert len(times) <= len(clip["events"])


def test_f1_counts_each_match_once():
  def f1(contacts, clicks):
    return scores.impact_f1(contacts, clicks, frames=65, fps=25)

  assert f1([0.5, 1.0], [0.51, 1.03]) == 1
  assert f1([0.5, 1.0], [0.55, 1.0]) == 0.5
  assert f1([0.5], [0.49, 0.51]) == pytest.approx(2 / 3)
  assert f1([0.5, 0.52], [0.51]) == pytest.approx(2 / 3)
  assert f1([0.02, 0.5], [0.5, 2.59]) == 1  # the ends do not count
  assert f1([], []) == 0 and f1([0.5], []) == 0


def test_syllable_errors():
  clip = speech(5, SMALL, duet=0.0)
  quoted = " ".join(clip["syllables"])
  assert scores.ser(clip["audio"], clip["text"]) == 0
  wrong = clip["text"].replace(quoted, quoted + " ke")
  n = len(clip["syllables"]) + 1
  assert scores.ser(clip["audio"], wrong) == pytest.approx(1 / n)
  assert np.isnan(scores.ser(clip["audio"], "a red ball bounces on the left"))


def test_a_face_elsewhere_or_of_another_hue_is_an_error():
  clip = speech(2, SMALL, duet=0.0, distractor=0.0, impacts=0.0)
  actor = scores.read_caption(clip["text"])[0]
  away = {"on the left": "on the right"}.get(actor.place, "on the left")
  moved = scores.layout_error(clip["video"], clip["text"].replace(actor.place, away))
  assert moved["hue_error"] == 0 and moved["place_error"] > 0.2
  hue = next(h for h in curves.HUES if h != actor.hue)
  recoloured = scores.layout_error(clip["video"], clip["text"].replace(actor.hue, hue))
  assert recoloured == {"hue_error": 1, "place_error": 0.5}


def test_one_clip_has_all_scores_that_apply():
  clip = speech(5, SMALL, duet=0.0, impacts=0.0)
  got = scores.score(clip["video"], clip["audio"], clip["text"], 25)
  table = scores.score_set([clip], 25, np.random.default_rng(0))["given"]
  assert got == {name: x["mean"] for name, x in table.items()}
  assert {"sync_r0", "ser", "place_error"} <= got.keys() and "impact_f1" not in got
  with pytest.raises(Unscorable, match="no caption of a talking scene"):
    scores.score(clip["video"], clip["audio"], "a cat yawns", 25)
  with pytest.raises(Unscorable, match=r"2 frames and 0\.00 s"):
    scores.score(clip["video"][:2], clip["audio"][:5], clip["text"], 25)
