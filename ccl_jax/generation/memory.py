"""Memory of a device, in bytes: what programs take, what is held, what is free.

The phases of a generation need

  text       the text encoder, which runs before the model is read
  sampling   the model, beside the codecs
  decoding   the codecs, beside the model

and so a device needs the most of the three, not their sum.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax

from ccl_jax.processes import agreed

GIB = 2.0**30
ROOM = 0.9  # of what is free, for a program: some is in pieces


def worked_in(compiled: Any) -> int:
  """Bytes that a compiled program takes beside its arguments: results, temporaries."""
  m = compiled.memory_analysis()
  return m.output_size_in_bytes - m.alias_size_in_bytes + m.temp_size_in_bytes


def held(*trees: Any) -> int:
  """Bytes of a device that arrays take, or would take by their shardings; without one,
  whole.
  """
  total = 0
  for x in (x for x in jax.tree.leaves(trees) if hasattr(x, "shape")):
    sharding = getattr(x, "sharding", None)
    shape = x.shape if sharding is None else sharding.shard_shape(x.shape)
    total += math.prod(shape) * x.dtype.itemsize
  return total


def device_memory() -> int | None:
  """Bytes of a device of this process; None where it does not say, as a CPU."""
  return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def free_memory() -> int | None:
  """Bytes that are free on every device of this process; None where none says."""
  stats = [d.memory_stats() or {} for d in jax.local_devices()]
  free = [s["bytes_limit"] - s["bytes_in_use"] for s in stats if "bytes_limit" in s]
  return min(free, default=None)


def fits(program: Any, *args: Any, together: bool) -> bool:
  """Whether there is room for a program beside what is on the devices: it is compiled.

  Args:
    program: jitted.
    args: its arguments, which are on the devices.
    together: other processes run it too; what the first one finds holds for all.

  Raises:
    jax.errors.JaxRuntimeError: it cannot be compiled, for another reason than memory.
  """
  try:
    compiled = program.lower(*args).compile()
    free = free_memory()
    enough = free is None or worked_in(compiled) <= ROOM * free
  except jax.errors.JaxRuntimeError as e:
    if "RESOURCE_EXHAUSTED" not in str(e):
      raise
    enough = False
  return agreed(lambda: enough) if together else enough


def summary(phases: Mapping[str, int], limit: int | float | None) -> str:
  """What the phases need, as a line for people.

  Args:
    phases: bytes by name of a phase.
    limit: bytes that a device has; None: unknown.
  """
  needs = ", ".join(f"{name} {_in_units(n)}" for name, n in phases.items())
  return f"memory of a device: {needs}" + (
    "" if limit is None else f"; it has {_in_units(limit)}"
  )


def _in_units(n: int | float) -> str:
  return f"{n / GIB:.3g} GiB" if n >= GIB / 10 else f"{n / 2**20:.3g} MiB"
