"""CLIP's vision tower, whose tokens Wan2.1's I2V models read.

  native     models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth, of the release
  diffusers  image_encoder/ of its repositories (transformers' names)

The last block, what follows it, and the text half of the network are left unread. In
diffusers' files q, k and v are three tensors; `Fused` shows them as the one that they
are here.
"""

import os
import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ccl_jax.errors import UsageError
from ccl_jax.models.clip_vision import ClipImage, ClipTower
from ccl_jax.weights.reader import Weights, open_weights, read_config
from ccl_jax.weights.rules import (
  Row,
  Shapes,
  conv,
  dense,
  flat_shapes,
  load_tree,
  norm,
  reshape,
  squeeze,
)
from ccl_jax.weights.upstream import Sizes, Upstream, tensor_name

HEAD_WIDTH = 80  # of ViT-H; tensors do not tell it

_BLOCK = r"visual.transformer.(\d+)"
NATIVE = [
  Row("visual.cls_embedding", "cls_embedding", reshape((1, 1, -1), (-1,))),
  Row("visual.pos_embedding", "pos_embedding", squeeze),
  Row("visual.patch_embedding.weight", "patch_embedding/kernel", conv),
  *norm("visual.pre_norm", "pre_norm"),
  *norm(f"{_BLOCK}.(norm[12])", r"blocks/\2[\1]"),
  *dense(f"{_BLOCK}.attn.to_qkv", r"blocks/attn/qkv[\1]"),
  *dense(f"{_BLOCK}.attn.proj", r"blocks/attn/proj[\1]"),
  *dense(f"{_BLOCK}.mlp.0", r"blocks/mlp/in[\1]"),
  *dense(f"{_BLOCK}.mlp.2", r"blocks/mlp/out[\1]"),
]

_IN, _LAYER = "vision_model.embeddings", r"vision_model.encoder.layers.(\d+)"
DIFFUSERS = [
  Row(f"{_IN}.class_embedding", "cls_embedding"),
  Row(f"{_IN}.position_embedding.weight", "pos_embedding"),
  Row(f"{_IN}.patch_embedding.weight", "patch_embedding/kernel", conv),
  *norm("vision_model.pre_layrnorm", "pre_norm"),  # their spelling
  *norm(f"{_LAYER}.layer_norm([12])", r"blocks/norm\2[\1]"),
  *dense(f"{_LAYER}.self_attn.qkv_proj", r"blocks/attn/qkv[\1]"),
  *dense(f"{_LAYER}.self_attn.out_proj", r"blocks/attn/proj[\1]"),
  *dense(f"{_LAYER}.mlp.fc1", r"blocks/mlp/in[\1]"),
  *dense(f"{_LAYER}.mlp.fc2", r"blocks/mlp/out[\1]"),
]

_LAYERS = re.compile(r"(?:visual\.transformer|vision_model\.encoder\.layers)\.(\d+)\.")
# Blocks below the last are asked for: whatever is left of a block is the last's.
IGNORE = (
  r"textual\..*|log_scale|visual\.post_norm\..*|visual\.head",
  r"visual\.transformer\.\d+\.(norm[12]|attn\.(to_qkv|proj)|mlp\.[02])\.(weight|bias)",
  r"text_model\..*|(text|visual)_projection\.weight|logit_scale",
  r"vision_model\.(post_layernorm\..*|embeddings\.position_ids)",
  r"vision_model\.encoder\.layers\.\d+\."
  r"(layer_norm[12]|self_attn\.(qkv|out)_proj|mlp\.fc[12])\.(weight|bias)",
)


