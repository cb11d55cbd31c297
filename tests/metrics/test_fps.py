"""The frames that are shown are those of ffmpeg's own filter."""

from fractions import Fraction

import av
import numpy as np
import pytest

from ccl_jax.metrics.fps import exact_rate, fps_indices


def filtered(pts, end, time_base, fps):
  """Which frames ffmpeg's fps filter shows, told by their pixels."""
  graph = av.filter.Graph()
  source = graph.add_buffer(width=16, height=16, format="gray", time_base=time_base)
  rate = exact_rate(fps)
  chosen = graph.add("fps", f"fps={rate.numerator}/{rate.denominator}")
  sink = graph.add("buffersink")
  source.link_to(chosen)
  chosen.link_to(sink)
  graph.configure()
  lengths = np.diff([*pts, end])
  for i, (time, length) in enumerate(zip(pts, lengths)):
    frame = av.VideoFrame.from_ndarray(np.full((16, 16), i, np.uint8), "gray")
    frame.pts, frame.time_base, frame.duration = int(time), time_base, int(length)
    source.push(frame)
  source.push(None)
  shown = []
  while True:
    try:
      shown.append(int(sink.pull().to_ndarray()[0, 0]))
    except (av.error.EOFError, av.error.BlockingIOError):
      return np.array(shown)


def constant_fps_indices(n, rate, fps):
  """N frames at a constant rate, from time 0."""
  return fps_indices(np.arange(n), n, 1 / exact_rate(rate), fps)


@pytest.mark.parametrize("fps", [25, 0.5])
@pytest.mark.parametrize("rate", [16, 24, Fraction(30000, 1001), 30, 60, 25])
@pytest.mark.parametrize("n", [81, 122, 192])
def test_a_constant_rate(n, rate, fps):
  got = constant_fps_indices(n, rate, fps)
  pts = np.arange(n) * exact_rate(rate).denominator
  base = Fraction(1, exact_rate(rate).numerator)
  expected = filtered(pts, n * exact_rate(rate).denominator, base, fps)
  np.testing.assert_array_equal(got, expected)
  np.testing.assert_array_equal(constant_fps_indices(n, float(rate), fps), got)


@pytest.mark.parametrize("seed", range(6))
def test_a_variable_rate(seed):
  """Frames up to a second apart, or several in one output frame; first at any time."""
  rng = np.random.default_rng(seed)
  steps = np.maximum(rng.exponential(2500, 90), 30).astype(int)
  pts = rng.integers(0, 90000) + np.cumsum(steps)
  end = pts[-1] + rng.integers(1, 9000)
  got = fps_indices(pts, int(end), Fraction(1, 90000), 25)
  np.testing.assert_array_equal(got, filtered(pts, end, Fraction(1, 90000), 25))
  assert len(set(got)) < len(pts) and (np.diff(got) == 0).any()  # dropped and repeated


def test_the_same_rate_changes_nothing():
  np.testing.assert_array_equal(constant_fps_indices(125, 25, 25), np.arange(125))
  np.testing.assert_array_equal(constant_fps_indices(99, 29.97, 29.97), np.arange(99))


def test_every_other_second_of_24_fps():
  np.testing.assert_array_equal(constant_fps_indices(144, 24, 0.5), [23, 71, 119])
