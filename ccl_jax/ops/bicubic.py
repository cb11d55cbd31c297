"""Bicubic interpolation without antialiasing, with the slope and the edges of torch's.

What Wan2.1's I2V and Ovi do to a given picture, and Wan2.1 before CLIP.
"""

import numpy as np
from jaxtyping import Float, Int

CUBIC = -0.75  # slope of the interpolation one sample away


def taps(
  size: int, target: int
) -> tuple[Int[np.ndarray, "target 4"], Float[np.ndarray, "target 4"]]:
  """Keys' cubic interpolation of `size` samples at `target` places: for each place four
  samples, by their indices, and their weights.

  Samples are centres of equal cells of one line; what lies past an end is the end. The
  ratio and the places are float32 numbers, as in the reference: at a thousand pixels
  their rounding is what would show.
  """
  # float32 quotients are torch's, whose interpolation the reference calls.
  ratio = np.float64(np.float32(size) / np.float32(target))
  # Centres of cells: align_corners=False.
  place = (ratio * (np.arange(target) + 0.5) - 0.5).astype(np.float32)[:, None]
  near = np.floor(place).astype(np.int64) + np.arange(-1, 3)
  x = np.abs(place - near)
  # Keys' kernel (1981) within one sample, and between one and two.
  inner = (CUBIC + 2) * x**3 - (CUBIC + 3) * x**2 + 1
  outer = CUBIC * (x**3 - 5 * x**2 + 8 * x - 4)
  # What lies past an end is the end.
  index = np.clip(near, 0, size - 1)
  return index, np.where(x <= 1, inner, outer).astype(np.float32)


def matrix(size: int, target: int) -> Float[np.ndarray, "target size"]:
  """The interpolation of `taps` as a matrix, to be multiplied with samples."""
  out = np.zeros((target, size), np.float32)
  index, weights = taps(size, target)
  np.add.at(out, (np.arange(target)[:, None], index), weights)
  return out


def resize(image: np.ndarray, height: int, width: int) -> Float[np.ndarray, "h w c"]:
  """A picture (H, W, c) of any kind of number in another size, in float32; its aspect
  ratio becomes that of the size, and values may go a little beyond those it had.
  """
  for axis, target in ((0, height), (1, width)):
    index, weights = taps(image.shape[axis], target)
    shape = [target if i == axis else 1 for i in range(3)]
    # Of a large picture the lines that are wanted, four times, and not all of it.
    image = sum(
      weights[:, i].reshape(shape)
      * np.take(image, index[:, i], axis).astype(np.float32)
      for i in range(4)
    )
  return image
