"""Synchformer, by which DeSync is measured (its code: MIT, parts of it Apache-2.0).

  native  synchformer_state_dict.pth of MMAudio's release, or the authors' own
          24-01-04T16-39-21.pt

All sizes come from the tensors' shapes, the number of heads from the released head
widths. The two-dimensional patch embedding is never used, and is left unread.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ccl_jax.errors import UsageError
from ccl_jax.models.scorers.synchformer import SEGMENTS, Synchformer, SynchformerNet
from ccl_jax.models.scorers.synchformer_towers import BANDS, MEL_FRAMES, PATCH
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
from ccl_jax.weights.upstream import Sizes, Upstream, layer_count, tensor_name

HEAD_WIDTH, JOINT_HEAD_WIDTH = 64, 96  # tensors do not tell them

_token = reshape((1, 1, -1), (-1,))
_VIDEO, _AUDIO = "vfeat_extractor", "afeat_extractor.ast"
_BLOCK, _LAYER = rf"{_VIDEO}.blocks.(\d+)", rf"{_AUDIO}.encoder.layer.(\d+)"
_HEAD = r"transformer.blocks.(\d+)"
_PATCHES = f"{_AUDIO}.embeddings.patch_embeddings.projection"


def _pool(source: str, target: str) -> list[Row]:
  """A row for a set, in either tower."""
  block = f"{target}/block"
  return [
    Row(f"{source}.cls_token", f"{target}/class_token", _token),
    # nn.MultiheadAttention keeps query, key and value in one matrix.
    Row(f"{source}.self_attn.in_proj_weight", f"{block}/attn/qkv/kernel", linear),
    Row(f"{source}.self_attn.in_proj_bias", f"{block}/attn/qkv/bias"),
    *dense(f"{source}.self_attn.out_proj", f"{block}/attn/proj"),
    *dense(f"{source}.linear1", f"{block}/mlp/in"),
    *dense(f"{source}.linear2", f"{block}/mlp/out"),
    *norm(f"{source}.norm1", f"{block}/norm1"),
    *norm(f"{source}.norm2", f"{block}/norm2"),
  ]


NATIVE = [
  Row(f"{_VIDEO}.cls_token", "video/class_token", _token),
  Row(f"{_VIDEO}.pos_embed", "video/place_embedding", squeeze),
  Row(f"{_VIDEO}.temp_embed", "video/time_embedding", squeeze),
  Row(
    f"{_VIDEO}.patch_embed_3d.proj.weight", "video/patch/kernel", patch_linear(PATCH)
  ),
  Row(f"{_VIDEO}.patch_embed_3d.proj.bias", "video/patch/bias"),
  *norm(f"{_BLOCK}.(norm[123])", r"video/blocks/\2[\1]"),
  *dense(f"{_BLOCK}.timeattn.(qkv|proj)", r"video/blocks/time/\2[\1]"),
  *dense(f"{_BLOCK}.attn.(qkv|proj)", r"video/blocks/space/\2[\1]"),
  *dense(f"{_BLOCK}.mlp.fc1", r"video/blocks/mlp/in[\1]"),
  *dense(f"{_BLOCK}.mlp.fc2", r"video/blocks/mlp/out[\1]"),
  *norm(f"{_VIDEO}.norm", "video/norm"),
  *_pool(f"{_VIDEO}.spatial_attn_agg", "video/pool"),
  Row(f"{_AUDIO}.embeddings.cls_token", "audio/class_token", _token),
  Row(f"{_AUDIO}.embeddings.distillation_token", "audio/distillation_token", _token),
  Row(f"{_AUDIO}.embeddings.position_embeddings", "audio/place_embedding", squeeze),
  Row(f"{_PATCHES}.weight", "audio/patch/kernel", conv),
  Row(f"{_PATCHES}.bias", "audio/patch/bias"),
  *norm(f"{_LAYER}.layernorm_before", r"audio/blocks/norm1[\1]"),
  *norm(f"{_LAYER}.layernorm_after", r"audio/blocks/norm2[\1]"),
  *dense(
    f"{_LAYER}.attention.attention.(query|key|value)", r"audio/blocks/attn/\2[\1]"
  ),
  *dense(f"{_LAYER}.attention.output.dense", r"audio/blocks/attn/proj[\1]"),
  *dense(f"{_LAYER}.intermediate.dense", r"audio/blocks/mlp/in[\1]"),
  *dense(f"{_LAYER}.output.dense", r"audio/blocks/mlp/out[\1]"),
  *norm(f"{_AUDIO}.layernorm", "audio/norm"),
  *_pool("afeat_extractor.freq_attn_agg", "audio/pool"),
  *dense("vproj", "joint/video"),
  *dense("aproj", "joint/audio"),
  Row("transformer.OFF_tok", "joint/off_token", _token),
  Row("transformer.MOD_tok", "joint/mod_token", _token),
  Row("transformer.pos_emb_cfg.pos_emb", "joint/place_embedding", squeeze),
  *norm("transformer.vis_in_lnorm", "joint/video_norm"),
  *norm("transformer.aud_in_lnorm", "joint/audio_norm"),
  *norm(f"{_HEAD}.ln([12])", r"joint/blocks/norm\2[\1]"),
  *dense(f"{_HEAD}.attn.(query|key|value|proj)", r"joint/blocks/attn/\2[\1]"),
  *dense(f"{_HEAD}.mlp.0", r"joint/blocks/mlp/in[\1]"),
  *dense(f"{_HEAD}.mlp.2", r"joint/blocks/mlp/out[\1]"),
  *norm("transformer.ln_f", "joint/norm"),
  *dense("transformer.off_head", "joint/logits"),
]


def format_of(weights: Weights) -> str:
  """Checks that the tensors are Synchformer's, and returns "native", the one format.

  Raises:
    UsageError: they are another network's.
  """
  if "transformer.OFF_tok" in weights:
    return "native"
  raise UsageError(
    f"{weights.path} is no Synchformer: it has no transformer.OFF_tok, but "
    f"{weights.names()[0]}"
  )


def sizes_of(weights: Weights, rows: Sequence[Row], config: dict) -> Sizes:
  """The fields of `SynchformerNet`, and the patches of a segment.

  These are `times`, and a square of `grid` by `grid`.

  Raises:
    UsageError: a tensor is missing that they are read from.
  """

  def shape(target):
    name = tensor_name(rows, target)
    if name not in weights:
      raise UsageError(f"{weights.path}: no tensor {name}, which every Synchformer has")
    return weights.shape(name)

  width = shape("video/patch/bias")[0]
  return {
    "width": width,
    "hidden": shape("video/blocks/mlp/in/bias[0]")[0],
    # No tensor tells the heads: their width is the published one.
    "heads": max(width // HEAD_WIDTH, 1),
    "depths": [layer_count(weights, b) for b in (_BLOCK, _LAYER, _HEAD)],
    "joint_hidden": shape("joint/blocks/mlp/in/bias[0]")[0],
    "joint_heads": max(width // JOINT_HEAD_WIDTH, 1),
    "classes": shape("joint/logits/bias")[0],
    "times": shape("video/time_embedding")[1],
    # The square of patches has one place more, that of the class token.
    "grid": round((shape("video/place_embedding")[1] - 1) ** 0.5),
  }


def shapes_of(sizes: Sizes) -> Shapes:
  """Shapes by path of the parameters of `SynchformerNet`, float32."""
  sizes = dict(sizes)
  # Not fields of the network: they follow from its input's size.
  times, grid = sizes.pop("times"), sizes.pop("grid")
  frames, height, width = np.multiply(PATCH, (times, grid, grid))
  net = SynchformerNet(**sizes | {"depths": tuple(sizes["depths"])})
  inputs = (
    jax.ShapeDtypeStruct((1, SEGMENTS, frames, height, width, 3), jnp.float32),
    jax.ShapeDtypeStruct((1, SEGMENTS, BANDS, MEL_FRAMES), jnp.float32),
  )
  init = jax.eval_shape(net.init, jax.random.key(0), *inputs)
  return flat_shapes(init["params"])


UPSTREAM = Upstream(
  tables={"native": NATIVE},
  format_of=format_of,
  sizes=sizes_of,
  shapes=shapes_of,
  ignore=(r"vfeat_extractor\.patch_embed\..*",),
  files=("synchformer*", "24-01-04T16-39-21*", "model*"),
  stem="synchformer_state_dict",
  network=lambda params, sizes, dtype: Synchformer(
    params, sizes["heads"], sizes["joint_heads"], dtype
  ),
)
