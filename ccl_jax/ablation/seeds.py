"""Numbers of runs over seeds: means, their intervals, and paired differences.

An interval is Student's, of the n runs of a variant that differ in their seed,

  mean +- t(0.975, n - 1) s / sqrt(n),   s^2 = sum_i (x_i - mean)^2 / (n - 1)

Runs of two variants with the same seed share data, order, noise and first parameters.
Their difference is therefore taken by seed, over the seeds that both have, and its
interval is that of these differences.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Estimate(NamedTuple):
  """A mean over seeds, or an array of means.

  Attributes:
    mean: over the seeds.
    half: half the width of the 95 % interval; None of a single seed.
    n: seeds.
  """

  mean: Any
  half: Any | None
  n: int


def estimate(values: Sequence[Any] | np.ndarray) -> Estimate | None:
  """The mean over the first axis, which is that of the seeds; None of no seeds."""
  x = np.asarray(values, np.float64)
  n = len(x)
  if n == 0:
    return None
  if n == 1:
    return Estimate(x[0], None, 1)
  return Estimate(x.mean(0), t_quantile(n - 1) * x.std(0, ddof=1) / n**0.5, n)


def difference(above: Mapping[int, float], row: Mapping[int, float]) -> Estimate | None:
  """How much `row` exceeds `above`, over the seeds that both have; None if none."""
  return estimate([row[seed] - above[seed] for seed in row if seed in above])


def t_quantile(degrees: int, inside: float = 0.95) -> float:
  """The t that a variable of Student's law stays within, up and down.

  With t = sqrt(degrees) tan(theta), the probability of |t| is a finite sum in theta
  (Abramowitz and Stegun, 26.7.3 and 26.7.4), which is inverted by halving.

  Args:
    degrees: of freedom, 1 at least.
    inside: the probability of lying within.
  """
  low, high = 0.0, math.pi / 2
  for _ in range(60):
    theta = (low + high) / 2
    low, high = (theta, high) if _within(theta, degrees) < inside else (low, theta)
  return degrees**0.5 * math.tan(low)


def _within(theta: float, degrees: int) -> float:
  odd, total = degrees % 2, 0.0
  term = math.cos(theta) ** odd
  for power in range(odd, degrees - 1, 2):
    total += term
    term *= math.cos(theta) ** 2 * (power + 1) / (power + 2)
  if odd:
    return 2 / math.pi * (theta + math.sin(theta) * total)
  return math.sin(theta) * total
