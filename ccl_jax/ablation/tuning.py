"""What scales of guidance do: the ones that were tried, as Markdown.

Of each kind of exchange one run was sampled on validation clips, with the same scales
for both streams (`score.tune_scales`): the other runs of its kind take the best.
"""

from collections.abc import Mapping
from typing import Any

from ccl_jax.metrics.tables import table

SHOWN = ("sync_r0", "event_f1", "ser", "place_error")
ABOUT = (
  "Of one run of each exchange, joint generation of validation clips that no other "
  "score is of, with the same scales for both streams. `worth` is sync_r0, where a "
  "talker without a face counts as 0, less ser. The best scales of a form are bold; "
  "all runs are scored with them. Where these are the largest that were tried, more "
  "might be better.\n"
)


def tuning(scales: Mapping[str, Any]) -> str:
  """A section with a table for each kind of exchange; "" if nothing was tried.

  Args:
    scales: {kind: {"run", "clips", form: {"scales", "grid"}}}, of scales.json.
  """
  parts = []
  for found in scales.values():
    forms = {name: form for name, form in found.items() if isinstance(form, Mapping)}
    rows = [row for name, form in forms.items() for row in _rows(name, form)]
    if rows:
      head = ["", "scales", *SHOWN, "worth"]
      parts.append(f"`{found['run']}`, {found['clips']} clips:\n")
      parts.append(table([head, *rows]) + "\n")
  return "\n".join(
    ["## What do the scales of guidance do?\n", ABOUT, *parts] * bool(parts)
  )


def _rows(name: str, form: Mapping[str, Any]) -> list[list[str]]:
  best = form["scales"]["video"]
  rows = []
  for tried in form["grid"]:
    numbers = [tried["scores"].get(key) for key in SHOWN] + [tried["worth"]]
    scales = ", ".join(f"{k} {v:g}" for k, v in tried["scales"].items())
    chosen = tried["scales"] == best
    cells = [scales, *("-" if x is None else f"{x:.3f}" for x in numbers)]
    rows.append([name, *(f"**{x}**" if chosen else x for x in cells)])
  return rows
