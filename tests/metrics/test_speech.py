"""The word error rate of a clip: its scripts, and the gate for silence."""

import math

import numpy as np
import pytest

from ccl_jax.metrics.base import Unscorable
from ccl_jax.metrics.clip import Clip
from ccl_jax.metrics.speech import (
  SILENCE,
  is_silent,
  loudest,
  sound_scorer,
  transcript_scorer,
)
from ccl_jax.metrics.wer import rate_name, words
from ccl_jax.viz.media import write_wav

RATE = 16000


def tone(level: float, seconds: float = 1.0) -> np.ndarray:
  """A sine whose root mean square is `level` dBFS."""
  t = np.arange(round(seconds * RATE)) / RATE
  return (2**0.5 * 10 ** (level / 20) * np.sin(2 * np.pi * 440 * t)).astype(np.float32)


@pytest.mark.parametrize("level", [-70.0, -59.0, -20.0])
def test_the_level_of_a_tone(level):
  assert loudest(tone(level)) == pytest.approx(level, abs=0.01)


def test_the_loudest_part_counts():
  quiet = np.zeros(3 * RATE, np.float32)
  assert loudest(quiet) == loudest(quiet[:0]) == -math.inf
  quiet[RATE : RATE + RATE // 2] = tone(-30.0, 0.5)
  assert loudest(quiet) == pytest.approx(-30, abs=0.01)
  assert loudest(tone(-40.0, 0.1)) == pytest.approx(
    -40, abs=0.01
  )  # shorter than a block


@pytest.fixture
def clip_of(tmp_path):
  def make(wave, transcript):
    write_wav(tmp_path / "a.wav", wave, RATE)
    fields = {"transcript": transcript, "language": "English"}
    return Clip(tmp_path / "a.wav", "a", fields, frozenset({"sound"}))

  return make


@pytest.mark.parametrize("scorer", ["recogniser", "transcripts"])
def test_what_is_heard_in_silence_does_not_count(clip_of, scorer):
  asked = []

  def recognise(wave, language):
    asked.append(language)
    return "Thank you."

  given = {"a": "Thank you."}
  make = {
    "recogniser": sound_scorer(recognise),
    "transcripts": transcript_scorer(given),
  }
  score = make[scorer]
  silent = score(clip_of(tone(SILENCE - 3), ""))
  assert silent["unrequested"] == 0 and silent["silent"] == 1
  lost = score(clip_of(np.zeros(RATE, np.float32), "hello there"))
  assert (lost["wer"], lost["deletions"], lost["substitutions"]) == (1.0, 2, 0)
  assert asked == []  # nothing to recognise
  loud = score(clip_of(tone(SILENCE + 3), ""))
  assert loud["unrequested"] == 1 and "silent" not in loud
  assert asked == (["en"] if scorer == "recogniser" else [])


def test_a_clip_without_a_sound_track_is_silent(tmp_path):
  from ccl_jax.viz.media import write_mp4

  write_mp4(tmp_path / "a.mp4", np.zeros((5, 16, 16, 3), np.uint8), 25)
  clip = Clip(tmp_path / "a.mp4", "a", {"transcript": ""}, frozenset({"sound"}))
  assert is_silent(clip)
  assert transcript_scorer({"a": "Thank you."})(clip)["unrequested"] == 0
  (tmp_path / "b.mp4").write_bytes(b"no film")
  broken = Clip(tmp_path / "b.mp4", "b", {"transcript": ""}, frozenset({"sound"}))
  with pytest.raises(Unscorable, match="cannot be decoded"):
    is_silent(broken)
  assert transcript_scorer({"b": "Thank you."})(broken)["unrequested"] == 1


def test_all_mixes_are_the_mean_of_the_channels(tmp_path):
  """Also that of SyncNet, which libswresample resamples."""
  import av

  rng = np.random.default_rng(0)
  waves = rng.uniform(-0.5, 0.5, (6, RATE)).astype(np.float32)
  with av.open(str(tmp_path / "a.wav"), "w") as out:
    stream = out.add_stream("pcm_s16le", RATE, layout="5.1")
    ints = np.round(waves * 32767).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(ints.T.reshape(1, -1), "s16", "5.1")
    frame.sample_rate, frame.pts = RATE, 0
    out.mux([*stream.encode(frame), *stream.encode(None)])
  clip = Clip(tmp_path / "a.wav")
  mean = ints.mean(0)
  np.testing.assert_allclose(clip.sound(RATE) * 32768, mean, atol=0.51)
  np.testing.assert_allclose(clip.integers(RATE), mean, atol=1.01)


@pytest.mark.parametrize(
  ("language", "one", "other"),
  [
    ("zh", "你到底有没有在听我讲", "你到底有沒有在聽我講"),
    ("Chinese", "二零二六年", "2026年"),
    ("yue", "一百二十三個", "123个"),
    ("ja", "二千二十六年", "2026年"),
  ],
)
def test_two_ways_to_write_the_same(language, one, other):
  assert words(one, language) == words(other, language)
  assert rate_name(language) == "cer"


def test_japanese_characters_stay():
  assert words("氣", "ja") == ["氣"] and words("氣", "zh") == ["气"]
