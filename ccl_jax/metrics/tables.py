"""Tables of summaries, as text that is also Markdown.

One is in the layout of the paper, a set a line,

  CU PQ WER | Sync-C, Sync-D of each subset | DeSync, IB of each subset

and one has a number a line, over all clips and by subset, with its interval and how
many clips it is of. In the paper's layout sound is judged once, over all clips, for its
text is the same in all subsets, and the rest over all clips too where some are in no
subset.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ccl_jax.metrics.columns import COLUMNS, DISTANCES

Summary = Mapping[str, Any]
# The columns of the paper's table: of sound, over all clips, and by subset.
SOUND = ("cu", "pq", "wer", "cer")
PAPER = (SOUND, ("sync_c", "sync_d"), ("desync", "ib"))
ARROWS = {True: " ↑", False: " ↓", None: ""}
NONE = "–"
NAMED = 5  # clips in a line of notes; per_clip.jsonl has them all


def numbers(summary: Summary) -> list[str]:
  """The keys of the numbers that a summary has, those of the paper first."""
  used = summary["overall"]
  named = [key for group in PAPER for key in group]
  order = [*named, *(key for key in COLUMNS if key not in named)]
  columns = [key for key in order if key in used and _filled(used[key], key)]
  return columns + [key for key in DISTANCES if key in used]


def layout(summary: Summary) -> list[tuple[str, str | None]]:
  """The (number, subset) places of the paper's table, left to right.

  The subset is None for a number over all clips.
  """
  used, available = summary["overall"], numbers(summary)
  subsets = list(summary["subsets"])
  if sum(_clips(summary["subsets"][s]) for s in subsets) < _clips(used):
    subsets.insert(0, None)  # some clips are in none
  places = []
  for group in PAPER:
    by_subset = [key for key in group if key in available and key not in SOUND]
    places += [
      (key, None) for key in group if key in available and key not in by_subset
    ]
    places += [(key, subset) for subset in subsets for key in by_subset]
  return places


def _clips(group: Mapping[str, Any]) -> int:
  """The cell that counts the clips of a group."""
  return max((cell["n_total"] for cell in group.values()), default=1)


def _filled(cell: Mapping[str, Any], key: str) -> bool:
  """Columns that are for some clips only do not show where there are none."""
  optional = ("cer", "cer_mean", "wer", "wer_mean", "unrequested")
  return "mean" in cell or not (key in optional or COLUMNS[key].metric == "talking")


def label(key: str, subset: str | None) -> str:
  """The heading of a column: its name, an arrow to the better side, its subset."""
  if key in DISTANCES:
    return DISTANCES[key] + ARROWS[False]
  column = COLUMNS[key]
  return column.label + ARROWS[column.higher] + (f" {subset}" if subset else "")


def cell_of(summary: Summary, key: str, subset: str | None) -> Mapping[str, Any]:
  """The numbers of a place of the table; {} if there are none."""
  group = summary["overall"] if subset is None else summary["subsets"].get(subset, {})
  return group.get(key, {})


def decimals(key: str) -> int:
  """The number of decimals that a column shows."""
  return 2 if key in DISTANCES else COLUMNS[key].decimals


def shown(x: float | int | None, key: str) -> str:
  """A number as text, with its column's decimals; a dash for what is not known."""
  return NONE if x is None else f"{x:.{decimals(key)}f}"


def interval(cell: Mapping[str, Any], key: str) -> str:
  """An interval as text, [low, high]; a dash where there is none."""
  if "low" not in cell:
    return NONE
  return f"[{shown(cell['low'], key)}, {shown(cell['high'], key)}]"


def table(rows: Sequence[Sequence[str]]) -> str:
  """Rows as an aligned Markdown table; the first row is the header."""
  rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
  widths = [max(map(len, column)) for column in zip(*rows)]
  line = lambda row: "| " + " | ".join(x.ljust(w) for x, w in zip(row, widths)) + " |"
  rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
  head, *rest = map(line, rows)
  return "\n".join([head, rule, *rest])


def paper_table(summary: Summary, name: str) -> str:
  """A set's numbers and intervals in the paper's layout; "" if it has none."""
  places = layout(summary)
  if not places:
    return ""
  cells = [(cell_of(summary, *place), place[0]) for place in places]
  return table(
    [
      ["", *(label(*place) for place in places)],
      [name, *(shown(cell.get("mean"), key) for cell, key in cells)],
      ["95 %", *(interval(cell, key) for cell, key in cells)],
    ]
  )


