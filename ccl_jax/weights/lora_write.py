"""Writes LoRAs under the names of ComfyUI, of diffusers, or our own.

Tensors are written bit by bit as they are, only their names change: what is written and
read again changes a model in the same way.

  comfyui    diffusion_model.blocks.0.self_attn.q.lora_A.weight, alpha in a tensor
  diffusers  transformer.blocks.0.attn1.to_q.lora_A.weight, alpha in the header
  ours       blocks.0.video.self_attn.q.lora_A.weight, alpha in a tensor; the one form
             with names for the audio stream and the exchange
"""

import collections
import json
import os
import pathlib
import tempfile
from typing import NamedTuple

import numpy as np

from ccl_jax.checkpoints.find import Parameters, find_parameters
from ccl_jax.checkpoints.slices import SliceReader
from ccl_jax.errors import UsageError
from ccl_jax.files import new_file
from ccl_jax.remote.copies import local_tree
from ccl_jax.remote.paths import place, told
from ccl_jax.weights.lora import NOTE, Layer, Lora
from ccl_jax.weights.lora_names import OURS, Names, layer_and_part
from ccl_jax.weights.writer import Spec, write_file

PREFIXES = {OURS: "", "comfyui": "diffusion_model.", "diffusers": "transformer."}
# How parts are spelled; all else as it is read: ".alpha", ".diff", ".hada_w1_a", ...
_SPELLED = {
  "down": "lora_A.weight",
  "up": "lora_B.weight",
  "up_bias": "lora_B.bias",
  "magnitude": "dora_scale",
  "set": "set_weight",
}


class _Tensor(NamedTuple):
  """A tensor to be written: its name, and the array."""

  name: str
  array: np.ndarray


def model_names(folder: str | os.PathLike) -> Names:
  """The names of a model's tensors; no parameter is read.

  Args:
    folder: of a run, a joined model, or converted weights.

  Raises:
    UsageError: it holds no model.
  """
  found = find_parameters(folder)
  return Names(SliceReader(found.folder / "checkpoints", name=found.name).shapes)


def convert_lora(src, dst, *, model=None, form: str) -> str:
  """Writes the LoRA `src` into the file `dst`; returns the line that names what of it
  the model has no use for, which is left out (`Lora.note`).

  Args:
    src: a file, or a folder that holds one; or a run that has trained one.
    dst: a new file, named *.safetensors.
    model: the folder of a model that the LoRA is for; None: that of the run.
    form: of `PREFIXES`.

  Raises:
    UsageError: `src` is no LoRA of this model, `form` has no name for what it changes,
      or `dst` is there already.
  """
  dst = place(dst)
  if form not in PREFIXES:
    raise UsageError(f"--format {form}: expected one of {', '.join(PREFIXES)}")
  if dst.suffix != ".safetensors":
    raise UsageError(f"--dst {dst}: expected the name of a file, *.safetensors")
  if dst.exists():
    raise UsageError(f"{dst} is there already: name a new file")
  run = (place(src) / "checkpoints").is_dir()
  with new_file(dst) as part:
    if not run:
      with local_tree(src) as file:
        return _write(file, part, _names_of(model), form)
    found = find_parameters(src)
    if "base" not in found.description:
      raise UsageError(
        f"{src} has trained a whole model, no part of one; expected the file of a LoRA "
        "or a run of configs/lora.py"
      )
    base = told(found.description["base"]["folder"], found.folder / "checkpoints")
    names = _names_of(model or base)
    with tempfile.TemporaryDirectory(dir=part.parent, prefix=f".{dst.name}.") as folder:
      ours = pathlib.Path(folder) / "ours.safetensors"
      _write_run(found, ours, names)
      return _write(ours, part, names, form)


def _names_of(model) -> Names:
  if model is None:
    raise UsageError(
      "--model is missing: expected the model that the LoRA is for, converted or a run"
    )
  return model_names(model)


