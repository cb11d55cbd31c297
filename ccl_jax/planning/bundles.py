"""Static cycles of a kernel, from the bundles that libtpu dumps for it.

A TPU's core takes one bundle (a very long instruction word) a cycle, unless it waits
for memory. What a kernel does once for every step of its grid stands in a loop:

  LB  head    indices, and the copies of the next blocks are started
      start   if this is the first step of a row of blocks: sums are set to zero
      body    if the mask lets anything through: the products
      end     if this is the last step of a row of blocks: results are written
      tail    and back

Each part that depends on something has a branch around it. The largest is the body,
which always runs here; the others run once a row.

`LIBTPU_INIT_ARGS="--xla_jf_dump_to=DIR --xla_jf_dump_llo_text=true"` writes a file
`*NAME*final_bundles.txt` for every kernel.
"""

import re
from typing import NamedTuple

_BUNDLE = re.compile(r"^ *(0x[0-9a-f]+|0) +(?:[A-Z]{2} ?)*: ")
_BRANCH = re.compile(r"sbr\.rel \([^)]*\) target = \$region(\d+)")
_REGION = re.compile(r"Start(?:/End empty)? region (\d+)")
_SLOTS = 5  # a branch, and the bundles after it that run whether it is taken or not


class Static(NamedTuple):
  """Cycles of a kernel's grid.

  Attributes:
    step: of every step.
    row: more, once for every row of blocks.
  """

  step: int
  row: int


def static_cycles(text: str) -> Static:
  """Cycles of a kernel by the text of its final bundles.

  Raises:
    ValueError: the bundles are no loop around straight code.
  """
  branches, regions, size = [], {}, 0
  for line in text.splitlines():
    found = _BUNDLE.match(line)
    if not found:
      continue
    address = int(found[1], 0)
    size = address + 1
    branches += [(address, int(n)) for n in _BRANCH.findall(line)]
    for n in _REGION.findall(line):
      regions.setdefault(int(n), address)
  if unknown := [n for _, n in branches if n not in regions]:
    raise ValueError(f"no such region of the bundles: {unknown}")
  jumps = [(address, regions[n]) for address, n in branches]
  loops = [(to, min(a + _SLOTS, size)) for a, to in jumps if to <= a]
  if len(loops) != 1:
    raise ValueError(f"{len(loops)} loops in the bundles; expected that of the grid")
  start, end = loops[0]
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
  return Static(end - start - row, row)
