"""What a compiled GPU program starts: its kernels and calls of libraries, by kind.

Each is one start from the host or from a CUDA graph, of some microseconds, and a pass
over its arrays; what the compiler could not fuse shows here.
"""

import re
from collections import Counter

from ccl_jax.planning.program import Instruction, Program

_CALL = re.compile(r'custom_call_target="([^"]*)"')
_CUSTOM = re.compile(
  r'"fusion_backend_config":\{"kind":"(\w+)"(?:,"custom_fusion_config":\{"name":"(\w+)")?'
)
# Of a fusion that XLA's own emitters write, by what shapes it.
_FUSIONS = {
  "kLoop": "elementwise fusion", "kInput": "reduction or transpose fusion",
  "kOutput": "elementwise fusion",
}  # fmt: skip
_COPIES = {"copy", "copy-start", "transpose", "dynamic-slice", "dynamic-update-slice"}


def launches(program: Program, steps: int = 1) -> dict[str, int]:
  """By kind, how often a step starts something on the GPU; the most first.

  Collectives are apart (`traffic.table`).

  Args:
    program: as compiled for GPUs.
    steps: of the program, of which one is told.
  """
  found = Counter()
  for place, times in program.runs.items():
    if place in program.fused:
      continue
    for instruction in program.computations.get(place, ()):
      if kind := launch(instruction):
        found[kind] += times
  return {kind: -(-count // steps) for kind, count in found.most_common()}


def launch(i: Instruction) -> str:
  """The kind of thing that an instruction starts; "" for none of its own."""
  if i.op == "fusion":
    if "triton" in (custom := _custom(i)):
      return "Triton product" if "gemm" in custom else "Triton fusion"
    return _FUSIONS.get(i.attribute("kind"), f"{custom or 'other'} fusion")
  if i.op == "custom-call":
    return _library(_CALL.search(i.text)[1])
  return "copy" if i.op in _COPIES else ""


def _custom(i: Instruction) -> str:
  found = _CUSTOM.search(i.text)
  return (found[2] or found[1]).replace("_fusion", "") if found else ""


def _library(target: str) -> str:
  for part, name in (
    ("cudnn$fmha", "cuDNN attention"), ("cudnn", "cuDNN"), ("cublas", "cuBLAS product"),
  ):  # fmt: skip
    if part in target:
      if name == "cuDNN attention" and "Backward" in target:
        return "cuDNN attention, backward"
      return name
  return "" if target in ("Sharding", "AllocateBuffer") else target
