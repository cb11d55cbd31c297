"""Reads the text of a compiled program: its instructions, and how often each runs.

A compiler for TPUs writes the program as it is scheduled, so the order of instructions
is that in which they start. Each has the arrays it makes, where they lie, the operation
of the source that it comes from and, if the compiler has priced it, a number of cycles.
"""

import dataclasses
import functools
import math
import re
from typing import NamedTuple

BYTES = {
  "pred": 1, "s4": 1, "u4": 1, "s8": 1, "u8": 1, "f8e4m3fn": 1, "f8e5m2": 1,
  "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8,
  "u64": 8, "f64": 8,
}  # fmt: skip
HBM, VMEM, HOST = 0, 1, 5  # of an array's S(n); without one it is in HBM
_COMPUTATION = re.compile(r"(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(
  r" *(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<result>\(.*?\)|\S+) (?P<op>[\w\-]+)\("
)
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
_TILE = re.compile(r":T\(([\d,]+)\)")
_SPACE = re.compile(r"S\((\d+)\)")
_CALLED = re.compile(
  r"(?:body|to_apply|calls|true_computation|false_computation"
  r"|called_computations=\{|branch_computations=\{)=?%?([\w.\-]+(?:, %[\w.\-]+)*)"
)
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_TRIPS = re.compile(r"known_trip_count[^\d]*(\d+)")
_LIMIT = re.compile(r"s32\[\]\S* constant\((\d+)\)")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_PARENTHESIS = re.compile(r"[()]")
# A collective that is cut into pieces, which stand in fusions with what runs meanwhile.
_CHAIN = re.compile(r'chain_id="(\d+)"')
_FRAME = re.compile(r"stack_frame_id=(\d+)")


