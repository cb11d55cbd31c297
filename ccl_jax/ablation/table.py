"""The tables of the ablation, as Markdown: results of runs in, text out.

A cell is `mean ± half (difference ± half)`: the mean over seeds and half its 95 %
interval, and in brackets the paired difference to the row above or, under a question,
to the first row (`seeds`). A difference whose interval does not hold 0 is bold.
"""

import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ccl_jax.ablation.readings import (
  Result,
  Runs,
  by_variant,
  cosine,
  kinds,
  last_loss,
  mean_information,
  reads,
  score,
  stability,
)
from ccl_jax.ablation.seeds import Estimate, difference, estimate
from ccl_jax.ablation.tuning import tuning
from ccl_jax.ablation.variants import (
  BEST,
  FULL,
  MAIN,
  QUESTIONS,
  TASKS,
  VARIANTS,
  forms,
)
from ccl_jax.files import write_text
from ccl_jax.metrics.tables import table

NONE = "-"


class Score(NamedTuple):
  """How a score is shown: what it is, which way is better, and its decimals."""

  about: str
  better: str
  decimals: int = 3


MORE, LESS, ZERO = "more is better", "less is better", "0 is best"
SCORES = {
  "sync_r0": Score("correlation of mouths and voices", MORE),
  "event_f1": Score("F1 of syllables seen and heard", MORE),
  "right_face": Score("the right one of two faces speaks", MORE),
  "sync_lag_ms": Score("how late the sound is, in ms", ZERO, 0),
  "lag_first_ms": Score("the same in the clip's first third", ZERO, 0),
  "lag_middle_ms": Score("in its second third", ZERO, 0),
  "lag_last_ms": Score("in its last third", ZERO, 0),
  "ser": Score("errors in the syllables said", LESS),
  "impact_f1": Score("F1 of contacts and clicks", MORE),
  "face_missing": Score("share of talkers without a face", LESS),
  "hue_error": Score("faces of another colour", LESS),
  "place_error": Score("faces at another place", LESS),
  "listener_motion": Score("a silent face's mouth moves", LESS),
}
REAL = ("real", "real, through the codecs")  # of the ceiling, the last one the ceiling
SHORT = ("sync_r0", "event_f1", "ser", "face_missing")
ANSWERS = ("sync_r0", "ser", "information", "training")


class Row(NamedTuple):
  """A row: the runs of a variant, sampled with a row of guidance."""

  variant: str
  guidance: str
  label: str


class Section(NamedTuple):
  """A comparison: its rows, and which tables are made of them.

  Attributes:
    title, about: the heading, and a sentence below it.
    rows: in order; those without runs are left out.
    tables: names of `SCORES`, whose columns are the tasks, or of `MEASURES`.
    first: rows are held against the first one, and not against the row above.
  """

  title: str
  about: str
  rows: Sequence[Row]
  tables: Sequence[str]
  first: bool = False


class Column(NamedTuple):
  """A column: what a run has for a row, if anything."""

  label: str
  value: Callable[[Result, Row], float | None]
  decimals: int = 3
  chance: Callable[[Result, Row], float | None] = lambda result, row: None
  real: Mapping[str, float | None] = {}  # by set of clips: what real ones reach


def write_table(
  results: Sequence[Result],
  path: str | pathlib.Path,
  ceiling: Mapping[str, Any] | None = None,
  pictures: Mapping[str, str] | None = None,
  scales: Mapping[str, Any] | None = None,
) -> None:
  """Writes the page of all tables; the same results give the same bytes.

  Args:
    results: of runs, in any order.
    path: of the page.
    ceiling: {set of real clips: {score: {"mean", ...}}}.
    pictures: what each shows, by its path as seen from the page.
    scales: of guidance, that were tried: see `tuning`.

  Raises:
    UsageError: see `by_variant`; nothing is written.
  """
  write_text(path, page(results, sections(), ceiling, pictures, scales))


def sections() -> list[Section]:
  """The page's sections, as `variants` has them: training, with each variant's best
  guidance and with that of text alone, then guidance, then questions.
  """
  shown = lambda names: [
    Row(name, BEST[VARIANTS[name].exchange][-1], name) for name in names
  ]
  described = lambda names: "\n".join(f"* `{v}`: {VARIANTS[v].about}" for v in names)
  plain = [Row(name, "text", name) for name in MAIN]
  guided = ", ".join(f"{forms[-1]} ({kind})" for kind, forms in BEST.items())
  return [
    Section(
      "Training",
      f"With the guidance of each exchange: {guided}.\n\n{described(MAIN)}",
      shown(MAIN),
      (*SCORES, *MEASURES),
    ),
    Section("Training, text guidance alone", "The same runs.", plain, SHORT),
    *(
      Section(
        f"Guidance of {name}",
        "The same checkpoints, sampled in other ways, each with its own best scales.",
        [Row(name, form, form) for form in forms(name)],
        SHORT,
      )
      for name in FULL
    ),
    *(
      Section(title, described(names), shown(names), ANSWERS, first=True)
      for title, names in QUESTIONS.items()
    ),
  ]


