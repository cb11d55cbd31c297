"""What the files of LoRAs call the layers of a model, and the parts of a change.

A tensor's name is a prefix of the program that wrote it, a layer, and a part:

  diffusion_model. blocks.0.self_attn.q        .lora_A.weight      ComfyUI, LightX2V
  transformer.     blocks.0.attn1.to_q         .lora_A.weight      diffusers
  lora_unet_       blocks_0_self_attn_q        .lora_down.weight   kohya, musubi
                   blocks.0.self_attn.q        .lora_A.default.weight   DiffSynth
  base_model.model. ..                         .lora_A.weight      PEFT
  lycoris_         blocks_0_self_attn_q        .lokr_w1            LyCORIS
                   blocks.0.video.self_attn.q  .lora_A.weight      our own

The names of layers are those of the tables that the converter reads whole models with:
there is no second one. Of names with underscores for dots, which cannot be taken apart,
those of the model are written so, and compared.
"""

import re
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from ccl_jax.weights import ovi
from ccl_jax.weights.rules import (
  Match,
  Shapes,
  Slot,
  Transform,
  conv,
  known_tensors,
  linear,
  same,
)
from ccl_jax.weights.wan_names import DIFFUSERS, NATIVE

# The published names of layers, by whose they are.
TABLES = {"comfyui": NATIVE, "diffusers": DIFFUSERS, "ovi": ovi.NATIVE}
OURS = "ours"
_OTHER_EXCHANGE = "blocks/audio_to_video/o/kernel"  # which fusion does not have
_PREFIX = re.compile(
  r"((base_model\.model|model\.diffusion_model|diffusion_model|transformer|pipe\.dit|dit"
  r"|module)\.)+"
)
_FLAT_PREFIX = re.compile(r"^(lora_unet|lora_transformer|lycoris)_+")
# A name of an adapter, and "weight", may follow; of several adapters a file has one.
_ENDS = r"(\.(?!bias$)\w+)?(\.weight)?"
_SPELLED = r"(\.lora_({0})|[._]lora\.{1}|\.lora_linear_layer\.{1})"
_DOWN, _UP = _SPELLED.format("A|down", "down"), _SPELLED.format("B|up", "up")
# The part of a change that a name's end tells.
_PARTS = {
  "down": _DOWN + _ENDS,
  "up_bias": _UP + r"(\.\w+)?\.bias",
  "up": _UP + _ENDS,
  "alpha": r"\.alpha",
  "magnitude": r"\.dora_scale|\.lora_magnitude_vector(\.\w+){0,2}",
  "diff": r"\.diff",
  "diff_b": r"\.diff_b",
  "diff_m": r"\.diff_m",
  "set": r"\.set_weight",
  **{f"hada_{x}": rf"\.hada_{x}" for x in ("w1_a", "w1_b", "w2_a", "w2_b")},
  **{f"lokr_{x}": rf"\.lokr_{x}" for x in ("w1", "w2", "w1_a", "w1_b", "w2_a", "w2_b")},
}
_NAMES = {part: re.compile(rf"(?P<layer>.+?)(?:{end})") for part, end in _PARTS.items()}
# The tensors of a layer that a part changes: the first that there is.
_TAILS = {
  "up_bias": (".bias",),
  "diff_b": (".bias",),
  # A difference of what is no layer's weight names the tensor itself.
  "diff": (".weight", "", ".modulation"),
  "set": (".weight", ""),
  "diff_m": (".modulation", ".modulation.modulation", ".scale_shift_table"),
}
# The branch that reads a picture, which Wan2.1's I2V alone has.
_IMAGE = {
  "blocks/video/cross_attn/norm_k_img/scale": 1,
  **{f"video/image_norm_{x}/{leaf}": 1 for x in ("in", "out")
     for leaf in ("scale", "bias")},
  **{f"{layer}/{leaf}": axes for leaf, axes in (("kernel", 2), ("bias", 1))
     for layer in ("blocks/video/cross_attn/k_img", "blocks/video/cross_attn/v_img",
                   "video/image_embedding/in", "video/image_embedding/out")},
}  # fmt: skip


def split_name(name: str) -> tuple[str, str] | None:
  """(layer, part) of a tensor's name, the layer as the file spells it; None if it ends
  in no part that is known.
  """
  for part, pattern in _NAMES.items():
    if found := pattern.fullmatch(name):
      return found["layer"], part
  return None


def bare(layer: str) -> str:
  """A layer's name without the prefixes of the programs that write LoRAs."""
  found = _PREFIX.match(layer)
  return layer[found.end() :] if found else layer


