"""The header of a .safetensors file, held to the letter of the format.

A file is 8 bytes with the header's length, the header, and the tensors' bytes. The
header is a JSON object of 100 MB at most that begins with "{": by name, the type, shape
and place of every tensor; the places fill the rest of the file without gap or overlap.
`__metadata__` maps texts to texts. Names are unique.
"""

import math
import pathlib
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from ccl_jax.errors import UsageError
from ccl_jax.weights.entries import AXES, Entry, shown
from ccl_jax.weights.strict_json import BYTES, parse

DTYPES = {
  "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
  "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8,
  "BOOL": np.bool_, "U16": np.uint16, "U32": np.uint32, "U64": np.uint64,
  "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
}  # fmt: skip


class Place(NamedTuple):
  """What a header says of a tensor; first and last are bytes of the data."""

  name: str
  dtype: Any
  shape: tuple[int, ...]
  first: int
  last: int


def safetensors_entries(path: pathlib.Path) -> Iterator[tuple[str, Entry]]:
  """(name, entry) of every tensor in a file; reads no more than its header.

  Raises:
    UsageError: the file is truncated, or not as the format has it.
  """
  size = path.stat().st_size
  start, header, _ = _header(path, size)
  try:
    places = [_place(name, about) for name, about in header.items()]
  except (ValueError, TypeError, KeyError) as e:
    raise UsageError(
      f"{path} is not a safetensors file: its header has no dtype, shape and "
      "data_offsets of each tensor"
    ) from e
  # Truncated data are found by the header alone, before a tensor is read.
  end = start + max((p.last for p in places), default=0)
  if end > size:
    raise UsageError(
      f"{path} is truncated: got {size} bytes, expected {end}; download it again"
    )
  for p in places:
    _check_type(path, p)
  _check_order(path, places, size - start)
  for p in places:
    yield p.name, Entry(path, start + p.first, np.dtype(DTYPES[p.dtype]), p.shape)


def read_notes(path: pathlib.Path) -> dict[str, str]:
  """The texts by name that a file holds beside its tensors, as `__metadata__`.

  Raises:
    UsageError: as `safetensors_entries`, of the header alone.
  """
  return _header(path, path.stat().st_size)[2]


def _header(path: pathlib.Path, size: int) -> tuple[int, dict[str, Any], dict]:
  """Where the data begin, what is said of each tensor, and what beside."""
  with open(path, "rb") as f:
    raw = f.read(9)
    if len(raw) < 8:
      raise UsageError(f"{path} is truncated: got {size} bytes, expected a header")
    (length,) = struct.unpack("<Q", raw[:8])
    # Another format: its first 8 bytes, taken for a length, would be nonsense.
    if raw[8:] != b"{":
      raise UsageError(f"{path} is not a safetensors file: its header cannot be read")
    if length > BYTES:
      raise UsageError(
        f"{path} is not a safetensors file: a header of {length} bytes, expected "
        f"{BYTES} at most"
      )
    if 8 + length > size:
      raise UsageError(
        f"{path} is truncated: got {size} bytes, expected a header of {length}; "
        "download it again"
      )
    f.seek(8)
    raw = f.read(length)
  try:
    header = parse(raw)
    about = header.pop("__metadata__", None)
    if about is not None and not all(isinstance(x, str) for x in about.values()):
      raise ValueError("metadata are texts by name")
  except (ValueError, AttributeError, TypeError) as e:
    raise UsageError(
      f"{path} is not a safetensors file: its header cannot be read"
    ) from e
  return 8 + length, header, about or {}


def _place(name: str, about: Any) -> Place:
  """Raises ValueError, TypeError or KeyError where it is none."""
  if type(about["dtype"]) is not str:
    raise TypeError("a dtype is a name")
  if type(about["shape"]) is not list or type(about["data_offsets"]) is not list:
    raise TypeError("a shape is a list, and so are offsets")
  if len(about["shape"]) > AXES:
    raise ValueError("more axes than an array can have")
  first, last = map(_whole, about["data_offsets"])
  return Place(name, about["dtype"], tuple(map(_whole, about["shape"])), first, last)


def _whole(value: Any) -> int:
  if type(value) is not int or not 0 <= value < 2**64:
    raise ValueError("sizes are whole numbers of 64 bits")
  return value


def _check_type(path: pathlib.Path, p: Place) -> None:
  if p.dtype not in DTYPES:
    raise UsageError(
      f"{path}: {shown(p.name)} is {shown(p.dtype)}; expected F32, BF16 or F16 "
      "(quantised weights are not supported: take the original ones)"
    )
  if p.last - p.first != math.prod(p.shape) * np.dtype(DTYPES[p.dtype]).itemsize:
    raise UsageError(
      f"{path}: {shown(p.name)} {p.shape} {p.dtype} does not fit its data offsets"
    )


def _check_order(path: pathlib.Path, places: list[Place], size: int) -> None:
  """The tensors, in the order of their places, fill the data without gap or overlap."""
  end = 0
  for p in sorted(places, key=lambda p: (p.first, p.last)):
    if p.first != end:
      what = "a gap before" if p.first > end else "bytes of another tensor in"
      raise UsageError(
        f"{path} is not a safetensors file: there is {what} {shown(p.name)}, at byte "
        f"{p.first} of the data"
      )
    end = p.last
  if end != size:
    raise UsageError(
      f"{path} is not a safetensors file: {size - end} bytes follow the last tensor"
    )
