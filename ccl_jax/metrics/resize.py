"""Bilinear resize of 8-bit pictures: the bytes of OpenCV's INTER_LINEAR, in numpy.

Sample i of a line is where x(i) = (i + 1/2) step - 1/2, between pixels floor(x) and
floor(x) + 1; past an end is the end's pixel. No antialiasing. So that a network sees
what it saw in the reference, the arithmetic is OpenCV's too: weights in units of 2^-11,
columns first, four bits dropped before the rows. One case is not here: at a step of
exactly 2 OpenCV averages areas, which differs by one level at most, in the last row and
column of pictures of odd size.
"""

import numpy as np
from jaxtyping import Float, Int, UInt8

_ONE = 2048  # weight 1


def resize(
  images: UInt8[np.ndarray, "*b H W c"],
  height: int,
  width: int,
  step: float | None = None,
) -> UInt8[np.ndarray, "*b h w c"]:
  """Resizes pictures to (height, width).

  Args:
    images: on the last three axes.
    height, width: of the result.
    step: source pixels per pixel of the result; None: the ratio of the sizes.
  """
  above, below, down = _taps(images.shape[-3], height, step)
  left, right, along = _taps(images.shape[-2], width, step)
  old, new = _weights(along[:, None])

  def columns(rows):
    lines = images[..., rows, :, :]
    first = lines[..., left, :].astype(np.int32) * old
    return (first + lines[..., right, :].astype(np.int32) * new) >> 4

  old_row, new_row = _weights(down[:, None, None])
  # OpenCV's fixed point: 11 bits a weight, 4 of 22 dropped before, 16 here, 2 below.
  total = (old_row * columns(above) >> 16) + (new_row * columns(below) >> 16)
  return ((total + 2) >> 2).astype(np.uint8)


def scale(
  images: UInt8[np.ndarray, "*b H W c"], factor: float | int
) -> UInt8[np.ndarray, "*b h w c"]:
  """Resizes pictures to `factor` times their size, rounded to whole pixels."""
  height, width = (round(n * factor) for n in images.shape[-3:-1])
  return resize(images, height, width, 1 / factor)


def _taps(
  size: int, target: int, step: float | None
) -> tuple[
  Int[np.ndarray, " t"],
  Int[np.ndarray, " t"],
  Float[np.ndarray, " t"],
]:
  """The two pixels of each sample, and the weight of the second."""
  step = 1 / (target / size) if step is None else step  # rounded as OpenCV's is
  place = ((np.arange(target) + 0.5) * step - 0.5).astype(np.float32)
  first = np.floor(place)
  weight, first = place - first, first.astype(np.int64)
  return np.clip(first, 0, size - 1), np.clip(first + 1, 0, size - 1), weight


def _weights(second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  whole = lambda w: np.rint(w * _ONE).astype(np.int32)
  return whole(1 - second), whole(second)
