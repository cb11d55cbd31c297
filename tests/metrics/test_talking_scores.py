"""The scores of talking scenes tell real pairs from chance, and are hard to fool."""

import numpy as np
import pytest

from ccl_jax.data.scenes import picture as talking_picture
from ccl_jax.data.scenes import talking as talking_scene
from ccl_jax.data.scenes import voice as talking_voice
from ccl_jax.data.scenes.bench import KINDS, draw_bench
from ccl_jax.data.scenes.talking import draw_clip
from ccl_jax.data.spec import ClipSpec
from ccl_jax.metrics import talking_curves as curves
from ccl_jax.metrics import talking_layout as layout
from ccl_jax.metrics import talking_scene as scores
from ccl_jax.metrics.base import Unscorable

SMALL, DEFAULT = ClipSpec(33, 32, 32, 25), ClipSpec(65, 64, 64, 25)
BENCH = ClipSpec(65, 64, 64, 24)
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
  """The sound, late by so much, or early."""
  n = round(seconds * 16000)
  late = np.roll(audio, n)
  late[slice(n) if n > 0 else slice(n, None)] = 0
  return late


def test_the_legend_is_the_scene_s():
  assert curves.HUES == talking_voice.HUES
  assert curves.SYLLABLES == talking_voice.SYLLABLES
  assert curves.BANDWIDTH == talking_voice.BANDWIDTH
  assert curves.GRAVITY == talking_picture.GRAVITY
  assert layout.PLACES == talking_scene.PLACES
  assert layout.BALL_PLACES == talking_scene.BALL_PLACES
  for hue in curves.HUES:
    assert curves.pitch(hue) == talking_voice.pitch(hue)
    assert talking_voice.click_frequency(hue) > curves.CLICK_FLOOR


def test_a_caption_is_read_back():
  clip = speech(0, SMALL, duet=1.0, impacts=1.0)
  actors = layout.read_caption(clip["text"])
  assert [a.kind for a in actors] == ["talker", "talker", "ball"]
  said = [s for a in actors for s in a.syllables]
  assert sorted(said) == sorted(clip["syllables"])
  mimes = layout.read_caption("a red face on the left mimes")
  assert mimes == [layout.Actor("face", "red", "on the left", [])]


@pytest.mark.parametrize(
  "spec,count", [(SMALL, 30), (DEFAULT, 12), (ODD, 12), (SLOW, 20)]
)
def test_real_clips_score_high_and_chance_does_not(spec, count):
  clips = [draw_clip(i, spec, "test", impacts=0.5) for i in range(count)]
  table = scores.score_set(clips, spec.fps, np.random.default_rng(0), derangements=3)
  given, chance = table["given"], table["chance"]
  assert given["sync_r0"]["n"] == sum("says" in c["text"] for c in clips)
  assert given["sync_r0"]["mean"] > 0.97
  assert given["event_f1"]["mean"] > 0.99
  for lag in ("sync_lag_ms", "lag_first_ms", "lag_middle_ms", "lag_last_ms"):
    assert abs(given[lag]["mean"]) < 6, lag
  assert given["ser"]["mean"] < 0.01
  assert given["impact_f1"]["mean"] > 0.97
  assert given["hue_error"]["mean"] == 0
  assert given["place_error"]["mean"] < 0.02
  assert abs(chance["sync_r0"]["mean"]) < 0.1
  assert chance["event_f1"]["mean"] < 0.4 and "sync_lag_ms" not in chance
  assert chance["ser"]["mean"] > 0.7
  assert chance["impact_f1"]["mean"] < 0.35
  assert chance["hue_error"]["mean"] > 0.5
  assert 0 < given["sync_r0"]["sem"] < 0.01


@pytest.mark.parametrize("spec", [SMALL, DEFAULT, SLOW], ids=str)
@pytest.mark.parametrize("late", [0.08, -0.08])
def test_a_late_sound_scores_its_delay(spec, late):
  """80 ms late is + 80 ms, and 80 ms early - 80 ms."""
  clips = []
  for seed in range(8):
    clip = speech(seed, spec, duet=0.0)
    clips.append(clip | {"audio": shifted(clip["audio"], late)})
    got = scores.score(clips[-1]["video"], clips[-1]["audio"], clip["text"], spec.fps)
    assert abs(got["sync_lag_ms"] - 1000 * late) < 20
  given = scores.score_set(clips, spec.fps, np.random.default_rng(0), 1)["given"]
  assert abs(given["sync_lag_ms"]["mean"] - 1000 * late) < 8
  assert given["sync_r0"]["mean"] < 0.75


