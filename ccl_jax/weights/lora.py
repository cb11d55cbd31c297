"""Reads LoRAs, changes of a model's parameters, spelled as weights/lora_names knows.

A layer of a file changes a weight W (out, in) by one of

  low rank   dW = alpha/r up down        down (r, in), up (out, r), also of convolutions
  LoHa       dW = alpha/r (w1_a w1_b) * (w2_a w2_b)
  LoKr       dW = alpha/r kron(w1, w2), either of them perhaps a product of two

  W' = W + dW, or of DoRA magnitude (W + dW) / |W + dW|, by rows or by columns

and a tensor by a difference (`diff`, `diff_b`, `diff_m`), which no alpha scales, or by
another in its place (`set_weight`). Without an alpha, alpha = r. Headers of diffusers
and an adapter_config.json of PEFT beside the file say what no tensor does.

Every tensor of a file is used, but for those of an image branch that the model lacks,
which are named.
"""

import math
import os
import re
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import numpy as np
from typing_extensions import TypedDict

from ccl_jax import documents
from ccl_jax.errors import UsageError
from ccl_jax.weights.download import fetched
from ccl_jax.weights.entries import ending
from ccl_jax.weights.lora_names import Names, bare, split_name
from ccl_jax.weights.reader import Weights, open_adapter
from ccl_jax.weights.rules import Match, Slot
from ccl_jax.weights.safetensors_header import safetensors_metadata

NOTE = "lora_adapter_metadata"  # of diffusers, in the header
DTYPES = ("float32", "bfloat16", "float16", "float64")
# The parts that one way of making dW needs, and those that it may do without.
_LOW, _HADA = ("down", "up"), ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
_LOKR = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b")
_WITH_DW = ("alpha", "magnitude", "up_bias")  # say something of a dW


class Told(TypedDict, total=False):
  """What a header, or an adapter_config.json, says of ranks and scales."""

  r: int
  lora_alpha: float | None
  rank_pattern: dict[str, int]
  alpha_pattern: dict[str, float]
  use_rslora: bool


class Delta(NamedTuple):
  """What a LoRA does to a parameter, or to one layer of a stack, in float32.

  Attributes:
    strength: of the LoRA.
    a, b: (..., in, r) and (r, out), whose product is dW; alpha/r is in b.
    dense: a dW that is no such product, in the parameter's layout.
    magnitude: of DoRA, broadcast over the axes that norms are taken over.
    diff: a difference, beside dW.
    new: what stands in the parameter's place.
  """

  strength: float
  a: np.ndarray | None = None
  b: np.ndarray | None = None
  dense: np.ndarray | None = None
  magnitude: np.ndarray | None = None
  diff: np.ndarray | None = None
  new: np.ndarray | None = None


class Layer(NamedTuple):
  """The tensors of a file that change one layer.

  Attributes:
    name: as the file spells it.
    parts: part (`lora_names.split_name`) to the tensor's name.
    targets: part to the tensor of the model that it changes.
    rank: r; None: there is none.
    scale: alpha/r, 1 where there is no rank.
  """

  name: str
  parts: Mapping[str, str]
  targets: Mapping[str, Match]
  rank: int | None
  scale: float


