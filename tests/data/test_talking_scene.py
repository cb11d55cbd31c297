"""The talking scene: picture, sound, caption and events say the same, exactly."""

import re
import socket
import sys

import numpy as np
import pytest

from ccl_jax.data.scenes import talking
from ccl_jax.data.scenes import voice as talking_voice
from ccl_jax.data.scenes.talking import EVENT, Scene, draw_clip, seen_pixels
from ccl_jax.data.sources.scene_set import SceneConfig
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError

QUICK = ClipSpec(33, 32, 32, 25)
SIZES = [
  QUICK,
  ClipSpec(65, 64, 64, 25),
  ClipSpec(33, 48, 80, 24),
  ClipSpec(33, 32, 32, 16),
]
FACE_ONLY = dict(
  talker=1.0, duet=0.0, distractor=0.0, impacts=0.0, shapes=0.0, texture=0.0
)
BALL_ONLY = dict(talker=0.0, distractor=0.0, noise=0.0)


@pytest.mark.parametrize("spec", SIZES, ids=str)
def test_a_clip_has_the_sizes_of_its_spec_and_says_what_it_quotes(spec):
  for seed in range(6):
    clip = draw_clip(seed, spec)
    t, h, w = spec.latent_shape
    assert clip["video"].shape == (spec.frames, spec.height, spec.width, 3)
    assert clip["video"].dtype == np.uint8 and clip["audio"].dtype == np.float32
    assert clip["audio"].shape == (spec.samples,)
    assert 0.01 < abs(clip["audio"]).max() < 0.99
    assert clip["video_mask"].shape == (t, h, w)
    assert clip["audio_mask"].shape == (spec.audio_tokens,)
    quoted = re.findall(r'"([^"]+)"', clip["text"])
    assert len(clip["mouth"]) == len(quoted)
    assert sorted(" ".join(quoted).split()) == sorted(clip["syllables"])
    events = clip["events"]
    assert events.dtype == EVENT and (np.diff(events["time"]) >= 0).all()
    spoken = events[events["kind"] == "syllable"]
    assert len(spoken) == len(clip["syllables"])
    assert (spoken["end"] < spec.samples / spec.sample_rate).all()
    assert (spoken["time"][1:] - spoken["end"][:-1] > 0.079).all()
    for index, quote in enumerate(quoted):
      own = [
        s for s, e in zip(clip["syllables"], spoken, strict=True) if e["index"] == index
      ]
      assert own == quote.split()


def test_the_seed_decides_everything():
  again, first, other = draw_clip(3, QUICK), draw_clip(3, QUICK), draw_clip(4, QUICK)
  for key, value in first.items():
    assert np.array_equal(value, again[key]), key
  assert not np.array_equal(first["video"], other["video"])
  assert not np.array_equal(first["audio"], other["audio"])


@pytest.mark.parametrize("mixture", [{}, {"talker": 0.0}], ids=["speech", "balls"])
def test_the_splits_share_no_combination(monkeypatch, mixture):
  """By their captions, which need no picture and no sound."""
  monkeypatch.setattr(talking, "film", lambda *_, **__: {})

  def keys(split):
    texts = [draw_clip(s, QUICK, split, **mixture)["text"] for s in range(80)]
    says = [re.findall(r"a [^,]*says [^,]*", t) for t in texts]
    balls = [re.findall(r"a [^,]*bounces [^,]*", t) for t in texts]
    return {", ".join(s or b) for s, b in zip(says, balls, strict=True)}

  train, test = keys("train"), keys("test")
  assert not train & test and len(test) > 1
  with pytest.raises(UsageError, match="'val'"):
    draw_clip(0, QUICK, "val")


