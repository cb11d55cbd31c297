"""Writes a set of latent records: shard by shard as the plan says, then the index.

Any latents can become a set to train from:

  set_plan = plan.make({}, encoders, Catalogue({bucket: items}, []), shard_clips=256)
  plan.write(set_plan, root)
  for shard in set_plan.shards:
    with new_shard(root, shard, encoders) as records:
      for item in shard.items:
        records.add(item.id, item.text, {"video": ..., "audio": ..., "text": ...})
  finish(root, set_plan)
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ccl_jax import files
from ccl_jax.data.sets import plan, records
from ccl_jax.data.sets.buckets import Bucket
from ccl_jax.data.sets.index import FORMAT
from ccl_jax.data.sets.summary import Summary, read_summary, total
from ccl_jax.remote.paths import Place


class ShardRecords:
  """A shard that is being written; `add` takes one clip after the other.

  Attributes:
    summary: of the records so far.
    skipped: (clip, reason) of those that could not be read.
    silent: how many clips with sound are silent.
  """

  def __init__(self, shard: plan.Shard, encoders: Mapping[str, str], write: Callable):
    self.summary, self.skipped, self.silent = Summary(), [], 0
    self._write = write
    bucket = shard.bucket
    self._about = {
      "fps": bucket.fps,
      "seconds": bucket.seconds,
      "encoders": {s: encoders[s] for s in (*bucket.streams, "text")},
    }

  def add(self, name: str, text: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes the record of one clip.

    Args:
      name: its id.
      text: its caption.
      arrays: as in `records.py`.
    """
    about = {"id": name, "text": text, **self._about}
    data = records.pack(arrays, about)
    self._write(data)
    self.summary.add(arrays, about, data)

  def skip(self, name: str, reason: str) -> None:
    """Notes a clip that could not be read, and why."""
    self.skipped.append((name, reason))


@contextlib.contextmanager
def new_shard(
  root: Place, shard: plan.Shard, encoders: Mapping[str, str]
) -> Iterator[ShardRecords]:
  """Writes one shard and, last, the JSON file that says it is done.

  Args:
    root: folder of the set.
    shard: of its plan.
    encoders: hashes of the codecs, by name.

  Raises:
    OSError: the shard cannot be written; nothing of it is left.
  """
  path = root / f"{shard.name}.array_record"
  files.sweep(root, path.name)
  with records.new_shard(path) as write:
    shard_records = ShardRecords(shard, encoders, write)
    yield shard_records
  summary = {
    "file": path.name,
    "bucket": shard.bucket.name,
    "skipped": shard_records.skipped,
    "silent": shard_records.silent,
  }
  files.write_json(
    _summary_path(root, shard), summary | shard_records.summary.to_json()
  )


def is_done(root: Place, shard: plan.Shard) -> bool:
  """Whether a shard of the set in the folder `root` is written."""
  return _summary_path(root, shard).is_file()


def finish(root: Place, set_plan: plan.Plan) -> dict[str, Any] | None:
  """Writes report.jsonl and index.json once all shards are done.

  Returns:
    The content of index.json; None where a shard is not done.
  """
  if not all(is_done(root, shard) for shard in set_plan.shards):
    return None
  shards = [read_summary(_summary_path(root, shard)) for shard in set_plan.shards]
  skipped = [*set_plan.skipped, *(entry for s in shards for entry in s["skipped"])]
  report = (json.dumps({"file": name, "reason": why}) for name, why in skipped)
  files.write_text(root / "report.jsonl", "".join(line + "\n" for line in report))
  used = {"text", *(stream for bucket in set_plan.buckets for stream in bucket.streams)}
  keys = ("file", "bucket", "records", "bytes", "sha256")
  index = {
    "format": FORMAT,
    "encoders": {k: v for k, v in set_plan.encoders.items() if k in used},
    **total(shards),
    "skipped": len(skipped),
    "silent": sum(s.get("silent", 0) for s in shards),
    "buckets": {b.name: _bucket_entry(b, shards) for b in set_plan.buckets},
    "shards": [{k: s[k] for k in keys} for s in shards],
  }
  files.write_json(root / "index.json", index)
  return index


def _summary_path(root: Place, shard: plan.Shard) -> Place:
  return root / f"{shard.name}.json"


def _bucket_entry(
  bucket: Bucket, shards: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
  whole = total(s for s in shards if s["bucket"] == bucket.name)
  return {
    "shape": dataclasses.asdict(bucket),
    "records": whole["records"],
    "seconds": whole["seconds"],
    "text_rows": max(map(int, whole["text_rows"]), default=0),
  }
