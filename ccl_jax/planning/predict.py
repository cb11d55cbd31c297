"""The time of a compiled TPU program, by the compiler's own account. It was never run.

libtpu prices each of its operations (`estimated_cycles`); an operation in a loop counts
as often as the loop runs. What it does not price is priced here:

  attention kernels   static cycles of the table in `kernels.json`
  collectives         bytes at the rate of a chip's links; started ones only as far as
                      the work until their end does not hide them
  the rest            bytes at the rate of the memory; copies that are started likewise

in two sums:

  est   as said
  low   the same, but elementwise operations and copies take no longer than their bytes
        at the memory's rate: the compiler prices bfloat16 like float32, and changes of
        layout several times above what they can cost
"""

import dataclasses
import functools
import math
from collections import Counter
from typing import NamedTuple

from ccl_jax.planning import kernels
from ccl_jax.planning.chips import CHIPS
from ccl_jax.planning.modules import place_of
from ccl_jax.planning.program import HOST, Instruction, Program
from ccl_jax.planning.traffic import Collective, collective

KINDS = ("kernel", "product", "RoPE", "elementwise", "copy", "collective")
# The one step of a model of this kind that was timed and published (MaxDiffusion's Wan
# 14B, 720p, v5p-8: 36.0 s) took so much longer than this says of its program (28.6 s).
MEASURED_OVER_PREDICTED = 1.26
_COPIES = {
  "copy", "transpose", "pad", "slice", "concatenate", "reshape", "dynamic-slice",
  "dynamic-update-slice", "bitcast-convert", "gather", "reverse",
}  # fmt: skip
_FREE = {
  "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all",
  "partition-id", "replica-id", "opt-barrier", "iota", "send", "send-done",
}  # fmt: skip
# Custom calls that say something to the compiler, and do nothing.
_HINTS = {"AllocateBuffer", "AssumeGatherIndicesInBound", "ConcatBitcast", "Sharding"}


class Time(NamedTuple):
  """Seconds of a part, by both sums: the compiler's and the low one."""

  est: float
  low: float

  def __add__(self, other):
    return Time(self.est + other[0], self.low + other[1])

  def __sub__(self, other):
    return Time(self.est - other[0], self.low - other[1])

  def __mul__(self, times: int):
    return Time(self.est * times, self.low * times)

  def most(self, other: "Time") -> "Time":
    """The later of two times, in each sum."""
    return Time(max(self.est, other.est), max(self.low, other.low))


@dataclasses.dataclass(frozen=True)
class Part:
  """The time of one kind of work in one place.

  Attributes:
    module: of the model, as in `modules.MODULES`.
    step: the pass, of `modules.PASSES`.
    kind: of `KINDS`; rotary positions are one, with their changes of layout.
    est, low: seconds.
  """

  module: str
  step: str
  kind: str
  est: float
  low: float


@dataclasses.dataclass(frozen=True)
class Prediction:
  """The time of a program.

  Attributes:
    est, low: seconds.
    parts: what they are the sums of, the longest first.
    kernels: the rows by which attention was priced.
    unknown: what has no price, and is not in the sums.
  """

  est: float
  low: float
  parts: list[Part]
  kernels: list[str]
  unknown: list[str]

  def by(self, *fields: str) -> dict[tuple[str, ...], Time]:
    """Times by some fields of `Part`, the longest first.

    Args:
      fields: "module", "step" or "kind".
    """
    sums = {}
    for part in self.parts:
      key = tuple(getattr(part, field) for field in fields)
      sums[key] = sums.get(key, Time(0, 0)) + (part.est, part.low)
    return dict(sorted(sums.items(), key=lambda x: -x[1].est))


def predict(program: Program, chip: str, steps: int = 1) -> Prediction | None:
  """The time of a program, or None on a chip whose compiler makes no estimates.

  Args:
    program: as it is scheduled.
    chip: a name of `chips.CHIPS`.
    steps: of the program, of which one is told.
  """
  if not CHIPS[chip].clock:
    return None
  schedule = _Schedule(program, chip)
  schedule.run(program.entry, 1 / steps)
  parts = [Part(*key, schedule.est[key], schedule.low[key]) for key in schedule.est]
  return Prediction(
    est=math.fsum(part.est for part in parts),
    low=math.fsum(part.low for part in parts),
    parts=sorted(parts, key=lambda part: -part.est),
    kernels=sorted(schedule.kernels),
    unknown=sorted(schedule.unknown),
  )