@pytest.mark.parametrize("fps", [25, 16])
def test_mouth_and_voice_follow_one_envelope_without_delay(fps):
  spec = ClipSpec(33, 64, 64, fps)
  for seed in range(4):
    clip = draw_clip(seed, spec, noise=0.0, jitter=0.0, **FACE_ONLY)
    mouth = clip["mouth"][0]
    assert mouth.max() > 0.4 and mouth.min() == 0
    dark = (clip["video"].max(-1) < 100).sum((1, 2))  # the ink of mouth and pupils
    assert np.corrcoef(dark, mouth)[0, 1] > 0.995
    assert np.unique(dark[mouth == 0]).size == 1
    # The voice's rms over one period of 10 ms around each frame's time.
    centre = (np.arange(spec.frames) / fps * 16000).astype(int)
    window = np.clip(centre[:, None] + np.arange(-80, 80), 0, spec.samples - 1)
    rms = np.sqrt((clip["audio"][window] ** 2).mean(1))
    assert np.corrcoef(rms, mouth)[0, 1] > 0.97
    assert abs(rms / talking_voice.VOICE_LEVEL - mouth)[mouth == 0].max() < 0.1
    slope = (rms @ mouth) / (mouth @ mouth)
    assert abs(slope / talking_voice.VOICE_LEVEL - 1) < 0.1


def test_syllables_last_and_wait_as_promised_and_start_anywhere():
  rng = np.random.default_rng(0)
  spoken = [talking_voice.utterance(rng, 1.31) for _ in range(300)]
  assert {len(s) for s in spoken} == {2, 3, 4}
  lengths = np.array([s.end - s.onset for said in spoken for s in said])
  assert 0.079 < lengths.min() < 0.09 and 0.24 < lengths.max() < 0.251
  firsts = np.array([said[0].onset for said in spoken])
  assert firsts.min() < 0.01 and firsts.max() > 0.5
  tiny = talking_voice.utterance(rng, 0.03)
  assert len(tiny) == 1 and 0 <= tiny[0].onset < tiny[0].end <= 0.03


def test_a_click_sounds_at_the_contact_and_not_before():
  for seed in range(8):
    clip = draw_clip(seed, QUICK, **BALL_ONLY)
    contacts = clip["events"]["time"]
    assert len(contacts) and (clip["events"]["kind"] == "contact").all()
    first = int(np.ceil(contacts[0] * 16000))
    assert not clip["audio"][:first].any()
    for t in contacts:
      j = int(np.ceil(t * 16000))
      before, after = clip["audio"][j - 16 : j], clip["audio"][j : j + 16]
      assert abs(after).max() > 0.03 and abs(after).max() > 20 * abs(before).max()


def test_the_ball_is_lowest_at_the_contact():
  spec = ClipSpec(65, 64, 64, 25)
  for seed in range(4):
    clip = draw_clip(seed, spec, shapes=0.0, texture=0.0, **BALL_ONLY)
    ball = np.ptp(clip["video"].astype(int), axis=-1) > 100
    y = (ball.sum(2) @ np.arange(64)) / ball.sum((1, 2))
    for t in clip["events"]["time"]:
      k = round(t * 25)
      near = y[max(k - 6, 0) : k + 7]
      assert abs(int(near.argmax()) + max(k - 6, 0) - t * 25) <= 1


def test_slower_contacts_are_quieter():
  clip = draw_clip(1, ClipSpec(65, 32, 32, 25), **BALL_ONLY)
  starts = [int(t * 16000) for t in clip["events"]["time"]]
  energy = [(clip["audio"][j : j + 200] ** 2).sum() for j in starts]
  assert len(energy) > 2 and (np.diff(energy) < 0).all()


def test_the_masks_cover_what_sounds_and_nothing_else():
  for seed in range(6):
    clip = draw_clip(seed, ClipSpec(65, 64, 64, 25), noise=0.0, shapes=0.0, texture=0.0)
    energy = (clip["audio"].reshape(-1, 512) ** 2).mean(1)
    assert clip["audio_mask"][energy > 1e-5].all()
    assert (energy[~clip["audio_mask"]] < 1e-5).all()
    coloured = np.ptp(clip["video"].astype(int), axis=-1) > 100
    share = coloured.reshape(65, 8, 8, 8, 8).mean((2, 4))
    share = np.concatenate([share[:1], share[1:].reshape(16, 4, 8, 8).mean(1)])
    if "mimes" not in clip["text"]:
      assert clip["video_mask"][share > 0.1].all()
      assert not clip["video_mask"][share == 0].any()
    else:  # the face that mimes is not foreground
      assert not clip["video_mask"][share > 0.5].all()


