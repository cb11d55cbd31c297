"""What the stored result of a run says, by the names of its JSON.

A number that a run lacks, or that is not finite, is None, and a missing group of
numbers is empty.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ccl_jax.ablation.results import name_of
from ccl_jax.errors import UsageError

Result = Mapping[str, Any]
Runs = Mapping[str, Mapping[int, Result]]  # variant -> seed -> result
SAME = ("version", "size")  # what all runs of a table have in common


def by_variant(results: Sequence[Result]) -> Runs:
  """Results by variant and seed, seeds in order.

  Raises:
    UsageError: there are none, a variant has a seed twice, or they differ in the
      version of the code or the size.
  """
  if not results:
    raise UsageError(
      "no results of runs: got 0, expected 1 at least; run the ablation first"
    )
  for key in SAME:
    found: dict[str, list[str]] = {}
    for r in results:
      found.setdefault(str(r[key]), []).append(_name(r))
    if len(found) > 1:
      got = "; ".join(f"{value} of {_few(found[value])}" for value in sorted(found))
      raise UsageError(
        f"results that differ in {key}: got {got}; expected one value: run these again "
        "or move them away"
      )
  runs: dict[str, dict[int, Result]] = {}
  for r in sorted(results, key=lambda r: r["seed"]):
    seeds = runs.setdefault(r["variant"], {})
    if r["seed"] in seeds:
      raise UsageError(f"two results of {_name(r)}: expected one; remove the other")
    seeds[r["seed"]] = r
  return runs


def _name(result: Result) -> str:
  return name_of(result["variant"], result["seed"])


def _few(names: list[str]) -> str:
  names = sorted(names)
  return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")


def number(value: float | int | None) -> float | None:
  """The value, or None where it is missing or not finite."""
  return float(value) if value is not None and math.isfinite(value) else None


def score(
  result: Result, guidance: str, task: str, name: str, part: str = "scores"
) -> float | None:
  """The mean over clips of a score.

  Args:
    result: of a run.
    guidance: the form of guidance that the clips were sampled with.
    task: the task of generation.
    name: of the score.
    part: "scores", "chance", which the same pictures have with other sounds, or a kind
      of clips, whose scores these are.
  """
  entry = result["guidance"].get(guidance, {}).get(task, {})
  cells = entry.get(part) or (entry.get("kinds") or {}).get(part) or {}
  return number(cells[name]["mean"]) if name in cells else None


def kinds(result: Result, guidance: str, task: str) -> list[str]:
  """The kinds of clips that a run has scores of."""
  entry = result["guidance"].get(guidance, {}).get(task, {})
  return list(entry.get("kinds") or {})


def information(result: Result, task: str, stream: str, part: str = "share"):
  """{sigma: `part` of the loss with another clip's stream}, sigmas in order.

  Args:
    result: of a run.
    task: of training.
    stream: the one whose loss it is.
    part: "share" (information / shuffled), or "chance", divided in the same way.
  """
  rows = (result.get("information") or {}).get(task, {}).get(stream, {})
  rows = {float(sigma): row for sigma, row in sorted(rows.items(), key=_sigma)}
  if part == "chance":
    return {sigma: row["chance"] / row["shuffled"] for sigma, row in rows.items()}
  return {sigma: row[part] for sigma, row in rows.items()}


def mean_information(
  result: Result, task: str, stream: str, part: str = "share"
) -> float | None:
  """The mean over noise levels of `information`, in %; None where there is none."""
  by_sigma = information(result, task, stream, part)
  return 100 * float(np.mean(list(by_sigma.values()))) if by_sigma else None


def _sigma(item: tuple[str | float, Any]) -> float:
  return float(item[0])


def reads(result: Result) -> list[tuple[str, str]]:
  """The (task, stream) that a run has information of."""
  by_task = result.get("information") or {}
  return [(task, stream) for task, streams in by_task.items() for stream in streams]


def stability(result: Result) -> dict[str, float]:
  """How steadily a run trained: `difference_std`, and the cosines of gradients, whose
  names are `GROUP TASK/TASK`.
  """
  given = result.get("stability") or {}
  rows = {"difference_std": given.get("difference_std")}
  rows |= given.get("gradient_cosine") or {}
  return {name: float(v) for name, v in rows.items() if number(v) is not None}


def cosine(result: Result, group: str) -> float | None:
  """The mean cosine between the gradients of `joint` and those of the other tasks, over
  the parameters of a group, "exchange" or "blocks".
  """
  names = stability(result).items()
  values = [
    value
    for name, value in names
    if name.startswith(f"{group} joint/") and name != f"{group} joint/joint"
  ]
  return float(np.mean(values)) if values else None


def attention(result: Result, measure: str, stream: str) -> dict[float, Any]:
  """{sigma: what is stored} of a measure of the attention in which `stream` reads."""
  rows = ((result.get("attention") or {}).get(measure) or {}).get(stream) or {}
  return {float(k): v for k, v in sorted(rows.items(), key=_sigma) if v is not None}


def losses(result: Result, name: str = "loss") -> dict[float, float]:
  """{step: loss}, by windows; of all tasks, or of `TASK/STREAM`."""
  loss = result.get("loss") or {}
  values = (
    loss.get("loss", ())
    if name == "loss"
    else (loss.get("by_task") or {}).get(name, ())
  )
  points = zip(loss.get("step", ()), values)
  return {float(k): float(v) for k, v in points if number(v) is not None}


def tasks_of_loss(result: Result) -> list[str]:
  """The TASK/STREAM that a run has losses of."""
  return list((result.get("loss") or {}).get("by_task") or {})


def last_loss(result: Result) -> float | None:
  """The mean loss of the last fifth of training."""
  points = losses(result)
  if not points:
    return None
  return float(np.mean([v for k, v in points.items() if k > 0.8 * max(points)]))
