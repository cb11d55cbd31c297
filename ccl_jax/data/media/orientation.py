"""How a frame is to be turned and mirrored: the display matrix of its file."""

from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

_ONE = 1 << 16  # of the matrix's fixed point
_SMALL = 0.01  # of the larger entries: less is rounding


class Orientation(NamedTuple):
  """Whether rows and columns are swapped, and what then is mirrored.

  Attributes:
    swapped: rows are shown as columns.
    down, across: the picture is mirrored top to bottom, left to right.
  """

  swapped: bool = False
  down: bool = False
  across: bool = False

  def apply(self, pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """The picture as it is shown, of one as it is stored."""
    pixels = pixels.swapaxes(0, 1) if self.swapped else pixels
    pixels = pixels[::-1] if self.down else pixels
    return pixels[:, ::-1] if self.across else pixels


def orientation_of(frame) -> Orientation:
  """The orientation of a frame of PyAV.

  A matrix that is no turn by a multiple of 90 degrees, mirrored or not, or that is all
  zeros, leaves the frame as it is stored.
  """
  try:
    side = frame.side_data["DISPLAYMATRIX"]
  except KeyError:
    return Orientation()
  return orientation(np.frombuffer(side, np.int32)[:9].reshape(3, 3)[:2, :2] / _ONE)


def orientation(matrix: np.ndarray) -> Orientation:
  """That of the matrix ((a, b), (c, d)) of x' = a x + c y, y' = b x + d y.

  x goes to the right and y down (ISO/IEC 14496-12).
  """
  (a, b), (c, d) = matrix.tolist()
  straight, crossed = min(abs(a), abs(d)), min(abs(b), abs(c))
  if straight > 0 and max(abs(b), abs(c)) <= _SMALL * straight:
    return Orientation(False, d < 0, a < 0)
  if crossed > 0 and max(abs(a), abs(d)) <= _SMALL * crossed:
    return Orientation(True, b < 0, c < 0)
  return Orientation()
