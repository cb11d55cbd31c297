"""A clip's sound, sample by sample: frames of known numbers at known times."""

import tracemalloc
import types

import av
import numpy as np
import pytest

from ccl_jax.data.media import decode as decode_module
from ccl_jax.data.media import sound
from ccl_jax.data.media.decode import read_audio
from ccl_jax.data.media.loudness import integrated_loudness
from ccl_jax.data.media.sound import decode_sound
from ccl_jax.data.media.tracks import MediaError
from ccl_jax.data.preparing.rows import Options, rows_of
from ccl_jax.data.sources.captions import Caption, Row
from tests.data.sound_files import wav

RATE = 16000
RAMP = np.arange(1, 8001, dtype=np.float32) / 10_000  # sample j is (j + 1) / 10000


def pieces(*placed, rate=RATE, layout="mono"):
  """(time, frame) of (time, wave) pairs."""
  out = []
  for time, wave in placed:
    frame = av.AudioFrame.from_ndarray(np.atleast_2d(wave), "fltp", layout)
    frame.sample_rate = rate
    out.append((time, frame))
  return out


@pytest.fixture
def decode(monkeypatch):
  """`decode_sound` of such frames."""

  def run(frames, start, samples, rate=RATE):
    monkeypatch.setattr(sound, "frames_from", lambda *_: iter(frames))
    return decode_sound(types.SimpleNamespace(name="x"), None, start, samples, rate)

  return run


def test_frames_one_after_another_are_one_sound(decode):
  frames = pieces(*((k / 10, RAMP[1600 * k : 1600 * k + 1600]) for k in range(5)))
  np.testing.assert_array_equal(decode(frames, 0.0, 8000), RAMP)
  np.testing.assert_array_equal(decode(frames, 0.0, None), RAMP)
  np.testing.assert_array_equal(decode(frames, 0.05, 2400), RAMP[800:3200])
  np.testing.assert_array_equal(decode(frames, 0.25, None), RAMP[4000:])
  # A clip that begins before the sound.
  got = decode([(t + 0.1, f) for t, f in frames], 0.0, 2000)
  np.testing.assert_array_equal(got, np.append(np.zeros(1600), RAMP[:400]))


def test_a_time_that_is_off_by_little_is_noise_and_by_more_a_gap(decode):
  whole = pieces((0.0, RAMP[:1600]))
  near = decode(whole + pieces((0.1095, RAMP[1600:3200])), 0.0, 3200)
  np.testing.assert_array_equal(near, RAMP[:3200])
  early = decode(whole + pieces((0.0905, RAMP[1600:3200])), 0.0, 3200)
  np.testing.assert_array_equal(early, RAMP[:3200])
  gap = decode(whole + pieces((0.1105, RAMP[1600:3200])), 0.0, 3368)
  np.testing.assert_array_equal(gap[:1600], RAMP[:1600])
  assert not gap[1600:1768].any()
  np.testing.assert_array_equal(gap[1768:], RAMP[1600:3200])
  # A jump back: what comes later lies on top.
  back = decode(whole + pieces((0.05, RAMP[1600:3200])), 0.0, 2400)
  np.testing.assert_array_equal(back, np.append(RAMP[:800], RAMP[1600:3200]))


def test_noise_in_the_times_does_not_add_up(decode):
  """Frames that are each 1 ms late again: the count of samples is the clock, until it
  is off by more than 10 ms.
  """
  late = pieces(
    *((k / 20 + 0.001 * k, RAMP[800 * k : 800 * k + 800]) for k in range(10))
  )
  np.testing.assert_array_equal(decode(late, 0.0, 8000), RAMP)
  ones = [(k * 0.0511, np.ones(800, np.float32)) for k in range(14)]
  got = decode(pieces(*ones), 0.0, 14 * 800)
  assert np.flatnonzero(got == 0).tolist() == list(range(8000, 8176))  # of frame 10


def test_a_tail_may_lack_and_is_silent(decode):
  frames = pieces((0.0, RAMP[:4000]))  # 0.25 s
  got = decode(frames, 0.0, 8000)  # 0.5 s: a quarter of a second less
  np.testing.assert_array_equal(got, np.append(RAMP[:4000], np.zeros(4000)))
  with pytest.raises(
    MediaError, match=r"the sound ends at 0.25 s and the clip at 0.50"
  ):
    decode(frames, 0.0, 8016)
  with pytest.raises(MediaError, match=r"the sound ends at 0.00 s"):
    decode([], 1.0, 16)
  assert decode([], 1.0, None).shape == (0,)


def test_numbers_that_are_none_are_told_where_they_are(decode):
  bad = RAMP.copy()
  bad[[4800, 6400]] = np.nan, np.inf
  with pytest.raises(MediaError, match=r"x: NaN or infinite .* the first at 2.30 s"):
    decode(pieces((2.0, bad)), 2.0, 8000)
  assert len(decode(pieces((2.0, bad)), 2.0, 4800)) == 4800


def test_beyond_full_scale_is_cut(decode):
  loud = np.float32([0.5, 1.0, 1.5, -1.0, -2.5])
  got = decode(pieces((0.0, loud)), 0.0, 5)
  np.testing.assert_array_equal(got, [0.5, 1, 1, -1, -1])


