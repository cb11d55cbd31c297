"""Scores clips by metrics: one decoding a clip, and each result kept at once.

A clip whose records are all there is not decoded; a metric that is not needed does not
read its networks. What cannot be scored is a record with its reason; what went wrong by
accident (memory, a defect) is reported and tried again by the next run.
"""

import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ccl_jax import progress as progress_line
from ccl_jax.errors import UsageError
from ccl_jax.interrupts import kept_interrupts
from ccl_jax.metrics.base import Metric, Unscorable
from ccl_jax.metrics.clip import Clip
from ccl_jax.metrics.records import Record, Records, digest, sha256
from ccl_jax.remote.paths import Place


class Item(NamedTuple):
  """A clip that is to be scored.

  Attributes:
    name: its id.
    path: its file.
    fields: its line of the manifest.
  """

  name: str
  path: Place
  fields: Mapping[str, Any]


class Results(NamedTuple):
  """The results of a run.

  Attributes:
    records: by metric and id.
    broken: metric -> why none of its networks could be used.
    accidents: lines about what the next run will try again.
    scored: records that were made, not found.
    decoded: clips that were decoded for them.
  """

  records: dict[tuple[str, str], Record]
  broken: dict[str, str]
  accidents: list[str]
  scored: int
  decoded: int


@kept_interrupts()
def evaluate(
  items: Sequence[Item],
  metrics: Sequence[Metric],
  records: Records,
  progress: Callable[[str], None] = lambda name: None,
) -> Results:
  """Scores all clips by all metrics.

  Args:
    items: the clips.
    metrics: each is prepared when its first clip needs it.
    records: where results are looked up and kept.
    progress: is called with the id of each clip that is done.

  Raises:
    KeyboardInterrupt: all records that were made are kept.
  """
  rows, broken, accidents, shown = {}, {}, [], set()
  scored = decoded = 0
  for item in items:
    video = sha256(item.path)
    left = []
    for metric in metrics:
      row = _blank(item, metric, video)
      known = records.find(row["key"], item.name)
      if known:
        rows[metric.name, item.name] = known
      elif metric.name not in broken:
        left.append((metric, row))
    # One decoding serves all metrics that are left.
    needs = frozenset().union(*(metric.needs | metric.uses for metric, _ in left))
    clip = Clip(item.path, item.name, item.fields, needs)
    for metric, row in left:
      try:
        metric.prepare()
      except (UsageError, Unscorable) as e:
        broken[metric.name] = str(e)
        continue
      try:
        row["scores"] = metric.score(clip)
      except (UsageError, Unscorable) as e:
        row["reason"] = str(e)
      except Exception as e:
        # Not a record: an accident may not happen again.
        if (metric.name, type(e)) not in shown:  # once: the others are counted
          shown.add((metric.name, type(e)))
          progress_line.say(traceback.format_exc().rstrip())
        accidents.append(f"{metric.name} of {item.name}: {type(e).__name__}: {e}")
        continue
      rows[metric.name, item.name] = records.add(row)
      scored += 1
    decoded += clip.decoded
    progress(item.name)
  return Results(rows, broken, accidents, scored, decoded)


def _blank(item: Item, metric: Metric, video: str) -> Record:
  read = {name: item.fields.get(name) for name in metric.fields}
  protocol = digest(metric.protocol)
  return {
    # Of all that the score depends on: a changed file or setting is scored anew.
    "key": digest(video, metric.name, protocol, read),
    "id": item.name,
    "metric": metric.name,
    "protocol": protocol,
    "video": video,
  }