class Fused(Weights):
  """A checkpoint whose q_proj, k_proj and v_proj are one qkv_proj."""

  def __init__(self, weights: Weights):
    self.path, self._weights, self._parts = weights.path, weights, {}
    order = lambda name: [f".{x}_proj." in name for x in "vkq"]
    for name in sorted(weights.names(), key=order):
      fused = re.sub(r"\.[qkv]_proj\.", ".qkv_proj.", name)
      self._parts.setdefault(fused, []).append(name)

  def names(self) -> list[str]:
    return list(self._parts)

  def __contains__(self, name: str) -> bool:
    return name in self._parts

  def shape(self, name: str) -> tuple[int, ...]:
    first, *others = (self._weights.shape(part) for part in self._parts[name])
    return (first[0] + sum(x[0] for x in others), *first[1:]) if others else first

  def dtype(self, name: str) -> np.dtype:
    return self._weights.dtype(self._parts[name][0])

  def file_of(self, name: str):
    return self._weights.file_of(self._parts[name][0])

  def read(self, name: str) -> np.ndarray:
    parts = [self._weights.read(part) for part in self._parts[name]]
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def format_of(weights: Weights) -> str:
  """Which of the two names the tensors have.

  Raises:
    UsageError: they are another network's.
  """
  if "visual.patch_embedding.weight" in weights:
    return "native"
  if f"{_IN}.patch_embedding.weight" in weights:
    return "diffusers"
  raise UsageError(
    f"{weights.path} is no CLIP image encoder: it has neither "
    f"visual.patch_embedding.weight nor {_IN}.patch_embedding.weight, but "
    f"{weights.names()[0]}"
  )


def sizes_of(weights: Weights, rows: Sequence[Row], config: dict) -> Sizes:
  """The fields of `ClipTower`, from the tensors' shapes; the number of heads from a
  config.json, if it is of this network.

  Raises:
    UsageError: a tensor is missing that they are read from.
  """

  def shape(target):
    name = tensor_name(rows, target)
    if name not in weights:
      raise UsageError(f"{weights.path}: no tensor {name}, which every CLIP tower has")
    return weights.shape(name)

  width, _, patch, _ = shape("patch_embedding/kernel")
  ffn = shape("blocks/mlp/in/bias[0]")[0]
  layers = [int(m[1]) for n in weights.names() if (m := _LAYERS.match(n))]
  config = config.get("vision_config", config)
  own = config.get("dim", config.get("hidden_size")) == width
  heads = config.get("num_heads", config.get("num_attention_heads")) if own else None
  return {
    "width": width,
    "ffn": ffn,
    "heads": heads or max(width // HEAD_WIDTH, 1),
    "depth": max(layers),
    "patch": patch,
    "grid": round((shape("pos_embedding")[-2] - 1) ** 0.5),
  }


def shapes_of(sizes: Sizes, dtype=jnp.float32) -> Shapes:
  side = sizes["patch"] * sizes["grid"]
  image = jnp.zeros((1, side, side, 3))
  init = lambda key: ClipTower(**sizes).init(key, image)["params"]
  shapes = flat_shapes(jax.eval_shape(init, jax.random.key(0)))
  return {path: jax.ShapeDtypeStruct(x.shape, dtype) for path, x in shapes.items()}


# Files with diffusers' names are read by `load_clip`, which fuses them first.
UPSTREAM = Upstream(
  tables={"native": NATIVE},
  format_of=format_of,
  sizes=sizes_of,
  shapes=shapes_of,
  ignore=IGNORE,
  places=("", "image_encoder"),
  files=("models_clip*", "clip*", "model*"),
)


def load_clip(path: str | os.PathLike, *, dtype: str = "float32") -> ClipImage:
  """The image encoder of a checkpoint.

  Args:
    path: a file, or a folder as published: Wan's own or diffusers'.
    dtype: of matrix products, and of the parameters in memory.

  Raises:
    UsageError: nothing there, or not the weights of a CLIP image encoder.
  """
  weights = Fused(open_weights(path, UPSTREAM.places, UPSTREAM.files))
  rows = {"native": NATIVE, "diffusers": DIFFUSERS}[format_of(weights)]
  sizes = sizes_of(weights, rows, read_config(path, UPSTREAM.places))
  shapes = shapes_of(sizes, jnp.dtype(dtype))
  params = load_tree(rows, weights, shapes, UPSTREAM.ignore)
  return ClipImage(jax.tree.map(jnp.asarray, params), sizes["heads"], dtype)
