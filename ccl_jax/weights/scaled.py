"""fp8 weights with scales: which scale is whose, and what the two stand for.

  layout              scale            told by
  ComfyUI's old one   X.scale_weight   a tensor scaled_fp8
  ComfyUI's new one   X.weight_scale   _quantization_metadata in the header, or tensors
                                       X.comfy_quant: the format of each layer, as JSON
  musubi's            X.scale_weight   neither
  LightX2V's          X.weight_scale   neither

for the weight X.weight (out, in), which is fp8 times the scale, in float32. A scale is
one number, or (out, 1), one a row, or (out, n, 1), one for each of n blocks of a row.
Scales of inputs (X.scale_input, X.input_scale) are for products in fp8: the weights are
the same without them.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ccl_jax.errors import UsageError
from ccl_jax.weights.entries import Entry, ending, shown
from ccl_jax.weights.safetensors_header import safetensors_metadata
from ccl_jax.weights.strict_json import parse

EXPECTED = (
  "expected whole weights in float32, bfloat16 or float16, or in fp8 with the scales "
  "of ComfyUI, LightX2V or musubi"
)
_WEIGHT, _INPUT = ("scale_weight", "weight_scale"), ("scale_input", "input_scale")
_MARKER, _FORMAT = "scaled_fp8", "comfy_quant"
_PART = re.compile(
  rf"(?:(.*)\.)?({'|'.join((*_WEIGHT, *_INPUT, _MARKER, _FORMAT))})", re.DOTALL
)
# What tensors beside a weight tell of formats that are not read.
_FORMATS = (
  (r"(weight_scale_2|(weight|input)_global_scale)", "nvfp4"),
  (r"_weight_(qdata|scale|zero_point)", "torchao's quantised"),
  (r"weight_scale_inv", "fp8 with inverse scales of square blocks"),
)
_FLOATS = ("float32", "bfloat16", "float16")
_JSON = 4096  # bytes of a tensor comfy_quant, at most


class Scaled(NamedTuple):
  """The tensors of a checkpoint, each fp8 weight with its scale.

  Attributes:
    entries: by name, without what only tells how others are quantised.
    layout: whose layout it is; None: nothing is scaled.
    notes: lines for the user.
  """

  entries: dict[str, Entry]
  layout: str | None = None
  notes: Sequence[str] = ()


def with_scales(
  entries: dict[str, Entry],
  read: Callable[[str], np.ndarray],
  prefixes: Iterable[str] = (),
) -> Scaled:
  """Gives every fp8 weight its scale; nothing is left over.

  Args:
    entries: all tensors of a checkpoint, by name.
    read: name to tensor, for the small ones that hold JSON.
    prefixes: that were taken from the tensors' names, and may be in a header's.

  Raises:
    UsageError: the weights are in another format of quantisation; or scales and
      weights do not belong together.
  """
  for name, entry in entries.items():
    for pattern, what in _FORMATS:
      if re.fullmatch(rf"(.*\.)?{pattern}", name):
        raise _other(entry, what, name)
  parts = {n: m.groups() for n in entries if (m := _PART.fullmatch(n))}
  declared = _declared(entries, parts, read, prefixes)
  if not parts and not declared:
    return Scaled(entries)
  layout = _layout({part for _, part in parts.values()}, bool(declared))
  out = {n: e for n, e in entries.items() if n not in parts}
  inputs = []
  for name, (layer, part) in parts.items():
    if part in (*_WEIGHT, *_INPUT):
      weight, scale = _weight_of(layer), entries[name]
      if weight not in out:
        raise UsageError(
          f"{scale.file}, of {layout}: {name} is a scale without its weight {weight}"
        )
      if part in _INPUT:
        inputs.append(name)
        continue
      _check(weight, out[weight], name, scale, layout)
      out[weight] = out[weight]._replace(scale=scale)
  for layer, (file, form) in declared.items():
    weight = _weight_of(layer)
    got = out[weight].dtype.name if weight in out else "missing"
    if got != form:
      raise UsageError(
        f"{file}, of {layout}: {shown(weight)} is {got}; expected {form}, the format "
        "that is stated for it"
      )
  bare = next((n for n, e in out.items() if _is_fp8(e) and e.scale is None), None)
  if bare:
    raise UsageError(
      f"{out[bare].file}, of {layout}: {bare} is {out[bare].dtype.name} without a "
      "scale; expected one for each fp8 weight"
    )
  if not any(e.scale for e in out.values()):
    name = next(iter(parts))
    raise UsageError(
      f"{entries[name].file}: {name} is of {layout}, but no weight is fp8; {EXPECTED}"
    )
  return Scaled(out, layout, _left_out(entries, inputs))


def dequantised(weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
  """The weight times its scale, float32 of the weight's shape.

  Args:
    weight: fp8, of any shape, or (out, in) if there is more than one scale.
    scale: one number, (out, 1), or (out, n, 1) where n divides `in`.
  """
  real, scale = weight.astype(np.float32), scale.astype(np.float32)
  if scale.size == 1:
    real *= scale.reshape(())
  else:
    # A view: a tensor of gigabytes is never there twice.
    rows, blocks = len(real), scale.size // len(real)
    view = real.reshape(rows, blocks, -1)
    view *= scale.reshape(rows, blocks, 1)
  return real


def _declared(entries, parts, read, prefixes) -> dict[str, tuple[Any, str]]:
  """Layer -> (file, dtype of its weight), as ComfyUI's new layout says.

  Raises:
    UsageError: it says another format than fp8, or nothing that can be read.
  """
  found = {}
  # Only quantised files have tensors of one byte.
  files = {e.file for e in entries.values() if e.dtype.itemsize == 1}
  for file in sorted(f for f in files if ending(f) == ".safetensors"):
    about = safetensors_metadata(file).get("_quantization_metadata")
    if about is not None:
      for layer, form in _parsed(file, "_quantization_metadata", about).items():
        for prefix in prefixes:
          layer = layer.removeprefix(prefix)
        found[layer] = (file, form)
  for name, (layer, part) in parts.items():
    if part == _FORMAT:
      e = entries[name]
      if e.dtype.itemsize != 1 or math.prod(e.shape) > _JSON:
        raise UsageError(
          f"{e.file}: {name} is {e.dtype.name} {e.shape}; expected at most {_JSON} "
          "bytes of JSON"
        )
      text = read(name).tobytes().decode("utf-8", "replace")
      found[layer or ""] = (e.file, _format(e.file, name, _json(e.file, name, text)))
  for layer, (file, form) in found.items():
    if form not in ("float8_e4m3fn", "float8_e5m2"):
      weight = shown(_weight_of(layer))
      raise UsageError(f"{file} is {shown(form)} weights ({weight}); {EXPECTED}")
  return found


def _parsed(file, name, text) -> dict[str, str]:
  layers = _json(file, name, text).get("layers")
  if not isinstance(layers, dict):
    raise UsageError(f"{file}: its {name} has no layers; download it again")
  return {layer: _format(file, layer, about) for layer, about in layers.items()}


def _json(file, name, text: str) -> dict:
  try:
    value = parse(text.encode())
  except ValueError:
    value = None
  if not isinstance(value, dict):
    raise UsageError(f"{file}: {name} is no JSON object; download it again")
  return value


def _format(file, name, about) -> str:
  """The format of a layer, by what is said of it."""
  form = about.get("format") if isinstance(about, dict) else about
  if not isinstance(form, str):
    raise UsageError(f"{file}: the quantisation of {shown(name)} has no format")
  # Weights may have been rotated before they were rounded.
  more = about.get("params") if isinstance(about, dict) else None
  told = [x for x in (about, more) if isinstance(x, dict)]
  return f"{form} with convrot" if any(x.get("convrot") for x in told) else form


def _weight_of(layer: str | None) -> str:
  return f"{layer}.weight" if layer else "weight"


def _check(weight: str, w: Entry, name: str, scale: Entry, layout: str) -> None:
  """Holds a weight and its scale to the layouts.

  Raises:
    UsageError: it is another format, or the scale's shape is not of the weight's.
  """
  if not _is_fp8(w):
    packed = {"int8": "int8", "uint8": "nvfp4 or otherwise packed"}
    raise _other(w, packed.get(w.dtype.name, f"scaled {w.dtype.name}"), weight)
  if scale.dtype.name not in _FLOATS:
    what = "mxfp8" if scale.dtype.name == "uint8" else f"{scale.dtype.name}-scaled"
    raise _other(scale, what, name)
  if w.scale is not None:
    raise UsageError(
      f"{scale.file}, of {layout}: {name} is the second scale of {weight}; expected one"
    )
  if math.prod(scale.shape) == 1 and len(scale.shape) <= max(len(w.shape), 1):
    return
  rows, columns = w.shape if len(w.shape) == 2 else (0, 0)
  n = scale.shape[1] if len(scale.shape) == 3 else 1
  by_row = scale.shape in ((rows, 1), (rows, n, 1)) and n and columns % n == 0
  if rows and by_row:
    return
  expected = f", ({rows}, 1), or ({rows}, n, 1) where n divides {columns}" * bool(rows)
  raise UsageError(
    f"{scale.file}, of {layout}: {name} has shape {scale.shape}; expected one number"
    f"{expected}, for {weight} {w.shape}"
  )


def _layout(parts: set[str], declared: bool) -> str:
  if declared:
    return "ComfyUI's new scaled fp8"
  if _MARKER in parts:
    return "ComfyUI's old scaled fp8"
  return "musubi's scaled fp8" if _WEIGHT[0] in parts else "LightX2V's scaled fp8"


def _left_out(entries: dict[str, Entry], inputs: Sequence[str]) -> list[str]:
  if not inputs:
    return []
  more = f" and {len(inputs) - 1} more" * (len(inputs) > 1)
  return [
    f"{entries[inputs[0]].file}: {inputs[0]}{more} left out: they scale the inputs of "
    "products in fp8, not weights"
  ]


def _is_fp8(entry: Entry) -> bool:
  return entry.dtype.name.startswith("float8")


def _other(entry: Entry, what: str, name: str) -> UsageError:
  """The error of a format that is not read."""
  return UsageError(f"{entry.file} is {what} weights ({name}); {EXPECTED}")
