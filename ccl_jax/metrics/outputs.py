"""The output folder of a run: summary.json, report.md, report.html, features/*.npz."""

import collections
import importlib.metadata
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ccl_jax.errors import UsageError
from ccl_jax.metrics.base import Metric
from ccl_jax.metrics.columns import COLUMNS, DISTANCES
from ccl_jax.metrics.frechet import Moments, read_moments, write_features
from ccl_jax.metrics.html import write_html
from ccl_jax.metrics.records import FILE
from ccl_jax.metrics.runner import Item, Results
from ccl_jax.metrics.summary import (
  Scores,
  columns_of,
  difference,
  distance,
  paired_subsets,
  parts_of,
)
from ccl_jax.metrics.tables import comparison_table, notes, paper_table

PACKAGES = ("ccl_jax", "jax", "flax", "numpy", "av", "pillow", "opencv-python-headless")


def versions() -> dict[str, str | None]:
  """Of the packages that numbers may depend on; None: not installed."""
  out = {}
  for name in PACKAGES:
    try:
      out[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      out[name] = None
  return out


def read_reference(
  folder: str | pathlib.Path | None, names: Sequence[str]
) -> dict[str, Moments]:
  """The features of real clips by metric: NAME.npz in a folder, or in the features of
  a finished run.

  Raises:
    UsageError: there is none of those that are asked for.
  """
  if folder is None or not names:
    return {}
  folder = pathlib.Path(folder)
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
  """Writes all but the records; returns the summary. The same results give the same
  bytes.
  """
  names = [*(m.name for m in metrics), *skipped]  # no score is a dash, not left out
  scores: dict[str, dict[str, Any]] = {n: {} for n in names}
  reasons = {m.name: collections.Counter() for m in metrics}
  for (metric, clip), row in results.records.items():
    if "scores" in row:
      scores[metric][clip] = row["scores"]
    else:
      reasons[metric][row["reason"]] += 1
  ids = [item.name for item in items]
  subsets, pairs = _groups(items)
  summary: dict[str, Any] = {
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
  for metric in DISTANCES.keys() & scores.keys():
    rows = [scores[metric][n] for n in ids if n in scores[metric]]
    features = [np.load(out / row["features"]["file"]) for row in rows]
    cell = distance(features, reference.get(metric))
    summary["overall"][metric] = cell | {"n_total": len(items)}
    if features:
      write_features(out / "features" / f"{metric}.npz", np.concatenate(features))
  _write(out / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False))
  lines = [f"- {line}" for line in notes(summary)]
  text = "\n".join([f"# {name}", "", paper_table(summary, name), "", *lines])
  _write(out / "report.md", text)
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


def _write(path: pathlib.Path, text: str) -> None:
  partial = path.with_name(f".{path.name}.part")
  partial.write_text(text + "\n", "utf-8")
  partial.replace(path)


def read_run(folder: str | pathlib.Path) -> tuple[dict[str, Any], dict[str, Scores]]:
  """The summary of a finished run and its scores by metric and id.

  Raises:
    UsageError: it is none.
  """
  folder = pathlib.Path(folder)
  try:
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    rows = map(json.loads, (folder / FILE).read_text("utf-8").splitlines())
    about = summary["metrics"]
    scores: dict[str, dict[str, Any]] = {}
    for row in rows:
      current = about.get(row["metric"], {}).get("protocol_id")
      if row["protocol"] == current and "scores" in row:
        scores.setdefault(row["metric"], {})[row["id"]] = row["scores"]
  except (OSError, ValueError, KeyError) as e:
    raise UsageError(f"{folder} is no finished run of ccl_jax.eval: {e}") from e
  return summary, scores


def compare(a: str | pathlib.Path, b: str | pathlib.Path) -> dict[str, Any]:
  """Two finished runs side by side, with differences on the clips that both have."""
  (one, of_one), (two, of_two) = read_run(a), read_run(b)
  rows = []
  for key, column in COLUMNS.items():
    sides = [parts_of(column, x.get(column.metric, {})) for x in (of_one, of_two)]
    if not all(sides):
      continue
    means = [s["overall"][key].get("mean") for s in (one, two)]
    rows.append(
      {"column": key, "subset": None, "means": means, "paired": difference(*sides)}
    )
  protocols = [
    {m: about.get("protocol_id") for m, about in s["metrics"].items()}
    for s in (one, two)
  ]
  common = protocols[0].keys() & protocols[1].keys()
  return {
    "names": [pathlib.Path(x).absolute().name for x in (a, b)],
    "rows": rows,
    "other_protocol": sorted(m for m in common if protocols[0][m] != protocols[1][m]),
  }


def comparison_text(comparison: Mapping[str, Any]) -> str:
  """A comparison as Markdown."""
  lines = [comparison_table(comparison)]
  if comparison["other_protocol"]:
    names = ", ".join(comparison["other_protocol"])
    lines += ["", f"Not comparable, for their protocols or weights differ: {names}"]
  return "\n".join(lines)
