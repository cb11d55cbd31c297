"""Frames in the size that networks for pictures take: the shorter side 224, bicubic."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

SIDE = 224


def shrink(frames: UInt8[np.ndarray, "F H W 3"]) -> UInt8[np.ndarray, "F h w 3"]:
  """Scales frames so that the shorter side is 224, the other int(224 longer / shorter).

  Bicubic, antialiased, rounded to bytes.
  """
  height, width = frames.shape[1:3]
  short = min(height, width)
  size = int(SIDE * width / short), int(SIDE * height / short)
  scale = lambda frame: Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)
  return np.stack([np.asarray(scale(frame)) for frame in frames])


def centre(frames: UInt8[np.ndarray, "F h w 3"]) -> UInt8[np.ndarray, "F 224 224 3"]:
  """The square of 224 in the middle; a half pixel goes to the even side."""
  top, left = (round((n - SIDE) / 2) for n in frames.shape[1:3])
  return frames[:, top : top + SIDE, left : left + SIDE]


def three_squares(
  frames: UInt8[np.ndarray, "F h w 3"],
) -> UInt8[np.ndarray, "3 F 224 224 3"]:
  """The squares at the beginning, middle and end of the longer side.

  A half pixel goes to the end.
  """
  height, width = frames.shape[1:3]
  spare = max(height, width) - SIDE
  tall = height > width
  cut = lambda i: (
    frames[:, i : i + SIDE, :SIDE] if tall else frames[:, :SIDE, i : i + SIDE]
  )
  return np.stack([cut(i) for i in (0, (spare + 1) // 2, spare)])
