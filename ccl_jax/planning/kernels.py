"""What attention kernels cost on a TPU: cycles that were counted once and kept.

The compiler prices its own operations but no Pallas kernel. A kernel's grid of blocks
of queries and keys takes

  copies / cores x (steps x step + rows x row)   cycles,

where `step` and `row` (`bundles.Static`) are static cycles: those of the instructions,
without waits for memory. The file `kernels.json` has them by chip and form of kernel,
as `python -m ccl_jax.bench kernels` counts them. What is not in it is not guessed.
"""

import dataclasses
import functools
import json
import math
import pathlib
import re
from typing import NamedTuple

from ccl_jax import documents
from ccl_jax.planning.chips import Chip
from ccl_jax.planning.program import Array, Instruction, arrays

FILE = pathlib.Path(__file__).with_name("kernels.json")
# Splash names its block sizes by the pass that they are of.
_PASSES = (("_dkv", "_dkv"), ("_dq", "_dq"), ("", ""))


class Form(NamedTuple):
  """What the cycles of a kernel's step depend on.

  Attributes:
    kernel: its name.
    width: of a head, d.
    dtype: of queries.
    block_q, block_kv: queries and keys of a step.
    compute: keys of them that are multiplied at once.
    masked: a mask is applied in blocks that let only a part through.
    fused: of dk and dv, that it makes dq as well.
  """

  kernel: str
  width: int
  dtype: str
  block_q: int
  block_kv: int
  compute: int
  masked: bool
  fused: bool

  def __str__(self) -> str:
    mask = ", masked" if self.masked else ""
    return (
      f"{self.kernel} {self.dtype} d {self.width}, blocks {self.block_q} x "
      f"{self.block_kv}{mask}"
    )


@dataclasses.dataclass(frozen=True)
class Call:
  """One call of a kernel.

  Attributes:
    form: what a step is.
    copies: heads x samples.
    q, k: queries and keys of each, padding included.
  """

  form: Form
  copies: int
  q: int
  k: int

  def cycles(self, step: int, row: int, cores: int) -> int:
    """Cycles of the call on a chip.

    Args:
      step: of every step of the grid.
      row: more, once for every row of blocks.
      cores: of the chip, which share the copies.
    """
    across, along = -(-self.q // self.form.block_q), -(-self.k // self.form.block_kv)
    # Sums over keys are kept for a block of queries, and the other way round.
    rows = along if "_dkv" in self.form.kernel else across
    return -(-self.copies // cores) * (across * along * step + rows * row)

  @property
  def pairs(self) -> int:
    """Pairs of a query and a key that it works on."""
    return self.copies * self.q * self.k


def call_of(instruction: Instruction) -> Call | None:
  """The call that an instruction is; None if it does not tell its blocks.

  Args:
    instruction: a custom call of a kernel. Its shapes are read from the layout of its
      operands, its blocks from what splash writes beside it for profilers.
  """
  text = instruction.text
  if instruction.op != "custom-call":
    return None
  told = re.search(r'"xprof_metadata":("(?:[^"\\]|\\.)*")', text)
  layout = re.search(r"operand_layout_constraints=\{(.*?\})\}", text)
  operands = arrays(layout[1]) if layout else ()
  tokens = [x for x in operands if x.dtype in ("bf16", "f32") and len(x.shape) >= 3]
  if told is None or len(tokens) < 2:
    return None
  blocks = json.loads(json.loads(told[1]))
  kernel = instruction.name.split(".")[0]
  suffix = next(suffix for part, suffix in _PASSES if part in kernel)
  sizes = [blocks.get(f"block_{axis}{suffix}") for axis in ("q", "kv")]
  if None in sizes:
    return None
  block_q, block_kv = sizes
  q, k = tokens[:2]
  # A mask comes as a table of the blocks that are neither full nor empty.
  others = [x for x in operands if len(x.shape) < 3 or x.dtype not in ("bf16", "f32")]
  masks = [x for x in others if x.elements >= block_q * block_kv]
  form = Form(
    kernel,
    q.shape[-1],
    q.dtype,
    block_q,
    block_kv,
    blocks.get(f"block_kv{suffix}_compute") or block_kv,
    bool(masks),
    "_dkv" in kernel and _gradients(instruction, q, k) > 2,
  )
  return Call(form, math.prod(q.shape[:-2]), q.shape[-2], k.shape[-2])


def _gradients(instruction: Instruction, q: Array, k: Array) -> int:
  """How many of a call's results are as long as queries or keys, in their dtype: the
  others are what it sums in.
  """
  lengths = {q.shape[-2], k.shape[-2]}
  results = [x for x in instruction.arrays if x.dtype == q.dtype and len(x.shape) > 2]
  return sum(x.shape[-2] in lengths for x in results)


class Row(NamedTuple):
  """What was counted of a form on a chip.

  Attributes:
    chip: its name in `chips.CHIPS`.
    form: what a step is.
    step, row: cycles, `bundles.Static`.
    libtpu: version of the compiler.
  """

  chip: str
  form: Form
  step: int
  row: int
  libtpu: str

  def __str__(self) -> str:
    each = self.step / (self.form.block_q * self.form.block_kv)
    return f"{self.form}: {1e3 * each:.2f}e-3 cycles a pair (libtpu {self.libtpu})"


@functools.cache
def rows() -> dict[tuple[str, Form], Row]:
  """All rows that were counted, by chip and form."""
  found = documents.read_json(FILE) if FILE.exists() else []
  read = [Row(**x | {"form": Form(**x["form"])}) for x in found]
  return {(row.chip, row.form): row for row in read}


def merged(found: list[Row]) -> list[dict]:
  """The rows of the file with those that were counted anew, as JSON."""
  known = rows() | {(row.chip, row.form): row for row in found}
  rows.cache_clear()
  return [
    known[key]._asdict() | {"form": known[key].form._asdict()} for key in sorted(known)
  ]


def seconds(call: Call, name: str, chip: Chip) -> tuple[float, Row] | None:
  """Seconds of a call, and the row that says so; None if its form was never counted.

  Args:
    call: of the kernel.
    name: of the chip, in `chips.CHIPS`.
    chip: its ceilings.
  """
  row = rows().get((name, call.form))
  if row is None:
    return None
  return call.cycles(row.step, row.row, chip.cores) / chip.clock, row
