"""AV-Align: onsets as librosa's, flow peaks, matches, whole clips."""

import cv2
import numpy as np
import pytest

from ccl_jax.metrics import av_align, packages
from ccl_jax.metrics.av_align import flow_curve, overlap, peak_times, score
from ccl_jax.metrics.base import Unscorable
from ccl_jax.metrics.onsets import flux, onset_times

FPS, RATE = 25, 22050


def clicks(times, seconds=2.0, rate=RATE, noise=1e-4):
  """Decaying bursts in faint noise."""
  rng = np.random.default_rng(0)
  wave = noise * rng.standard_normal(round(seconds * rate))
  for time in times:
    first = round(time * rate)
    burst = rng.standard_normal(rate // 10) * np.exp(-np.arange(rate // 10) / 200)
    wave[first : first + len(burst)] += 0.5 * burst[: len(wave) - first]
  return wave.astype(np.float32)


def steps(frames, count=50, side=64):
  """A textured square that jumps sideways at these frames, and rests else."""
  rng = np.random.default_rng(1)
  texture = rng.uniform(60, 255, (8, 8, 3)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
  video = np.full((count, side, side, 3), 30, np.uint8)
  for i in range(count):
    x = 6 + 4 * (sum(f <= i for f in frames) % 2)
    video[i, 16:48, x : x + 32] = texture
  return video


JUMPS = [5, 12, 28, 44]


def sounds():
  rng = np.random.default_rng(7)
  speechlike = np.sin(np.cumsum(rng.uniform(0.02, 0.2, 44100))) * np.repeat(
    rng.uniform(0, 1, 70) ** 3, 630
  )
  return {
    "clicks": clicks([0.1, 0.5, 0.53, 1.2, 1.9]),
    "speechlike": speechlike.astype(np.float32),
    "noise": rng.standard_normal(30000).astype(np.float32),
    "at once": clicks([0.0, 0.02], noise=0),
    "silence": np.zeros(20000, np.float32),
    "short": clicks([0.01], seconds=0.05),
  }


@pytest.mark.parametrize("rate", [22050, 16000, 44100])
@pytest.mark.parametrize("name", sounds())
def test_onsets_are_librosa_s(name, rate):
  librosa = pytest.importorskip("librosa")
  wave = sounds()[name]
  strength = librosa.onset.onset_strength(y=wave, sr=rate)
  np.testing.assert_allclose(flux(wave, rate), strength, atol=2e-3)
  frames = librosa.onset.onset_detect(y=wave, sr=rate)
  times = librosa.frames_to_time(frames, sr=rate)
  np.testing.assert_allclose(onset_times(wave, rate), times, atol=1e-12)
  if name in ("clicks", "speechlike", "noise"):
    assert len(times) > 2


def test_the_flow_is_that_of_the_jumps():
  curve = flow_curve(steps(JUMPS))
  assert len(curve) == 50 and curve[0] == curve[1]
  np.testing.assert_allclose(peak_times(curve, FPS), np.array(JUMPS) / FPS)
  wide = np.pad(steps(JUMPS), ((0, 0), (0, 0), (0, 64), (0, 0)))
  assert flow_curve(wide).shape == (50,)


@pytest.mark.parametrize(("side", "move", "flow"), [(256, 3, 3), (128, 1, 2)])
def test_the_flow_is_in_pixels_of_a_short_side_of_256(side, move, flow):
  """Of a texture that moves everywhere, along either side of the picture."""
  rough = np.random.default_rng(3).integers(0, 256, (48, 96, 3), np.uint8)
  wide = cv2.resize(rough, (2 * side, side), interpolation=cv2.INTER_CUBIC)
  video = np.stack([wide[:, move * k : move * k + side + 64] for k in range(3)])
  for turned in (video, video.transpose(0, 2, 1, 3).copy()):
    np.testing.assert_allclose(flow_curve(turned), flow, rtol=0.01)


def test_the_flow_of_pairs_at_once_is_that_of_one_after_the_other():
  video = steps(JUMPS)
  alone = [flow_curve(video[i : i + 2])[1] for i in range(len(video) - 1)]
  np.testing.assert_array_equal(flow_curve(video), [alone[0], *alone])


def test_peaks_are_strict_high_and_inside():
  curve = np.array([0.9, 0.2, 0.3, 0.2, 0.09, 0.08, 0.5, 0.5, 0.1, 0.15, 0.2])
  np.testing.assert_array_equal(peak_times(curve, 10), [0.2])
  np.testing.assert_array_equal(peak_times(np.array([0, 0.1, 0]), 10), [0.1])
  np.testing.assert_array_equal(peak_times(np.array([0, 0.09, 0]), 10), [])


def test_matches_are_counted_once():
  of = lambda a, v: overlap(np.array(a, float), np.array(v, float), 10)
  assert of([1, 2], [1.05, 1.95]) == 1
  assert of([1, 2], [1.5]) == 0
  assert of([1, 1.05], [1.02]) == pytest.approx(1 / 2)  # the peak is used up
  assert of([1], [0.95, 1.05]) == pytest.approx(1 / 2)
  assert of([1, 2, 3], [2]) == pytest.approx(1 / 3)
  assert of([1], [1.1 + 1e-9]) == 0
  assert of([], []) == 0


def test_clicks_at_the_jumps_score_1_and_half_a_second_later_0():
  video, times = steps(JUMPS), np.array(JUMPS) / FPS
  exact = score(video, FPS, clicks(times), RATE)
  assert exact == {"av_align": 1.0, "audio_peaks": 4, "video_peaks": 4}
  late = score(video, FPS, clicks(times[:3] + 0.5), RATE)
  assert late == {"av_align": 0.0, "audio_peaks": 3, "video_peaks": 4}
  still = score(video[:20] * 0, FPS, 0 * clicks([]), RATE)
  assert still == {"av_align": 0.0, "audio_peaks": 0, "video_peaks": 0}


def test_what_cannot_be_scored(monkeypatch):
  with pytest.raises(Unscorable, match="1 frames have no motion"):
    score(steps([], count=1), FPS, clicks([0.1]), RATE)
  for wave in (np.zeros(0, np.float32), np.full(9, np.nan, np.float32)):
    with pytest.raises(Unscorable, match="empty, or not all numbers"):
      score(steps([]), FPS, wave, RATE)
  monkeypatch.setattr(av_align, "need", lambda _, p: packages.need("no_such", p))
  with pytest.raises(Unscorable, match=r"opencv.* is not usable.*ccl_jax\[eval\]"):
    score(steps([]), FPS, clicks([0.1]), RATE)
