"""Static cycles of a kernel, from the bundles that libtpu dumps for it.

A TPU's core takes one bundle (a very long instruction word) a cycle, unless it waits
for memory or for a matrix unit: products may be scheduled faster than the units take
them. What a kernel does once for every step of its grid stands in a loop:

  LB  head    indices, and the copies of the next blocks are started
      start   if this is the first step of a row of blocks: sums are set to zero
      body    if the mask lets anything through: the products
      end     if this is the last step of a row of blocks: results are written
      tail    and back

Each part that depends on something has a branch around it. The largest is the body,
which always runs here, and no faster than its products on the busiest unit; the others
run once a row.

`LIBTPU_INIT_ARGS="--xla_jf_dump_to=DIR --xla_jf_dump_llo_text=true"` writes a file
`*NAME*final_bundles.txt` for every kernel.
"""

import re
from collections import Counter
from typing import NamedTuple

from ccl_jax.planning.chips import Chip

_BUNDLE = re.compile(r"^ *(0x[0-9a-f]+|0) +(?:[A-Z]{2} ?)*: ")
_BRANCH = re.compile(r"sbr\.rel \([^)]*\) target = \$region(\d+)")
_REGION = re.compile(r"Start(?:/End empty)? region (\d+)")
# A product of rows of 32 bits with what a unit holds; of rows of 16 bits, two in each.
_PRODUCT = re.compile(r"vmatmul\.(?:[a-z]+\.)*?([a-z]+\d+)\b[\w.]*?\.mxu(\d)")
_ROWS = {"f32": 8, "bf16": 16}
_SLOTS = 5  # a branch, and the bundles after it that run whether it is taken or not


class Static(NamedTuple):
  """Cycles of a kernel's grid.

  Attributes:
    step: of every step.
    row: more, once for every row of blocks.
  """

  step: int
  row: int


def static_cycles(text: str, chip: Chip) -> Static:
  """Cycles of a kernel by the text of its final bundles.

  Args:
    text: of the bundles.
    chip: that they are for.

  Raises:
    ValueError: the bundles are no loop around straight code.
  """
  branches, regions, products, size = [], {}, [], 0
  for line in text.splitlines():
    found = _BUNDLE.match(line)
    if not found:
      continue
    address = int(found[1], 0)
    size = address + 1
    branches += [(address, int(n)) for n in _BRANCH.findall(line)]
    products += [(address, *found) for found in _PRODUCT.findall(line)]
    for n in _REGION.findall(line):
      regions.setdefault(int(n), address)
  # Of the last bundle, where a branch before the loop may lead, no region is told.
  jumps = [(address, regions[n]) for address, n in branches if n in regions]
  loops = [(to, min(a + _SLOTS, size)) for a, to in jumps if to <= a]
  if len(loops) != 1:
    raise ValueError(f"{len(loops)} loops in the bundles; expected that of the grid")
  start, end = loops[0]
  if lost := [n for a, n in branches if start <= a < end and n not in regions]:
    raise ValueError(f"no such region of the bundles: {lost}")
  # What a branch jumps over.
  around = [
    (a + _SLOTS, to) for a, to in jumps if start <= a and a + _SLOTS < to <= end
  ]
  inside = lambda x, y: y[0] <= x[0] and x[1] <= y[1] and x != y
  leaves = [x for x in around if not any(inside(y, x) for y in around)]
  if not leaves:
    raise ValueError("no branches in the loop of the grid")
  body = max(leaves, key=lambda x: x[1] - x[0])
  row = sum(to - a for a, to in leaves if (a, to) != body)
  waits = _busy([x for x in products if body[0] <= x[0] < body[1]], chip)
  waits = max(0, waits - (body[1] - body[0]))
  return Static(end - start - row + waits, row)


def _busy(products: list[tuple[int, str, str]], chip: Chip) -> int:
  """Cycles for which the busiest matrix unit multiplies.

  Args:
    products: (address, dtype, unit).
    chip: whose peak, shared by its cores and their units, says how many rows a cycle.
  """
  rows = Counter()
  for _, dtype, unit in products:
    if dtype not in _ROWS:
      raise ValueError(f"products of {dtype}: expected {' or '.join(_ROWS)}")
    rows[unit] += _ROWS[dtype]
  if not rows:
    return 0
  peak = chip.flops / chip.clock / chip.cores / len(rows)
  return round(max(rows.values()) * 2 * chip.mxu**2 / peak)