def test_the_mixture_decides_what_is_in_a_clip():
  both = draw_clip(0, QUICK, talker=1.0, duet=1.0, impacts=1.0)
  assert both["text"].count("says") == 2 and both["text"].count("bounces") == 1
  assert set(both["events"]["index"][both["events"]["kind"] == "syllable"]) == {0, 1}
  mimed = draw_clip(0, QUICK, talker=1.0, duet=0.0, distractor=1.0, impacts=0.0)
  assert mimed["text"].count("mimes") == 1 and mimed["mouth"].shape == (1, 33)
  ball = draw_clip(0, QUICK, talker=0.0)
  assert ball["mouth"].shape == (0, 33) and not ball["syllables"]
  assert isinstance(Scene([], [], []).events(1.0), np.ndarray)


def test_a_build_gives_back_the_clips_and_is_done_once(tmp_path, monkeypatch):
  from ccl_jax.data.builders import talking_scene as builder

  def no_network(*_):
    raise OSError("no network here")

  monkeypatch.setattr(socket.socket, "connect", no_network)
  asked = dict(n_train=5, n_test=3, seed=7, impacts=0.5, noise=0.002)
  drawn = []

  def counted(seed, *args, **kwargs):
    drawn.append(seed)
    if len(drawn) == 4:
      raise KeyboardInterrupt
    return draw_clip(seed, *args, **kwargs)

  monkeypatch.setattr(builder, "draw_clip", counted)
  with pytest.raises(KeyboardInterrupt):
    builder.build(tmp_path, QUICK, **asked)
  splits = builder.build(tmp_path, QUICK, **asked)
  assert len(drawn) == 4 + 8
  again = builder.build(tmp_path, QUICK, **asked)
  assert len(drawn) == 4 + 8
  assert {k: len(v) for k, v in again.items()} == {"train": 5, "test": 3}

  seeds = {"train": set(), "test": set()}
  for split, clips in splits.items():
    for i in range(len(clips)):
      seed = int(clips[i]["id"].split("-")[-1])
      seeds[split].add(seed)
      wanted = draw_clip(seed, QUICK, split, impacts=0.5, noise=0.002)
      assert wanted.keys() == clips[i].keys()
      for key, value in wanted.items():
        assert np.array_equal(value, clips[i][key]), key
        assert type(value) is type(clips[i][key]), key
        assert getattr(value, "dtype", 0) == getattr(clips[i][key], "dtype", 0), key
  assert seeds == {"train": set(range(7, 12)), "test": set(range(7, 10))}
  other = builder.build(tmp_path, QUICK, n_train=1, n_test=1, impacts=0.5)
  assert len(other["train"]) == 1 and len(drawn) == 4 + 8 + 2
  assert "tensorflow" not in sys.modules


def test_a_set_keeps_its_name_and_one_of_another_stride_has_its_own():
  """The names that sets of one stride have had; the masks of another are coarser."""
  name = lambda **own: SceneConfig(ClipSpec(17, 32, 32, 25.0, **own), 4, 2).name
  assert name() == "32x32x17-1063c2ba"
  others = [{"stride": 16}, {"audio_rate": 31.4}, {"stride": 16, "audio_rate": 31.4}]
  assert len({name(), *(name(**own) for own in others)}) == 4
  spec = ClipSpec(5, 32, 64, 25.0, stride=16)
  covered = np.zeros((5, 32, 64), np.float32)
  covered[1:, 8:16, 40:60] = 1  # of pixels of the latent 64 and 96 of 256
  seen = seen_pixels([covered], spec)
  assert seen.shape == (2, 2, 4)
  assert np.argwhere(seen).tolist() == [[1, 0, 2], [1, 0, 3]]
