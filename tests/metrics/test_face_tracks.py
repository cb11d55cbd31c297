"""Faces are followed and shown as the reference does."""

import cv2
import numpy as np
import pytest
import scipy.signal

from ccl_jax.metrics.base import Unscorable
from ccl_jax.metrics.face_tracks import (
  Track,
  crop_boxes,
  crop_track,
  find_tracks,
  link,
  median,
)

NONE = np.zeros((0, 4))
RULES = dict(min_track=10, min_face_size=30, max_gap=25)


def boxes(*rows):
  return np.array(rows, float).reshape(-1, 4)


def moving(n, x=50.0, y=40.0, side=60.0, speed=2.0):
  """The box of a face that goes right, by frame."""
  left = x + speed * np.arange(n)
  return np.stack([left, np.full(n, y), left + side, np.full(n, y + 1.2 * side)], 1)


def test_a_moving_face_is_one_track():
  box = moving(40)
  (track,) = find_tracks([boxes(b) for b in box], **RULES)
  np.testing.assert_array_equal(track.frames, np.arange(40))
  np.testing.assert_array_equal(track.boxes, box)
  assert track.seen == 40 and track.size == pytest.approx(72)


@pytest.mark.parametrize("gap, tracks", [(1, 1), (25, 1), (26, 2)])
def test_gaps(gap, tracks):
  """From one detection to the next 25 frames may pass; boxes lie on a line there."""
  faces = [boxes(b) for b in moving(60, speed=0.5)]
  faces[21 : 20 + gap] = [NONE] * (gap - 1)
  found = find_tracks(faces, **RULES)
  assert [len(t.frames) for t in found] == ([60] if tracks == 1 else [21, 14])
  assert sum(t.seen for t in found) == 61 - gap
  if tracks == 1:
    np.testing.assert_allclose(found[0].boxes, moving(60, speed=0.5))


def test_a_face_that_jumps_is_another():
  box = moving(40)
  box[20:] += 200
  found = find_tracks([boxes(b) for b in box], **RULES)
  assert [(t.frames[0], t.frames[-1]) for t in found] == [(0, 19), (20, 39)]


def test_overlap_must_exceed_a_half():
  still = moving(30, side=60, speed=0)
  for shift, count in ((19, 1), (20, 2)):  # (60 - 20) / (60 + 20) = 1/2
    box = still.copy()
    box[15:, [0, 2]] += shift
    assert len(find_tracks([boxes(b) for b in box], **RULES)) == count


def test_two_faces_whose_order_changes():
  one, two = moving(40), moving(40, x=300.0, speed=-1.0)
  faces = [
    boxes(*((a, b) if k % 3 else (b, a))) for k, (a, b) in enumerate(zip(one, two))
  ]
  faces[7], faces[9] = faces[7][:1], faces[9][::-1]
  found = find_tracks(faces, **RULES)
  found.sort(key=lambda t: t.boxes[0, 0])
  np.testing.assert_allclose(found[0].boxes, one)
  np.testing.assert_allclose(found[1].boxes, two)
  assert [t.seen for t in found] == [40, 39]


def test_of_faces_that_overlap_the_surest_is_taken():
  a, b = np.array([0, 0, 100, 100.0]), np.array([30, 0, 130, 100.0])
  faces = [boxes(a), boxes(b, a), boxes(a, b)]
  tracks = link(faces, 25)
  np.testing.assert_array_equal(tracks[0].boxes, [a, b, a])
  np.testing.assert_array_equal(tracks[1].boxes, [a, b])


def test_what_does_not_count_is_told():
  def reason(faces, **rules):
    with pytest.raises(Unscorable) as e:
      find_tracks(faces, **(RULES | rules))
    assert e.value.reason == str(e.value)
    return str(e.value)

  assert reason([NONE] * 7) == "no face in any of 7 frames"
  faces = [boxes(b) for b in moving(10)]
  assert "seen in more than 10 frames: the longest track has 10" in reason(faces)
  faces = [boxes(b) for b in moving(40)]
  assert "larger than 80 pixels: the largest is 72" in reason(faces, min_face_size=80)
  assert reason(faces, min_face_size=72).endswith("the largest is 72")
  assert len(find_tracks(faces, **(RULES | {"min_face_size": 71}))) == 1


def test_length_is_frames_with_a_face_not_frames_between():
  faces = [boxes(b) if k % 5 == 0 else NONE for k, b in enumerate(moving(50))]
  with pytest.raises(Unscorable, match="the longest track has 10"):
    find_tracks(faces, **RULES)


@pytest.mark.parametrize("n", [13, 60])
def test_the_median_is_scipys(n):
  x = np.random.default_rng(n).uniform(50, 90, n)
  np.testing.assert_array_equal(median(x), scipy.signal.medfilt(x, 13))
  assert median(x)[0] == x[:7].min()  # of 7 numbers and 6 zeros


def reference_crop(frame, x, y, s):
  """As the reference writes it: a border, corners cut to whole pixels, a resize."""
  border = int(s * 1.8)
  padded = np.pad(
    frame, ((border, border), (border, border), (0, 0)), constant_values=110
  )
  x, y = x + border, y + border
  rows = slice(int(y - s), int(y + s * 1.8))
  columns = slice(int(x - s * 1.4), int(x + s * 1.4))
  return cv2.resize(padded[rows, columns], (224, 224))


@pytest.mark.parametrize("x, y", [(150, 120), (3.3, 120.7), (290.2, 6.1), (160, 194)])
@pytest.mark.parametrize("side", [61.7, 130.4, 300.0])
def test_crops_are_the_references(x, y, side):
  """On a picture of gradients that differ by column, row and frame."""
  row, column = np.mgrid[:200, :300]
  still = np.stack([row % 256, column % 256, (row + column) // 2], -1).astype(np.uint8)
  frames = np.stack([still + np.uint8(3 * k) for k in range(20)])
  box = np.array([x - side / 2, y - side / 3, x + side / 2, y + side / 3])
  track = Track(np.arange(4, 18), box + 0.61 * np.arange(14)[:, None], 14)
  crops = crop_track(frames, track)
  smooth = lambda v: scipy.signal.medfilt(v, 13)
  left, top, right, bottom = track.boxes.T
  s = smooth(np.maximum(right - left, bottom - top) / 2)
  x, y = smooth((left + right) / 2), smooth((top + bottom) / 2)
  for k in (0, 6, 13):
    expected = reference_crop(frames[4 + k], x[k], y[k], s[k])
    np.testing.assert_array_equal(crops[k], expected)


def test_the_crop_has_the_face_in_its_upper_middle():
  """Half a side above the centre, 0.9 below, 0.7 aside; grey outside of the frame."""
  box = np.tile([100.0, 100.0, 200.0, 200.0], (30, 1))
  np.testing.assert_array_equal(crop_boxes(box)[10:20], [[80, 100, 220, 240]] * 10)
  frames = np.full((30, 220, 190, 3), 7, np.uint8)
  crop = crop_track(frames, Track(np.arange(30), box, 30))[15]
  inside = crop[:190, :174]  # 120 of 140 rows, 110 of 140 columns, at 1.6
  assert (
    (inside == 7).all() and (crop[194:] == 110).all() and (crop[:, 178:] == 110).all()
  )


def test_a_box_outside_of_the_frame_is_grey():
  frames = np.zeros((30, 50, 50, 3), np.uint8)
  box = np.tile([400.0, 300.0, 480.0, 390.0], (30, 1))
  assert (crop_track(frames, Track(np.arange(30), box, 30))[15] == 110).all()
