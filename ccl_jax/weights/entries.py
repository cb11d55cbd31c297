"""Entries: where a tensor lies in a file of weights; every file format gives them."""

import math
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ccl_jax.errors import UsageError

AXES = 64  # of a tensor, at most: those of numpy
NAME = 500  # characters of a tensor's name, at most


class Stored(NamedTuple):
  """Bytes of a file that hold one or more tensors.

  Attributes:
    offset, size: of the bytes.
    crc: their CRC-32; None where the file has none.
  """

  offset: int
  size: int
  crc: int | None


class Entry(NamedTuple):
  """The place of a tensor in a file.

  Attributes:
    file: its path.
    offset: of the tensor's first byte.
    dtype, shape: of the tensor.
    strides: in elements; None where the tensor has no gaps.
    stored: the bytes that hold it, if their checksum is known.
    scale: of an fp8 weight, what it is multiplied by; see weights/scaled.py.
  """

  file: pathlib.Path
  offset: int
  dtype: np.dtype
  shape: tuple[int, ...]
  strides: tuple[int, ...] | None = None
  stored: Stored | None = None
  scale: "Entry | None" = None

  @property
  def is_plain(self) -> bool:
    """Whether the tensor lies there as it is: without gaps, and without a scale."""
    return self.strides is None and self.scale is None


def ending(path: pathlib.Path) -> str:
  """The ending of a file's name, such as ".safetensors", in small letters."""
  return path.suffix.lower()


def extent(shape: Sequence[int], strides: Sequence[int]) -> int:
  """Elements from the first to the last one of a strided tensor, both counted."""
  if 0 in shape:
    return 0
  return 1 + sum((n - 1) * s for n, s in zip(shape, strides))


def shown(text: Any) -> str:
  """A text out of a file, fit for a line of an error: short, and without controls."""
  if not isinstance(text, str):
    return f"a {type(text).__name__}"
  cut = text if len(text) <= 80 else text[:77] + "..."
  return cut if cut.isprintable() else ascii(cut)


def sane(
  path: pathlib.Path, entries: Iterable[tuple[Any, Entry]]
) -> Iterator[tuple[str, Entry]]:
  """The entries of a file, each with a name and a size that a tensor can have.

  Raises:
    UsageError: a name is no text that can be shown, or a tensor has more bytes than its
      file (as a view of stride 0 can) or more axes than an array.
  """
  size = path.stat().st_size
  for name, entry in entries:
    if not isinstance(name, str) or not name.isprintable() or len(name) > NAME:
      raise UsageError(
        f"{path} has a tensor named {shown(name)}; expected names of printable text, "
        f"of {NAME} characters at most"
      )
    # Of the axes that are not empty: numpy counts bytes in 64 bits.
    within = math.prod(n for n in entry.shape if n) * entry.dtype.itemsize < 2**63
    if len(entry.shape) > AXES or not within:
      raise UsageError(f"{path}: {name} has a shape that no array can have")
    if math.prod(entry.shape) * entry.dtype.itemsize > size:
      raise UsageError(
        f"{path}: {name} {entry.shape} has more bytes than its file: it repeats "
        "elements; save a copy of it"
      )
    yield name, entry
