"""Cuts and bars by hand: pictures and edges made up, each threshold at its border."""

import sys

import numpy as np
import pytest

from ccl_jax.data.preparing import shots
from ccl_jax.data.preparing.shots import FilmScan, _bright, _Detector, _edges
from ccl_jax.errors import UsageError


def cuts(greys, times=None, first=0.0):
  """Times of cuts in a film of plain grey frames, 25 a second from `first` on.

  Grey has no hue and no saturation: a frame's change is a third of that of its grey.
  """
  times = [first + k / 25 for k in range(len(greys))] if times is None else times
  detector = _Detector(times[0])
  frame = lambda grey: np.full((4, 4, 3), grey, np.uint8)
  found = [detector.cuts(t, frame(g)) for t, g in zip(times, greys)]
  return [round(t, 6) for each in found for t in each]


def moving(count, change, jitter=0, at=20):
  """Greys that go up and down by `jitter`, and once, before frame `at`, by `change`."""
  greys = [40 + jitter * (k % 2) for k in range(count)]
  base = greys[at - 1] + change - 40
  return [*greys[:at], *(base + jitter * ((k - at) % 2) + 40 for k in range(at, count))]


@pytest.mark.parametrize(("change", "found"), [(45, [0.8]), (44, [])])
def test_the_least_change(change, found):
  assert cuts(moving(40, change)) == found


@pytest.mark.parametrize(("change", "found"), [(90, [0.8]), (89, [])])
def test_it_is_four_and_a_half_times_what_moves_around_it(change, found):
  assert cuts(moving(40, change, jitter=20)) == found


@pytest.mark.parametrize(("width", "found"), [(1, []), (2, []), (13, [0.8, 1.32])])
def test_what_comes_back_is_a_flash(width, found):
  """Of one or two frames; a shot of 13, half a second, has two cuts."""
  assert cuts([40] * 20 + [200] * width + [40] * 20) == found


def test_no_shot_is_shorter_than_half_a_second():
  levels = lambda *lengths: [40 + 150 * (i % 2) for i, n in enumerate(lengths)
                             for _ in range(n)]  # fmt: skip
  assert cuts(levels(12, 20)) == [] and cuts(levels(13, 20)) == [0.52]
  assert cuts(levels(20, 12, 20)) == [0.8] and cuts(levels(20, 13, 20)) == [0.8, 1.32]


def test_frames_are_placed_by_their_times():
  """Of 12 frames the last is up for long: the shot lasts more than half a second."""
  times = [100 + k / 25 for k in range(11)] + [100.48 + k / 25 for k in range(20)]
  greys = [40] * 12 + [190] * 19
  assert cuts(greys, times) == [100.52]
  assert cuts([40] * 20 + [190] * 20, first=7.0) == [7.8]


def test_without_the_detector_one_line(monkeypatch):
  monkeypatch.setitem(sys.modules, "scenedetect", None)
  with pytest.raises(UsageError, match=r"pip install 'ccl_jax\[prepare\]'"):
    shots.require_detector()


def scan(rows, columns, times, found=()):
  stack = lambda x: np.stack([np.asarray(row, np.uint8) for row in x])
  return FilmScan(found, np.array(times, float), stack(rows), stack(columns))


def side(n, begin, end, black=16, bright=200):
  """Brightness along a side whose picture is from `begin` to `end`."""
  out = np.full(n, black, np.uint8)
  out[begin:end] = bright
  return out


def test_shots_of_a_part_are_between_the_cuts_within_it():
  picture = side(8, 0, 8)
  found = scan([picture], [picture], [0.0], (1.0, 2.0, 3.0))
  assert found.shots(0.0, 4.0) == [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0), (3.0, 4.0)]
  assert found.shots(1.0, 3.0) == [(1.0, 2.0), (2.0, 3.0)]
  assert found.shots(1.0005, 2.9995) == [(1.0005, 2.0), (2.0, 2.9995)]
  assert found.shots(0.9985, 2.0015) == [(0.9985, 1.0), (1.0, 2.0), (2.0, 2.0015)]
  assert found.shots(1.2, 1.8) == [(1.2, 1.8)]


