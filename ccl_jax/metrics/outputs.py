"""Writes the output folder of a run: per_clip.jsonl, summary.json, report.md,
report.html, features/*.npz.

per_clip.jsonl has the records of this run alone, clip by clip, each with its subset;
records.jsonl has those of earlier settings and manifests too.
"""

import importlib.metadata
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NotRequired

import numpy as np
from typing_extensions import TypedDict

from ccl_jax import documents
from ccl_jax.errors import UsageError
from ccl_jax.files import write_text
from ccl_jax.metrics.base import Metric
from ccl_jax.metrics.columns import COLUMNS, DISTANCES, Column
from ccl_jax.metrics.frechet import (
  Moments,
  read_features,
  read_moments,
  write_features,
)
from ccl_jax.metrics.html import write_html
from ccl_jax.metrics.runner import Item, Results
from ccl_jax.metrics.summary import (
  columns_of,
  difference,
  distance,
  paired_subsets,
  parts_of,
)
from ccl_jax.metrics.tables import (
  all_table,
  cell_of,
  comparison_table,
  notes,
  paper_table,
)
from ccl_jax.remote.paths import place

FILE = "per_clip.jsonl"
PACKAGES = ("ccl_jax", "jax", "flax", "numpy", "av", "pillow", "opencv-python-headless")


