"""Honest timing: programs in turn, medians, and what the machine can do."""

import json
import statistics
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp


def in_turn(programs: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, list]:
  """Seconds of each program, one after the other, `rounds` times: a machine that slows
  down slows them all. Each is run once before, to be compiled. A program waits for its
  own results.
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


def median(seconds: list[float]) -> float:
  return statistics.median(seconds)


def ratios(ours: list[float], theirs: list[float]) -> list[float]:
  """Round by round, sorted."""
  return sorted(a / b for a, b in zip(ours, theirs, strict=True))


def device_ceiling(dtype) -> float:
  """`matmul_rate` of this machine's device, at a size that fills it."""
  return matmul_rate(1024 if jax.default_backend() == "cpu" else 8192, dtype)


def show(about: Mapping, rows: list[Mapping]) -> None:
  """A line for each row, then everything as JSON; `what` names a row."""
  for r in rows:
    print(", ".join(f"{k} {v:.3f}" if k != "what" else v for k, v in r.items()))
  print(json.dumps({**about, "rows": rows}))


def matmul_rate(size: int, dtype, rounds: int = 5) -> float:
  """FLOP/s of a square product of random matrices on one device: the ceiling."""
  keys = jax.random.split(jax.random.key(0))
  a, b = (jax.random.normal(k, (size, size), dtype) for k in keys)
  product = jax.jit(jnp.matmul)
  seconds = in_turn({"": lambda: product(a, b).block_until_ready()}, rounds)[""]
  return 2 * size**3 / min(seconds)
