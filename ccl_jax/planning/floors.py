"""Arithmetic of a step by formula, and the least time that a chip takes for it.

Attention counts in units of one product of all queries with all keys, 2 n m d FLOPs.
Its forward pass has two: q k^T, and the weights with v. Its backward pass has four, and
the one that a kernel makes again since it keeps no weights:

  q k^T, do v^T, p^T do, ds^T q, ds k,

so that a train step that rematerialises blocks has 2 + 2 + 5 = 9. Kernels apart for dq
and for dk and dv, as splash has them too, would make q k^T and do v^T twice.
"""

from typing import NamedTuple

from ccl_jax.models.cca import Geometry
from ccl_jax.models.flops import evaluation_flops, forward_flops
from ccl_jax.models.joint import JointDiT
from ccl_jax.models.stream import CLIP_TOKENS
from ccl_jax.planning.chips import Chip

FORWARD = 2  # units of attention
BACKWARD = {"dense": 4, "chunked": 6, "splash": 5, "cudnn": 5, "tokamax": 5}


class Arithmetic(NamedTuple):
  """The work of a step on one chip.

  Attributes:
    model: FLOPs that the model needs, by which MFU is counted.
    hardware: FLOPs with those that are made again.
    seconds: of these at the chip's peak. A product with heads narrower than a matrix
      unit leaves a part of it idle.
  """

  model: float
  hardware: float
  seconds: float


def attention_flops(
  model: JointDiT, geometry: Geometry, text_length: int
) -> dict[tuple[str, str], float]:
  """FLOPs of the products of queries with keys in a forward pass, by stream and keys:
  its own ("self"), or those of text and image ("text").

  Args:
    model: the network.
    geometry: token counts of a clip.
    text_length: rows of the text embeddings.
  """
  tokens = {"video": geometry.t * geometry.h * geometry.w, "audio": geometry.a}
  found = {}
  for s, c in model.streams:
    keys = {"self": tokens[s], "text": text_length + CLIP_TOKENS * c.images}
    for whose, count in keys.items():
      found[s, whose] = float(model.depth * FORWARD * 2 * tokens[s] * count * c.width)
  return found


def arithmetic(
  model: JointDiT,
  geometry: Geometry,
  text: tuple[int, int],
  clips: float,
  chip: Chip,
  sampling: bool = False,
) -> Arithmetic:
  """The work of a train step, three passes and what is made again, or of a sampling
  step with guidance, two passes.

  Args:
    model: the network, with its kernel and its policy of rematerialisation.
    geometry: token counts of a clip.
    text: rows and width of the text embeddings.
    clips: on the chip.
    chip: its ceilings.
    sampling: a sampling step, in place of a train step.
  """
  useful = 2 if sampling else 3
  # What the policy does not keep is made again; one of them keeps self-attention alone.
  again = model.remat != "none" and not sampling
  kept = "self" if model.remat == "save_attention" else ""
  passes = useful + again
  once = useful * FORWARD if sampling else FORWARD + BACKWARD[model.kernel.name]
  forward = clips * (
    evaluation_flops(model, geometry, *text)
    if sampling
    else sum(forward_flops(model, geometry, *text).values())
  )
  attention = attention_flops(model, geometry, text[0])
  rest = forward - clips * sum(attention.values())
  hardware, seconds = passes * rest, passes * rest / chip.flops
  streams = dict(model.streams)
  for (s, whose), flops in attention.items():
    units = once + FORWARD * (again and whose != kept)
    work = units / FORWARD * clips * flops
    hardware += work
    seconds += work / (chip.flops * min(1.0, streams[s].head_width / chip.mxu))
  return Arithmetic(useful * forward, hardware, seconds)
