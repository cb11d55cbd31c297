"""Gains and what is measured of sound, by numbers worked out by hand."""

import contextlib
import types

import av
import numpy as np
import pytest

from ccl_jax.data.media.loudness import (
  PEAK,
  Loudness,
  apply_gain,
  gain_of,
  gain_to,
  integrated_loudness,
)
from ccl_jax.data.preparing import sound_checks
from ccl_jax.data.preparing.sound_checks import clipped, measure, speech_hook
from ccl_jax.errors import UsageError


def tone(level, seconds=1.0, rate=16000):
  """1 kHz at so many dBFS, whose loudness is its level."""
  time = np.arange(round(seconds * rate)) / rate
  return np.float32(10 ** (level / 20) * np.sin(2 * np.pi * 1000 * time))


@pytest.mark.parametrize(
  ("level", "peak", "target", "gain"),
  [
    (-30, -12, -23, 7),  # up by 7 dB, to a peak of -5
    (-30, -8, -23, 7),  # just to the highest peak there may be
    (-30, -7.5, -23, 6.5),
    (-30, -0.5, -23, -0.5),  # it comes down, though it should go up
    (-10, -3, -23, -13),
    (-23, -9, -23, 0),
  ],
)
def test_a_gain_is_to_the_target_or_the_peak(level, peak, target, gain):
  assert gain_of(level, peak, target) == pytest.approx(gain)


def test_the_peak_is_one_decibel_below_full_scale():
  assert PEAK == -1.0


def test_a_waves_gain_is_of_its_loudness_and_its_peak():
  assert gain_to(-23, tone(-30)) == pytest.approx(7, abs=0.1)
  spike = tone(-30)
  spike[5000] = -0.5  # -6.02 dBFS, below zero
  assert gain_to(-20, spike) == pytest.approx(5.02, abs=0.01)
  assert gain_to(-23, tone(-23)) == pytest.approx(0, abs=0.1)
  # At another rate the same.
  assert gain_to(-23, tone(-30, rate=48000), 48000) == pytest.approx(7, abs=0.1)


def test_silence_has_no_loudness():
  assert integrated_loudness(tone(-69.5)) == pytest.approx(-69.5, abs=0.2)
  for wave in (tone(-70.5), 0 * tone(-20), tone(-20, 0.39), tone(0, 0)):
    assert integrated_loudness(wave) is None and gain_to(-23, wave) == 0
  assert integrated_loudness(tone(-20, 0.41)) == pytest.approx(-20, abs=0.2)


def test_decibels_are_of_amplitude_and_stop_at_full_scale():
  wave = np.float32([0.1, -0.2, 0.6, -0.6])
  np.testing.assert_allclose(apply_gain(wave, 6.0206), [0.2, -0.4, 1, -1], rtol=1e-5)
  np.testing.assert_allclose(apply_gain(wave, -20), wave / 10, rtol=1e-6)
  assert apply_gain(wave, 0.0) is wave
  assert apply_gain(wave, 3).dtype == np.float32


def test_silence_is_a_share_of_whole_blocks():
  """Of blocks of 0.1 s below -60 dBFS; what is left over at the end counts for none."""
  level = np.repeat(np.float32([0.9e-3, 1.1e-3, 0, 0.5, 0, 0.2, 0]), 1600)
  sign = np.resize(np.float32([1, -1]), len(level))
  loud_end = np.full(1599, 0.5, np.float32)
  assert measure([level * sign])["silence"] == round(4 / 7, 3)
  assert measure([np.append(level * sign, loud_end)])["silence"] == round(4 / 7, 3)
  assert measure([np.repeat(level * sign, 3)], 48000)["silence"] == round(4 / 7, 3)
  assert measure([loud_end])["silence"] == 1.0  # less than a block


def test_loudness_and_peak_are_in_decibels():
  wave = tone(-20)
  wave[5000] = -0.5
  got = measure([wave])
  assert got["peak"] == -6.02
  assert got["loudness"] == pytest.approx(-20, abs=0.2)
  assert got["loudness"] == round(got["loudness"], 2)
  assert measure([np.zeros(0, np.float32)]) == {"silence": 1.0}
  faint = np.full(8000, 1e-5, np.float32)
  assert measure([faint]) == {"silence": 1.0, "peak": -100.0}


def test_clipped_samples_are_counted_by_channel_within_the_part(monkeypatch):
  def frame(*channels):
    packed = np.float32(channels).T.reshape(1, -1)
    made = av.AudioFrame.from_ndarray(packed, "flt", "stereo")
    made.sample_rate = 16000
    return made

  quiet = [0.5] * 8
  frames = [
    (0.0, frame([1.0] * 8, [1.0] * 8)),
    (0.5, frame([0.9985, 0.9995, -0.9995, -1.5, 0, 0, 0, 0], quiet)),
    (1.0, frame(quiet, [1.0, *[0] * 7])),
    (1.5, frame([1.0] * 8, [1.0] * 8)),
  ]
  context = lambda path: contextlib.nullcontext(None)
  monkeypatch.setattr(sound_checks, "opened", context)
  monkeypatch.setattr(sound_checks, "track", lambda *_: types.SimpleNamespace())
  monkeypatch.setattr(sound_checks, "frames_from", lambda *_: iter(frames))
  assert clipped("x", 0.5, 1.5) == 4 / 32
  assert clipped("x", 0.5, 1.0) == round(3 / 16, 5)
  assert clipped("x", 0.4, 1.0001) == 4 / 32
  assert clipped("x", 0.6, 1.0) == 0.0  # nothing begins there
  assert clipped("x", 0.0, np.inf) == round((16 + 3 + 1 + 16) / 64, 5)


def test_a_hook_is_named_by_module_and_function():
  assert speech_hook("numpy:mean") is np.mean
  for name in ("numpy:none", "numpy", "", "none_such:f", ":f", "os:path"):
    with pytest.raises(UsageError, match="expected silero, or module:function"):
      speech_hook(name)


def test_no_gain_makes_what_is_no_number():
  """Above 10^38 a float32 is infinite, and infinity times silence is no number."""
  wave = np.float32([0, 1e-3, -0.5])
  for gain in (200.0, 800.0, 7000.0, 1e308):
    np.testing.assert_array_equal(apply_gain(wave, gain), [0, 1, -1])
  np.testing.assert_allclose(apply_gain(wave, -1e308), 0, atol=1e-9)


def test_loudness_comes_in_parts():
  wave = np.concatenate([tone(-20, 3.0), tone(-40, 3.0), 0 * tone(-20, 1.0)])
  meter = Loudness()
  for k in range(0, len(wave), 7001):
    meter.add(wave[k : k + 7001])
  assert meter.result() == pytest.approx(integrated_loudness(wave), abs=0.01)
  assert Loudness().result() is None


def test_measures_of_parts_are_those_of_the_whole():
  wave = np.concatenate([tone(-20, 2.0), 0 * tone(-20, 1.0), tone(-30, 1.05)])
  parts = [wave[k : k + 8000] for k in range(0, len(wave), 8000)]
  loud = lambda wave, rate: np.mean(np.abs(wave) > 0.01)
  whole = measure([wave], speech=loud)
  assert measure(iter(parts), speech=loud) == pytest.approx(whole, abs=0.011)
  assert whole["silence"] == round(10 / 40, 3)
