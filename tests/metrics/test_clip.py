"""A clip's clock, channels and rates, by films whose event is known."""

from fractions import Fraction

import numpy as np
import pytest

from ccl_jax.metrics.base import Metric, Unscorable
from ccl_jax.metrics.clip import Clip, Picture, Sound, _sound, decode
from tests.data.films import film, flash, onset

BOTH = frozenset({"picture", "sound"})


def clip_of(picture=None, sound=None):
  """A clip that is decoded already."""
  clip = Clip("x.mp4")
  clip.__dict__["_decoded"] = {"picture": picture, "sound": sound}
  return clip


def picture(count, fps, first=Fraction(0)):
  """Frames that are their numbers."""
  times = [first + k / Fraction(fps) for k in range(count)]
  frames = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(3, -1)
  return Picture(frames, times, times[-1] + 1 / Fraction(fps), float(fps))


def shown(clip, fps=None):
  return clip.frames(fps)[:, 0, 0, 0].tolist()


def test_frames_at_other_rates_begin_at_time_0():
  clip = clip_of(picture(9, 24))
  assert clip.fps == 24 and clip.seconds == 0.375
  assert shown(clip) == list(range(9))
  # Frame i is first shown at floor(i / 2 + 1/2).
  assert shown(clip, 12) == [0, 2, 4, 6, 8]
  # Frames before time 0 have no sound: 0 to 4 of this one, which begins 0.2 s early.
  early = clip_of(picture(15, 25, Fraction(-1, 5)))
  assert shown(early, 25) == list(range(5, 15))
  assert early.seconds == pytest.approx(0.4)
  # And what comes late is shown from where it is.
  late = clip_of(picture(5, 25, Fraction(1, 5)))
  assert shown(late, 25) == [0, 1, 2, 3, 4]


def test_mono_is_the_mean_and_the_left_channel_is_the_first():
  wave = np.array([[0.5, 0.1, -0.3, 1.0], [0.1, 0.1, 0.3, -1.0]], np.float32)
  clip = clip_of(sound=Sound(wave, 16000))
  np.testing.assert_allclose(clip.sound(16000), [0.3, 0.1, 0, 0], atol=1e-7)
  np.testing.assert_array_equal(clip.first_channel(16000), wave[0])


def test_integers_have_the_scale_of_int16():
  wave = np.full((1, 4800), 0.25, np.float32)
  got = clip_of(sound=Sound(wave, 48000)).integers(16000)
  assert got.dtype == np.int16 and abs(len(got) - 1600) <= 1
  np.testing.assert_allclose(got[200:1400], 8192, atol=2)
  none = clip_of(sound=Sound(np.zeros((1, 0), np.float32), 48000))
  assert none.integers(16000).shape == (0,)


def laid(*runs, rate=1000):
  """What is heard of pieces (time, samples)."""
  held = [(Fraction(t), np.full((1, n), x, np.float32)) for t, n, x in runs]
  return _sound(held, rate)


def test_sound_lies_at_its_own_time():
  got = laid(("0", 3, 0.1), ("0.003", 2, 0.2), ("0.02", 3, 0.3))
  expected = [0.1] * 3 + [0.2] * 2 + [0] * 15 + [0.3] * 3
  np.testing.assert_allclose(got.wave[0], expected, atol=1e-7)
  assert got.rate == 1000


def test_jitter_is_no_gap_and_a_gap_is_none():
  """10 ms off the running count are noise."""
  near = laid(("0", 3, 0.1), ("0.013", 2, 0.2))
  np.testing.assert_allclose(near.wave[0], [0.1] * 3 + [0.2] * 2, atol=1e-7)
  far = laid(("0", 3, 0.1), ("0.0131", 2, 0.2))
  np.testing.assert_allclose(far.wave[0], [0.1] * 3 + [0] * 10 + [0.2] * 2, atol=1e-7)


def test_what_is_before_time_0_is_cut_and_what_is_loud_is_clipped():
  rising = np.float32([[0.1, 0.2, 0.3, 4.0, -4.0]])
  got = _sound([(Fraction("-0.002"), rising)], 1000)
  np.testing.assert_array_equal(got.wave[0], np.float32([0.3, 1, -1]))
  assert laid().wave.shape == (1, 0)
  assert laid(("-0.5", 5, 1.0)).wave.shape == (1, 0)


@pytest.mark.parametrize("begins", [0.0, 0.32])
def test_picture_and_sound_have_one_clock(tmp_path, begins):
  """It begins when both are there; a flash and a click at 1 s stay together."""
  path = film(tmp_path / "a.mp4", sound_from=begins, rate=44100, sound="stereo")
  clip = Clip(path, needs=BOTH)
  (white,) = flash(clip.frames(25))
  heard = onset(clip.sound(16000))
  assert white / 25 == pytest.approx(heard, abs=0.021)  # half a frame
  assert heard == pytest.approx(1 - begins, abs=1024 / 44100 + 0.003)  # AAC's first
  integers = clip.integers(16000)
  assert onset(integers / 32768) == pytest.approx(heard, abs=0.004)
  assert np.abs(integers).max() > 5000


def test_what_is_not_needed_is_not_decoded(tmp_path):
  path = film(tmp_path / "a.mp4", seconds=0.4, event=0.2)
  only = decode(path, frozenset({"sound"}))
  assert only["picture"] is None and only["sound"] is not None
  clip = Clip(path, needs=frozenset())
  assert not clip.decoded
  clip.check(frozenset())
  assert not clip.decoded


def test_what_a_metric_needs_must_be_there(tmp_path):
  loaded = []
  load = lambda: loaded.append(1) or (lambda clip: {"x": clip.fps})
  metric = Metric("m", {"a": 1}, load, needs=("picture", "sound"))
  silent = Clip(
    film(tmp_path / "a.mp4", seconds=0.4, event=0.2, sound=None), needs=BOTH
  )
  with pytest.raises(Unscorable, match="no audio track"):
    metric.score(silent)
  assert not loaded
  (tmp_path / "b.mp4").write_text("no film")
  with pytest.raises(Unscorable, match=r"cannot be decoded: b\.mp4"):
    Clip(tmp_path / "b.mp4", needs=BOTH).check(frozenset({"sound"}))
  seen = Metric("m", {}, load, needs=("picture",))
  assert seen.score(silent) == seen.score(silent) == {"x": 25} and loaded == [1]


def test_the_picture_ends_with_its_last_frame(tmp_path):
  path = film(tmp_path / "a.mp4", seconds=0.4, event=0.2)
  clip = Clip(path, needs=BOTH)
  assert clip.seconds == pytest.approx(0.4) and clip.fps == 25
  assert len(clip.frames(25)) == 10 and len(clip.frames(50)) == 20
