"""Which part of the model an instruction of a compiled program belongs to.

JAX writes the path of every operation into the program: the modules that it is in, and
the transformations that it went through,

  jit(step)/transpose(jvp(JointDiT))/while/body/closed_call/checkpoint/
    rematted_computation/blocks/video.attend/self_attn/q/dot_general

What the compiler adds itself, such as a copy to another memory, often has no path: it
belongs to what made the array or, if that has none either, to what takes it.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from ccl_jax.planning.program import Instruction, Program

# The first row whose pattern is found holds; an exchange and the audio stream are
# counted with their norms and projections.
MODULES = (
  ("audio to video", r"/audio_to_video"),
  ("video to audio", r"/video_to_audio"),
  ("audio stream", r"/audio\.(attend|read|feed|_modulations)"),
  ("self-attention", r"/self_attn"),
  ("text attention", r"/cross_attn"),
  ("FFN", r"/ffn"),
  ("norms, modulation", r"/video\.(attend|read|feed|_modulations)"),
  ("embeddings, head", r"(video|audio)\.(embed|unembed)"),
  ("scan over blocks", r"JointDiT\)*/while|blocks/"),
  ("noise, loss", r"jvp\(|draw|_normal|_uniform|_bernoulli|threefry"),
)
MOVES = {"copy", "copy-start", "copy-done", "pad", "reshape", "slice", "transpose"}
RENAMES = {"bitcast", "get-tuple-element", "all-gather"}
CALL_PARTS = ("call-update", "call-done")
FAR = 4
UPDATE = "optimizer, average"  # all that is in no module
PASSES = ("forward", "made again", "backward", "update")


class Place(NamedTuple):
  """Where an instruction belongs.

  Attributes:
    module: a name of `MODULES`, or `UPDATE`.
    step: the pass, of `PASSES`.
    rope: its code is that of rotary positions (ops/rope.py).
  """

  module: str
  step: str
  rope: bool


def module_of(path: str) -> str:
  """The part of the model by an operation's path."""
  return next((name for name, form in MODULES if re.search(form, path)), UPDATE)


def pass_of(path: str) -> str:
  """The pass, of `PASSES`, by an operation's path.

  What is made again for the backward pass stands in it, under a name of its own.
  """
  if "rematted_computation" in path:
    return "made again"
  if "transpose(" in path:
    return "backward"
  return "forward" if "jvp(" in path else "update"


def place_of(program: Program, instruction: Instruction) -> Place:
  """The place of an instruction of a program, by itself or by its neighbours."""
  rope = lambda i: program.source(i).endswith("ops/rope.py")
  makers = _chain(instruction, lambda i: _made_by(program, i))
  takers = _chain(instruction, lambda i: program.users.get(i.name, []))
  near = (instruction, *_begun(program, instruction), *makers, *takers)
  told = next((i for i in near if "/" in i.op_name), None)
  path = told.op_name if told else ""
  # A change of layout beside rotary positions is there for them.
  beside = instruction.op in MOVES and any(map(rope, makers + takers))
  return Place(module_of(path), pass_of(path), rope(instruction) or beside)


def _begun(program: Program, instruction: Instruction) -> list[Instruction]:
  """Of a call that is started, what it does."""
  calls = program.called(instruction) if instruction.op.endswith("call-start") else ()
  return [i for name, _ in calls for i in program.computations[name]]


def _made_by(program: Program, instruction: Instruction) -> list[Instruction]:
  found = [program.by_name.get(name) for name in instruction.operands[:1]]
  return [i for i in found if i is not None and i.op not in ("parameter", "while")]


def _chain(
  instruction: Instruction, following: Callable[[Instruction], list[Instruction]]
) -> list[Instruction]:
  """What stands beside an instruction in one direction, as far as arrays are but moved
  or called by another name, and at most `FAR` steps.
  """
  found, edge = [], [instruction]
  for _ in range(FAR):
    edge = [j for i in edge for j in following(i)]
    found += edge
    edge = [i for i in edge if i.op in MOVES | RENAMES or i.op.endswith(CALL_PARTS)]
  return found
