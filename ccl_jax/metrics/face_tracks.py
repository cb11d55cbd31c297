"""Follows faces through a clip, and cuts the pictures of them that SyncNet sees.

A track takes, frame by frame, the surest face that is left whose intersection over
union with its last box exceeds 0.5, and ends where the next such face is more than
`max_gap` frames later. Boxes of the frames between are interpolated. A track counts if
it was seen in more than `min_track` frames, and its mean width or height exceeds
`min_face_size` pixels.

A box has half side s = max(width, height) / 2 and centre (x, y); each of the three is
the median of 13 frames, zeros standing before and after the track. Shown is, cheeks and
chin included,

  rows [y - s, y + 1.8 s],   columns [x - 1.4 s, x + 1.4 s]

in 224 x 224, with the grey 110 where that is outside of the frame. (Where a centre is
below the frame, the reference stretches what is left to it; here it is grey as well.)
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from ccl_jax.metrics.base import Unscorable
from ccl_jax.metrics.face_detection import Boxes, intersection_over_union
from ccl_jax.metrics.resize import resize

SAME_FACE = 0.5
SMOOTHED = 13  # frames
CROP_SCALE = 0.4
SIDE, GREY = 224, 110


class Track(NamedTuple):
  """A face in consecutive frames.

  Attributes:
    frames: their numbers.
    boxes: (left, top, right, bottom) in each, in pixels.
    seen: in how many of them it was detected.
  """

  frames: Int[np.ndarray, " n"]
  boxes: Float[np.ndarray, "n 4"]
  seen: int

  @property
  def size(self) -> float:
    """The larger of the mean width and the mean height, in pixels."""
    return float((self.boxes[:, 2:] - self.boxes[:, :2]).mean(0).max())


def find_tracks(
  faces: Sequence[Boxes], *, min_track: int, min_face_size: float | int, max_gap: int
) -> list[Track]:
  """The tracks that count, in the order they begin.

  Args:
    faces: boxes by frame, the surest first.
    min_track: frames; a face must be seen in more.
    min_face_size: pixels; the mean width or height must be larger.
    max_gap: frames from one detection to the next, at most.

  Raises:
    Unscorable: there is none.
  """
  tracks = link(faces, max_gap)
  if not tracks:
    raise Unscorable(f"no face in any of {len(faces)} frames")
  long = [t for t in tracks if t.seen > min_track]
  if not long:
    raise Unscorable(
      f"no face is seen in more than {min_track} frames: the longest track has "
      f"{max(t.seen for t in tracks)}"
    )
  large = [t for t in long if t.size > min_face_size]
  if not large:
    raise Unscorable(
      f"no face is larger than {min_face_size:g} pixels: the largest is "
      f"{max(t.size for t in long):.0f}"
    )
  return large


def link(faces: Sequence[Boxes], max_gap: int) -> list[Track]:
  """The tracks of all faces, each face in one of them.

  Args:
    faces: boxes by frame, the surest first.
    max_gap: frames from one detection to the next, at most.
  """
  left = [list(boxes) for boxes in faces]
  tracks = []
  for first, boxes in enumerate(left):
    while boxes:
      tracks.append(_follow(left, first, max_gap))
  return tracks


def _follow(left: list[list[np.ndarray]], first: int, max_gap: int) -> Track:
  """Takes the faces of one track out of `left`."""
  frames, boxes = [first], [left[first].pop(0)]
  for i in range(first + 1, len(left)):
    if i - frames[-1] > max_gap:
      break
    if left[i]:
      overlaps = intersection_over_union(boxes[-1], np.stack(left[i]))
      (same,) = np.nonzero(overlaps > SAME_FACE)
      if same.size:
        frames.append(i)
        # Boxes are sorted by confidence: the first that overlaps is the surest.
        boxes.append(left[i].pop(same[0]))
  every = np.arange(frames[0], frames[-1] + 1)
  # Frames without a detection get a box between their neighbours'.
  filled = [np.interp(every, frames, side) for side in np.stack(boxes, 1)]
  return Track(every, np.stack(filled, 1), len(frames))


def median(x: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
  """Running median over `SMOOTHED` values, with zeros past both ends."""
  # scipy.signal.medfilt, which the reference uses, pads with zeros.
  padded = np.pad(x, SMOOTHED // 2)
  return np.median(np.lib.stride_tricks.sliding_window_view(padded, SMOOTHED), -1)


def crop_boxes(boxes: Float[np.ndarray, "n 4"]) -> Int[np.ndarray, "n 4"]:
  """(left, top, right, bottom) of the picture of each face, in whole pixels."""
  left, top, right, bottom = boxes.T
  s = median(np.maximum(right - left, bottom - top) / 2)
  x, y = median((left + right) / 2), median((top + bottom) / 2)
  # rows [y - s, y + 1.8 s], columns [x - 1.4 s, x + 1.4 s]
  below = 1 + 2 * CROP_SCALE
  # Rounded down from the corner of a frame with a border, as the reference has it.
  border = np.trunc(s * below)
  aside = s * (1 + CROP_SCALE)
  x, y = x + border, y + border
  corners = np.stack([x - aside, y - s, x + aside, y + s * below], 1)
  return (np.trunc(corners) - border[:, None]).astype(np.int64)


def crop_track(
  frames: UInt8[np.ndarray, "F H W 3"], track: Track
) -> UInt8[np.ndarray, "n 224 224 3"]:
  """The pictures of a track's face, one per frame, scaled to 224 x 224."""
  crops = np.empty((len(track.frames), SIDE, SIDE, 3), np.uint8)
  for i, (number, box) in enumerate(zip(track.frames, crop_boxes(track.boxes))):
    crops[i] = resize(_cut(frames[number], *map(int, box)), SIDE, SIDE)
  return crops


def _cut(
  frame: UInt8[np.ndarray, "H W 3"], left: int, top: int, right: int, bottom: int
) -> UInt8[np.ndarray, "h w 3"]:
  """A rectangle of a frame, grey outside of it."""
  height, width = frame.shape[:2]
  cut = np.full((max(bottom - top, 1), max(right - left, 1), 3), GREY, np.uint8)
  rows = slice(max(top, 0), max(min(bottom, height), 0))
  columns = slice(max(left, 0), max(min(right, width), 0))
  inside = frame[rows, columns]
  y, x = rows.start - top, columns.start - left
  cut[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
  return cut