class Lora:
  """A file that changes a model, held to account by its headers and its alphas.

  Args:
    path: a file, or a folder that holds one, or an address of the hub.
    names: of the model's tensors.

  Attributes:
    weights: the file's tensors.
    layers: what it changes.
    left: names of tensors of an image branch that the model lacks.

  Raises:
    UsageError: it is damaged, no LoRA, or one of another model.
  """

  def __init__(self, path: str | os.PathLike, names: Names):
    self.weights = open_adapter(fetched("lora", path))
    self.file = self.weights.file_of(self.weights.names()[0])
    self.left: list[str] = []
    self._told = _read_told(self.weights)
    self.layers = [
      self._layer(layer, parts, names) for layer, parts in self._grouped(names).items()
    ]
    self._at: dict[tuple[str, Slot], dict[str, Layer]] = {}
    for layer in self.layers:
      for part, target in layer.targets.items():
        found = self._at.setdefault((target.path, target.slot), {})
        if part in found:
          raise UsageError(
            f"{self.file}: {found[part].parts[part]} and {layer.parts[part]} are both "
            f"of {target.name}; expected one"
          )
        found[part] = layer

  def places(self) -> list[tuple[str, Slot]]:
    """The (path, slot) of every parameter, or layer of a stack, that it changes."""
    return [place for place, parts in self._at.items() if parts.keys() != {"alpha"}]

  def delta(self, path: str, slot: Slot, strength: float) -> Delta | None:
    """What it does to a parameter, read from the file; None: nothing.

    Raises:
      UsageError: a tensor cannot be read, or holds NaN or infinity.
    """
    found = self._at.get((path, slot))
    if found is None:
      return None
    read = lambda part: self.read(found[part].parts[part])
    target = next(layer.targets[part] for part, layer in found.items())
    scale = next((found[p].scale for p in found if p not in _DIFFERENCES), 1.0)
    fields = {"strength": strength}
    if "down" in found:
      down, up = read("down"), read("up")
      rank = len(down)
      # In place of `out` the transform of the weight takes the rank.
      fields["a"] = target.transform.forward(down.reshape(rank, *target.shape[1:]))
      fields["b"] = np.float32(scale) * up.reshape(-1, rank).T
    elif dense := _dense(found, read):
      fields["dense"] = target.transform.forward(
        np.float32(scale) * dense[0].reshape(target.shape)
      )
    if "magnitude" in found:
      fields["magnitude"] = _magnitude(read("magnitude"), target)
    differences = [
      read(p) * np.float32(scale if p == "up_bias" else 1)
      for p in ("diff", "diff_b", "diff_m", "up_bias")
      if p in found
    ]
    if differences:
      fields["diff"] = target.transform.forward(sum(differences))
    if "set" in found:
      fields["new"] = target.transform.forward(read("set"))
    return Delta(**fields)

  def read(self, name: str) -> np.ndarray:
    """A tensor of the file in float32.

    Raises:
      UsageError: it cannot be read, or holds NaN or infinity.
    """
    with np.errstate(over="ignore"):
      tensor = self.weights.read(name).astype(np.float32)
    if not np.isfinite(tensor).all():
      raise UsageError(
        f"{self.file}: {name} holds NaN or infinity, which no network can run with"
      )
    return tensor

  def note(self) -> str:
    """A line that names the tensors which change nothing; "" if all do."""
    # With N in place of the numbers of blocks, each name once.
    names = (re.sub(r"(blocks[._])\d+", r"\1N", name) for name in self.left)
    kinds = ", ".join(dict.fromkeys(names))
    return kinds and (
      f"{self.file}: {len(self.left)} tensors of image inputs that this model does not "
      f"have are left out: {kinds}"
    )

  def _grouped(self, names: Names) -> dict[str, dict[str, str]]:
    """Tensor by part, by layer as it is spelled."""
    layers: dict[str, dict[str, str]] = {}
    unknown = []
    for name in self.weights.names():
      layer, part = split_name(name) or (name, "")
      if not part:
        unknown.append(name)
        continue
      if names.find(layer, part) is None:
        (self.left if names.is_absent(layer, part) else unknown).append(name)
        continue
      parts = layers.setdefault(layer, {})
      if part in parts:
        raise UsageError(
          f"{self.file}: {parts[part]} and {name} are both the {part} of {layer}; "
          "expected one"
        )
      parts[part] = name
    total = len(self.weights.names())
    if not any(map(split_name, self.weights.names())):
      raise UsageError(
        f"{self.file} is no LoRA: none of its {total} tensors is part of one "
        f"(lora_A, lora_down, diff, ...); it has {self.weights.names()[0]}"
      )
    if unknown or not layers:
      first = (unknown or self.left)[0]
      more = len(unknown or self.left) - 1
      what = "of no layer of it" if split_name(first) else "part of no known change"
      raise UsageError(
        f"{self.file} does not fit this model ({names.summary}): {first} is {what}"
        + (f", and so are {more} more of its {total} tensors" if more else "")
        + "; expected a LoRA that was made for this model"
      )
    for name in [
      n for n, parts in layers.items() if self._has_other_input(n, parts, names)
    ]:
      self.left += layers.pop(name).values()
    return layers

  def _has_other_input(self, layer: str, parts: dict[str, str], names: Names) -> bool:
    """Whether a layer is a patch embedding of latents beside other channels: I2V's has
    36, T2V's 16, and what changes the one does not fit the other.
    """
    part = next((p for p in ("down", "diff") if p in parts), None)
    target = part and names.find(layer, part)
    if not target or not target.path.endswith("/patch_embedding/kernel"):
      return False
    got, out = self.weights.shape(parts[part]), target.shape[0]
    if part == "down":
      up = self.weights.shape(parts["up"]) if "up" in parts else ()
      got = (*up[:1], *got[1:])
    same_but = (out, *got[1:2], *target.shape[2:])
    return got == same_but and got != target.shape

  def _layer(self, name: str, parts: dict[str, str], names: Names) -> Layer:
    """The layer, if its tensors go together and fit the model's."""
    targets = {part: names.find(name, part) for part in parts}
    for part, tensor in parts.items():
      if (dtype := self.weights.dtype(tensor).name) not in DTYPES and part != "alpha":
        raise UsageError(
          f"{self.file}: {tensor} is {dtype}; expected one of {', '.join(DTYPES)}"
        )
    self._check_whole(name, parts)
    shape = {part: self.weights.shape(tensor) for part, tensor in parts.items()}
    rank = None
    if "down" in parts:
      rank = self._low_rank(parts, shape, targets["down"])
    for part in parts:
      expected = _expected(part, targets[part], shape)
      if expected is not None and shape[part] not in expected:
        raise UsageError(
          f"{self.file} does not fit this model: {parts[part]} has shape "
          f"{shape[part]}, expected {expected[0]} of {targets[part].name}"
        )
    if any(p in parts for p in (*_HADA, *_LOKR)):
      rank = self._product_rank(parts, shape, targets)
    return Layer(name, parts, targets, rank, self._scale(name, parts, rank))

  def _check_whole(self, name: str, parts: dict[str, str]) -> None:
    """Raises UsageError where a part stands without what it belongs to."""
    needs = [p for p in parts if p in (*_LOW, *_HADA, *_LOKR, *_WITH_DW)]
    if not needs:
      return
    own = parts[needs[0]]
    ways = [way for way in (_LOW, _HADA, _LOKR) if any(p in parts for p in way)]
    if len(ways) > 1:
      raise UsageError(
        f"{self.file}: {name} is changed in several ways, by {own} and others; "
        "expected one of LoRA, LoHa and LoKr"
      )
    missing = _missing(parts, ways[0] if ways else _LOW)
    if missing:
      raise UsageError(
        f"{self.file}: {own} stands without {missing} of {name}: the file is not whole"
      )

  def _low_rank(self, parts, shape, target: Match) -> int:
    """The rank of a pair, whose shapes are compared with the weight's."""
    down, up = shape["down"], shape["up"]
    weight = target.shape
    if len(weight) < 2 or len(down) < 2 or len(up) < 2:
      raise UsageError(
        f"{self.file} does not fit this model: {parts['down']} {down} is of "
        f"{target.name} {weight}; expected matrices, of a matrix"
      )
    if down[0] < 1 or down[0] != math.prod(up[1:]):
      raise UsageError(
        f"{self.file}: {parts['down']} {down} and {parts['up']} {up} have other ranks, "
        f"{down[0]} and {math.prod(up[1:])}; expected one"
      )
    for part, got, whole in (
      ("down", math.prod(down[1:]), math.prod(weight[1:])),
      ("up", up[0], weight[0]),
    ):
      if got != whole or (len(down) > 2 and down[1:] != weight[1:]):
        raise UsageError(
          f"{self.file} does not fit this model: {parts[part]} has shape "
          f"{shape[part]}, for a weight of {up[0]} x {math.prod(down[1:])}; "
          f"{target.name} is {weight}"
        )
    return down[0]

  def _product_rank(self, parts, shape, targets) -> int | None:
    """The rank of a LoHa or LoKr, whose product must have the weight's shape."""
    target = next(iter(targets.values()))
    found = {p: np.broadcast_to(np.int8(0), shape[p]) for p in parts}
    try:
      made = _dense(dict.fromkeys(parts), found.__getitem__)[0].shape
      fits = made == target.shape or (
        made[0] == target.shape[0] and math.prod(made) == math.prod(target.shape)
      )
    except (ValueError, IndexError):
      made, fits = "none", False
    if not fits:
      raise UsageError(
        f"{self.file} does not fit this model: the product of "
        f"{next(iter(parts.values()))} and what belongs to it has shape {made}, "
        f"{target.name} is {target.shape}"
      )
    inner = [p for p in ("hada_w1_b", "lokr_w1_b", "lokr_w2_b") if p in parts]
    return shape[inner[-1]][0] if inner else None

  def _scale(self, name: str, parts: dict[str, str], rank: int | None) -> float:
    """alpha/r of a layer.

    Raises:
      UsageError: its alpha is no number, or it has another rank than the header says.
    """
    own = bare(name)
    wanted = _pattern(self._told.get("rank_pattern"), own) or self._told.get("r")
    if "down" in parts and wanted and wanted != rank:
      raise UsageError(
        f"{self.file}: {parts['down']} has rank {rank}, but what is told of the LoRA "
        f"(its header, or adapter_config.json) says {wanted}"
      )
    alpha = _pattern(self._told.get("alpha_pattern"), own)
    alpha = self._told.get("lora_alpha") if alpha is None else alpha
    if "alpha" in parts:
      value = self.weights.read(parts["alpha"]).astype(np.float32).reshape(-1)
      if value.size != 1 or not np.isfinite(value[0]):
        raise UsageError(
          f"{self.file}: {parts['alpha']} is no number; expected one, finite"
        )
      alpha = float(value[0])
    if rank is None or alpha is None:
      return 1.0
    return alpha / (math.sqrt(rank) if self._told.get("use_rslora") else rank)