def page(
  results: Sequence[Result],
  shown: Sequence[Section],
  ceiling: Mapping[str, Any] | None = None,
  pictures: Mapping[str, str] | None = None,
  scales: Mapping[str, Any] | None = None,
) -> str:
  """The text of the sections; one with fewer than two rows that have runs is left out,
  and so is a question whose second row has none. The first picture is at the top, the
  others are at the end, after the scales of guidance that were tried.

  Raises:
    UsageError: see `by_variant`.
  """
  runs = by_variant(results)
  parts = [
    "# The ablation\n",
    "This page is made of the stored results beside it by `python -m ccl_jax.ablation "
    "table`; edit neither.\n",
    about(results) + "\n",
    "A cell is the mean over seeds ± half its 95 % t-interval. In brackets: the "
    "difference to the row above, under a question to its first row, paired by seed, "
    "with its interval; bold where that does not hold 0. `seeds` counts the row's "
    "runs, `paired` those whose seed the other row has too; a cell of fewer runs names "
    "their number. One seed has no interval (-). Intervals are not corrected for the "
    "number of comparisons. Chance is the same pictures with the sounds of other "
    "clips.\n",
  ]
  figures = [f"{x}:\n\n![{x}]({path})\n" for path, x in (pictures or {}).items()]
  parts += figures[:1]
  explained: set[str] = set()
  for section in shown:
    rows = [row for row in section.rows if row.variant in runs]
    # A question asks for its second row: what else has runs does not answer it.
    if len(rows) > 1 and (not section.first or section.rows[1] in rows):
      parts.append(f"## {section.title}\n")
      parts += [section.about + "\n"] * bool(section.about)
      if missing := _union([row.variant] for row in section.rows if row not in rows):
        parts.append(f"Without runs: {', '.join(f'`{v}`' for v in missing)}.\n")
      parts += _tables(section, rows, runs, ceiling or {}, explained)
  if tried := tuning(scales or {}):
    parts.append(tried)
  if figures[1:]:
    parts += ["## Figures\n", *figures[1:]]
  return "\n".join(parts)


def about(results: Sequence[Result]) -> str:
  """The line that says what the tables are of."""
  cells = [
    cell["n"]
    for r in results
    for tasks in r["guidance"].values()
    for entry in tasks.values()
    for cell in entry["scores"].values()
  ]
  seeds = sorted({r["seed"] for r in results})
  machines = "; ".join(sorted({r["machine"] for r in results}))
  return (
    f"{len(results)} runs of size `{results[0]['size']}`, {_span(results, 'steps')} "
    f"steps each after joining, {_span(results, 'parameters')} parameters, seeds "
    f"{', '.join(map(str, seeds))}; up to {max(cells, default=0)} clips a score; code "
    f"`{results[0]['version']}`; on {machines}."
  )


def _span(results: Iterable[Result], key: str) -> str:
  values = [r[key] for r in results]
  low, high = min(values), max(values)
  return f"{low}" if low == high else f"{low} to {high}"


def _tables(section: Section, rows, runs: Runs, ceiling, explained) -> list[str]:
  pairs = [(r, row) for row in rows for r in runs[row.variant].values()]
  parts = []
  for name in section.tables:
    if name in SCORES:
      columns = _of_score(name, ceiling)
    else:
      columns = MEASURES[name].columns(pairs)
    about = SCORES.get(name) or MEASURES[name]
    if text := grid(rows, columns, runs, section.first):
      what = "" if name in explained else f": {about.about}"
      parts.append(f"**{name}**{what} ({about.better}):\n\n{text}\n")
      explained.add(name)  # a page says what a score is once
  return parts


def _of_score(name: str, ceiling: Mapping[str, Any]) -> list[Column]:
  real = {k: ceiling[k][name]["mean"] for k in REAL if name in ceiling.get(k, {})}

  def column(task):
    value = lambda result, row: score(result, row.guidance, task, name)
    chance = lambda result, row: score(result, row.guidance, task, name, "chance")
    return Column(task, value, SCORES[name].decimals, chance, real)

  return [column(task) for task in TASKS]


def _by_kind(pairs) -> list[Column]:
  def column(kind):
    value = lambda result, row: score(result, row.guidance, "joint", "sync_r0", kind)
    return Column(kind, value)

  return [
    column(k) for k in _union(kinds(r, row.guidance, "joint") for r, row in pairs)
  ]


