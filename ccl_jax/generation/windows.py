"""Sampling in windows of a few steps, each a call of one program.

The host hears of every window, without a callback inside the program: JAX keeps no
program that calls back, so that every command would compile its own anew. Schedules are
arguments, and so one program serves all of a window's length; steps that leave
something out (`shortcuts`) have programs of their own.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from ccl_jax.diffusion.samplers import table_of
from ccl_jax.generation.lengths import Join
from ccl_jax.generation.sampling import Sampling, Steps, finished
from ccl_jax.generation.shortcuts import Kind, keeps_of, runs_of
from ccl_jax.models.cca import Geometry
from ccl_jax.models.joint import JointDiT
from ccl_jax.sharding import compiler_options
from ccl_jax.tasks import Generation

WINDOWS = 8  # at least, of as many steps
Watch = Callable[[int, Mapping[str, jax.Array]], None]
Seen = Callable[[int, dict[str, jax.Array]], None]


def window(*runs: int) -> int:
  """How many steps a window has: such that all are alike, and a few of them tell.

  Args:
    runs: steps of one kind that follow each other; each run is whole windows.
  """
  most = max(1, sum(runs) // WINDOWS)
  return max(n for n in range(1, most + 1) if not any(run % n for run in runs))


def windows_of(kinds: Sequence[Kind]) -> list[tuple[int, int, Kind]]:
  """(first step, steps, kind) of every window."""
  runs = runs_of(kinds)
  size = window(*(count for _, count, _ in runs))
  return [
    (at, size, kind)
    for first, count, kind in runs
    for at in range(first, first + count, size)
  ]


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
  join: Join | None = None,
  progress: Callable[[int], None] | None = None,
  watch: Watch | None = None,
  seen: Seen | None = None,
  measured: Callable[[Any, Any], None] | None = None,
) -> dict[str, jax.Array]:
  """Latents of the generated streams: `sample_latents`, from the host.

  Args:
    programs: what was jitted so far; it gets what is jitted now.
    join: of parts of clips, which `noise` and `conditions` are then of.
    progress: called with the index of each step, when its window is done.
    watch: called after every step with its index and the memory that it handed on, what
      blocks have added among it.
    seen: called after every step with its index and the clean latents that it predicts.
    measured: called with the compiled program of a window, and its arguments beside
      the parameters.

  Raises:
    UsageError: see `sample_latents`.
  """
  how = Steps(model, task, sampling, reuse_keys, clip, join)
  keeps, windows = keeps_of(how.kinds), windows_of(how.kinds)
  if watch is not None:
    keeps = keeps._replace(blocks=True)
  if watch is not None or seen is not None:
    windows = [(i, 1, kind) for i, kind in enumerate(how.kinds)]
  # Scales and schedules are arguments, and no part of the program.
  plain = dataclasses.replace(
    sampling, scales={}, steps=1, shift=1.0, schedule=None, guidance_interval=None,
    guidance_every=None, cache=None, window=None, overlap=None,
  )  # fmt: skip
  fixed = functools.partial(
    Steps, model, task, reuse_keys=reuse_keys, clip=clip, join=join
  )
  settings = task, json.dumps(dataclasses.asdict(plain)), reuse_keys, clip, join
  options = compiler_options(jax.sharding.get_mesh())

  def jitted(*key, make):
    key = *settings, *key
    if key not in programs:
      programs[key] = jax.jit(make(), compiler_options=options)
    return programs[key]

  table = table_of(how.schedule, sampling.solver)
  keys = jitted("keys", make=lambda: fixed(plain).keys)(params, noise, conditions)
  carry = how.begin(noise)
  for first, size, kind in windows:
    make = functools.partial(_advance, fixed, plain, kind, keeps)
    rows = {name: column[first : first + size] for name, column in table.items()}
    advance = jitted(kind, keeps, make=make)
    carry = advance(params, carry, rows, conditions, keys, sampling.scales)
    if first == 0 and measured is not None:
      rest = carry, rows, conditions, keys, sampling.scales
      measured(advance.lower(params, *rest).compile(), rest)
    if watch is not None:
      watch(first, carry[-1])
    if seen is not None:
      seen(first, finished(carry[2:], conditions))
    if progress is not None:
      jax.block_until_ready(carry)
      for step in range(first, first + size):
        progress(step)
  return finished(carry, conditions)


def _advance(fixed, plain, kind, keeps):
  """The function of the steps of a window, to be jitted."""

  def advance(params, carry, rows, conditions, keys, scales):
    how = fixed(dataclasses.replace(plain, scales=scales))
    return how.advance(params, carry, rows, conditions, keys, kind=kind, keeps=keeps)

  return advance
