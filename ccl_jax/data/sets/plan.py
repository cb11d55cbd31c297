"""Plans a set: which clip goes into which shard, decided before anything is encoded.

Whoever goes on with a set, after a kill or on another machine, reads the same plan, so
no clip is lost or there twice. A shard is done when its JSON file is there.
"""

import collections
import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from typing_extensions import TypedDict

from ccl_jax.data.sets.buckets import Bucket
from ccl_jax.data.sets.index import Shape
from ccl_jax.data.sources.catalogue import Catalogue, Item
from ccl_jax.documents import TABLE, check, read_json
from ccl_jax.errors import UsageError
from ccl_jax.files import write_json
from ccl_jax.names import flaw, inside
from ccl_jax.remote.paths import Place

FILE = "plan.json"


class Shard(NamedTuple):
  """The clips of one shard, all of one bucket."""

  name: str
  bucket: Bucket
  items: list[Item]


class Plan(NamedTuple):
  """The plan of a set, as `plan.json` holds it.

  Attributes:
    settings: of the encoding.
    encoders: hashes of the codecs, by name.
    skipped: (file, reason) of the files that give no clip.
    shards: in order.
  """

  settings: dict[str, Any]
  encoders: dict[str, str]
  skipped: list[tuple[str, str]]
  shards: list[Shard]

  @property
  def buckets(self) -> list[Bucket]:
    """The buckets of all shards, each once, in order."""
    return sorted({shard.bucket for shard in self.shards})


def make(
  settings: Mapping[str, Any],
  encoders: Mapping[str, str],
  catalogue: Catalogue,
  shard_clips: int,
) -> Plan:
  """Plans shards of at most `shard_clips` clips, each of one bucket.

  Args:
    settings, encoders: see `Plan`.
    catalogue: the clips.
    shard_clips: most clips of a shard.

  Raises:
    UsageError: two clips have one id.
  """
  ids = collections.Counter(i.id for items in catalogue.buckets.values() for i in items)
  if doubled := [name for name, count in ids.items() if count > 1]:
    raise UsageError(f"two clips are called {doubled[0]!r}: give each its own id")
  pieces = [
    (bucket, items[first : first + shard_clips])
    for bucket, items in catalogue.buckets.items()
    for first in range(0, len(items), shard_clips)
  ]
  shards = [
    Shard(f"shard-{i:05}-of-{len(pieces):05}", bucket, items)
    for i, (bucket, items) in enumerate(pieces)
  ]
  return Plan(dict(settings), dict(encoders), catalogue.skipped, shards)


def write(plan: Plan, root: Place) -> None:
  """Writes a plan into the folder `root` of its set."""
  shards = [(n, dataclasses.asdict(b), items) for n, b, items in plan.shards]
  write_json(root / FILE, plan._replace(shards=shards)._asdict())


def read(root: Place) -> Plan | None:
  """The plan of the set in the folder `root`; None if it has none.

  Raises:
    UsageError: it is damaged.
  """
  path = root / FILE
  if not path.is_file():
    return None
  try:
    raw = check(read_json(path, TABLE, names=True), _Raw, path, "see plan.py")
    shards = [_shard(*shard) for shard in raw["shards"]]
    skipped = [tuple(entry) for entry in raw["skipped"]]
    return Plan(raw["settings"], raw["encoders"], skipped, shards)
  except (UsageError, ValueError, KeyError, TypeError) as e:
    raise UsageError(f"{path} is damaged ({e}): encode into a new folder") from e


class _Raw(TypedDict):
  settings: dict[str, Any]
  encoders: dict[str, str]
  skipped: list[list[Any]]
  shards: list[list[Any]]


def _shard(name: str, bucket: dict[str, Any], items: list) -> Shard:
  if flaw(name):
    raise ValueError(f"a shard is called {name[:60]!r}")
  check(bucket, Shape, name, "see buckets.py")
  read = [Item(*item) for item in items]
  for item in read:
    for path in filter(None, (item.path, item.sound)):
      inside(path, name)
    if not 0 <= item.start < math.inf:
      raise ValueError(f"{item.id} starts at {item.start}")
  return Shard(name, Bucket(**bucket), read)


def check_same(plan: Plan, settings: Mapping[str, Any], root: Place) -> None:
  """Checks that a set that was begun is continued with the same settings.

  Raises:
    UsageError: one differs.
  """
  requested = json.loads(json.dumps(dict(settings)))
  for key in requested:
    if plan.settings.get(key) != requested[key]:
      raise UsageError(
        f"{root} was begun with {key} = {plan.settings.get(key)!r}, now it is "
        f"{requested[key]!r}: name a new folder, or go on with the old settings"
      )
