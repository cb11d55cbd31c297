"""Checks that the shards of a set are those that its index tells of.

The index holds a SHA-256 of every shard's records. A file of the same name from another
set has records that are whole, each with its checksum, and would be trained on without
a word. So every shard is read once: it costs what the disk takes, and is noted in the
set's CHECKED by size and time of change, so that the next run need not read it again.
One start reads `MOST` bytes at most, the next ones what is left. A shard with damaged
records is not refused for them: readers pass over these, and say so.
"""

import bisect
import hashlib
import itertools
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader

from ccl_jax.data.sets.records import DamagedRecord, is_of_system, unpack
from ccl_jax.documents import read_json
from ccl_jax.errors import UsageError
from ccl_jax.files import WriteError, write_json
from ccl_jax.remote.copies import kept, needs_copy
from ccl_jax.remote.paths import BucketPath, Place

CHECKED = ".checked.json"
_THREADS = 4
_TOLD = 10**9  # bytes: reading more is told
MOST = 100 * 10**9  # bytes that one start reads: some minutes

Entry = Mapping[str, Any]


def require_once(root: Place, entries: Sequence[Entry]) -> None:
  """Checks that no shard is listed twice, by its name or by what is in it.

  Args:
    root: folder of the set, for the message.
    entries: of its index.

  Raises:
    UsageError: one is; its clips would be trained on twice as often.
  """
  contents = [e["sha256"] for e in entries if e["records"]]
  for what, values in (("file", [e["file"] for e in entries]), ("sha256", contents)):
    twice = [value for value, n in Counter(values).items() if n > 1]
    if twice:
      names = [e["file"] for e in entries if e[what] == twice[0]]
      raise UsageError(
        f"{root}/index.json lists {' and '.join(names)}, which is one shard twice: "
        "copy or encode the set again"
      )


def require_whole(root: Place, entries: Sequence[Entry]) -> None:
  """Reads shards that have changed since they were last read, `MOST` bytes of them, and
  compares them with the index.

  Args:
    root: folder of the set.
    entries: of its index.

  Raises:
    UsageError: a shard holds other records than it was written with.
  """
  path = root / CHECKED
  try:
    noted = read_json(path)
  except UsageError:
    noted = {}
  noted = noted if isinstance(noted, dict) else {}
  mark = _marks(root)
  marks = {e["file"]: [*mark(e["file"]), e["sha256"]] for e in entries}
  new = [e for e in entries if noted.get(e["file"]) != marks[e["file"]]]
  if not new:
    return
  sizes = list(itertools.accumulate(marks[e["file"]][0] for e in new))
  left = new[max(bisect.bisect_right(sizes, MOST), 1) :]
  new = new[: len(new) - len(left)]
  if sizes[len(new) - 1] > _TOLD:
    later = f"; {len(left)} more at the next start" if left else ""
    print(
      f"{root}: reading {len(new)} shards once, {sizes[len(new) - 1] / 1e9:.0f} GB, to "
      f"compare them with the index{later}",
      file=sys.stderr,
      flush=True,
    )
  with futures.ThreadPoolExecutor(_THREADS) as pool:
    wrong = [e for e, good in zip(new, pool.map(lambda e: _is_its_own(root, e), new))
             if not good]  # fmt: skip
  if wrong:
    raise UsageError(
      f"{root}/{wrong[0]['file']} is not the shard that index.json tells of: its "
      "records are others; copy or encode the set again"
    )
  unread = {e["file"] for e in left}
  try:
    write_json(path, {f: mark for f, mark in marks.items() if f not in unread})
  except WriteError:  # a set that is only lent
    return


def _is_its_own(root: Place, entry: Entry) -> bool:
  digest = hashlib.sha256()
  try:
    file = root / entry["file"]
    reader = ArrayRecordReader(str(kept(file) if needs_copy(file) else file))
    try:
      if reader.num_records() != entry["records"]:
        return False
      for i in range(entry["records"]):
        data = reader.read([i])[0]
        unpack(data)
        digest.update(data)
    finally:
      reader.close()
  except (RuntimeError, IndexError, ValueError, DamagedRecord) as e:
    if isinstance(e, RuntimeError) and is_of_system(e):
      raise UsageError(
        f"{root}/{entry['file']} cannot be read ({' '.join(str(e).split())[:200]}): "
        "mend that, then run the same command again"
      ) from e
    return True  # damaged: whoever reads it passes over the records
  return digest.hexdigest() == entry["sha256"]


def _marks(root: Place) -> Callable[[str], tuple[int, int | str]]:
  """A function from a shard's name to its size and what changes when it is written."""
  if isinstance(root, BucketPath):
    found = root.listing()
    return lambda name: (found[name].st_size, found[name].mark)

  def mark(name):
    status = (root / name).stat()
    return status.st_size, status.st_mtime_ns

  return mark
