"""ImageBind, by which the IB-score is measured: its towers for vision and sound.

  native  imagebind_huge.pth, of the release

The published weights are under CC BY-NC-SA 4.0, not this project's licence: no
commercial use, and what is converted from them stays under it.

All sizes come from the tensors' shapes; the number of heads from a config.json beside
them ({"vision": {"dim", "heads"}, "audio": {...}}), or else from the released head
widths. The towers for text, depth, thermal pictures and motion are left unread.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ccl_jax.errors import UsageError
from ccl_jax.models.scorers.imagebind import BANDS, MEL_FRAMES, PATCH, TOWERS, ImageBind
from ccl_jax.weights.reader import Weights
from ccl_jax.weights.rules import (
  Row,
  Shapes,
  conv,
  dense,
  flat_shapes,
  linear,
  norm,
  patch_linear,
  reshape,
  squeeze,
)
from ccl_jax.weights.upstream import (
  LICENCES,
  Sizes,
  Upstream,
  head_count,
  layer_count,
  tensor_name,
)

HEAD_WIDTHS = {"vision": 80, "audio": 64}  # tensors do not tell them

_token = reshape((1, 1, -1), (-1,))


def _tower(name: str) -> list[Row]:
  """The rows that both towers have."""
  before, ours = f"modality_preprocessors.{name}", f"{name}/tower"
  block, blocks = rf"modality_trunks.{name}.blocks.(\d+)", f"{ours}/blocks"
  head = f"modality_heads.{name}"
  return [
    Row(f"{before}.cls_token", f"{ours}/class_token", _token),
    Row(f"{before}.pos_embedding_helper.pos_embed", f"{ours}/place_embedding", squeeze),
    *norm(f"{block}.norm_([12])", rf"{blocks}/norm\2[\1]"),
    # nn.MultiheadAttention keeps query, key and value in one matrix.
    Row(f"{block}.attn.in_proj_weight", rf"{blocks}/attn/qkv/kernel[\1]", linear),
    Row(f"{block}.attn.in_proj_bias", rf"{blocks}/attn/qkv/bias[\1]"),
    *dense(f"{block}.attn.out_proj", rf"{blocks}/attn/proj[\1]"),
    *dense(f"{block}.mlp.fc1", rf"{blocks}/mlp/in[\1]"),
    *dense(f"{block}.mlp.fc2", rf"{blocks}/mlp/out[\1]"),
    *norm(f"{head}.0", f"{ours}/norm"),
    *dense(f"{head}.2", f"{ours}/head", bias=False),
  ]


_STEM = {
  "vision": "modality_preprocessors.vision.rgbt_stem.proj.1.weight",
  "audio": "modality_preprocessors.audio.rgbt_stem.proj.weight",
}
_SINK = r"modality_trunks.audio.blocks.(\d+).attn.bias_"
NATIVE = [
  *_tower("vision"),
  Row(_STEM["vision"], "vision/patch/kernel", patch_linear(PATCH)),
  *norm("modality_trunks.vision.pre_transformer_layer.0", "vision/tower/first_norm"),
  *_tower("audio"),
  Row(_STEM["audio"], "audio/patch/kernel", conv),
  *norm("modality_preprocessors.audio.rgbt_stem.norm_layer", "audio/patch_norm"),
  # add_bias_kv: one learned key and value that every query may attend to.
  Row(f"{_SINK}k", r"audio/tower/blocks/attn/sink_key[\1]", _token),
  Row(f"{_SINK}v", r"audio/tower/blocks/attn/sink_value[\1]", _token),
  Row("modality_postprocessors.audio.1.log_logit_scale", "audio/log_scale"),
]


def format_of(weights: Weights) -> str:
  """Checks that the tensors are ImageBind's, and returns "native", the one format.

  Raises:
    UsageError: they are another network's.
  """
  if _STEM["vision"] in weights:
    return "native"
  raise UsageError(
    f"{weights.path} is no ImageBind: it has no {_STEM['vision']}, but "
    f"{weights.names()[0]}"
  )


def sizes_of(weights: Weights, rows: Sequence[Row], config: dict) -> Sizes:
  """The sizes of both towers, and `grid`, the rows of patches of a picture.

  Raises:
    UsageError: a tensor is missing that they are read from.
  """

  def shape(target):
    name = tensor_name(rows, target)
    if name not in weights:
      raise UsageError(f"{weights.path}: no tensor {name}, which every ImageBind has")
    return weights.shape(name)

  def tower(name):
    out, width = shape(f"{name}/tower/head/kernel")
    block = rf"modality_trunks\.{name}\.blocks\.(\d+)\."
    own = config.get(name, {})
    # A config of another network, left in the folder, is told by its width.
    heads = own.get("heads") if own.get("dim") == width else None
    return {
      "width": width,
      "heads": head_count(weights, heads, width, HEAD_WIDTHS[name]),
      "hidden": shape(f"{name}/tower/blocks/mlp/in/bias[0]")[0],
      "depth": layer_count(weights, block),
      "out": out,
    }

  tokens = shape("vision/tower/place_embedding")[1]
  # The square of patches has one place more, that of the class token.
  return {name: tower(name) for name in TOWERS} | {"grid": round((tokens - 1) ** 0.5)}


def shapes_of(sizes: Sizes) -> Shapes:
  """Shapes by path of the parameters of both towers, float32."""
  frames, height, width = np.multiply(PATCH, (1, sizes["grid"], sizes["grid"]))
  inputs = {"vision": (frames, height, width, 3), "audio": (BANDS, MEL_FRAMES)}
  params = {}
  for name, tower in TOWERS.items():
    x = jax.ShapeDtypeStruct((1, *inputs[name]), jnp.float32)
    init = jax.eval_shape(tower(**sizes[name]).init, jax.random.key(0), x)
    params[name] = init["params"]
  return flat_shapes(params)


def config_of(sizes: Sizes, form: str) -> dict:
  """The heads of both towers, which tensors do not tell, and the licence."""
  heads = lambda tower: {"dim": tower["width"], "heads": tower["heads"]}
  return {name: heads(sizes[name]) for name in TOWERS} | {
    "licence": LICENCES["imagebind"]
  }


UPSTREAM = Upstream(
  tables={"native": NATIVE},
  format_of=format_of,
  sizes=sizes_of,
  shapes=shapes_of,
  ignore=(
    r"modality_(preprocessors|trunks|heads|postprocessors)"
    r"\.(text|depth|thermal|imu)\..*",
  ),
  files=("imagebind*", "model*"),
  stem="imagebind",
  config=config_of,
  network=lambda params, sizes, dtype: ImageBind(
    params, tuple(sizes[name]["heads"] for name in TOWERS), dtype
  ),
)