class Array(NamedTuple):
  """An array on a device.

  Attributes:
    dtype, shape: as compilers write them, ("bf16", (8, 128)).
    order: axes from the fastest to the slowest; () if not told.
    tile: the last axes are padded to multiples of it.
    space: the memory: `HBM`, `VMEM`, `HOST` or another.
  """

  dtype: str
  shape: tuple[int, ...]
  order: tuple[int, ...] = ()
  tile: tuple[int, ...] = ()
  space: int = HBM

  @property
  def elements(self) -> int:
    """The number of elements, of all its axes."""
    return math.prod(self.shape)

  @property
  def stored(self) -> int:
    """Bytes that it takes in memory, with the padding of its tiles."""
    if len(self.order) != len(self.shape):
      return self.elements * BYTES[self.dtype]
    sizes = [self.shape[axis] for axis in self.order]
    for i, unit in enumerate(reversed(self.tile[-len(sizes) or None :])):
      if i < len(sizes):
        sizes[i] = -(-sizes[i] // unit) * unit
    return math.prod(sizes) * BYTES[self.dtype]


def arrays(text: str) -> tuple[Array, ...]:
  """The arrays of a result as compilers write it, those of tuples in order."""
  found = []
  for dtype, dims, layout in _ARRAY.findall(text):
    if dtype not in BYTES:
      continue
    order, tile, space = (
      layout.split(":")[0],
      _TILE.search(layout),
      _SPACE.search(layout),
    )
    numbers = lambda text: tuple(int(n) for n in text.split(",") if n)
    found.append(
      Array(
        dtype,
        numbers(dims),
        numbers(order),
        numbers(tile[1]) if tile else (),
        int(space[1]) if space else HBM,
      )
    )
  return tuple(found)


@dataclasses.dataclass
class Instruction:
  """One instruction; what the compiler has not written is empty.

  Attributes:
    name, op: its own, and what it does ("fusion", "all-gather-start").
    result: what it makes, as text.
    operands: names of instructions.
    text: all of it.
    place: the computation that it stands in.
  """

  name: str
  op: str
  result: str
  operands: tuple[str, ...]
  text: str
  place: str

  @functools.cached_property
  def arrays(self) -> tuple[Array, ...]:
    """The arrays that the instruction makes."""
    return arrays(self.result)

  @functools.cached_property
  def cycles(self) -> int | None:
    """Cycles by the compiler's estimate; None where it has made none."""
    found = _CYCLES.search(self.text)
    return int(found[1]) if found else None

  @functools.cached_property
  def op_name(self) -> str:
    """Path of the operation in the source, "jit(step)/.../self_attn/q/dot_general"."""
    found = _OP_NAME.search(self.text)
    return found[1] if found else ""

  @functools.cached_property
  def frame(self) -> int:
    """Its place in the table of stack frames; 0: none."""
    found = _FRAME.search(self.text)
    return int(found[1]) if found else 0

  @functools.cached_property
  def chain(self) -> str:
    """Which collective it is a piece of, where it is one of several; else ""."""
    found = _CHAIN.search(self.text)
    return found[1] if found else ""

  @functools.cached_property
  def called(self) -> tuple[str, ...]:
    """Names of the computations that the instruction runs."""
    lists = _CALLED.findall(self.text)
    return tuple(name.lstrip("%") for names in lists for name in names.split(", "))

  def attribute(self, name: str) -> str:
    """An attribute `name=value` by its text up to a comma or a brace; "" if missing."""
    found = re.search(rf"\b{name}=\"?([^,\"}}]*)", self.text)
    return found[1] if found else ""


class Program:
  """A compiled program.

  Attributes:
    computations: instructions by the name of the computation they stand in.
    entry: where it begins.
    devices: on how many it runs.
  """

  def __init__(self, text: str):
    """Args:
    text: as `compiled.as_text()` gives it.
    """
    self.computations: dict[str, list[Instruction]] = {}
    self.entry = ""
    found = re.search(r"num_partitions=(\d+)", text)
    self.devices = int(found[1]) if found else 1
    self._table, self._tables = "", {}
    place, known = "", []
    for line in text.splitlines():
      header = _COMPUTATION.match(line)
      if header:
        place = header["name"]
        known = self.computations.setdefault(place, [])
        self.entry = place if header["entry"] else self.entry
      elif not place:
        self._read_table(line)
      elif found := _INSTRUCTION.match(line):
        rest = line[found.end() :]
        operands = tuple(re.findall(r"%([\w.\-]+)", rest[: _closing(rest)]))
        name, result, op = found.group("name", "result", "op")
        known.append(Instruction(name, op, result, operands, line, place))
      elif known and line.strip() not in ("", "}"):
        known[-1].text += "\n" + line  # an attribute of several lines

  @functools.cached_property
  def by_name(self) -> dict[str, Instruction]:
    """All instructions of the program, by name."""
    return {i.name: i for c in self.computations.values() for i in c}

  @functools.cached_property
  def users(self) -> dict[str, list[Instruction]]:
    """By an instruction's name, those that take what it makes."""
    users = {}
    for instruction in self.by_name.values():
      for name in instruction.operands:
        users.setdefault(name, []).append(instruction)
    return users

  @functools.cached_property
  def fused(self) -> set[str]:
    """Computations that are the inside of a fusion: nothing of them is scheduled."""
    fusions = (i for i in self.by_name.values() if i.op == "fusion")
    return {name for i in fusions for name in i.called}

  @functools.cached_property
  def done(self) -> dict[str, Instruction]:
    """By the name of an instruction that starts something, the one that awaits it."""
    ends = (i for i in self.by_name.values() if i.op.endswith("-done"))
    return {self.start(i): i for i in ends if i.operands}

  def start(self, instruction: Instruction) -> str:
    """The name of what started that which an instruction awaits or goes on with."""
    name = instruction.operands[0]
    while (found := self.by_name.get(name)) and found.op.endswith("-update"):
      name = found.operands[0]
    return name

  def piece(self, place: str) -> tuple[str, str]:
    """What a computation does of a collective in pieces: its chain, and "start", "done"
    or, for those between, ""; two times "" if it does nothing of any.
    """
    inside = self.computations.get(place, ())
    chain = next((i.chain for i in inside if i.chain), "")
    marks = {i.attribute("custom_call_target") for i in inside} if chain else set()
    step = next((s for s in ("Start", "Done") if f"AsyncCollective{s}" in marks), "")
    return chain, step.lower()

  def called(self, instruction: Instruction) -> list[tuple[str, int]]:
    """(computation, runs) that an instruction runs; all branches of a conditional."""
    # What a start has called, its end names again.
    if instruction.op.endswith(("-done", "-update")):
      return []
    count = self.trips(instruction) if instruction.op == "while" else 1
    return [(name, count) for name in instruction.called if name in self.computations]

  def trips(self, loop: Instruction) -> int:
    """How often the body of a loop runs."""
    known, condition = _TRIPS.search(loop.text), _CONDITION.search(loop.text)
    if known:
      return int(known[1])
    # Compilers for TPUs leave the count to the condition, whose largest constant it is.
    place = self.computations.get(condition[1], []) if condition else []
    inner = [i for p in place for name in p.called for i in self.computations[name]]
    limits = (_LIMIT.search(i.text) for i in [*place, *inner])
    return max((int(found[1]) for found in limits if found), default=1)

  @functools.cached_property
  def runs(self) -> dict[str, int]:
    """How often each computation runs: a loop's body once per trip."""
    runs, todo = {}, [(self.entry, 1)]
    while todo:
      name, count = todo.pop()
      runs[name] = runs.get(name, 0) + count
      for instruction in self.computations.get(name, ()):
        todo += [(callee, count * n) for callee, n in self.called(instruction)]
    return runs

  def source(self, instruction: Instruction) -> str:
    """The file whose code an instruction comes from; "" where that is not told."""
    frames, places, files = (
      self._tables.get(name, {})
      for name in ("StackFrames", "FileLocations", "FileNames")
    )
    number = lambda text, key: int(re.search(rf"{key}=(\d+)", text)[1])
    if instruction.frame not in frames:
      return ""
    place = places[number(frames[instruction.frame], "file_location_id")]
    return files[number(place, "file_name_id")].strip('"')

  def _read_table(self, line: str) -> None:
    """A line of the tables before the first computation: a name, or a row of it."""
    number, _, rest = line.partition(" ")
    if number.isdigit():
      self._tables.setdefault(self._table, {})[int(number)] = rest
    elif line.strip():
      self._table = line.strip()


def _closing(text: str) -> int:
  """Where the parenthesis closes that was open before `text`."""
  depth = 1
  for found in _PARENTHESIS.finditer(text):
    depth += 1 if found[0] == "(" else -1
    if not depth:
      return found.start()
  return len(text)
