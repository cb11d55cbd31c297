"""Reads from a compiled program what it moves between devices.

XLA's cost analysis does not count communication, so the instructions are read. Some are
not what they are called:

  pieces                of a collective that runs beside other work, in fusions: each
                        names all of it, and the first one counts
  start and done        what a started collective makes stands at its end; the start's
                        result holds its operands too, and those of several in one
  all-reduce-scatter    a fusion of an all-reduce and of the slice that a device keeps:
                        how compilers for TPUs write a reduce-scatter, and run one
  send and recv         to the host, for another slice: a part of a collective that the
                        data-centre network carries
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ccl_jax.planning.chips import Chip
from ccl_jax.planning.program import BYTES, Instruction, Program, arrays

KINDS = (
  "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute",
)  # fmt: skip
# Devices that talk to one another: the first of {{0,1},{2,3}}; [n,size]<=[a,b]T(1,0), a
# transposed count; axes of mesh['a'=4,'b'=2] {'a'}. None named: all.
_GROUPS = re.compile(
  r"replica_groups=(?:\{\{(?P<list>[\d,]*)\}"
  r"|\[\d+,(?P<size>\d+)\]<=\[(?P<shape>[\d,]+)\](?:T\((?P<order>[\d,]+)\))?"
  r"|mesh\[(?P<mesh>[^\]]*)\] \{(?P<axes>[^}]*)\})"
)
# Between slices: the kind, and the slices that take part.
_BETWEEN = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_SLICES = re.compile(r'_xla_megascale_target="\{([\d,:]*)\}')


class Collective(NamedTuple):
  """A collective instruction.

  Attributes:
    kind: of `KINDS`.
    dtype, shape: of an array it makes on a device.
    group: devices that take part; of a collective between slices, slices.
    times: how often it runs.
    between: over the data-centre network, from slice to slice.
    machines: of GPUs, on which the group lies.
  """

  kind: str
  dtype: str
  shape: tuple[int, ...]
  group: int
  times: int = 1
  between: bool = False
  machines: int = 1

  @property
  def elements(self) -> int:
    """Elements of the array that it makes."""
    return math.prod(self.shape)

  @property
  def nbytes(self) -> int:
    """Bytes of the array that it makes."""
    return self.elements * BYTES[self.dtype]

  @property
  def moved(self) -> float:
    """Bytes that a device sends each time, by the best algorithms on rings.

    An all-reduce is a reduce-scatter and an all-gather; what a reduce-scatter makes is
    the group's part of what it moves.
    """
    return self._sent(self.group - 1)

  @property
  def outside(self) -> float:
    """Of `moved`, bytes that a GPU sends to other machines, at the least: those of a
    machine share what goes out, and put together or hand on what comes in.
    """
    if self.machines == 1:
      return 0.0
    if self.kind == "all-to-all":  # every pair has something of its own
      own = self.group / self.machines
      return float(self.nbytes * (self.group - own) / self.group)
    return self._sent(self.machines - 1)

  def _sent(self, others: int) -> float:
    """Bytes that a device sends each time, where the ring has so many others."""
    # Of a group of g: an all-gather or all-to-all sends (g - 1) / g of its result.
    factor = {
      "all-reduce": 2 * others / self.group,
      "reduce-scatter": others,
      "collective-permute": 1,
    }.get(self.kind, others / self.group)
    return float(factor * self.nbytes)

  def seconds(self, chip: Chip) -> float:
    """The least time for what a device sends each time, by the links' rates.

    Args:
      chip: that sends. What leaves a machine of GPUs goes by the network while the
        rest goes by links.
    """
    if self.between:
      return self.moved / chip.network_rate
    inside = self.moved / chip.link_rate
    return max(inside, self.outside / chip.network_rate) if self.outside else inside

  def __str__(self) -> str:
    between = " between slices" if self.between else ""
    return f"{self.kind} {self.dtype}[{','.join(map(str, self.shape))}]{between}"


def collectives(program: Program, machines: Sequence[int] = ()) -> list[Collective]:
  """All collectives of a program, in order, with how often they run.

  Those of one device are left out.

  Args:
    program: to read.
    machines: by device, in the order of the mesh, the machine that a GPU is in; without
      them one set of links joins all devices.
  """
  return [
    c._replace(times=program.runs.get(place, 1))
    for place, instructions in program.computations.items()
    for instruction in instructions
    for c in collective(program, instruction, machines)
  ]


def collective(
  program: Program, instruction: Instruction, machines: Sequence[int] = ()
) -> list[Collective]:
  """What an instruction moves itself, each array by itself; [] if nothing.

  Args:
    program: the instruction's.
    instruction: one that ends a started collective moves nothing; its start does.
    machines: see `collectives`.
  """
  kind = instruction.op.removesuffix("-start")
  if instruction.op == "recv":
    return _between_slices(program, instruction)
  if kind not in KINDS:
    return []
  in_pieces = instruction.chain and instruction.place in program.fused
  if in_pieces and program.piece(instruction.place)[1] != "start":
    return []
  made = _made(program, instruction)
  members = _members(instruction.text) or range(program.devices)
  if (group := len(members)) == 1:
    return []
  if machines and kind == "collective-permute":
    pairs = re.findall(r"\{(\d+),(\d+)\}", instruction.text)
    members = max(pairs, key=lambda pair: len({machines[int(n)] for n in pair}))
  places = {machines[int(member)] for member in members} if machines else {0}
  if kind == "all-reduce" and (kept := _kept(program, instruction)):
    kind, made = "reduce-scatter", kept
  return [Collective(kind, x.dtype, x.shape, group, machines=len(places)) for x in made]


def _made(program, instruction):
  """The arrays that an instruction makes, which a start promises."""
  if not instruction.op.endswith("-start"):
    return instruction.arrays
  if end := program.done.get(instruction.name):
    return end.arrays
  # Without an end in sight: operands, results and what else the start may need.
  parts = _parts(instruction.result)
  return arrays(parts[1] if len(parts) > 1 else instruction.result)


def _kept(program, instruction):
  """The slices that the fusion around an all-reduce keeps; () if it is no such one."""
  if instruction.place not in program.fused:
    return ()
  users = program.users.get(instruction.name, [])
  if all(user.op == "get-tuple-element" for user in users):
    users = [x for user in users for x in program.users.get(user.name, [])]
  if any(user.op != "dynamic-slice" for user in users):
    return ()
  return tuple(x for user in users for x in user.arrays)


def _between_slices(program, instruction):
  kind = _BETWEEN.search(instruction.text)
  slices = _SLICES.search(instruction.text)
  kind = kind[1].lower().replace("_", "-") if kind else ""
  if kind not in KINDS or slices is None:
    return []
  group = 0
  for part in slices[1].split(","):
    first, _, last = part.partition(":")
    group += int(last or first) - int(first) + 1
  return [
    Collective(kind, x.dtype, x.shape, group, between=True)
    for x in _made(program, instruction)
    if x.shape  # beside the array there is a token's counter
  ]


def _parts(text: str) -> list[str]:
  """The elements of a tuple, by their text."""
  depth, parts = 0, [""]
  for letter in text[1:-1]:
    depth += (letter in "([{") - (letter in ")]}")
    if letter == "," and not depth:
      parts.append("")
    else:
      parts[-1] += letter
  return parts


def _members(line: str) -> Sequence[int]:
  """Devices of the first group, by their place in the mesh; () if the line has none."""
  match = _GROUPS.search(line)
  if match is None:
    return ()
  if match["list"] is not None:
    return _numbers(match["list"])
  if match["mesh"] is not None:
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", match["mesh"]))
    sizes = {axis: int(n) for axis, n in sizes.items()}
    places = np.arange(math.prod(sizes.values())).reshape(list(sizes.values()))
    named = {}
    for axis, before, size in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", match["axes"]):
      # A part of an axis, (BEFORE)SIZE: its devices are BEFORE x SIZE x the rest.
      rest = sizes[axis] // (int(before) * int(size)) if before else 1
      named[axis] = slice(0, rest * int(size) if before else None, rest)
    first = tuple(named.get(axis, 0) for axis in sizes)
    return places[first].ravel().tolist()
  shape, order = _numbers(match["shape"]), _numbers(match["order"] or "")
  places = np.arange(math.prod(shape)).reshape(shape)
  return places.transpose(order or None).ravel()[: int(match["size"])].tolist()


def _numbers(text: str) -> list[int]:
  return [int(n) for n in text.split(",") if n]


def table(instructions: list[Collective]) -> list[tuple[str, int, float]]:
  """(kind, runs, bytes that a device sends) by kind, the largest first."""
  counts, sizes = Counter(), Counter()
  for c in instructions:
    counts[c.kind] += c.times
    sizes[c.kind] += c.times * c.moved
  return [(kind, counts[kind], size) for kind, size in sizes.most_common()]