def _information(pairs) -> list[Column]:
  def percent(task, stream, part):
    return lambda result, row: mean_information(result, task, stream, part)

  return [
    Column(f"{t}, {s}", percent(t, s, "share"), 2, percent(t, s, "chance"))
    for t, s in _union(reads(r) for r, _ in pairs)
  ]


def _training(pairs) -> list[Column]:
  del pairs  # the columns are the same for all
  return [
    Column("last loss", lambda result, row: last_loss(result), 4),
    Column("deviation", lambda result, row: stability(result).get("difference_std"), 4),
    Column("cosine, exchange", lambda result, row: cosine(result, "exchange")),
    Column("cosine, blocks", lambda result, row: cosine(result, "blocks")),
  ]


class Measure(NamedTuple):
  """A table that is not of one score: what it is, which way is better, its columns."""

  about: str
  better: str
  columns: Callable[[Sequence[tuple[Result, Row]]], list[Column]]


MEASURES = {
  "sync_r0 by kind of clip": Measure("of the task joint", MORE, _by_kind),
  "information": Measure(
    "how much of the loss with another clip's stream the right one takes away, in %, "
    "the mean over noise levels",
    MORE,
    _information,
  ),
  "training": Measure(
    "the loss over the last fifth of the steps, the deviation of the differences "
    "between its successive windows, and the cosine between the gradients of joint and "
    "of another task, each on a batch of its own",
    "less, less and more is better",
    _training,
  ),
}


def _union(groups: Iterable[Iterable[Any]]) -> list[Any]:
  """What is in any of the groups, in the order of its first."""
  return list(dict.fromkeys(x for group in groups for x in group))


def grid(
  rows: Sequence[Row], columns: Sequence[Column], runs: Runs, first: bool = False
) -> str:
  """A table of rows and columns; "" if no run has any of its numbers.

  Chance is the first row, real clips are the last, where they are known; columns
  without numbers are left out.

  Args:
    rows: whose variants all have runs.
    columns: of the table.
    runs: by variant and seed.
    first: differences are to the first row that has runs, and not to the row above.
  """
  columns = [c for c in columns if any(_values(row, c, runs) for row in rows)]
  if not columns:
    return ""
  lines = [["", *(c.label for c in columns), "seeds", "paired"]]
  chances = [_chance(rows, c, runs) for c in columns]
  if any(chances):
    lines.append(["chance", *(x or NONE for x in chances), "", ""])
  above = None
  for row in rows:
    cells = []
    # A row's counts are those of its fullest cell.
    both = [
      (_values(above, c, runs) if above else {}, _values(row, c, runs)) for c in columns
    ]
    seeds = max(len(own) for _, own in both)
    paired = max(len(own.keys() & upper.keys()) for upper, own in both)
    for column, (upper, own) in zip(columns, both):
      cells.append(_cell(own, upper if above else None, column.decimals, seeds, paired))
    lines.append([row.label, *cells, f"{seeds}", f"{paired}" if above else NONE])
    above = above if first and above else row
  for name in _union(c.real for c in columns):
    cells = [
      _number(c.real[name], c.decimals) if name in c.real else NONE for c in columns
    ]
    lines.append([name, *cells, "", ""])
  return table(lines)


def _values(row: Row, column: Column, runs: Runs) -> dict[int, float]:
  """A column's numbers by seed, of the runs of a row that have one."""
  values = {k: column.value(r, row) for k, r in runs[row.variant].items()}
  return {seed: value for seed, value in values.items() if value is not None}


def _chance(rows: Sequence[Row], column: Column, runs: Runs) -> str | None:
  """The mean over all runs of all rows, as text."""
  every = [column.chance(r, row) for row in rows for r in runs[row.variant].values()]
  every = [x for x in every if x is not None]
  return _number(np.mean(every), column.decimals) if every else None


def _cell(own, upper, decimals: int, seeds: int, paired: int) -> str:
  """A mean with its interval, and its difference to the row above, if there is one."""
  mean = estimate(list(own.values()))
  if mean is None:
    return NONE
  text = _shown(mean, decimals) + (f" of {mean.n}" if mean.n < seeds else "")
  if upper is None:
    return text
  step = difference(upper, own)
  if step is None:
    return f"{text} ({NONE})"
  shown = _shown(step, decimals, "+")
  if step.half is not None and abs(step.mean) > step.half:
    shown = f"**{shown}**"
  return f"{text} ({shown}{f' of {step.n}' if step.n < paired else ''})"


def _shown(e: Estimate, decimals: int, sign: str = "") -> str:
  half = NONE if e.half is None else _number(e.half, decimals)
  return f"{_number(e.mean, decimals, sign)} ± {half}"


def _number(x: float, decimals: int, sign: str = "") -> str:
  return f"{round(float(x), decimals) + 0.0:{sign}.{decimals}f}"  # + 0: no "-0.00"
