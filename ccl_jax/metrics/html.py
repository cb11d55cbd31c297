"""Writes a summary as one page: table, intervals, every clip's score, the worst clips.

The page and the folder `worst` beside it are all there is: no script, nothing fetched.
"""

import html
import pathlib
import shutil
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ccl_jax.files import write_text
from ccl_jax.metrics.columns import ABOUT, COLUMNS
from ccl_jax.metrics.summary import Scores, parts_of
from ccl_jax.metrics.tables import all_rows, cell_of, label, notes, numbers, shown
from ccl_jax.remote.copies import local
from ccl_jax.remote.paths import Place

WORST = 3
WIDTH, ROW = 640, 34
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em}
div.wide{overflow-x:auto} table{border-collapse:collapse;white-space:nowrap}
th,td{padding:.2em .7em;text-align:right;border-bottom:1px solid #ddd}
th:first-child{text-align:left}
figure{display:inline-block;width:320px;margin:0 1em 1em 0;vertical-align:top}
video{width:320px} figcaption{font-size:13px} svg text{font:12px system-ui,sans-serif}
"""


def strip_plot(
  groups: Sequence[tuple[str, Sequence[float], Mapping[str, Any]]], key: str
) -> str:
  """An SVG with a dot for every clip, by group.

  A bar is the group's mean, on the interval of the mean.

  Args:
    groups: (name, values, cell of the summary).
    key: the column, for its decimals.
  """
  values = [x for _, xs, _ in groups for x in xs]
  low, high = min(values), max(values)
  left, right = 140, 40
  share = lambda x: (x - low) / (high - low) if high > low else 0.5
  place = lambda x: left + share(x) * (WIDTH - left - right)
  parts = []
  for i, (name, xs, cell) in enumerate(groups):
    y = ROW * i + ROW / 2
    parts.append(f'<text x="0" y="{y + 4:.0f}">{html.escape(name)}</text>')
    if "low" in cell:
      x0, x1 = (place(min(max(cell[k], low), high)) for k in ("low", "high"))
      parts.append(
        f'<rect x="{x0:.1f}" y="{y - 9:.1f}" width="{max(x1 - x0, 1):.1f}" '
        'height="18" fill="#bcd7f0"/>'
      )
    jitter = np.random.default_rng(0).uniform(-6, 6, len(xs))
    parts += [
      f'<circle cx="{place(x):.1f}" cy="{y + j:.1f}" r="2.5" fill="#1f5f99" '
      'fill-opacity=".55"/>'
      for x, j in zip(xs, jitter)
    ]
    if "mean" in cell and low <= cell["mean"] <= high:
      x = place(cell["mean"])
      parts.append(
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 11:.1f}" y2="{y + 11:.1f}" '
        'stroke="#c0392b" stroke-width="2"/>'
      )
  height = ROW * len(groups) + 18
  ends = "".join(
    f'<text x="{place(x):.0f}" y="{height - 3}" text-anchor="middle">{shown(x, key)}'
    "</text>"
    for x in sorted({low, high})
  )
  return f'<svg width="{WIDTH}" height="{height}">{"".join(parts)}{ends}</svg>'


def write_html(
  out: pathlib.Path,
  summary: Mapping[str, Any],
  scores: Mapping[str, Scores],
  subsets: Mapping[str, Sequence[str]],
  files: Mapping[str, Place],
  name: str,
) -> None:
  """Writes report.html and copies of the worst clips.

  Args:
    out: the run's folder.
    summary: of the run.
    scores: by metric and id.
    subsets: subset -> ids; empty: there are none.
    files: the clips' files by id.
    name: the title.
  """
  shutil.rmtree(out / "worst", ignore_errors=True)
  page = [
    f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(name)}'
    f"</title><style>{STYLE}</style><h1>{html.escape(name)}</h1>",
    f'<div class="wide"><table>{_table(all_rows(summary))}</table></div><ul>',
    *(f"<li>{html.escape(line)}</li>" for line in notes(summary)),
    "</ul><p>Below, every dot is a clip, the red line their mean and the band its 95 % "
    f"interval; of each number the {WORST} worst clips, the worst one first.</p>",
  ]
  for key in (key for key in numbers(summary) if key in COLUMNS):
    column = COLUMNS[key]
    parts = parts_of(column, scores.get(column.metric, {}))
    if not parts:
      continue
    values = {n: value / per for n, (value, per) in parts.items()}
    ids = {"all": list(files), **subsets}
    groups = [
      (s, [values[n] for n in names if n in values], cell_of(summary, key, subset))
      for (s, names), subset in zip(ids.items(), [None, *subsets])
    ]
    page.append(f"<h2>{html.escape(label(key, None))}</h2><p>{ABOUT[key]}</p>")
    page.append(strip_plot([g for g in groups if g[1]], key))
    if column.higher is None:
      continue
    order = sorted(values, key=lambda n: (values[n], n), reverse=not column.higher)
    page.append("<div>")
    page += [_figure(out, n, files[n], shown(values[n], key)) for n in order[:WORST]]
    page.append("</div>")
  write_text(out / "report.html", "\n".join([*page, "</html>"]))


def _table(rows: Sequence[Sequence[str]]) -> str:
  head, *rest = [[html.escape(cell) for cell in row] for row in rows]
  line = lambda row: f"<th>{row[0]}</th>" + "".join(f"<td>{x}</td>" for x in row[1:])
  lines = ["".join(f"<th>{x}</th>" for x in head), *map(line, rest)]
  return "".join(f"<tr>{x}</tr>" for x in lines)


def _figure(out: pathlib.Path, name: str, file: Place, value: str) -> str:
  copy = out / "worst" / (name + file.suffix)
  copy.parent.mkdir(exist_ok=True)
  if not copy.exists():
    with local(file) as here:
      shutil.copyfile(here, copy)
  shown_name = html.escape(name, quote=True)
  source = f"worst/{urllib.parse.quote(copy.name)}"
  return (
    f'<figure><video src="{source}" controls preload="metadata"></video>'
    f"<figcaption>{shown_name}: {value}</figcaption></figure>"
  )
