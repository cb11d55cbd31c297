"""Wan2.1's diffusion transformer: its tensors, by either name, are our video stream's.

  native     the original release, Wan-AI/Wan2.1-*; ComfyUI's single files
  diffusers  Wan-AI/Wan2.1-*-Diffusers, in transformer/

Their norm2 and norm3 have changed places: what the original calls norm3, the affine one
before cross-attention, diffusers calls norm2. All sizes come from the tensors' shapes;
a config.json, where there is one, must agree.
"""

import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ccl_jax.errors import UsageError
from ccl_jax.models.joint import JointDiT
from ccl_jax.models.layers import EPS
from ccl_jax.models.presets import init_params
from ccl_jax.models.stream import CLIP_WIDTH, StreamConfig
from ccl_jax.weights.reader import Weights
from ccl_jax.weights.rules import (
  Row,
  Shapes,
  dense,
  flat_shapes,
  norm,
  patch_linear,
  squeeze,
)
from ccl_jax.weights.upstream import Sizes, Upstream, tensor_name

HEAD_WIDTH = 128
PATCH = (1, 2, 2)

_PATCHES = [
  Row("patch_embedding.weight", "video/patch_embedding/kernel", patch_linear(PATCH)),
  Row("patch_embedding.bias", "video/patch_embedding/bias"),
]
_BLOCK, _OURS = r"blocks.(\d+)", "blocks/video"

NATIVE = [
  *_PATCHES,
  *dense("text_embedding.0", "video/text_embedding/in"),
  *dense("text_embedding.2", "video/text_embedding/out"),
  *dense("time_embedding.0", "video/time_embedding/in"),
  *dense("time_embedding.2", "video/time_embedding/out"),
  *dense("time_projection.1", "video/time_projection"),
  *norm("img_emb.proj.0", "video/image_norm_in"),
  *dense("img_emb.proj.1", "video/image_embedding/in"),
  *dense("img_emb.proj.3", "video/image_embedding/out"),
  *norm("img_emb.proj.4", "video/image_norm_out"),
  Row(f"{_BLOCK}.modulation", rf"{_OURS}/modulation[\1]", squeeze),
  *dense(rf"{_BLOCK}.(self_attn|cross_attn).([qkvo]|[kv]_img)", rf"{_OURS}/\2/\3[\1]"),
  *norm(
    rf"{_BLOCK}.(self_attn|cross_attn).(norm_[qk]|norm_k_img)",
    rf"{_OURS}/\2/\3[\1]",
    bias=False,
  ),
  *norm(f"{_BLOCK}.norm3", rf"{_OURS}/norm3[\1]"),
  *dense(f"{_BLOCK}.ffn.0", rf"{_OURS}/ffn/in[\1]"),
  *dense(f"{_BLOCK}.ffn.2", rf"{_OURS}/ffn/out[\1]"),
  *dense("head.head", "video/head"),
  Row("head.modulation", "video/head_modulation", squeeze),
]


def _diffusers_attention(theirs: str, ours: str) -> list[Row]:
  block, ours = f"{_BLOCK}.{theirs}", f"{_OURS}/{ours}"
  return [
    *dense(rf"{block}.to_([qkv])", rf"{ours}/\2[\1]"),
    *dense(rf"{block}.to_out.0", rf"{ours}/o[\1]"),
    *norm(rf"{block}.norm_([qk])", rf"{ours}/norm_\2[\1]", bias=False),
  ]