def versions() -> dict[str, str | None]:
  """Versions of the packages that numbers may depend on; None: not installed."""
  out = {}
  for name in PACKAGES:
    try:
      out[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      out[name] = None
  return out


def read_reference(
  folder: str | os.PathLike | None, names: Sequence[str]
) -> dict[str, Moments]:
  """The features of real clips, by metric.

  Args:
    folder: with NAME.npz, or of a finished run with features/NAME.npz; None: none.
    names: of metrics.

  Raises:
    UsageError: there is none of those that are asked for.
  """
  if folder is None or not names:
    return {}
  folder = place(folder)
  places = {n: [folder / f"{n}.npz", folder / "features" / f"{n}.npz"] for n in names}
  found = {n: next((p for p in ps if p.is_file()), None) for n, ps in places.items()}
  if not any(found.values()):
    raise UsageError(f"--reference {folder}: no {' or '.join(names)}.npz there")
  return {n: read_moments(path) for n, path in found.items() if path}


def write_outputs(
  out: pathlib.Path,
  items: Sequence[Item],
  missing: Sequence[str],
  metrics: Sequence[Metric],
  skipped: Mapping[str, str],
  results: Results,
  reference: Mapping[str, Moments],
  name: str,
) -> dict[str, Any]:
  """Writes all files of a run, and returns its summary.

  The same results give the same bytes.

  Args:
    out: the folder.
    items: the clips that were scored.
    missing: ids of clips without a file.
    metrics: that were run.
    skipped: metrics that could not run, with the reason.
    results: of the runner.
    reference: features of real clips, by metric.
    name: of the run, for the tables.
  """
  names = [*(m.name for m in metrics), *skipped]  # no score is a dash, not left out
  scores: dict[str, dict[str, Any]] = {n: {} for n in names}
  reasons: dict[str, dict[str, list[str]]] = {m.name: {} for m in metrics}
  for (metric, clip), row in results.records.items():
    if "scores" in row:
      scores[metric][clip] = row["scores"]
    else:
      reasons[metric].setdefault(row["reason"], []).append(clip)
  ids = [item.name for item in items]
  subsets, pairs = _groups(items)
  summary: dict[str, Any] = {
    "name": name,
    "n_total": len(items),
    "missing": list(missing),
    "overall": columns_of(scores, ids),
    "subsets": {s: columns_of(scores, names) for s, names in subsets.items()},
    "paired_subsets": paired_subsets(scores, pairs),
    "metrics": {},
    "packages": versions(),
  }
  protocols = {row["metric"]: row["protocol"] for row in results.records.values()}
  for metric in metrics:
    about: dict[str, Any] = {
      "protocol": metric.protocol,
      "protocol_id": protocols.get(metric.name),
      "n_scored": len(scores[metric.name]),
      "reasons": dict(sorted(reasons[metric.name].items())),
    }
    if metric.name in results.broken:
      about["skipped"] = results.broken[metric.name]
    summary["metrics"][metric.name] = about
  for metric, reason in skipped.items():
    summary["metrics"][metric] = {"skipped": reason}
  if results.accidents:
    summary["accidents"] = results.accidents
  for metric in (m for m in DISTANCES if m in scores):  # of sets, the order varies
    rows = [scores[metric][n] for n in ids if n in scores[metric]]
    features = [read_features(out / row["features"]["file"]) for row in rows]
    cell = distance(features, reference.get(metric))
    summary["overall"][metric] = cell | {"n_total": len(items)}
    if features:
      write_features(out / "features" / f"{metric}.npz", np.concatenate(features))
  rows = [
    {**results.records[m.name, item.name], "subset": item.fields.get("subset")}
    for item in items
    for m in metrics
    if (m.name, item.name) in results.records
  ]
  text = "\n".join(json.dumps(r, ensure_ascii=False) for r in rows)
  write_text(out / FILE, text + "\n")
  text = json.dumps(summary, indent=2, ensure_ascii=False)
  write_text(out / "summary.json", text + "\n")
  lines = [f"- {line}" for line in notes(summary)]
  tables = [t for t in (paper_table(summary, name), all_table(summary)) if t]
  text = "\n\n".join([f"# {name}", *tables, "\n".join(lines)])
  write_text(out / "report.md", text.rstrip() + "\n")
  files = {item.name: item.path for item in items}
  write_html(out, summary, scores, subsets, files, name)
  return summary


def _groups(items: Sequence[Item]):
  """Ids by subset, and by subset and pair."""
  subsets: dict[str, list[str]] = {}
  pairs: dict[str, dict[str, str]] = {}
  for item in items:
    subset, pair = item.fields.get("subset"), item.fields.get("pair")
    if subset:
      subsets.setdefault(subset, []).append(item.name)
      if pair:
        pairs.setdefault(subset, {})[pair] = item.name
  return subsets, pairs


class Run(NamedTuple):
  """A finished run.

  Attributes:
    summary: the content of summary.json.
    scores: by metric and id.
    subsets: by id.
  """

  summary: dict[str, Any]
  scores: dict[str, dict[str, Any]]
  subsets: dict[str, str | None]

  def parts(self, column: Column, subset: str | None):
    """The (value, per) by clip that a column sums up, of a subset; None: all clips."""
    parts = parts_of(column, self.scores.get(column.metric, {}))
    return {n: x for n, x in parts.items() if subset in (None, self.subsets[n])}

  def mean(self, key: str, subset: str | None) -> float | None:
    """The number of a column, of a subset or over all; None if there is none."""
    return cell_of(self.summary, key, subset).get("mean")


Cell = dict[str, Any]


class Summary(TypedDict):
  """What is read of summary.json of a finished run."""

  overall: dict[str, Cell]
  subsets: dict[str, dict[str, Cell]]
  metrics: dict[str, Cell]


class Row(TypedDict):
  """What is read of a line of per_clip.jsonl."""

  id: str
  subset: str | None
  metric: str
  scores: NotRequired[dict[str, Any]]


def read_run(folder: str | os.PathLike) -> Run:
  """Reads the results of a finished run.

  Raises:
    UsageError: the folder holds none.
  """
  folder = place(folder)
  try:
    file = folder / "summary.json"
    summary = documents.check(documents.read_json(file), Summary, file, "score again")
    file = folder / FILE
    rows = [
      documents.check(documents.parse(line, file), Row, file, "score again")
      for _, line in documents.numbered_lines(file)
    ]
    run = Run(summary, {}, {row["id"]: row["subset"] for row in rows})
    for row in rows:
      if "scores" in row:
        run.scores.setdefault(row["metric"], {})[row["id"]] = row["scores"]
  except UsageError as e:
    raise UsageError(f"{folder} is no finished run of ccl_jax.eval: {e}") from e
  return run


def compare(
  a: str | os.PathLike, b: str | os.PathLike, names: Sequence[str] = ()
) -> dict[str, Any]:
  """Two finished runs side by side, with differences on the clips that both have.

  Args:
    a, b: their folders.
    names: of the two; none: those they were scored under, or their folders if equal.

  Raises:
    UsageError: a folder holds no finished run.
  """
  runs = [read_run(a), read_run(b)]
  subsets = [s for s in runs[0].summary["subsets"] if s in runs[1].summary["subsets"]]
  rows = []
  for key, column in COLUMNS.items():
    for subset in (None, *(subsets if column.subsets else ())):
      sides = [run.parts(column, subset) for run in runs]
      if any(sides):
        means = [run.mean(key, subset) for run in runs]
        about = {"column": key, "subset": subset, "means": means}
        rows.append(about | {"paired": difference(*sides)})
  for key in DISTANCES:  # of whole sets: no clips to pair
    means = [run.mean(key, None) for run in runs]
    if means != [None, None]:
      rows.append({"column": key, "subset": None, "means": means, "paired": {}})
  protocols = [
    {m: about.get("protocol_id") for m, about in run.summary["metrics"].items()}
    for run in runs
  ]
  common = {m for m in protocols[0] if protocols[0][m] and protocols[1].get(m)}
  own = [run.summary.get("name") for run in runs]
  folders = [place(x).absolute().name for x in (a, b)]
  choices = [list(names), own, folders]
  named = (x for x in choices if len(set(x)) > 1 and all(x))
  return {
    "names": next(named, [str(a), str(b)]),
    "rows": rows,
    "other_protocol": sorted(m for m in common if protocols[0][m] != protocols[1][m]),
  }


def comparison_text(comparison: Mapping[str, Any]) -> str:
  """A comparison, as `compare` gives it, in Markdown."""
  lines = [comparison_table(comparison)]
  if comparison["other_protocol"]:
    names = ", ".join(comparison["other_protocol"])
    lines += ["", f"Not comparable, for their protocols or weights differ: {names}"]
  return "\n".join(lines)
