"""CLIP's vision tower, whose tokens Wan2.1's I2V models read.

  native        models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth, of the release
  diffusers     image_encoder/ of its repositories, as transformers 4 names tensors
  transformers  the same, saved by transformers 5

The last block, what follows it, and the text half of the network are left unread. A
file without what follows is one of ours, exported: its last block is the last to read.
"""

import functools
import math
import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ccl_jax.errors import UsageError
from ccl_jax.models.clip_vision import EPS, ClipTower
from ccl_jax.weights.reader import Weights
from ccl_jax.weights.rules import (
  Row,
  Shapes,
  conv,
  dense,
  flat_shapes,
  fused_linear,
  norm,
  reshape,
  squeeze,
)
from ccl_jax.weights.upstream import (
  Sizes,
  Upstream,
  head_count,
  layer_count,
  tensor_name,
  tensor_shape,
)

HEAD_WIDTH = 80  # of ViT-H; tensors do not tell it

_BLOCK = r"visual.transformer.(\d+)"
NATIVE = [
  Row("visual.cls_embedding", "cls_embedding", reshape((1, 1, -1), (-1,))),
  Row("visual.pos_embedding", "pos_embedding", squeeze),
  Row("visual.patch_embedding.weight", "patch_embedding/kernel", conv),
  *norm("visual.pre_norm", "pre_norm"),
  *norm(f"{_BLOCK}.(norm[12])", r"blocks/\2[\1]"),
  Row(f"{_BLOCK}.attn.to_qkv.weight", r"blocks/attn/qkv/kernel[\1]", fused_linear(3)),
  Row(f"{_BLOCK}.attn.to_qkv.bias", r"blocks/attn/qkv/bias[\1]", fused_linear(3)),
  *dense(f"{_BLOCK}.attn.proj", r"blocks/attn/proj[\1]"),
  *dense(f"{_BLOCK}.mlp.0", r"blocks/mlp/in[\1]"),
  *dense(f"{_BLOCK}.mlp.2", r"blocks/mlp/out[\1]"),
]


def _transformers(prefix: str) -> list[Row]:
  first, layer = f"{prefix}embeddings", rf"{prefix}encoder.layers.(\d+)"
  return [
    Row(f"{first}.class_embedding", "cls_embedding"),
    Row(f"{first}.position_embedding.weight", "pos_embedding"),
    Row(f"{first}.patch_embedding.weight", "patch_embedding/kernel", conv),
    *norm(f"{prefix}pre_layrnorm", "pre_norm"),  # their spelling
    *norm(f"{layer}.layer_norm([12])", r"blocks/norm\2[\1]"),
    *(
      row
      # Three matrices upstream are slots 0, 1, 2 of our one.
      for i, x in enumerate("qkv")
      for row in dense(f"{layer}.self_attn.{x}_proj", rf"blocks/attn/qkv[\1,{i}]")
    ),
    *dense(f"{layer}.self_attn.out_proj", r"blocks/attn/proj[\1]"),
    *dense(f"{layer}.mlp.fc1", r"blocks/mlp/in[\1]"),
    *dense(f"{layer}.mlp.fc2", r"blocks/mlp/out[\1]"),
  ]


DIFFUSERS, TRANSFORMERS = _transformers("vision_model."), _transformers("")

_LAYER = re.compile(
  r"(?:visual\.transformer|(?:vision_model\.)?encoder\.layers)\.(\d+)\."
)
_AFTER = re.compile(r"(visual\.post_norm|(vision_model\.)?post_layernorm)\..*")
# Blocks below the last are asked for: whatever is left of a block is the last's.
IGNORE = (
  _AFTER.pattern,
  r"textual\..*|log_scale|visual\.head",
  r"visual\.transformer\.\d+\.(norm[12]|attn\.(to_qkv|proj)|mlp\.[02])\.(weight|bias)",
  r"text_model\..*|(text|visual)_projection\.weight|logit_scale",
  r"(vision_model\.)?embeddings\.position_ids",
  r"(vision_model\.)?encoder\.layers\.\d+\."
  r"(layer_norm[12]|self_attn\.([qkv]|out)_proj|mlp\.fc[12])\.(weight|bias)",
)