class Names:
  """The tensors of a model, by all names that files have for them.

  Args:
    shapes: of its parameters, by path.

  Attributes:
    forms: by form ("comfyui", "diffusers", "ovi", "ours") and place in our parameters,
      the tensor with its name in that form.
    summary: depth and widths of the model, for a message.
  """

  def __init__(self, shapes: Shapes):
    streams = shapes
    if _OTHER_EXCHANGE in shapes:  # whose parts are called like those of Ovi's fusion
      streams = {path: x for path, x in shapes.items() if "_to_" not in path}
    known = {form: known_tensors(rows, streams) for form, rows in TABLES.items()}
    published = {(m.path, m.slot): m for form in known for m in known[form]}
    known[OURS] = [
      _own(path, slot, x, published.get((path, slot)))
      for path, x in shapes.items()
      for slot in _slots(path, x)
    ]
    self.forms = {
      form: {(m.path, m.slot): m for m in found} for form, found in known.items()
    }
    self._dotted = {m.name: m for found in known.values() for m in found}
    self._flat = {name.replace(".", "_"): m for name, m in self._dotted.items()}
    depth = {
      path: x.shape[0] for path, x in shapes.items() if path.startswith("blocks/")
    }
    widths = {s: shapes.get(f"{s}/head/kernel") for s in ("video", "audio")}
    told = [f"{s} of {x.shape[0]} channels" for s, x in widths.items() if x is not None]
    self.summary = f"{max(depth.values(), default=0)} blocks, {', '.join(told)}"
    self._absent = _image_names(shapes)

  def find(self, layer: str, part: str) -> Match | None:
    """The tensor of the model that a part of a layer changes; None: there is none."""
    return self._find(self._dotted, self._flat, layer, part)

  def is_absent(self, layer: str, part: str) -> bool:
    """Whether a part is of the image branch of Wan2.1's I2V, which the model lacks."""
    return self._find(*self._absent, layer, part) is not None

  def _find(self, dotted, flat, layer: str, part: str) -> Match | None:
    begins, under = bare(layer), _FLAT_PREFIX.sub("", layer, count=1)
    for tail in _TAILS.get(part, (".weight",)):
      found = dotted.get(begins + tail)
      if found is None and "." not in layer:
        found = flat.get(under + tail.replace(".", "_"))
      if found is not None:
        return found
    return None


def layer_and_part(target: Match, part: str) -> tuple[str, str]:
  """The layer of a tensor, and the part that changes it where it is written: a
  difference of what is no weight and no bias names the tensor.
  """
  if part in ("diff", "diff_m", "set") and not target.name.endswith(".weight"):
    return target.name, "set" if part == "set" else "diff"
  layer, _, _ = target.name.rpartition(".")
  return layer, part


def _slots(path: str, x: jax.ShapeDtypeStruct) -> Sequence[Slot]:
  return [(i,) for i in range(x.shape[0])] if path.startswith("blocks/") else [()]


def _own(path: str, slot: Slot, x: jax.ShapeDtypeStruct, known: Match | None) -> Match:
  """A parameter under our own name; its layout is the published one, if there is one,
  and else torch's of a layer of its kind.
  """
  parts = path.split("/")
  if slot:
    parts.insert(1, str(slot[0]))
  parts[-1] = {"kernel": "weight", "scale": "weight"}.get(parts[-1], parts[-1])
  name, shape = ".".join(parts), x.shape[len(slot) :]
  if known is not None:
    return known._replace(name=name)
  kind: Transform = same
  if path.endswith("/kernel"):
    kind = linear if len(shape) == 2 else conv
  there = kind.backward(np.broadcast_to(np.int8(0), shape)).shape
  return Match(name, path, slot, kind, there)


def _image_names(shapes: Shapes) -> tuple[Mapping[str, Match], Mapping[str, Match]]:
  """The names of the image branch's tensors, where the model does not have it."""
  blocks = shapes.get("blocks/video/modulation")
  if blocks is None or any(path in shapes for path in _IMAGE):
    return {}, {}
  stand_in = {
    path: jax.ShapeDtypeStruct(
      blocks.shape[:1] * path.startswith("blocks/") + (1,) * axes, np.float32
    )
    for path, axes in _IMAGE.items()
  }
  found = {m.name: m for rows in TABLES.values() for m in known_tensors(rows, stand_in)}
  return found, {name.replace(".", "_"): m for name, m in found.items()}
