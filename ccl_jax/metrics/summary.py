"""Sums up per-clip numbers: means or rates, intervals, and differences of pairs.

An interval is the 2.5 and 97.5 percentiles of a number over 2000 draws of as many clips
with replacement, by a fixed seed. Two sets are compared on the clips that both have:
the same draw serves both, so that what a hard clip costs both cancels. An interval of a
difference that holds 0 says that the two cannot be told apart by these clips.
"""

import warnings
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
from jaxtyping import Float

from ccl_jax.metrics.base import Unscorable
from ccl_jax.metrics.columns import COLUMNS, Column
from ccl_jax.metrics.frechet import Moments, frechet

DRAWS, SEED = 2000, 0
Scores = Mapping[str, Mapping[str, Any]]  # id -> the scores of its record


def terms(column: Column, scores: Mapping[str, Any]) -> tuple[float, float] | None:
  """The (value, per) that a clip adds to a column; None if it has none."""
  value = scores.get(column.value)
  per = 1 if column.per is None else scores.get(column.per)
  if not (isinstance(value, Real) and isinstance(per, Real) and per):
    return None
  return float(value), float(per)


def parts_of(column: Column, scores: Scores) -> dict[str, tuple[float, float]]:
  """The (value, per) of a column by clip, of all clips that have one."""
  pairs = {name: terms(column, row) for name, row in scores.items()}
  return {name: pair for name, pair in pairs.items() if pair is not None}


def _draws(n: int) -> np.ndarray:
  return np.random.default_rng(SEED).integers(0, n, (DRAWS, n))


def _rates(pairs: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, " draws"]:
  # Sums over each draw of clips, then their quotient: a rate, not a mean of rates.
  value, per = np.moveaxis(pairs[_draws(len(pairs))], -1, 0).sum(-1)
  return value / per


def _ends(samples: np.ndarray) -> dict[str, float]:
  low, high = np.percentile(samples, (2.5, 97.5))
  return {"low": float(low), "high": float(high)}


def sum_up(parts: Sequence[tuple[float, float]]) -> dict[str, float]:
  """The number of a column: `mean`, and from two clips on `low` and `high`.

  {} of no clips.
  """
  if not parts:
    return {}
  pairs = np.array(parts, np.float64)
  # A quotient of sums: a clip counts by its `per`, such as its words.
  value, per = pairs.sum(0)
  out = {"mean": float(value / per)}
  return out | _ends(_rates(pairs)) if len(pairs) > 1 else out


def difference(
  first: Mapping[str, tuple[float, float]], second: Mapping[str, tuple[float, float]]
) -> dict[str, float | int]:
  """How much the second set exceeds the first, on the clips that both have.

  Returns:
    n, the common clips; from one on `difference`, from two on `low` and `high`.
  """
  common = sorted(first.keys() & second.keys())
  if not common:
    return {"n": 0}
  a, b = (np.array([x[name] for name in common], np.float64) for x in (first, second))
  (va, pa), (vb, pb) = a.sum(0), b.sum(0)
  out = {"n": len(common), "difference": float(vb / pb - va / pa)}
  # One draw serves both sets, so that hard clips cancel.
  return out | _ends(_rates(b) - _rates(a)) if len(common) > 1 else out


def columns_of(
  scores: Mapping[str, Scores], names: Sequence[str]
) -> dict[str, dict[str, float | int]]:
  """Every column of the metrics at hand over the clips `names`.

  Args:
    scores: by metric and id.
    names: ids of the clips.
  """
  out = {}
  for key, column in COLUMNS.items():
    if column.metric not in scores:
      continue
    by_clip = scores[column.metric]
    parts = parts_of(column, {n: by_clip[n] for n in names if n in by_clip})
    out[key] = {**sum_up(list(parts.values())), "n_scored": len(parts)}
    out[key]["n_total"] = len(names)
  return out


def paired_subsets(
  scores: Mapping[str, Scores], pairs: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, dict[str, float | int]]]:
  """Differences of subsets over the pairs that they share.

  Args:
    scores: by metric and id.
    pairs: subset -> pair -> id.
  """
  out, subsets = {}, sorted(pairs)
  for i, a in enumerate(subsets):
    for b in subsets[i + 1 :]:
      if not pairs[a].keys() & pairs[b].keys():
        continue
      rows = {}
      for key, column in COLUMNS.items():
        by_clip = scores.get(column.metric, {})
        sides = [
          parts_of(column, {p: by_clip[n] for p, n in pairs[s].items() if n in by_clip})
          for s in (a, b)
        ]
        if all(sides):
          # Pairs share a prompt: the same draw of pairs serves both subsets.
          rows[key] = difference(*sides)
      out[f"{b} - {a}"] = rows
  return out


def distance(
  features: Sequence[np.ndarray], reference: Moments | None
) -> dict[str, Any]:
  """The Frechet distance of the clips' features to those of a reference set.

  Returns:
    `mean`, or the `reason` for having none; `n_scored`, and `warnings` if any.
  """
  out: dict[str, Any] = {"n_scored": len(features)}
  if reference is None:
    return out | {"reason": "no features of real clips: --reference DIR"}
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    try:
      out["mean"] = frechet(Moments.of(features), reference)
    except Unscorable as e:
      out["reason"] = e.reason
  if caught:
    out["warnings"] = [str(w.message) for w in caught]
  return out
