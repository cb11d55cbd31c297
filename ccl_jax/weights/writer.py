"""Writes .safetensors files tensor by tensor: one file, or shards with an index.

A file is 8 bytes with the header's length, the header (JSON: dtype, shape and place of
every tensor), and the tensors' bytes in that order.
"""

import contextlib
import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ccl_jax.files import new_file, write_json
from ccl_jax.remote.paths import BucketPath, Place
from ccl_jax.weights.safetensors_header import DTYPES

SHARD_BYTES = 10 * 10**9
_NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}


class Spec(NamedTuple):
  """Name, shape and dtype of a tensor that is to be written."""

  name: str
  shape: tuple[int, ...]
  dtype: np.dtype

  @property
  def nbytes(self) -> int:
    """The number of bytes of the tensor."""
    return math.prod(self.shape) * self.dtype.itemsize


def write_safetensors(
  folder: Place,
  stem: str,
  specs: Sequence[Spec],
  tensors: Iterable[np.ndarray],
  shard_bytes: int = SHARD_BYTES,
) -> list[Place]:
  """Writes tensors into one file, or into shards with an index; holds one at a time.

  Args:
    folder: to write into.
    stem: of the files' names.
    specs: of all tensors.
    tensors: in the order of `specs`.
    shard_bytes: most bytes of a file, unless one tensor has more.

  Returns:
    The files: STEM.safetensors, or STEM-00001-of-0000N.safetensors and so on, and then
    STEM.safetensors.index.json last.
  """
  shards = _shards(specs, shard_bytes)
  tensors, files, places = iter(tensors), [], {}
  for i, shard in enumerate(shards):
    part = f"-{i + 1:05d}-of-{len(shards):05d}" if len(shards) > 1 else ""
    files.append(folder / f"{stem}{part}.safetensors")
    places |= {spec.name: files[-1].name for spec in shard}
    write_file(files[-1], shard, tensors)
  if len(shards) > 1:
    total = sum(spec.nbytes for spec in specs)
    index = {"metadata": {"total_size": total}, "weight_map": places}
    files.append(folder / f"{stem}.safetensors.index.json")
    write_json(files[-1], index, indent=2)
  return files


def write_file(
  path: Place,
  specs: Sequence[Spec],
  tensors: Iterable[np.ndarray],
  notes: Mapping[str, str] | None = None,
) -> None:
  """Writes one .safetensors file, a tensor at a time.

  Args:
    path: of the file.
    specs: of its tensors.
    tensors: in the order of `specs`; others may follow.
    notes: texts by name that go into the header, as `__metadata__`.
  """
  tensors = iter(tensors)
  with contextlib.ExitStack() as stack:
    if isinstance(path, BucketPath):
      path = stack.enter_context(new_file(path))
    f = stack.enter_context(open(path, "wb"))
    f.write(_header(specs, notes or {}))
    for spec in specs:
      array = next(tensors)
      assert (array.shape, array.dtype) == (spec.shape, spec.dtype), spec
      f.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def _shards(specs: Sequence[Spec], shard_bytes: int) -> list[list[Spec]]:
  shards, size = [[]], 0
  for spec in specs:
    if shards[-1] and size + spec.nbytes > shard_bytes:
      shards.append([])
      size = 0
    shards[-1].append(spec)
    size += spec.nbytes
  return shards


def _header(shard: Sequence[Spec], notes: Mapping[str, str]) -> bytes:
  header, offset = {"__metadata__": {"format": "pt", **notes}}, 0
  for spec in shard:
    header[spec.name] = {
      "dtype": _NAMES[spec.dtype],
      "shape": list(spec.shape),
      "data_offsets": [offset, offset + spec.nbytes],
    }
    offset += spec.nbytes
  raw = json.dumps(header, separators=(",", ":")).encode()
  # The format wants the data to begin at a multiple of 8.
  raw += b" " * (-len(raw) % 8)
  return struct.pack("<Q", len(raw)) + raw