_DIFFERENCES = ("diff", "diff_b", "diff_m", "set")


def _missing(parts: Collection[str], way: tuple[str, ...]) -> str:
  """What a way of making dW lacks, in a word; "" if it is whole."""
  if way is _LOKR:
    for w in ("lokr_w1", "lokr_w2"):
      halves = [p for p in (f"{w}_a", f"{w}_b") if p in parts]
      if (w in parts) + (len(halves) == 2) != 1 or len(halves) == 1:
        return f"one {w}, or {w}_a and {w}_b,"
  words = {"down": "down (lora_A)", "up": "up (lora_B)"}
  lacking = (p for p in way if way is not _LOKR and p not in parts)
  return next((words.get(p, p) for p in lacking), "")


def _expected(part: str, target: Match, shape) -> list[tuple[int, ...]] | None:
  """The shapes that a part may have; None: it is compared elsewhere."""
  weight = target.shape
  if part in (*_DIFFERENCES, "up_bias"):
    return [weight]
  if part == "magnitude":
    ones = (1,) * (len(weight) - 1)
    rows = [(weight[0], *ones), (weight[0],), (1, weight[0], *ones[1:])]
    return rows[:2] + ([(1, weight[1])] if len(weight) == 2 else rows[2:])
  return None


def _dense(found, read: Callable[[str], np.ndarray]) -> tuple[np.ndarray] | None:
  """The product of a LoHa or LoKr, in the file's layout, in a tuple; None: of neither.

  Args:
    found: the parts there are.
    read: the tensor of a part.
  """
  flat = lambda part: (x := read(part)).reshape(len(x), -1)
  if "hada_w1_a" in found:
    w1 = flat("hada_w1_a") @ flat("hada_w1_b")
    return (w1 * (flat("hada_w2_a") @ flat("hada_w2_b")),)
  if not any(p in found for p in _LOKR):
    return None
  factor = lambda w: (
    read(f"lokr_{w}")
    if f"lokr_{w}" in found
    else flat(f"lokr_{w}_a") @ flat(f"lokr_{w}_b")
  )
  w1, w2 = factor("w1"), factor("w2")
  # Of a convolution: the small matrix has no kernel.
  return (np.kron(w1.reshape(*w1.shape, *(1,) * (w2.ndim - w1.ndim)), w2),)


