"""The index of a finished set of latents: its schema, and the checks that it is true.

`writer.finish` writes it last. Counts that a disk or a hand has changed would be
believed by all that plans ahead (the order of a run is drawn over all records), so they
must agree with one another and with the sizes of the files.
"""

from collections.abc import Callable
from typing import Any

from typing_extensions import TypedDict

from ccl_jax.data.sets.buckets import Bucket
from ccl_jax.data.sets.shards import require_once
from ccl_jax.documents import DOCUMENT, Count, Number, Sha256, Size, check, read_json
from ccl_jax.errors import UsageError
from ccl_jax.names import flaw
from ccl_jax.remote.paths import BucketPath, Place

FORMAT = "ccl_jax latents 1"
ADVICE = "copy or encode the set again"
# Bytes of the smallest record: a safetensors header with the JSON about its clip.
_LEAST = 64


class Shape(TypedDict, total=False):
  """The fields of a `Bucket`, any of which may be missing."""

  frames: Size
  height: Size
  width: Size
  fps: Number
  tokens: Size


class BucketEntry(TypedDict):
  """A bucket of an index: its shape and sums over its records."""

  shape: Shape
  records: Count
  seconds: Number
  text_rows: Size


class ShardEntry(TypedDict):
  """A shard of an index: its file, its bucket, and what its summary says."""

  file: str
  bucket: str
  records: Count
  bytes: Count
  sha256: Sha256


class Moments(TypedDict):
  """Mean and deviation of latents by channel, as many numbers as there are channels."""

  mean: list[Number]
  std: list[Number]


class Index(TypedDict):
  """The content of index.json, as far as anything reads it."""

  encoders: dict[str, str]
  records: Count
  bytes: Count
  seconds: Number
  sha256: Sha256
  latents: dict[str, Moments]
  skipped: Count
  text_rows: dict[str, Count]
  buckets: dict[str, BucketEntry]
  shards: list[ShardEntry]


def read_index(root: Place) -> dict[str, Any]:
  """The content of index.json of a finished set.

  Raises:
    UsageError: there is no finished set, it is of another format, or it says what
      cannot be.
  """
  path = root / "index.json"
  if not path.is_file():
    if (root / "plan.json").is_file():
      done = len(list(root.glob("shard-*.json")))
      raise UsageError(
        f"{root} is not finished, {done} shards are: run its encode command again"
      )
    raise UsageError(
      f"no set of latents at {root}: give a folder that python -m ccl_jax.encode made"
    )
  try:
    index = check(read_json(path, DOCUMENT), dict[str, Any], path, ADVICE)
  except UsageError as e:
    raise _false(path, str(e)) from e
  if index.get("format") != FORMAT:
    raise UsageError(
      f"{path} is of format {index.get('format')!r}, this version reads {FORMAT!r}: "
      "encode the data again"
    )
  check(index, Index, path, ADVICE)
  _check_sums(root, index)
  return index


def _check_sums(root: Place, index: dict[str, Any]) -> None:
  """Checks that counts agree, and that files are as large as they must be."""
  path, buckets, shards = root / "index.json", index["buckets"], index["shards"]
  require_once(root, shards)
  # Of a bucket one question: a set may have thousands of shards.
  sizes = _sizes(root)
  for name, entry in buckets.items():
    if Bucket(**entry["shape"]).name != name:
      raise _false(path, f"the bucket {name} has the shape of another")
  for shard in shards:
    name = shard["file"]
    if flaw(name):
      raise _false(path, f"{name[:60]!r} is no file of the set")
    if shard["bucket"] not in buckets:
      raise _false(path, f"{name} is of no bucket, {shard['bucket'][:60]!r}")
    size = sizes(name)
    if size is None:
      raise UsageError(f"{root} lacks {name}: copy the set again")
    if not shard["records"] * _LEAST <= shard["bytes"] <= size:
      raise _false(
        path,
        f"{name} of {size} bytes cannot hold {shard['records']} records of "
        f"{shard['bytes']}",
      )
  for name, entry in buckets.items():
    found = sum(s["records"] for s in shards if s["bucket"] == name)
    if str(entry["text_rows"]) not in index["text_rows"] and entry["records"]:
      raise _false(path, f"{name}: no text has {entry['text_rows']} rows")
    if found != entry["records"]:
      raise _false(path, f"{name}: {entry['records']} records, its shards {found}")
  for key in ("records", "bytes"):
    if index[key] != (found := sum(s[key] for s in shards)):
      raise _false(path, f"{index[key]} {key}, the shards have {found}")


def _sizes(root: Place) -> Callable[[str], int | None]:
  """A function from the name of a file of a set to its size; None without it."""
  if isinstance(root, BucketPath):
    found = {name: status.st_size for name, status in root.listing().items()}
    return found.get
  size = lambda path: path.stat().st_size if path.is_file() else None
  return lambda name: size(root / name)


def _false(path: Place, what: str) -> UsageError:
  return UsageError(f"{path} is damaged ({what}): {ADVICE}")
