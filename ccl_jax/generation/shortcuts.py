"""Which steps of a sampling leave something out, known before the first one.

A step is of a kind. Each kind is a program of its own, so that what a step leaves out
is in no program and costs nothing, and no step decides anything while it runs.

  guidance   full   the form's evaluations
             held   the prompt's evaluation, and what guidance added to it when it was
                    last computed
             off    the prompt's evaluation alone
  cached     no block of the network is run: what they added to the tokens when they
             last ran stands for it (`step_cache`)

Guidance on an interval: Kynkaanniemi et al., arXiv 2404.07724. What is held is the sum
of guidance's terms and not the other evaluations, which are farther from plain sampling
in most cases that were measured (docs/results.md).
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ccl_jax.diffusion.guidance import CONDITIONAL, Evaluation, runs

FULL, HELD, OFF = "full", "held", "off"


class Kind(NamedTuple):
  """What a step computes; see the module.

  Attributes:
    guidance: "full", "held" or "off".
    cached: no block is run.
  """

  guidance: str = FULL
  cached: bool = False


class Keeps(NamedTuple):
  """What steps hand on to later ones.

  Attributes:
    guidance: what guidance adds.
    blocks: what the blocks add to the tokens of every evaluation.
  """

  guidance: bool = False
  blocks: bool = False


def guidance_of(
  sigmas: Float[np.ndarray, "n"],
  interval: Sequence[float | int] | None,
  every: int | None,
) -> list[str]:
  """What each step does about guidance.

  Args:
    sigmas: the noise level of every step.
    interval: (low, high): there is guidance where low < sigma <= high; None: always.
    every: of as many steps with guidance, from the first on, one computes it; None: 1.
  """
  low, high = interval or (0.0, float("inf"))
  out, n = [], 0
  for sigma in sigmas:
    inside = low < sigma <= high
    out.append(OFF if not inside else HELD if n % (every or 1) else FULL)
    n += inside
  return out


def name_of(evaluations: Sequence[Evaluation], used: Mapping[str, Evaluation]) -> str:
  """The name of evaluations that run together: "NAME+NAME", each the first that the
  form has for it.

  Args:
    used: of the form, as `Guidance.used` gives them.
  """
  first = {e: name for name, e in reversed(used.items())}
  return "+".join(first[e] for e in evaluations)


def names_of(
  guidance: str, used: Mapping[str, Evaluation], batched: bool
) -> tuple[str, ...]:
  """The names of all that a step runs.

  Args:
    guidance: "full", "held" or "off".
    used, batched: see `diffusion.guidance.runs`.
  """
  wanted = used if guidance == FULL else {CONDITIONAL: used[CONDITIONAL]}
  return tuple(name_of(together, used) for together in runs(wanted, batched))


def keeps_of(kinds: Sequence[Kind]) -> Keeps:
  """What some step of a sampling needs of an earlier one."""
  return Keeps(
    any(kind.guidance == HELD for kind in kinds), any(kind.cached for kind in kinds)
  )


def runs_of(kinds: Sequence[Kind]) -> list[tuple[int, int, Kind]]:
  """(first step, how many, kind) of steps of one kind that follow each other."""
  out = []
  for kind, run in itertools.groupby(kinds):
    first = sum(n for _, n, _ in out)
    out.append((first, len(list(run)), kind))
  return out