class _Schedule:
  """Goes through a program in its order, with a clock."""

  def __init__(self, program: Program, chip: str):
    self._program, self._name, self._chip = program, chip, CHIPS[chip]
    self.est, self.low = Counter(), Counter()
    self.kernels, self.unknown = set(), set()

  def run(self, name: str, times: float) -> Time:
    """The time of a computation, whose parts are added `times` times.

    Args:
      name: of the computation.
      times: how often it runs.
    """
    clock = Time(0.0, 0.0)
    # When what was started is done; when links, network and copies are free again.
    ready, empty, free = {}, {}, dict.fromkeys(("links", "network", "copies"), clock)

    def begin(lane, cost):
      free[lane] = free[lane].most(clock) + cost
      return free[lane]

    for i in self._program.computations[name]:
      if i.op in ("while", "call", "conditional"):
        for callee, count in self._program.called(i):
          clock += self.run(callee, times * count) * count
        continue
      chain, step = self._piece(i)
      start = chain or (self._program.start(i) if i.operands else "")
      if i.op.endswith("-update"):
        # A call on a sparse core starts empty, and works from when it has its operands.
        if start in empty:
          lane, cost, begun, kind = empty.pop(start)
          ready[start] = begin(lane, cost), begun, kind
        continue
      if i.op.endswith("-done") or step == "done":
        end, i, kind = ready.get(start, (clock, i, "copy"))
      else:
        cost, kind, lane = self._price(i)
        if lane is None:
          end = clock + cost
        elif self._starts(i) and not i.operands:
          empty[i.name] = lane, cost, i, kind
          continue
        else:
          end = begin(lane, cost)
          if self._starts(i) or step == "start":
            ready[chain or i.name] = end, i, kind
            continue
      # Nothing is left of what was done before it was asked for.
      end = end.most(clock)
      self._add(i, kind, end - clock, times)
      clock = end
    return clock

  def _piece(self, i: Instruction) -> tuple[str, str]:
    """See `Program.piece`: of a fusion."""
    pieces = (self._program.piece(name) for name in i.called if i.op == "fusion")
    return next(pieces, ("", ""))

  def _starts(self, i: Instruction) -> bool:
    return i.op.endswith("-start") or i.op == "recv"

  def _add(self, i, kind, cost, times):
    if cost.est or cost.low:
      place = place_of(self._program, i)
      if place.rope and kind in ("product", "elementwise", "copy"):
        kind = "RoPE"
      key = (place.module, place.step, kind)
      self.est[key] += cost.est * times
      self.low[key] += cost.low * times

  def _price(self, i: Instruction) -> tuple[Time, str, str | None]:
    """(time, kind, what it keeps busy) of an instruction."""
    if i.op in _FREE or i.attribute("custom_call_target") in _HINTS:
      return Time(0, 0), "elementwise", None
    if i.attribute("custom_call_target") == "tpu_custom_call":
      return self._kernel(i), "kernel", None
    inner = self._inside(i.called) if i.op != "all-reduce" else _NOTHING
    if moved := [*collective(self._program, i), *inner.moved]:
      return (
        self._links(moved).most(self._work(i)),
        "collective",
        "network" if moved[0].between else "links",
      )
    if self._starts(i):
      return self._copy(i), "copy", "copies"
    work = self._work(i)
    if inner.products or i.op in ("convolution", "dot"):
      return work, "product", None
    kind = "copy" if i.op in _COPIES or inner.only_copies else "elementwise"
    memory = self._bytes(i) / self._chip.hbm_rate
    if i.cycles is None:
      return Time(memory, memory), kind, None
    return Time(work.est, min(work.est, memory)), kind, None

  def _work(self, i) -> Time:
    """By the compiler's estimate."""
    seconds = (i.cycles or 0) / self._chip.clock
    return Time(seconds, seconds)

  def _links(self, moved: list[Collective]) -> Time:
    seconds = sum(c.seconds(self._chip) for c in moved)
    return Time(seconds, seconds)

  def _kernel(self, i) -> Time:
    call = kernels.call_of(i)
    found = call and kernels.seconds(call, self._name, self._chip)
    if not found:
      name = i.name.split(".")[0]
      self.unknown.add(f"kernel {call.form if call else name} on {self._name}")
      return Time(0, 0)
    seconds, row = found
    self.kernels.add(str(row))
    return Time(seconds, seconds)

  def _copy(self, i) -> Time:
    """A copy that is started: its result is what stands at its end."""
    done = self._program.done.get(i.name)
    made = done.arrays if done else i.arrays[:1]
    spaces = {x.space for x in i.arrays}
    if HOST in spaces:
      self.unknown.add("copies between chip and host")
      return Time(0, 0)
    seconds = sum(x.stored for x in made) / self._chip.hbm_rate
    return Time(seconds, seconds)

  def _bytes(self, i) -> int:
    """Bytes that it reads and writes, wherever they are."""
    stored = lambda arrays: sum(x.stored for x in arrays)
    if i.op == "dynamic-update-slice":
      # In place: what is written is the second operand.
      return 2 * stored(self._arrays(i.operands[1:2]))
    if i.op in ("dynamic-slice", "slice", "gather"):
      return 2 * stored(i.arrays)
    return stored(i.arrays) + stored(self._arrays(i.operands))

  def _arrays(self, names):
    found = (self._program.by_name.get(name) for name in names)
    return [x for i in found if i is not None for x in i.arrays]

  @functools.cache  # noqa: B019 - as long as the schedule
  def _inside(self, names: tuple[str, ...]) -> "_Inside":
    """What computations inside of an instruction do."""
    products, copies, moved = False, True, []
    for name in names:
      for i in self._program.computations.get(name, ()):
        inner = self._inside(i.called) if i.op == "fusion" else _NOTHING
        products |= inner.products or i.op in ("convolution", "dot")
        copies &= i.op in _COPIES | _FREE or (i.op == "fusion" and inner.only_copies)
        moved += [*collective(self._program, i), *inner.moved]
    return _Inside(products, bool(names) and copies, moved)


class _Inside(NamedTuple):
  products: bool
  only_copies: bool
  moved: list[Collective]


_NOTHING = _Inside(False, False, [])