def format_of(weights: Weights) -> str:
  """The format by the tensors' names: "native", "diffusers" or "transformers".

  Raises:
    UsageError: they are another network's.
  """
  patches = {
    tensor_name(rows, "patch_embedding/kernel"): form
    for form, rows in UPSTREAM.tables.items()
  }
  form = next((form for name, form in patches.items() if name in weights), None)
  if form is None:
    raise UsageError(
      f"{weights.path} is no CLIP image encoder: it has none of {', '.join(patches)}, "
      f"but {weights.names()[0]}"
    )
  return form


def sizes_of(weights: Weights, rows: Sequence[Row], config: dict) -> Sizes:
  """The fields of `ClipTower`.

  They are read from the tensors' shapes; the number of heads from a config.json, if it
  is of this network.

  Raises:
    UsageError: a tensor is missing that they are read from, or a config.json speaks of
      other layers.
  """
  shape = functools.partial(tensor_shape, weights, rows)
  width, _, patch, _ = shape("patch_embedding/kernel", 4)
  (ffn,) = shape("blocks/mlp/in/bias[0]", 1)
  tokens = shape("pos_embedding", 3 if rows is NATIVE else 2)[-2]
  # Wan2.1 reads hidden_states[-2]: the last block of a full release is unused.
  last = layer_count(weights, _LAYER) - 1
  depth = last if any(map(_AFTER.fullmatch, weights.names())) else last + 1
  config = config.get("vision_config", config)
  # The config of another network beside the weights tells nothing.
  if config.get("dim", config.get("hidden_size")) != width:
    config = {}
  layers = config.get("num_layers", config.get("num_hidden_layers", depth + 1))
  if layers != depth + 1:
    raise UsageError(
      f"{weights.path}: config.json speaks of {layers} layers, the tensors of "
      f"{depth + 1}"
    )
  heads = config.get("num_heads", config.get("num_attention_heads"))
  return {
    "width": width,
    "ffn": ffn,
    "heads": head_count(weights, heads, width, HEAD_WIDTH),
    "depth": depth,
    "patch": patch,
    "grid": math.isqrt(tokens - 1),
  }


def shapes_of(sizes: Sizes) -> Shapes:
  """Shapes by path of the parameters of `ClipTower`, float32."""
  side = sizes["patch"] * sizes["grid"]
  image = jnp.zeros((1, side, side, 3))
  init = lambda key: ClipTower(**sizes).init(key, image)["params"]
  return flat_shapes(jax.eval_shape(init, jax.random.key(0)))


def config_of(sizes: Sizes, form: str) -> dict:
  """The config.json that transformers reads; the original release has none.

  Its last block is not in the export: what Wan2.1 reads is `hidden_states[-2]`.
  """
  if form == "native":
    return {}
  return {
    "architectures": ["CLIPVisionModel"],
    "model_type": "clip_vision_model",
    "hidden_size": sizes["width"],
    "intermediate_size": sizes["ffn"],
    "num_attention_heads": sizes["heads"],
    "num_hidden_layers": sizes["depth"] + 1,
    "image_size": sizes["patch"] * sizes["grid"],
    "patch_size": sizes["patch"],
    "hidden_act": "gelu",
    "layer_norm_eps": EPS,
  }


UPSTREAM = Upstream(
  tables={"native": NATIVE, "diffusers": DIFFUSERS, "transformers": TRANSFORMERS},
  format_of=format_of,
  sizes=sizes_of,
  shapes=shapes_of,
  ignore=IGNORE,
  places=("", "image_encoder"),
  files=("models_clip*", "clip*", "model*"),
  config=config_of,
)
