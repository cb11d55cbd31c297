"""A folder of latent records: its index, and random access to the records.

  index.json                    what the set holds, written when all shards are there
  plan.json                     what every shard is to hold; see plan.py
  shard-00003-of-00010.*        .array_record with records of one bucket, .json about it
  codecs/                       the encoders, to decode and to embed further texts

A record that is damaged gives way to the next readable one of its bucket, always the
same one, so the order of a run stays a function of the files; it is counted and named.
`writer.py` makes such folders.
"""

import bisect
import functools
import itertools
import logging
import os
import resource
import threading
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from array_record.python.array_record_data_source import ArrayRecordDataSource

from ccl_jax import hub
from ccl_jax.data.sets import shards
from ccl_jax.data.sets.buckets import Bucket
from ccl_jax.data.sets.index import read_index
from ccl_jax.data.sets.records import DamagedRecord, is_of_system, unpack
from ccl_jax.errors import UsageError
from ccl_jax.remote import copies
from ccl_jax.remote.paths import Place

_log = logging.getLogger(__name__)
# What is read of a set, of whatever lies beside it in a repository.
FILES = ("index.json", "shard-*", "codecs/*")


class Shard(NamedTuple):
  """A shard's file, and the number of records in it."""

  path: Place
  records: int


class Records:
  """The records of some shards by index, as `unpack` gives them.

  Attributes:
    damaged: the reason by index of every record that could not be read.
  """

  def __init__(self, shards: Iterable[Shard]):
    self._shards = list(shards)
    self._count = sum(s.records for s in self._shards)
    # With the counts given, no file is opened before it is read from.
    self._source = _open(self._shards)
    self.damaged: dict[int, str] = {}
    self._lock = threading.Lock()

  def __len__(self) -> int:
    return self._count

  def __getitem__(self, index: int) -> dict[str, Any]:
    if not 0 <= index < self._count:
      raise IndexError(f"record {index} of {self._count}")
    # The next readable record stands in for a damaged one, at every epoch the same.
    for step in range(self._count):
      at = (index + step) % self._count
      if at in self.damaged:
        continue
      try:
        return unpack(self._read(at))
      except DamagedRecord as e:
        self._give_up(at, str(e))
    where = self._shards[0].path.parent
    raise UsageError(f"no record of {where} can be read: {self.damaged[index]}")

  def _read(self, index: int) -> bytes:
    try:
      return self._source[index]
    except RuntimeError as e:
      if is_of_system(e):
        raise OSError(str(e)) from e
      raise DamagedRecord(str(e)) from e

  def _give_up(self, index: int, reason: str) -> None:
    with self._lock:
      # Two threads may meet the same record: it is reported once.
      known = index in self.damaged
      self.damaged.setdefault(index, reason)
    if not known:
      _log.warning(
        "damaged record %d of %d at %s: the next one takes its place, as for %d so far "
        "(%s)",
        *(index, self._count, self._shards[0].path, len(self.damaged)),
        reason.splitlines()[0][:120],
      )


def _open(shards: Sequence[Shard]) -> Any:
  """The bytes of the records of shards, by index: ArrayRecord reads files of this
  machine and of gs:// where they are, a record at a time.
  """
  if any(copies.needs_copy(path) for path, _ in shards):
    return _Copies(shards)
  return ArrayRecordDataSource([f"{path}[0:{n}]" for path, n in shards])


class _Copies:
  """As `ArrayRecordDataSource`, of shards that are copied when they are first read."""

  def __init__(self, shards: Sequence[Shard]):
    self._shards = list(shards)
    self._ends = list(itertools.accumulate(n for _, n in shards))
    self._open = functools.cache(self._opened)
    self._turn = threading.Lock()

  def __getitem__(self, index: int) -> bytes:
    at = bisect.bisect_right(self._ends, index)
    with self._turn:
      source = self._open(at)
    return source[index - self._ends[at] + self._shards[at].records]

  def _opened(self, at: int) -> ArrayRecordDataSource:
    path, n = self._shards[at]
    return ArrayRecordDataSource([f"{copies.kept(path)}[0:{n}]"])


class RecordSet:
  """A finished set of latents, with random access to its records.

  Attributes:
    index: the content of index.json.
    buckets: the records of every bucket, in the order of the buckets.
    encoders: hashes of the codecs, by "video", "audio", "text" as far as there is any.

  Raises:
    UsageError: the folder holds no finished set, lacks a shard or lists one twice, or
      its index is damaged.
  """

  def __init__(self, root: str | os.PathLike):
    self.root = hub.local(root, FILES)
    self.index = read_index(self.root)
    require_room(self.root)
    self.encoders: dict[str, str] = self.index["encoders"]
    by_bucket: dict[Bucket, list[Shard]] = {}
    for entry in self.index["shards"]:
      path = self.root / entry["file"]
      if entry["records"]:
        bucket = Bucket(**self.index["buckets"][entry["bucket"]]["shape"])
        by_bucket.setdefault(bucket, []).append(Shard(path, entry["records"]))
    allow_open_files(len(self.index["shards"]))
    self.buckets = {b: Records(by_bucket[b]) for b in sorted(by_bucket)}

  def require_whole(self) -> None:
    """Checks that the shards are those that the index tells of; see `sets.shards`.

    Raises:
      UsageError: one is another.
    """
    shards.require_whole(self.root, self.index["shards"])

  def __len__(self) -> int:
    return sum(map(len, self.buckets.values()))

  def __getitem__(self, index: int) -> dict[str, Any]:
    return self.locate(index)[1]

  def locate(self, index: int) -> tuple[Bucket, dict[str, Any]]:
    """The bucket and the record at `index`, counted over the buckets in order.

    Raises:
      IndexError: there are not so many.
    """
    if not 0 <= index < len(self):
      raise IndexError(f"record {index} of {len(self)}")
    for bucket, clips in self.buckets.items():
      if index < len(clips):
        return bucket, clips[index]
      index -= len(clips)
    raise AssertionError

  def text_rows(self, bucket: Bucket) -> int:
    """Rows of the longest text embedding in a bucket."""
    return self.index["buckets"][bucket.name]["text_rows"]


def require_room(root: Place) -> None:
  """Checks that a set whose shards are copied to this machine may be.

  Raises:
    UsageError: it is larger than copies may be.
  """
  if copies.needs_copy(root):
    size = sum(x.st_size for x in root.listing().values())
    if size > copies.limit():
      raise UsageError(
        f"{root} has {size / 1e9:.1f} GB, all of which a run reads, and copies of "
        f"files in buckets may have {copies.limit() / 1e9:g} GB together: set "
        f"{copies.LIMIT}, or copy the set to gs:// or to this machine"
      )


def allow_open_files(count: int) -> None:
  """Raises the system's limit of open files: a reader stays open for every shard."""
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  # The other half is for the program's own files and sockets.
  if count > soft // 2:
    most = soft + count if hard == resource.RLIM_INFINITY else min(soft + count, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
