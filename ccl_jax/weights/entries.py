"""Where a tensor lies in a file of weights: what every file format is read into."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Entry(NamedTuple):
  """Where a tensor lies: `offset` bytes into `file`.

  `strides` are in elements, None where the tensor has no gaps.
  """

  file: pathlib.Path
  offset: int
  dtype: np.dtype
  shape: tuple[int, ...]
  strides: tuple[int, ...] | None = None


def extent(shape: Sequence[int], strides: Sequence[int]) -> int:
  """Elements from the first to the last one of a strided tensor."""
  if 0 in shape:
    return 0
  return 1 + sum((n - 1) * s for n, s in zip(shape, strides))
