"""Tables of summaries, in the layout of the paper, as text that is also Markdown.

  CU PQ WER | Sync-C, Sync-D of each subset | DeSync, IB of each subset | the rest

Sound is judged once, over all clips, for its text is the same in all subsets. The rest
is judged over all clips too where some are in no subset.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ccl_jax.metrics.columns import COLUMNS, DISTANCES

Summary = Mapping[str, Any]
FIRST = (("cu", "pq", "wer", "cer"), ("sync_c", "sync_d"), ("desync", "ib"))
ARROWS = {True: " ↑", False: " ↓", None: ""}
NONE = "–"


def layout(summary: Summary) -> list[tuple[str, str | None]]:
  """(column, subset) from left to right; subset None: of all clips."""
  used = summary["overall"]
  subsets = list(summary["subsets"])
  if sum(_clips(summary["subsets"][s]) for s in subsets) < _clips(used):
    subsets.insert(0, None)  # some clips are in none
  named = {key for group in FIRST for key in group}
  places = []
  for group in (*FIRST, tuple(key for key in COLUMNS if key not in named)):
    here = [key for key in group if key in used and _filled(used[key], key)]
    by_subset = [key for key in here if COLUMNS[key].subsets]
    places += [(key, None) for key in here if key not in by_subset]
    places += [(key, subset) for subset in subsets for key in by_subset]
  return places + [(key, None) for key in DISTANCES if key in used]


def _clips(group: Mapping[str, Any]) -> int:
  """How many clips a group is of."""
  return max((cell["n_total"] for cell in group.values()), default=1)


def _filled(cell: Mapping[str, Any], key: str) -> bool:
  """Columns that are for some clips only do not show where there are none."""
  optional = ("cer", "cer_mean", "wer", "wer_mean", "unrequested")
  return "mean" in cell or not (key in optional or COLUMNS[key].metric == "talking")


def label(key: str, subset: str | None) -> str:
  """What stands over a column."""
  if key in DISTANCES:
    return DISTANCES[key] + ARROWS[False]
  column = COLUMNS[key]
  return column.label + ARROWS[column.higher] + (f" {subset}" if subset else "")


def cell_of(summary: Summary, key: str, subset: str | None) -> Mapping[str, Any]:
  """The numbers of a place; {} if there are none."""
  group = summary["overall"] if subset is None else summary["subsets"].get(subset, {})
  return group.get(key, {})


def decimals(key: str) -> int:
  """As many as are shown."""
  return 2 if key in DISTANCES else COLUMNS[key].decimals


def shown(x: float | int | None, key: str) -> str:
  """A number, or a dash; never 0 for what is not known."""
  return NONE if x is None else f"{x:.{decimals(key)}f}"


def interval(cell: Mapping[str, Any], key: str) -> str:
  """[low, high], or a dash."""
  if "low" not in cell:
    return NONE
  return f"[{shown(cell['low'], key)}, {shown(cell['high'], key)}]"


def table(rows: Sequence[Sequence[str]]) -> str:
  """Rows, the first one the header, as aligned Markdown."""
  rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
  widths = [max(map(len, column)) for column in zip(*rows)]
  line = lambda row: "| " + " | ".join(x.ljust(w) for x, w in zip(row, widths)) + " |"
  rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
  head, *rest = map(line, rows)
  return "\n".join([head, rule, *rest])


def paper_rows(summary: Summary, name: str) -> list[list[str]]:
  """A set's numbers, their 95 % intervals, and how many clips they are of; the header
  first.
  """
  places = layout(summary)
  cells = [(cell_of(summary, *place), place[0]) for place in places]
  counts = [
    f"{c.get('n_scored', 0)}/{c.get('n_total', summary['n_total'])}" for c, _ in cells
  ]
  return [
    ["", *(label(*place) for place in places)],
    [name, *(shown(c.get("mean"), key) for c, key in cells)],
    ["95 %", *(interval(c, key) for c, key in cells)],
    ["clips", *counts],
  ]


def paper_table(summary: Summary, name: str) -> str:
  """The same as text."""
  return table(paper_rows(summary, name))


def notes(summary: Summary) -> list[str]:
  """What a reader of the table has to know, a line each; what several metrics say of as
  many clips is said once.
  """
  lines, unscored = [], {}
  for name, about in summary["metrics"].items():
    if "skipped" in about:
      lines.append(f"{name}: skipped, {about['skipped']}")
    for reason, count in about.get("reasons", {}).items():
      unscored.setdefault((count, reason), []).append(name)
  for (count, reason), names in unscored.items():
    lines.append(f"{', '.join(names)}: {count} not scored, {reason}")
  for key in DISTANCES:
    cell = cell_of(summary, key, None)
    lines += [f"{key}: {text}" for text in cell.get("warnings", [])]
    if "reason" in cell:
      lines.append(f"{key}: no distance, {cell['reason']}")
  if "desync" in summary["overall"]:
    lines.append("desync: a network that guesses has 1.048")
  if summary["missing"]:
    lines.append(f"missing videos: {', '.join(summary['missing'])}")
  return lines


def comparison_table(comparison: Mapping[str, Any]) -> str:
  """Two sets by column, and the difference on the clips that both have."""
  rows = [["", *comparison["names"], "difference", "95 %", "clips"]]
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
