"""Finds faces in pictures by S3FD's prior boxes.

A prior of size s at row i, column j of a map of stride n is (cx, cy, w, h) = ((j + 1/2)
n, (i + 1/2) n, s, s) in pixels; all is divided by the picture's width and height. The
network moves it by loc = (a, b, c, d), with variances 0.1 and 0.2, to

  centre  cx + 0.1 a w,  cy + 0.1 b h         size  w e^{0.2 c},  h e^{0.2 d}

Of boxes that overlap, the surest is kept. Boxes are (left, top, right, bottom).
"""

import jax
import numpy as np
from jaxtyping import Float, Float32, Int, UInt8

from ccl_jax.errors import UsageError
from ccl_jax.metrics.resize import scale
from ccl_jax.models.scorers.s3fd import S3FD, level_sizes

SIZES, STRIDES = (16, 32, 64, 128, 256, 512), (4, 8, 16, 32, 64, 128)
FIRST_LOOK, FIRST_OVERLAP = 0.05, 0.3  # probability, intersection over union
MOST_SEEN, MOST_KEPT = 5000, 750
OVERLAP = 0.1  # of faces in the end

Boxes = Float[np.ndarray, "_ 4"]  # of one frame: any number
run_s3fd = jax.jit(S3FD.detect)


def find_faces(
  detector: S3FD,
  frames: UInt8[np.ndarray, "F H W 3"],
  *,
  factor: float | int = 0.25,
  confidence: float = 0.9,
  batch: int = 8,
) -> list[Boxes]:
  """The faces of each RGB frame in its pixels, the surest first.

  Args:
    detector: S3FD with its parameters.
    frames: RGB.
    factor: the detector sees pictures this much as large.
    confidence: probability that a face must exceed.
    batch: pictures at a time; the last ones are filled up, so that all compile once.

  Raises:
    UsageError: the pictures are too small for the detector.
  """
  size, seen = frames.shape[1:3], scale(frames[:1], factor).shape[1:3]
  if not all(map(all, level_sizes(*seen))):
    raise UsageError(
      f"frames of {size[1]}x{size[0]} at a scale of {factor:g} are "
      f"{seen[1]}x{seen[0]}, too few pixels for S3FD's six maps: raise the scale"
    )
  outputs = []
  for i in range(0, len(frames), batch):
    images = scale(frames[i : i + batch], factor)
    missing = ((0, batch - len(images)), (0, 0), (0, 0), (0, 0))
    outputs.append(run_s3fd(detector, np.pad(images, missing)))
  boxes, faces = priors(*seen), []
  for conf, loc in outputs:  # nothing is waited for before all is under way
    for scores, moves in zip(np.asarray(conf)[..., 1], np.asarray(loc)):
      faces.append(faces_of(scores, decode(moves, boxes), size, confidence))
  return faces[: len(frames)]


def faces_of(
  scores: Float[np.ndarray, " p"],
  boxes: Float[np.ndarray, "p 4"],
  size: tuple[int, int],
  confidence: float,
) -> Boxes:
  """Faces of one picture in its pixels, the surest first.

  Args:
    scores, boxes: of the priors, boxes in units of the picture.
    size: (height, width) of the picture.
    confidence: probability that a face must exceed.
  """
  chosen = detected_boxes(scores, boxes)
  # Two passes, as the reference: S3FD's own suppression, then a stricter one.
  chosen = chosen[scores[chosen] > confidence]
  height, width = size
  pixels = boxes[chosen].astype(np.float64) * (width, height, width, height)
  return pixels[nms(pixels, scores[chosen], OVERLAP)]


def detected_boxes(
  scores: Float[np.ndarray, " p"], boxes: Float[np.ndarray, "p 4"]
) -> Int[np.ndarray, " k"]:
  """Indices of the boxes that S3FD reports: likely, and apart; the surest first."""
  (possible,) = np.nonzero(scores > FIRST_LOOK)
  kept = nms(boxes[possible], scores[possible], FIRST_OVERLAP, MOST_SEEN)
  return possible[kept[:MOST_KEPT]]


def priors(height: int, width: int) -> Float32[np.ndarray, "p 4"]:
  """(cx, cy, w, h) in units of the picture: map by map, row by row."""
  levels = []
  for (rows, columns), size, stride in zip(level_sizes(height, width), SIZES, STRIDES):
    y, x = np.mgrid[:rows, :columns].reshape(2, -1) + 0.5
    side = np.full_like(x, size)
    levels.append(np.stack([x * stride, y * stride, side, side], 1))
  unit = np.array([width, height, width, height])
  return (np.concatenate(levels) / unit).astype(np.float32)


def decode(
  loc: Float[np.ndarray, "p 4"], prior: Float[np.ndarray, "p 4"]
) -> Float[np.ndarray, "p 4"]:
  """The moved priors, by their corners.

  Args:
    loc: of the network.
    prior: (cx, cy, w, h).
  """
  # The formula of the module's docstring, in float32 as the reference.
  centre = prior[:, :2] + np.float32(0.1) * loc[:, :2] * prior[:, 2:]
  size = prior[:, 2:] * np.exp(np.float32(0.2) * loc[:, 2:])
  corner = centre - size / 2
  return np.concatenate([corner, corner + size], 1)


def nms(
  boxes: Float[np.ndarray, "p 4"],
  scores: Float[np.ndarray, " p"],
  overlap: float,
  most: int | None = None,
) -> Int[np.ndarray, " k"]:
  """Non-maximum suppression: indices of the boxes that are left, the surest first.

  Each box removes those below it that it overlaps by more than `overlap`.

  Args:
    boxes: corners.
    scores: by box.
    overlap: intersection over union.
    most: only so many of the surest are looked at; None: all.
  """
  # Stable: equal scores keep the order of the maps.
  order = np.argsort(scores, kind="stable")[::-1][:most]
  kept = []
  while order.size:
    first, order = order[0], order[1:]
    kept.append(first)
    order = order[intersection_over_union(boxes[first], boxes[order]) <= overlap]
  return np.array(kept, np.int64)


def intersection_over_union(
  box: Float[np.ndarray, "4"], boxes: Float[np.ndarray, "k 4"]
) -> Float[np.ndarray, " k"]:
  """Intersection over union of one box with each of several."""
  corner = np.maximum(box[:2], boxes[:, :2])
  # Boxes that do not meet have sides of 0.
  sides = np.maximum(np.minimum(box[2:], boxes[:, 2:]) - corner, 0)
  shared = sides.prod(1)
  area = lambda b: (b[..., 2:] - b[..., :2]).prod(-1)
  return shared / (area(box) + area(boxes) - shared)