def test_blur_and_noise_do_not_hide_synchrony():
  def worn(clip):
    noise = np.random.default_rng(1).normal(0, 0.01, clip["audio"].shape)
    audio = (0.5 * clip["audio"] + noise).astype(np.float32)
    return clip | {"video": blurred(clip["video"]), "audio": audio}

  clips = [worn(draw_clip(i, SMALL, impacts=0.5)) for i in range(30)]
  table = scores.score_set(clips, 25, np.random.default_rng(0), derangements=2)
  assert table["given"]["sync_r0"]["mean"] > 0.9
  assert abs(table["given"]["sync_lag_ms"]["mean"]) < 6
  assert table["given"]["event_f1"]["mean"] > 0.9
  assert table["given"]["ser"]["mean"] < 0.15
  assert table["given"]["impact_f1"]["mean"] > 0.8
  assert table["given"]["hue_error"]["mean"] < 0.1


def test_noise_is_not_synchronous():
  rng, clips = np.random.default_rng(2), []
  for seed in range(24):
    clip = speech(seed, SMALL)
    video = rng.integers(0, 256, clip["video"].shape, dtype=np.uint8)
    audio = rng.normal(0, 0.1, SMALL.samples).astype(np.float32)
    clips += [clip | {"audio": audio}, clip | {"video": video}]
  given = scores.score_set(clips, 25, np.random.default_rng(0), 1)["given"]
  assert abs(given["sync_r0"]["mean"]) < 0.06 and given["event_f1"]["mean"] < 0.5
  assert "sync_lag_ms" not in given and given["ser"]["mean"] > 0.4


def test_what_does_not_move_scores_zero_and_never_nan():
  clip = speech(1, SMALL, duet=0.0)
  still = clip["video"][:1].repeat(33, 0)
  grey, silence = np.full_like(clip["video"], 128), np.zeros_like(clip["audio"])
  lags = {"sync_lag_ms", "lag_first_ms", "lag_middle_ms", "lag_last_ms"}
  for video, audio in ((still, clip["audio"]), (clip["video"], silence)):
    got = scores.score(video, audio, clip["text"], 25)
    assert got["sync_r0"] == 0 == got["event_f1"] and not lags & got.keys()
  # Where no face is found there is no synchrony to score: that is told apart.
  got = scores.score(grey, clip["audio"], clip["text"], 25)
  assert "sync_r0" not in got and got["face_missing"] == got["hue_error"] == 1
  assert scores.score(clip["video"], silence, clip["text"], 25)["ser"] == 1
  assert curves.mouth_curve(grey, "red") is None
  assert curves.click_times(silence) == []
  assert curves.contact_times(grey, "red", 25) == []


def test_the_mime_s_mouth_is_not_the_voice_s():
  own, mimes = [], []
  for seed in range(20):
    clip = speech(seed, SMALL, duet=0.0, distractor=1.0)
    hue = layout.read_caption(clip["text"])[0].hue
    voice = curves.voice_curves(clip["audio"], [hue])[0]
    for actor, rows in zip(
      layout.read_caption(clip["text"]), (own, mimes), strict=False
    ):
      mouth = curves.mouth_curve(clip["video"], actor.hue)
      rows.append(scores.synchrony(mouth, voice, 25)["sync_r0"])
  assert np.mean(own) > 0.95 and abs(np.mean(mimes)) < 0.2


def test_contacts_and_clicks_are_timed_within_a_few_ms():
  for seed in range(8):
    clip = draw_clip(seed, DEFAULT, talker=0.0, distractor=0.0)
    hue = layout.read_caption(clip["text"])[0].hue
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
  ser = lambda text: scores.score(clip["video"], clip["audio"], text, 25).get("ser")
  quoted = " ".join(clip["syllables"])
  assert ser(clip["text"]) == 0
  n = len(clip["syllables"]) + 1
  assert ser(clip["text"].replace(quoted, quoted + " ke")) == pytest.approx(1 / n)
  assert ser("a red ball bounces on the left") is None


