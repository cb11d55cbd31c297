"""Times programs fairly: by turns, as medians, and against what the machine can do."""

import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp


def in_turn(programs: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, list]:
  """Seconds of each program by round; programs take turns.

  A machine that slows down slows them all. Each is run once before, to be compiled.

  Args:
    programs: by name; each waits for its own results.
    rounds: of timed runs.
  """
  for run in programs.values():
    run()
  seconds = {name: [] for name in programs}
  for _ in range(rounds):
    for name, run in programs.items():
      start = time.perf_counter()
      run()
      seconds[name].append(time.perf_counter() - start)
  return seconds


def keeping(
  programs: Mapping[Any, Callable[[], Any]],
) -> tuple[dict[Any, Callable[[], None]], dict[Any, Any]]:
  """(programs that leave what they make, by name what was made last).

  Args:
    programs: by name; each returns what it makes.
  """
  made: dict[Any, Any] = {}

  def keep(name):
    made[name] = programs[name]()

  return {name: lambda name=name: keep(name) for name in programs}, made


def cores() -> int:
  """The processor's cores that this process may use: fewer under taskset."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def median(seconds: list[float]) -> float:
  """The median of seconds, which one slow run does not move."""
  return statistics.median(seconds)


def ratios(ours: list[float], theirs: list[float]) -> list[float]:
  """The ratios of our seconds to theirs, round by round, in ascending order."""
  return sorted(a / b for a, b in zip(ours, theirs, strict=True))


def device_ceiling(dtype) -> float:
  """`matmul_rate` of this machine's device, at a size that fills it."""
  return matmul_rate(1024 if jax.default_backend() == "cpu" else 8192, dtype)


def show(setup: Mapping, rows: Iterable[Mapping]) -> None:
  """Prints a line for each row as it is measured, then everything as JSON: also where
  a later row fails or is interrupted.

  Args:
    setup: the run's circumstances.
    rows: of numbers; `what` names a row.
  """
  done = []
  try:
    for r in rows:
      line = ", ".join(f"{k} {v:.3f}" if k != "what" else v for k, v in r.items())
      print(line, flush=True)
      done.append(r)
  finally:
    print(json.dumps({**setup, "rows": done}), flush=True)


def matmul_rate(size: int, dtype, rounds: int = 5) -> float:
  """FLOP/s of a square product of random matrices on one device: the ceiling.

  Args:
    size: rows and columns of a matrix.
    dtype: of the matrices.
    rounds: of timed runs, of which the best counts.
  """
  keys = jax.random.split(jax.random.key(0))
  a, b = (jax.random.normal(k, (size, size), dtype) for k in keys)
  product = jax.jit(jnp.matmul)
  seconds = in_turn({"": lambda: product(a, b).block_until_ready()}, rounds)[""]
  return 2 * size**3 / min(seconds)