def _write_run(found: Parameters, path: pathlib.Path, names: Names) -> None:
  """Writes what a run has trained, its average, under our own names."""
  alpha = np.asarray(found.description["lora"]["alpha"], np.float32)
  reader = SliceReader(found.folder / "checkpoints", name=found.name)
  own, out = names.forms[OURS], []
  for trained in reader.shapes:
    kind, _, place = trained.partition("/")
    factor = place.rpartition("/")[2] if kind == "adapted" else ""
    place = place.removesuffix(f"/{factor}") if factor else place
    for target in (m for m in own.values() if m.path == place):
      array = reader.read(trained, target.slot)
      layer, _ = layer_and_part(target, "set")
      if factor == "a":
        out.append(_Tensor(f"{layer}.lora_A.weight", target.transform.backward(array)))
        out.append(_Tensor(f"{layer}.alpha", alpha))
      elif factor == "b":
        out.append(_Tensor(f"{layer}.lora_B.weight", array.T))
      else:
        tensor = target.transform.backward(array)
        out.append(_Tensor(f"{layer}.set_weight", tensor))
  specs = [Spec(t.name, t.array.shape, t.array.dtype) for t in out]
  write_file(path, specs, (t.array for t in out))


def _write(src, path: pathlib.Path, names: Names, form: str) -> str:
  """Writes a LoRA's file in a form; returns the line of what is left out."""
  lora = Lora(src, names)
  tensors = [t for layer in lora.layers for t in _renamed(lora, layer, names, form)]
  notes = {NOTE: _told(lora, names)} if form == "diffusers" else {}
  specs = [Spec(t.name, t.array.shape, t.array.dtype) for t in tensors]
  write_file(path, specs, (t.array for t in tensors), notes)
  return lora.note()


def _renamed(lora: Lora, layer: Layer, names: Names, form: str) -> list[_Tensor]:
  """The tensors of a layer under their names in a form."""
  out = []
  for part, name in layer.parts.items():
    if part == "alpha":
      continue
    lora.read(name)  # names what is not finite
    tensor = lora.weights.read(name)
    own, ends = layer_and_part(_target(layer, part, names, form), part)
    ends = _SPELLED.get(ends, ends)
    if part == "magnitude" and tensor.size == layer.targets[part].shape[0]:  # of rows
      ones = (1,) * (len(layer.targets[part].shape) - 1)
      tensor = tensor.reshape(-1, *ones)
      if form == "diffusers":
        ends, tensor = "lora_magnitude_vector", tensor.reshape(-1)
    out.append(_Tensor(f"{PREFIXES[form]}{own}.{ends}", tensor))
  if (
    form != "diffusers" and layer.rank and ("alpha" in layer.parts or layer.scale != 1)
  ):
    # An alpha that a header divides by a root is written as what it amounts to.
    alpha = np.asarray(layer.scale * layer.rank, np.float32)
    own = _own_name(layer, names, form)
    out.append(_Tensor(f"{PREFIXES[form]}{own}.alpha", alpha))
  return out


def _target(layer: Layer, part: str, names: Names, form: str):
  """What a part changes, under its name in a form."""
  target = layer.targets[part]
  found = names.forms[form].get((target.path, target.slot))
  if found is None:
    raise UsageError(
      f"--format {form} has no name for {target.target}, which {layer.parts[part]} "
      f"changes; expected a LoRA of the video stream alone, or --format {OURS}"
    )
  return found


def _own_name(layer: Layer, names: Names, form: str) -> str:
  """A layer's name in a form, by the weight that it changes."""
  part = next(p for p in layer.parts if p not in ("up_bias", "diff_b", "diff_m"))
  return layer_and_part(_target(layer, part, names, form), part)[0]


def _told(lora: Lora, names: Names) -> str:
  """The header's note of ranks and alphas, which diffusers hands on to PEFT."""
  layers = {
    _own_name(x, names, "diffusers"): (x.rank, x.scale * x.rank)
    for x in lora.layers
    if x.rank
  }
  if not layers:
    return "{}"
  (rank, alpha), _ = collections.Counter(layers.values()).most_common(1)[0]
  about = {
    "r": rank,
    "lora_alpha": alpha,
    "rank_pattern": {n: r for n, (r, _) in layers.items() if r != rank},
    "alpha_pattern": {n: a for n, (_, a) in layers.items() if a != alpha},
    "target_modules": sorted(layers),
  }
  return json.dumps({f"transformer.{name}": value for name, value in about.items()})
