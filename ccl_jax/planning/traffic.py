"""Reads from a compiled program's text what it moves between devices.

XLA's cost analysis does not count communication, so the instructions are read: each has
a kind, the shape of its result, and a computation that it stands in. The body of a scan
stands in the text once; the loop around it says how often it runs.
"""

import math
import re
from collections import Counter
from typing import NamedTuple

KINDS = (
  "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute",
)  # fmt: skip
_BYTES = {
  "pred": 1, "s8": 1, "u8": 1, "f8e4m3fn": 1, "f8e5m2": 1, "s16": 2, "u16": 2,
  "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8,
}  # fmt: skip
_INSTRUCTION = re.compile(
  r"= (?P<result>\(.*?\)|\S+) (?P<kind>" + "|".join(KINDS) + r")(?P<start>-start)?\("
)
_COMPUTATION = re.compile(r"(ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{\s*$")
_LOOP = re.compile(r" while\(.*condition=%?([\w.\-]+)")
_LIMIT = re.compile(r"s32\[\]\S* constant\((\d+)\)")
_CALLED = re.compile(r"(?:body|to_apply|calls|called_computations=\{)=?%?([\w.\-]+)")
_TRIPS = re.compile(r"known_trip_count[^\d]*(\d+)")
# Devices that talk to one another: the first of {{0,1},{2,3}}; [n,size]<=[..]; axes
# of mesh['a'=4,'b'=2] {'a'}. None named: all.
_GROUPS = re.compile(
  r"replica_groups=(?:\{\{(?P<list>[\d,]*)\}|\[\d+,(?P<size>\d+)\]<="
  r"|mesh\[(?P<mesh>[^\]]*)\] \{(?P<axes>[^}]*)\})"
)
_DEVICES = re.compile(r"num_partitions=(\d+)")
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")


class Collective(NamedTuple):
  """A collective instruction.

  Attributes:
    kind: of `KINDS`.
    dtype, shape: of the largest array it makes on a device.
    group: devices that take part.
    times: how often it runs.
  """

  kind: str
  dtype: str
  shape: tuple[int, ...]
  group: int
  times: int = 1

  @property
  def elements(self) -> int:
    """Elements of the largest array that it makes."""
    return math.prod(self.shape)

  @property
  def nbytes(self) -> int:
    """Bytes of the largest array that it makes."""
    return self.elements * _BYTES[self.dtype]

  @property
  def moved(self) -> float:
    """Bytes that a device sends each time, by the best algorithms on rings.

    An all-reduce is a reduce-scatter and an all-gather; what a reduce-scatter makes is
    the group's part of what it moves.
    """
    others = self.group - 1
    # Of a group of g: an all-gather or all-to-all sends (g - 1) / g of its result.
    factor = {
      "all-reduce": 2 * others / self.group,
      "reduce-scatter": others,
      "collective-permute": 1,
    }.get(self.kind, others / self.group)
    return float(factor * self.nbytes)

  def __str__(self) -> str:
    return f"{self.kind} {self.dtype}[{','.join(map(str, self.shape))}]"


def collectives(text: str) -> list[Collective]:
  """All collectives in `compiled.as_text()`, in order, with how often they run.

  Those of one device are left out.
  """
  times = _times(text)
  devices = _DEVICES.search(text)
  instructions, place = [], ""
  for line in text.splitlines():
    header = _COMPUTATION.match(line)
    if header:
      place = header["name"]
    match = _INSTRUCTION.search(line)
    if match is None:
      continue
    group = _group(line) or int(devices[1] if devices else 1)
    for result in _results(match["result"], bool(match["start"])):
      instructions.append(
        Collective(match["kind"], *result, group, times.get(place, 1))
      )
  return [c for c in instructions if c.group > 1]


def _group(line: str) -> int:
  """Devices of a group; 0 where the line does not say."""
  match = _GROUPS.search(line)
  if match is None:
    return 0
  if match["mesh"]:
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", match["mesh"]))
    return math.prod(int(sizes[a]) for a in re.findall(r"\w+", match["axes"]))
  return int(match["size"] or 0) or len(match["list"].split(","))


def _times(text: str) -> dict[str, int]:
  """Number of runs of each computation: a loop's body counts once per trip."""
  calls, limits, place, entry = {}, {}, "", None
  for line in text.splitlines():
    header = _COMPUTATION.match(line)
    if header:
      place = header["name"]
      entry = place if line.startswith("ENTRY") else entry
      continue
    if limit := _LIMIT.search(line):
      limits.setdefault(place, []).append(int(limit[1]))
    loop, trips = _LOOP.search(line), _TRIPS.search(line)
    for name in _CALLED.findall(line):
      # Compilers for TPUs leave the count to the condition, which compares with it.
      count = (int(trips[1]) if trips else loop[1]) if loop else 1
      calls.setdefault(place, []).append((name, count))
  # The largest constant of the condition is the limit of the loop.
  known = lambda n: n if isinstance(n, int) else max(limits.get(n, [1]))
  times, todo = {}, [(entry, 1)]
  while todo:
    name, count = todo.pop()
    times[name] = times.get(name, 0) + count
    todo += [(callee, count * known(n)) for callee, n in calls.get(name, ())]
  return times


def _results(text: str, started: bool) -> list[tuple[str, tuple[int, ...]]]:
  """(dtype, shape) of every array an instruction makes. A started one returns its
  operands and its results: of each pair the larger counts.
  """
  shapes = [
    (dtype, tuple(int(n) for n in dims.split(",") if n))
    for dtype, dims in _SHAPE.findall(text)
    if dtype in _BYTES
  ]
  if started and len(shapes) > 1:
    return [max(shapes, key=lambda x: math.prod(x[1]) * _BYTES[x[0]])]
  return shapes


def table(instructions: list[Collective]) -> list[tuple[str, int, float]]:
  """(kind, runs, bytes that a device sends) by kind, the largest first."""
  counts, sizes = Counter(), Counter()
  for c in instructions:
    counts[c.kind] += c.times
    sizes[c.kind] += c.times * c.moved
  return [(kind, counts[kind], size) for kind, size in sizes.most_common()]