def test_channels_are_a_mean_unless_one_is_dead(decode):
  """Dead is below -80 dBFS throughout the clip: a channel at -60 dB was recorded."""
  left = RAMP[:1600]

  def mixed(level, start=0.0, samples=1600):
    right = np.full(1600, level, np.float32)
    right[0] = max(level, 0.5 if start else 0)
    return decode(pieces((0.0, [left, right]), layout="stereo"), start, samples)

  for level in (1e-3, 1.1e-4):
    np.testing.assert_allclose(mixed(level), (left + np.float32(level)) / 2, atol=1e-7)
  np.testing.assert_array_equal(mixed(0.9e-4), left)
  # What it holds outside of the clip does not count.
  np.testing.assert_array_equal(mixed(0.0, 0.05, 800), left[800:])


def test_weights_of_surround_add_up_to_one(decode):
  """What is alike in all six channels stays as it is: nothing clips."""
  for level in (0.25, 1.0):
    full = np.full((6, 1600), level, np.float32)
    got = decode(pieces((0.0, full), layout="5.1"), 0.0, 1600)
    np.testing.assert_allclose(got, level, atol=1e-3)


def test_the_format_may_change_midway(decode):
  frames = pieces((0.0, RAMP[:1600]))
  frames += pieces((0.1, [RAMP[1600:3200]] * 2), layout="stereo")
  np.testing.assert_array_equal(decode(frames, 0.0, 3200), RAMP[:3200])
  frames = pieces((0.0, np.full(1600, 0.25, np.float32)))
  frames += pieces((0.1, np.full(800, 0.5, np.float32)), rate=8000)
  got = decode(frames, 0.0, 3200)
  np.testing.assert_array_equal(got[:1600], 0.25)
  np.testing.assert_allclose(got[1750:3100], 0.5, atol=1e-3)


@pytest.mark.parametrize("rate", [48000, 44100, 8000])
def test_a_resampled_sound_keeps_its_last_samples(tmp_path, rate):
  """A tone that ends with the file is there to the end, at its amplitude and phase."""
  tone = lambda rate: np.float32(0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate))
  got = read_audio(wav(tmp_path / "a.wav", tone(rate), rate))
  assert len(got) == RATE
  error = np.abs(got - tone(RATE))
  assert error[40:-40].max() < 2e-3
  assert np.abs(got[-40:]).max() > 0.4 and error[-40:].max() < 0.25


def test_a_resampled_sound_keeps_its_last_samples_before_a_gap(decode):
  """Runs end one by one: each is flushed, whatever comes after it."""
  tone = np.full(4800, 0.5, np.float32)
  frames = pieces((0.0, tone), (0.2, tone), rate=48000)
  got = decode(frames, 0.0, 4800)
  for run in (got[:1600], got[3200:]):
    assert run[30:-30] == pytest.approx(0.5, abs=1e-3)
    assert run[-8:].min() > 0.2
  assert not got[1640:3190].any()


def test_rates_and_limits_are_these():
  assert (sound.JITTER, sound._MARGIN, sound.SHORT_TAIL) == (0.01, 0.1, 0.25)


@pytest.mark.parametrize("size", [512, 1000, 1600, 5000, 8000, 20000])
def test_blocks_are_the_sound_cut_up(monkeypatch, size):
  """Of any size: with a gap, a run that overlaps the one before, and long frames."""
  placed = [(-320, RAMP[:1000]), (680, RAMP[1000:2600]), (4800, RAMP[:4000]),
            (8000, RAMP[4000:]), (22400, RAMP[:100])]  # fmt: skip
  expected = np.zeros(22500, np.float32)
  for first, run in placed:
    run, first = run[max(-first, 0) :], max(first, 0)
    expected[first : first + len(run)] = run
  frames = pieces(*((first / RATE, run) for first, run in placed))
  monkeypatch.setattr(sound, "_LATE", 1 / 10)
  monkeypatch.setattr(sound, "frames_from", lambda *_: iter(frames))
  for samples in (None, 20000, 8000, 200):
    of = types.SimpleNamespace(name="x"), None, 0.0, samples, RATE, size
    blocks = list(sound.sound_blocks(*of))
    assert all(len(block) == size for block in blocks[:-1])
    assert 0 < len(blocks[-1]) <= size
    np.testing.assert_array_equal(np.concatenate(blocks), expected[:samples])


def test_times_that_jump_are_damage(decode):
  with pytest.raises(MediaError, match=r"x: its time stamps jump to 1000000\.00 s"):
    decode(pieces((0.0, RAMP), (1e6, RAMP)), 0.0, None)


def test_memory_does_not_grow_with_the_sound(tmp_path, monkeypatch):
  """A minute, in blocks of a second, is measured in less than it takes: 3.8 MB."""
  monkeypatch.setattr(decode_module, "BLOCK", 1)
  noise = np.random.default_rng(0).uniform(-0.2, 0.2, 60 * 8000).astype(np.float32)
  path = wav(tmp_path / "a.wav", noise, 8000)
  tracemalloc.start()
  try:
    (row,) = rows_of(tmp_path, "a.wav", [Row(Caption(), {}, "")], Options(loudness=-23))
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  assert peak < 1.5e6
  assert row["seconds"] == 60 and row["silence"] == 0
  whole = integrated_loudness(read_audio(path))
  assert row["loudness"] == pytest.approx(whole, abs=0.01)
