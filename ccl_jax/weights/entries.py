"""Entries: where a tensor lies in a file of weights; every file format gives them."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Entry(NamedTuple):
  """The place of a tensor in a file.

  Attributes:
    file: its path.
    offset: of the tensor's first byte.
    dtype, shape: of the tensor.
    strides: in elements; None where the tensor has no gaps.
  """

  file: pathlib.Path
  offset: int
  dtype: np.dtype
  shape: tuple[int, ...]
  strides: tuple[int, ...] | None = None


def extent(shape: Sequence[int], strides: Sequence[int]) -> int:
  """Elements from the first to the last one of a strided tensor, both counted."""
  if 0 in shape:
    return 0
  return 1 + sum((n - 1) * s for n, s in zip(shape, strides))