_CONDITION = "condition_embedder"
_IMAGE = f"{_CONDITION}.image_embedder"
DIFFUSERS = [
  *_PATCHES,
  *dense(f"{_CONDITION}.text_embedder.linear_1", "video/text_embedding/in"),
  *dense(f"{_CONDITION}.text_embedder.linear_2", "video/text_embedding/out"),
  *dense(f"{_CONDITION}.time_embedder.linear_1", "video/time_embedding/in"),
  *dense(f"{_CONDITION}.time_embedder.linear_2", "video/time_embedding/out"),
  *dense(f"{_CONDITION}.time_proj", "video/time_projection"),
  *norm(f"{_IMAGE}.norm1", "video/image_norm_in"),
  *dense(f"{_IMAGE}.ff.net.0.proj", "video/image_embedding/in"),
  *dense(f"{_IMAGE}.ff.net.2", "video/image_embedding/out"),
  *norm(f"{_IMAGE}.norm2", "video/image_norm_out"),
  Row(f"{_BLOCK}.scale_shift_table", rf"{_OURS}/modulation[\1]", squeeze),
  *_diffusers_attention("attn1", "self_attn"),
  *_diffusers_attention("attn2", "cross_attn"),
  *dense(rf"{_BLOCK}.attn2.add_([kv])_proj", rf"{_OURS}/cross_attn/\2_img[\1]"),
  *norm(
    f"{_BLOCK}.attn2.norm_added_k", rf"{_OURS}/cross_attn/norm_k_img[\1]", bias=False
  ),
  *norm(f"{_BLOCK}.norm2", rf"{_OURS}/norm3[\1]"),
  *dense(f"{_BLOCK}.ffn.net.0.proj", rf"{_OURS}/ffn/in[\1]"),
  *dense(f"{_BLOCK}.ffn.net.2", rf"{_OURS}/ffn/out[\1]"),
  *dense("proj_out", "video/head"),
  Row("scale_shift_table", "video/head_modulation", squeeze),
]

# What else a user may take for Wan2.1: a tensor that only it has, and its name. The
# first match speaks.
OTHERS = [
  (r"vace_.*", "Wan2.1-VACE"),
  (
    r"(.*\.)?(emb_pos|image_embedder\.pos_embed)",
    "Wan2.1-FLF2V (first and last frame)",
  ),
  (r"(casual_audio_encoder|audio_injector)\..*", "Wan2.2-S2V (speech to video)"),
  (r"(motion_encoder|face_encoder|face_adapter)\..*", "Wan2.2-Animate"),
  (r"(control_adapter|ref_conv)\..*", "Wan-Fun (with control inputs)"),
  (r".*(lora_[AB]|lora_up|lora_down)\..*", "a LoRA, not a whole model"),
  (r"(patchify_proj|adaln_single|audio_adaln_single)\..*", "LTX-Video"),
  (r"(proj_in|time_embed)\..*|transformer_blocks\..*", "LTX-Video or another model"),
  (r"(double_blocks|single_blocks)\..*", "HunyuanVideo or FLUX"),
  (r"visual\..*|vision_model\..*", "a CLIP image encoder (use: convert clip)"),
  (
    r"token_embedding\.weight|shared\.weight",
    "a UMT5 text encoder (use: convert umt5)",
  ),
  (r"(encoder|decoder)\.(conv1|conv_in)\..*", "a video VAE (use: convert wan-vae)"),
]
CHANNELS = {16: "Wan2.1 T2V", 36: "Wan2.1 I2V"}


def format_of(weights: Weights) -> str:
  """Which of the two names the tensors have.

  Raises:
    UsageError: they are another network's.
  """
  names = weights.names()
  for pattern, model in OTHERS:
    found = next((n for n in names if re.fullmatch(pattern, n)), None)
    if found:
      raise UsageError(
        f"{weights.path} is {model}, by its tensor {found}; expected Wan2.1 T2V or I2V"
      )
  if "patch_embedding.weight" not in weights:
    raise UsageError(
      f"{weights.path} is no Wan2.1 model: it has no patch_embedding.weight, but "
      f"{names[0]}; expected Wan2.1 T2V or I2V"
    )
  channels = weights.shape("patch_embedding.weight")[1]
  if channels == 48:
    raise UsageError(
      f"{weights.path} is Wan2.2-TI2V-5B, by the 48 channels of its patch_embedding: "
      "it needs another VAE; expected Wan2.1 T2V (16) or I2V (36)"
    )
  if channels not in CHANNELS:
    raise UsageError(
      f"{weights.path}: patch_embedding.weight takes {channels} channels; expected 16 "
      "(T2V) or 36 (I2V)"
    )
  return "diffusers" if any(n.startswith(_CONDITION) for n in names) else "native"


