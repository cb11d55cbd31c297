"""Cuts and bars by hand: distances and edges made up, each threshold at its border."""

import numpy as np
import pytest

from ccl_jax.data.preparing import shots
from ccl_jax.data.preparing.shots import FilmScan, _bright, _cuts, _edges

COUNT, STEP = 16, 0.25  # frames, and the seconds between them


def cuts(step=None, skip=None, rest=1.0, count=COUNT):
  """The frames before which there is a cut; `step` and `skip` {frame: distance}."""
  times = [STEP * t for t in range(count)]
  d1, d2 = np.full(count, rest), np.full(count, rest)
  for values, given in ((d1, step or {}), (d2, skip or {})):
    for t, value in given.items():
      values[t] = value
  return [round(t / STEP) for t in _cuts(times, d1, d2)]


def a_cut(t, change):
  """Frames before and after differ by `change`, also those that are two apart."""
  return {"step": {t: change}, "skip": {t: change, t + 1: change}}


def test_a_change_that_stays_is_a_cut():
  assert cuts(**a_cut(6, 30)) == [6]
  assert cuts() == []


@pytest.mark.parametrize(("change", "found"), [(12.0, [6]), (11.99, [])])
def test_the_least_change(change, found):
  assert cuts(**a_cut(6, change)) == found


@pytest.mark.parametrize(("change", "found"), [(30.0, [6]), (29.99, [])])
def test_it_is_three_times_what_moves_around_it(change, found):
  assert cuts(**a_cut(6, change), rest=10.0) == found


@pytest.mark.parametrize(
  ("moving", "found"), [((4,), []), ((5,), []), ((7,), []), ((8,), []),
                        ((3,), [6]), ((9,), [6])],
)  # fmt: skip
def test_two_steps_on_either_side_are_around(moving, found):
  """One step of 100 among four of 4: their mean, 28, is more than a third of 80."""
  cut = a_cut(6, 80)
  cut["step"] |= dict.fromkeys(moving, 100)
  # The steps are no cuts themselves: what is two apart is alike.
  assert cuts(**cut, rest=4.0) == found


def test_what_comes_back_is_a_flash():
  assert cuts(step={6: 60, 7: 60}, skip={6: 60, 8: 60}) == []
  both = {"step": {6: 60}, "skip": {6: 60, 7: 60}}
  for lost in (6, 7):  # beside the frame before, and after
    some = both["skip"] | {lost: 5}
    assert cuts(both["step"], some) == []
  assert cuts(**both) == [6]


def test_at_the_ends_of_a_film_there_is_no_frame_beyond():
  assert cuts(step={15: 30}, skip={15: 30}) == [15]
  assert cuts(step={2: 30}, skip={2: 30, 3: 30}) == [2]
  assert cuts(step={2: 30}, skip={2: 30}, count=3) == [2]


def test_no_shot_is_shorter_than_half_a_second():
  first = {"step": {1: 30}, "skip": {2: 30}}
  assert cuts(**first) == []  # at 0.25 s
  assert cuts(**a_cut(2, 30)) == [2]  # at 0.5 s
  two = lambda a, b: {
    "step": {a: 90, b: 90},
    "skip": dict.fromkeys((a, a + 1, b, b + 1), 90),
  }
  assert cuts(**two(6, 9)) == [6, 9]
  assert cuts(**two(6, 7)) == [6]  # 0.25 s later is too near
  alone = {"step": {4: 90, 7: 90, 10: 90}}
  alone["skip"] = dict.fromkeys((4, 5, 7, 8, 10, 11), 90)
  assert cuts(**alone) == [4, 7, 10]


def test_a_shot_too_near_belongs_to_the_one_before(monkeypatch):
  monkeypatch.setattr(shots, "_SHORTEST", 1.0)
  both = {"step": {4: 90, 7: 90}, "skip": dict.fromkeys((4, 5, 7, 8), 90)}
  assert cuts(**both) == [4]  # 0.75 s later is none
  monkeypatch.setattr(shots, "_SHORTEST", 0.75)
  assert cuts(**both) == [4, 7]


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