def test_the_crop_of_a_part_is_of_its_own_frames():
  whole, wide = side(100, 0, 100), side(100, 20, 80)
  columns = side(60, 0, 60)
  found = scan([whole, wide, wide, whole], [columns] * 4, [0.0, 1.0, 1.5, 2.0])
  assert found.crop(1.0, 2.0) == (20, 0, 60, 60)
  assert found.crop(0.0, 1.0) == () and found.crop(1.0, 2.001) == ()
  # Of a part between two frames the nearest counts.
  assert found.crop(1.6, 1.9) == (20, 0, 60, 60) and found.crop(1.8, 1.9) == ()
  both = scan([wide], [side(60, 10, 50)], [0.0])
  assert both.crop(0.0, 1.0) == (20, 10, 60, 40)


def test_too_dark_a_picture_has_no_crop():
  columns = side(60, 0, 60)
  crop = lambda begin, end: scan([side(100, begin, end)], [columns], [0.0]).crop(
    0.0, 1.0
  )
  assert crop(26, 76) == (26, 0, 50, 60)
  assert crop(26, 74) == ()
  assert scan([np.zeros(100)], [columns], [0.0]).crop(0.0, 1.0) == ()


@pytest.mark.parametrize(
  ("bright", "edges"),
  [
    (side(100, 10, 90), (10, 90)),
    (side(100, 11, 89), (12, 88)),  # on even pixels, inwards
    (side(100, 10, 91), (10, 90)),
    (side(100, 10, 88), (10, 88)),  # 2 apart are as wide as each other
    (side(100, 10, 87), (0, 100)),
    (side(100, 0, 80), (0, 100)),
    (side(100, 2, 98), (0, 100)),  # nothing is left of so thin a bar within its blur
    (side(300, 6, 294), (6, 294)),
    (side(300, 5, 294), (0, 300)),
    (side(300, 6, 288), (6, 288)),  # 2 % of the side apart
    (side(300, 6, 286), (0, 300)),
    (side(100, 10, 90, black=24), (10, 90)),  # as bright as a bar may be
    (side(100, 10, 90, black=25), (0, 100)),
    (side(100, 10, 90, bright=25), (10, 90)),
    (np.zeros(100, np.uint8), (0, 0)),
  ],
)
def test_edges(bright, edges):
  assert _edges(bright[None]) == edges


def test_bars_are_flat_over_their_pixels_and_time():
  for spread, edges in ((6, (20, 80)), (7, (0, 100))):
    within = side(100, 20, 80, black=10)
    within[3] += spread
    assert _edges(within[None]) == edges
    later = side(100, 20, 80, black=10)
    later[80:] += spread
    assert _edges(np.stack([side(100, 20, 80, black=10), later])) == edges
  blurred = side(100, 20, 80, black=10)
  blurred[18:20] = blurred[80:82] = 24  # the codec's blur at the edges
  assert _edges(blurred[None]) == (20, 80)
  blurred[17] = 24
  assert _edges(blurred[None]) == (0, 100)


def test_black_in_every_frame_is_a_bar():
  frames = np.stack([side(100, 20, 80), side(100, 10, 90)])
  assert _edges(frames) == (10, 90)


def test_all_but_two_percent_of_a_row_is_below_its_brightness():
  grey = np.zeros((3, 100), np.uint8)
  grey[0, 7], grey[1, 3:5], grey[2, 3:6] = 200, 200, 200
  assert _bright(grey, 1).tolist() == [0, 200, 200]
  assert _bright(grey.T, 0).tolist() == [0, 200, 200]
  assert _bright(np.uint8([[5, 9, 7]]), 1).tolist() == [9]
  steps = np.arange(100, dtype=np.uint8)[None]
  assert _bright(steps, 1).tolist() == [98]