def all_rows(summary: Summary) -> list[list[str]]:
  """Rows of every number, over all clips and by subset; the header first."""
  subsets = list(summary["subsets"])
  rows = [["mean [95 %] (clips)", "all", *subsets]]
  for key in numbers(summary):
    by_subset = key in COLUMNS and COLUMNS[key].subsets
    places = [None, *(subsets if by_subset else [])]
    cells = [_said(cell_of(summary, key, place), key) for place in places]
    rows.append([label(key, None), *cells, *[""] * (len(subsets) + 1 - len(cells))])
  return rows


def all_table(summary: Summary) -> str:
  """The rows of `all_rows` as a Markdown table."""
  return table(all_rows(summary))


def _said(cell: Mapping[str, Any], key: str) -> str:
  """A number, its interval where there is one, and how many clips it is of."""
  parts = [shown(cell.get("mean"), key)]
  parts += [interval(cell, key)] if "low" in cell else []
  return " ".join([*parts, f"({cell['n_scored']}/{cell['n_total']})"])


def notes(summary: Summary) -> list[str]:
  """Lines that a reader of the table has to know.

  Metrics that were skipped, clips without a score (what several metrics say of the same
  clips is said once), warnings, and missing videos.
  """
  lines, unscored = [], {}
  for name, entry in summary["metrics"].items():
    if "skipped" in entry:
      lines.append(f"{name}: skipped, {entry['skipped']}")
    reasons = [(r, c) for r, clips in entry.get("reasons", {}).items() for c in clips]
    for text, clips in by_kind(reasons):
      unscored.setdefault((text, tuple(clips)), []).append(name)
  for (text, clips), names in unscored.items():
    lines.append(f"{', '.join(names)}: {len(clips)} not scored, {text}")
  lines += accidents(summary.get("accidents", ()))
  for key in DISTANCES:
    cell = cell_of(summary, key, None)
    lines += [f"{key}: {text}" for text in cell.get("warnings", [])]
    if "reason" in cell and "skipped" not in summary["metrics"].get(key, {}):
      lines.append(f"{key}: no distance, {cell['reason']}")
  if "mean" in cell_of(summary, "desync", None):
    lines.append("desync: a network that guesses has 1.048")
  if missing := summary["missing"]:
    count = f"{len(missing)} of {summary['n_total']}"
    lines.append(f"missing videos: {count} ({some_of(missing)})")
  return lines


def accidents(lines: Sequence[str]) -> list[str]:
  """Lines "METRIC of CLIP: ERROR", one for each metric and kind of error."""
  by_metric: dict[str, list[tuple[str, str]]] = {}
  for line in lines:
    metric, _, rest = line.partition(" of ")
    clip, _, error = rest.partition(": ")
    by_metric.setdefault(metric, []).append((error, clip))
  return [
    f"{metric}: {len(clips)} failed by accident, {text}"
    for metric, pairs in by_metric.items()
    for text, clips in by_kind(pairs)
  ]


def by_kind(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, list[str]]]:
  """(text, clips) of every kind of reason: reasons that differ in numbers and in the
  clip's own name are one kind, of which the first is said.

  Args:
    pairs: (reason, clip) of every clip.
  """
  kinds: dict[str, list[tuple[str, str]]] = {}
  for reason, clip in pairs:
    named = re.sub(rf"(?<!\w){re.escape(clip)}(?!\w)", "CLIP", reason)
    kinds.setdefault(re.sub(r"\d+(\.\d+)?", "N", named), []).append((reason, clip))
  out = []
  for alike in kinds.values():
    clips = [clip for _, clip in alike]
    reason = alike[0][0]
    more = ", the others alike" if len({r for r, _ in alike}) > 1 else ""
    out.append((f"{reason}{more} ({some_of(clips)})", clips))
  return out


def some_of(names: Sequence[str]) -> str:
  """The first of some names, and how many more there are, as text."""
  more = len(names) - NAMED
  return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def comparison_table(comparison: Mapping[str, Any]) -> str:
  """Two sets by column as a table, with the difference on their common clips."""
  a, b = comparison["names"]
  rows = [["", a, b, f"{b} - {a}", "95 %", "clips"]]
  for row in comparison["rows"]:
    key = row["column"]
    apart = row["paired"]
    rows.append(
      [
        label(key, row["subset"]),
        *(shown(x, key) for x in row["means"]),
        shown(apart.get("difference"), key),
        interval(apart, key),
        str(apart.get("n", NONE)),
      ]
    )
  return table(rows)
