"""Sampling in windows of a few steps, each a call of one program.

The host hears of every window, without a callback inside the program: JAX keeps no
program that calls back, so that every command would compile its own anew. Schedules are
arguments, and so one program serves all of a window's length.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax

from ccl_jax.diffusion.samplers import begin, table_of
from ccl_jax.generation.sampling import Sampling, Steps, finished
from ccl_jax.models.cca import Geometry
from ccl_jax.models.joint import JointDiT
from ccl_jax.tasks import Generation

WINDOWS = 8  # at least, of as many steps


def window(steps: int) -> int:
  """How many steps a window has: such that all are alike, and a few of them tell."""
  most = max(1, steps // WINDOWS)
  return max(n for n in range(1, most + 1) if steps % n == 0)


def sample_windows(
  programs: dict[Any, Any],
  model: JointDiT,
  params: Any,
  task: Generation,
  noise: Mapping[str, jax.Array],
  conditions: Mapping[str, Any],
  sampling: Sampling,
  *,
  reuse_keys: bool = True,
  clip: Geometry | None = None,
  progress: Callable[[int], None] | None = None,
  measured: Callable[[Any, Any], None] | None = None,
) -> dict[str, jax.Array]:
  """Latents of the generated streams: `sample_latents`, from the host.

  Args:
    programs: what was jitted so far; it gets what is jitted now.
    progress: called with the index of each step, when its window is done.
    measured: called with the compiled program of a window, and its arguments beside
      the parameters.

  Raises:
    UsageError: see `sample_latents`.
  """
  # Scales, steps and shift are arguments, and no part of the program.
  plain = dataclasses.replace(sampling, scales={}, steps=1, shift=1.0)
  key = (task, json.dumps(dataclasses.asdict(plain)), reuse_keys, clip)
  if key not in programs:
    programs[key] = _jitted(model, task, plain, reuse_keys, clip)
  keys_of, advance = programs[key]
  scales = sampling.scales
  table = table_of(Steps(model, task, sampling).schedule, sampling.solver)
  size = window(sampling.steps)
  keys = keys_of(params, noise, conditions)
  carry = begin(dict(noise))
  for first in range(0, sampling.steps, size):
    rows = {name: column[first : first + size] for name, column in table.items()}
    carry = advance(params, carry, rows, conditions, keys, scales)
    if first == 0 and measured is not None:
      rest = carry, rows, conditions, keys, scales
      measured(advance.lower(params, *rest).compile(), rest)
    if progress is not None:
      jax.block_until_ready(carry)
      for step in range(first, first + size):
        progress(step)
  return finished(carry, conditions)


def _jitted(model, task, plain, reuse_keys, clip):
  """The jitted functions of keys, and of the steps of a window."""
  steps = functools.partial(Steps, model, task, reuse_keys=reuse_keys, clip=clip)

  def advance(params, carry, rows, conditions, keys, scales):
    how = steps(dataclasses.replace(plain, scales=scales))
    return how.advance(params, carry, rows, conditions, keys)

  return jax.jit(steps(plain).keys), jax.jit(advance)