def sizes_of(weights: Weights, rows: Sequence[Row], config: dict) -> Sizes:
  """The sizes of the stream, its depth, and the width of its text embeddings.

  Raises:
    UsageError: a size no Wan2.1 model has, or another one than in config.json.
  """

  def shape(target):
    name = tensor_name(rows, target)
    if name not in weights:
      raise UsageError(
        f"{weights.path}: no tensor {name}, which every Wan2.1 model has"
      )
    return weights.shape(name)

  (width,) = shape("video/patch_embedding/bias")
  if width % HEAD_WIDTH:
    raise UsageError(
      f"{weights.path}: patch_embedding.bias has {width} channels; expected a multiple "
      f"of {HEAD_WIDTH}, the width of a head"
    )
  layers = [int(m[1]) for n in weights.names() if (m := re.match(_BLOCK, n))]
  sizes = {
    "width": width,
    "ffn": shape("blocks/video/ffn/in/bias[0]")[0],
    "heads": width // HEAD_WIDTH,
    "in_channels": shape("video/patch_embedding/kernel")[1],
    "out_channels": shape("video/head/bias")[0] // (PATCH[0] * PATCH[1] * PATCH[2]),
    "image_tokens": tensor_name(rows, "video/image_norm_in/bias") in weights,
    "frequencies": shape("video/time_embedding/in/kernel")[1],
    "depth": 1 + max(layers),
    "text_dim": shape("video/text_embedding/in/kernel")[1],
  }
  _agree(weights, sizes, config)
  return sizes


def _agree(weights: Weights, sizes: Sizes, config: dict) -> None:
  expected = {
    ("dim",): sizes["width"],
    ("ffn_dim",): sizes["ffn"],
    ("num_heads", "num_attention_heads"): sizes["heads"],
    ("attention_head_dim",): HEAD_WIDTH,
    ("in_dim", "in_channels"): sizes["in_channels"],
    ("out_dim", "out_channels"): sizes["out_channels"],
    ("num_layers",): sizes["depth"],
    ("freq_dim",): sizes["frequencies"],
    ("text_dim",): sizes["text_dim"],
    ("eps",): EPS,
    ("cross_attn_norm",): True,
  }
  for names, value in expected.items():
    for name in names:
      if config.get(name, value) != value:
        raise UsageError(
          f"{weights.path}: config.json says {name}={config[name]}, expected {value}, "
          "which the tensors have"
        )


def model_of(sizes: Sizes, dtype=jnp.float32, remat: str = "none") -> JointDiT:
  """The network: a model of one stream."""
  own = {k: v for k, v in sizes.items() if k not in ("depth", "text_dim")}
  return JointDiT(
    (("video", StreamConfig(**own)),), sizes["depth"], dtype=dtype, remat=remat
  )


def shapes_of(sizes: Sizes) -> Shapes:
  init = lambda key: init_params(model_of(sizes), key, (8, sizes["text_dim"]))
  return flat_shapes(jax.eval_shape(init, jax.random.key(0)))


def config_of(sizes: Sizes, form: str) -> dict:
  """The config.json that the original code, or diffusers, reads."""
  image = sizes["image_tokens"]
  if form == "native":
    return {
      "_class_name": "WanModel",
      "model_type": "i2v" if image else "t2v",
      "dim": sizes["width"],
      "ffn_dim": sizes["ffn"],
      "freq_dim": sizes["frequencies"],
      "in_dim": sizes["in_channels"],
      "out_dim": sizes["out_channels"],
      "num_heads": sizes["heads"],
      "num_layers": sizes["depth"],
      "text_dim": sizes["text_dim"],
      "text_len": 512,
      "eps": EPS,
    }
  return {
    "_class_name": "WanTransformer3DModel",
    "added_kv_proj_dim": sizes["width"] if image else None,
    "attention_head_dim": HEAD_WIDTH,
    "cross_attn_norm": True,
    "eps": EPS,
    "ffn_dim": sizes["ffn"],
    "freq_dim": sizes["frequencies"],
    "image_dim": CLIP_WIDTH if image else None,
    "in_channels": sizes["in_channels"],
    "num_attention_heads": sizes["heads"],
    "num_layers": sizes["depth"],
    "out_channels": sizes["out_channels"],
    "patch_size": list(PATCH),
    "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 1024,
    "text_dim": sizes["text_dim"],
  }


UPSTREAM = Upstream(
  tables={"native": NATIVE, "diffusers": DIFFUSERS},
  format_of=format_of,
  sizes=sizes_of,
  shapes=shapes_of,
  # A tensor that some exports of diffusers carry and nothing uses.
  ignore=(r"blocks\.\d+\.attn2\.norm_added_q\.weight",),
  places=("", "transformer"),
  files=("diffusion_pytorch_model*", "*"),
  stem="diffusion_pytorch_model",
  config=config_of,
)