def _magnitude(x: np.ndarray, target: Match) -> np.ndarray:
  """DoRA's magnitudes as they broadcast over our kernel, whose last axis is `out`."""
  out = target.shape[0]
  if x.ndim == len(target.shape) == 2 and x.shape[0] == 1 != out:
    return x.reshape(-1, 1)  # by columns: one for each channel that goes in
  ours = target.transform.forward(np.broadcast_to(np.int8(0), target.shape)).ndim
  return x.reshape((1,) * (ours - 1) + (-1,))


def _read_told(weights: Weights) -> Told:
  """What is said of ranks and scales: in the header, or in a file beside it."""
  file = weights.file_of(weights.names()[0])
  notes = safetensors_metadata(file) if ending(file) == ".safetensors" else {}
  where, found = f"{file}, {NOTE} of its header", {}
  if NOTE in notes:
    found = documents.parse(notes[NOTE], where)
    if isinstance(found, dict):
      found = {name.removeprefix("transformer."): x for name, x in found.items()}
  elif (beside := file.with_name("adapter_config.json")).is_file():
    where, found = str(beside), documents.read_json(beside)
  told = documents.check(found, Told, where, "download the LoRA again")
  for value in (told.get("lora_alpha"), *told.get("alpha_pattern", {}).values()):
    if value is not None and not math.isfinite(value):
      raise UsageError(f"{where}: got alpha {value}; expected a finite number")
  return told


def _pattern(patterns: Mapping[str, int | float] | None, layer: str):
  """The value of the first pattern that a layer's name ends in."""
  for pattern, value in (patterns or {}).items():
    end = pattern.removeprefix("^").replace("\\.", ".")
    if layer == end or layer.endswith(f".{end}"):
      return value
  return None
