"""Records of latents: one clip as the bytes of a safetensors file, many in a shard.

  video       (t, h, w, c)  bf16   latent; one latent frame for a still
  video_std   (t, h, w, c)  bf16   its deviation in the VAE's posterior; optional
  audio       (a, c)        fp32   latent
  text        (l, e)        bf16   embedding, cut to its true length l
  about       JSON                 id, text (the caption), fps, seconds, encoders

The first latent frame is that of the first frame alone, as the codecs are causal: it is
the image condition. A clip lacks what it does not have. `encoders` are the hashes of
the codecs behind each array, by "video", "audio", "text". Shards are ArrayRecord files
of group size 1, not compressed: latents are noise to a compressor. Each record in them
has a checksum.
"""

import contextlib
import errno
import json
import os
import pathlib
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
from array_record.python.array_record_module import (
  ArrayRecordReader,
  ArrayRecordWriter,
)
from safetensors.numpy import save

from ccl_jax.documents import Malformed, parse
from ccl_jax.files import new_file
from ccl_jax.remote.paths import Place

DTYPES = {
  "video": ml_dtypes.bfloat16,
  "video_std": ml_dtypes.bfloat16,
  "audio": np.float32,
  "text": ml_dtypes.bfloat16,
}
OPTIONS = "group_size:1,uncompressed"
_NUMPY = {"BF16": np.dtype(ml_dtypes.bfloat16), "F32": np.dtype("<f4")}


class DamagedRecord(ValueError):
  """The bytes are no record; the message says why."""


def pack(arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> bytes:
  """The bytes of a record, the same for the same clip.

  Args:
    arrays: by name; they are rounded to `DTYPES`.
    about: what is not an array, as JSON.
  """
  tensors = {k: np.ascontiguousarray(v, DTYPES[k]) for k, v in arrays.items()}
  return save(tensors, {"about": json.dumps(dict(about), sort_keys=True)})


def unpack(data: bytes) -> dict[str, Any]:
  """The arrays of a record, which share the memory of `data`, and "about".

  Raises:
    DamagedRecord: it is not what `pack` returned.
  """
  try:
    (length,) = struct.unpack_from("<Q", data)
    header = parse(data[8 : 8 + length], "its header")
    record = {"about": parse(header.pop("__metadata__")["about"], "its text")}
    for name, entry in header.items():
      first, last = entry["data_offsets"]
      dtype, shape = _NUMPY[entry["dtype"]], entry["shape"]
      flat = np.frombuffer(
        data, dtype, (last - first) // dtype.itemsize, 8 + length + first
      )
      record[name] = flat.reshape(shape)
  except (
    struct.error,
    Malformed,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
  ) as e:
    raise DamagedRecord(f"not a record ({e})") from e
  return record


@contextlib.contextmanager
def new_shard(path: Place) -> Iterator[Callable[[bytes], None]]:
  """A function that adds a record to the shard `path`, which appears when the block
  ends, whole and on the disk; after an error there is nothing.

  Raises:
    files.WriteError: it cannot be written, errno tells why.
  """
  count = 0
  with new_file(path) as part:
    with _as_os_error(path):
      writer = ArrayRecordWriter(str(part), OPTIONS)

    def write(data: bytes) -> None:
      nonlocal count
      with _as_os_error(path):
        writer.write(data)
      count += 1

    try:
      yield write
    finally:
      with _as_os_error(path):
        writer.close()
    with _as_os_error(path):
      written = count_records(part)
    if written != count:
      raise OSError(errno.EIO, f"{written} of {count} records were written", str(path))


def is_of_system(error: RuntimeError) -> bool:
  """Whether an error of ArrayRecord is of the disk or the store, which did not give
  what was asked: the file may be fine, elsewhere or later.
  """
  return "() failed" in str(error) or "reading gs://" in str(error)


def count_records(path: pathlib.Path) -> int:
  """The number of records in an ArrayRecord file."""
  reader = ArrayRecordReader(str(path))
  try:
    return reader.num_records()
  finally:
    reader.close()


@contextlib.contextmanager
def _as_os_error(path: Place) -> Iterator[None]:
  """ArrayRecord's one kind of error as the system's error that it quotes."""
  try:
    yield
  except RuntimeError as e:
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS):
      if os.strerror(code) in str(e):
        raise OSError(code, os.strerror(code), str(path)) from e
    raise OSError(errno.EIO, str(e).splitlines()[0][:200], str(path)) from e
