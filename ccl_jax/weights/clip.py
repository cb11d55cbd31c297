"""CLIP's vision tower, whose tokens Wan2.1's I2V models read.

  native        models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth; its text half
                and what comes after the last block but one are left unread
  transformers  image_encoder/ of diffusers' repositories; q, k and v are three tensors
                there, which `fused` shows as one
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
TRANSFORMERS = [
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