def test_a_face_elsewhere_or_of_another_hue_is_an_error():
  clip = speech(2, SMALL, duet=0.0, distractor=0.0, impacts=0.0)
  actor = layout.read_caption(clip["text"])[0]
  away = {"on the left": "on the right"}.get(actor.place, "on the left")
  moved = layout.layout_error(clip["video"], clip["text"].replace(actor.place, away))
  assert moved["hue_error"] == 0 and moved["place_error"] > 0.2
  hue = next(h for h in curves.HUES if h != actor.hue)
  recoloured = layout.layout_error(clip["video"], clip["text"].replace(actor.hue, hue))
  assert recoloured == {"hue_error": 1, "place_error": 0.5, "face_missing": 1}


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


@pytest.fixture(scope="module", params=[ClipSpec(49, 32, 32, 25), BENCH], ids=str)
def bench(request):
  spec = request.param
  return spec, [draw_bench(i, spec, "test") for i in range(24)]


def test_the_bench_s_kinds_score_as_drawn(bench):
  spec, clips = bench
  table = scores.score_kinds(clips, spec.fps, np.random.default_rng(0), 2)
  assert set(table) == {"all", *KINDS}
  given, chance = table["all"]["given"], table["all"]["chance"]
  assert given["sync_r0"]["mean"] > 0.98 and abs(chance["sync_r0"]["mean"]) < 0.15
  assert given["event_f1"]["mean"] > 0.99 and chance["event_f1"]["mean"] < 0.45
  assert abs(given["sync_lag_ms"]["mean"]) < 5 and given["sync_lag_ms"]["n"] == 20
  assert given["hue_error"]["mean"] == given["face_missing"]["mean"] == 0
  assert given["ser"]["mean"] < 0.02 and given["ser"]["n"] == 20  # but contradictions
  two, off = table["two_faces"]["given"], table["off_screen"]["given"]
  assert two["right_face"]["mean"] == 1 and two["right_face"]["n"] == 4
  assert off["listener_motion"]["mean"] < 0.01 and "sync_r0" not in off
  assert "ser" not in table["contradiction"]["given"]
  for kind in set(KINDS) - {"two_faces"}:
    assert "right_face" not in table[kind]["given"]


def test_a_listener_that_talks_and_a_wrong_face_are_seen():
  """The pictures of clips whose face talks under captions that have it listen, and the
  sound of the other face's hue.
  """
  talks = draw_bench(0, BENCH)
  actor = layout.read_caption(talks["text"])[0]
  text = f'a voice off screen says "ba", a {actor.hue} face {actor.place} is silent'
  got = scores.score(talks["video"], talks["audio"], text, 24)
  assert got["listener_motion"] > 0.1 and "sync_r0" not in got
  two = draw_bench(1, BENCH)
  first, second = layout.read_caption(two["text"])[1:]
  own = scores.read_clip(two, 24)
  (speaker,) = own.speakers
  swapped = speaker._replace(mouth=speaker.rival, rival=speaker.mouth)
  wrong = scores.pair_scores("speech", own._replace(speakers=[swapped]), own, 24)
  assert wrong["right_face"] == 0 and wrong["sync_r0"] < 0.5
  assert {first.hue, second.hue} <= set(curves.HUES)


def test_nothing_is_scored_of_a_stream_that_was_given():
  clips = [draw_bench(i, ClipSpec(33, 32, 32, 25)) for i in range(12)]
  names = lambda *given: set(
    scores.score_set(clips, 25, np.random.default_rng(0), 1, given)["given"]
  )
  sound, picture = {"ser"}, {"hue_error", "place_error", "face_missing"}
  picture |= {"listener_motion"}
  assert sound | picture < names()
  assert names() - names("audio") == sound and names() - names("video") == picture


def test_a_given_stream_s_events_are_the_exact_ones():
  """A sound that is given stays what it was drawn as, whatever is read off it."""
  clip = draw_bench(0, BENCH)
  events = clip["events"]
  exact = list((events["time"] + events["end"]) / 2)
  silent = clip | {"audio": np.zeros_like(clip["audio"])}
  (speaker,) = scores.read_clip(silent, 24, ("audio",)).speakers
  assert speaker.heard_at == exact
  np.testing.assert_allclose(speaker.seen_at, exact, atol=0.012)
  (speaker,) = scores.read_clip(silent, 24).speakers
  assert speaker.heard_at == []
  grey = clip | {"video": np.full_like(clip["video"], 99)}
  (speaker,) = scores.read_clip(grey, 24, ("video",)).speakers
  assert speaker.seen_at == exact
  np.testing.assert_allclose(speaker.heard_at, exact, atol=0.012)
