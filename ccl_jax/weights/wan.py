"""Wan's diffusion transformer: how it is told from others, its sizes, its model.

Wan2.1's T2V, I2V and FLF2V, and Wan2.2's TI2V-5B, which is the same network for latents
of another VAE, with a timestep a token where a first frame is given.

All sizes come from the tensors' shapes; a config.json, where there is one, must agree.
The names of the tensors are in weights/wan_names.py.
"""

import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from ccl_jax.checkpoints.usage import stated
from ccl_jax.errors import UsageError
from ccl_jax.models.joint import JointDiT
from ccl_jax.models.layers import EPS
from ccl_jax.models.presets import parameter_shapes
from ccl_jax.models.stream import CLIP_TOKENS, CLIP_WIDTH, StreamConfig
from ccl_jax.ops.patchify import Patch
from ccl_jax.weights.reader import Weights
from ccl_jax.weights.rules import Row, Shapes, flat_shapes
from ccl_jax.weights.upstream import (
  Sizes,
  Upstream,
  layer_count,
  tensor_name,
  tensor_shape,
)
from ccl_jax.weights.wan_names import DIFFUSERS, NATIVE, PATCH
from ccl_jax.weights.wan_others import EXPECTED, is_ti2v, other_names, other_tensors

HEAD_WIDTH = 128
WRAPPED = ("model.", "net.")

# Channels that go in and come out.
CHANNELS = {(16, 16): "Wan2.1 T2V", (36, 16): "Wan2.1 I2V", (48, 48): "Wan2.2 TI2V-5B"}
# What the releases were made for, by channels that come out: clips, and the area in
# pixels that a clip keeps where it takes its aspect ratio from an image.
CLIPS = {
  16: {"frames": 81, "height": 480, "width": 832, "fps": 16.0},
  48: {"frames": 121, "height": 704, "width": 1280, "fps": 24.0, "stride": 16},
}
AREAS = {48: 704 * 1280}
# FLF2V was released for 720p alone, with a shift of its own.
LAST_CLIP, LAST_SHIFT = CLIPS[16] | {"height": 720, "width": 1280}, 16.0
# What the releases were tuned with: vivid tones, overexposed, static, blurred details,
# subtitles, ... walking backwards; before it, of I2V: a shaking camera; before that, of
# FLF2V: a cut.
NEGATIVE = (
  "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，"
  "低质量，JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，"
  "毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)
NEGATIVE_IMAGE = "镜头晃动，"
NEGATIVE_LAST = "镜头切换，"


def as_released(weights: Weights) -> Weights:
  """A checkpoint as Wan's own programs write it: step-distilled ones were saved from
  within another module (CausVid: "model.", rCM: "net."), and rCM's patch embedding is a
  matrix, of the same numbers in the same order.
  """
  for prefix in WRAPPED:
    if f"{prefix}patch_embedding.weight" in weights:
      weights = weights.renamed(lambda name, p=prefix: name.removeprefix(p))
  name, patch = "patch_embedding.weight", math.prod(PATCH)
  if name in weights and weights.place(name).is_plain:
    shape = weights.shape(name)
    if len(shape) == 2 and shape[1] % patch == 0:
      weights = weights.reshaped(name, (shape[0], shape[1] // patch, *PATCH))
  return weights


def format_of(weights: Weights) -> str:
  """The format by the tensors' names: "native" or "diffusers".

  Raises:
    UsageError: they are another network's.
  """
  names = weights.names()
  if other := other_tensors(weights):
    raise UsageError(f"{weights.path} is {other}")
  if "patch_embedding.weight" not in weights:
    raise UsageError(
      f"{weights.path} is no Wan2.1 model: it has no patch_embedding.weight, but "
      f"{names[0]}; {EXPECTED}"
    )
  shape = weights.shape("patch_embedding.weight")
  channels = shape[1] if len(shape) == 5 else 0
  if channels not in {into for into, _ in CHANNELS}:
    raise UsageError(
      f"{weights.path}: patch_embedding.weight is {shape}; expected (dim, channels, 1, "
      "2, 2) with 16 channels (T2V), 36 (I2V) or 48 (TI2V)"
    )
  return (
    "diffusers" if any(n.startswith("condition_embedder") for n in names) else "native"
  )


def sizes_of(weights: Weights, rows: Sequence[Row], config: dict) -> Sizes:
  """The sizes of the stream, its depth, and the width of its text embeddings.

  Raises:
    UsageError: a size no Wan2.1 model has, or another one than in config.json.
  """
  positions = tensor_name(rows, "video/image_positions")
  sizes = stream_sizes(weights, rows, "video/patch_embedding", PATCH) | {
    "image_tokens": tensor_name(rows, "video/image_norm_in/bias") in weights
  }
  if positions in weights:
    _, tokens, _ = tensor_shape(weights, rows, "video/image_positions", 3)
    if tokens != 2 * CLIP_TOKENS:
      raise UsageError(
        f"{weights.path}: {positions} is for {tokens} image tokens; expected "
        f"{2 * CLIP_TOKENS}, those of a first and a last frame"
      )
    sizes["image_positions"] = tokens
  channels = sizes["in_channels"], sizes["out_channels"]
  if channels not in CHANNELS:
    raise UsageError(
      f"{weights.path} takes {channels[0]} channels and gives {channels[1]}, as no "
      f"model that is known (Wan-Fun's with a control video do); {EXPECTED}"
    )
  agree(weights, sizes, config)
  return sizes


def stream_sizes(
  weights: Weights, rows: Sequence[Row], patches: str, patch: Patch
) -> Sizes:
  """What tensors' shapes tell of a stream of Wan's blocks: its sizes, its depth, and
  the width of its text embeddings.

  Args:
    weights, rows: the checkpoint, and the table of its format.
    patches: our parameter of the stream that patches go through.
    patch: (frames, rows, columns) of a token.

  Raises:
    UsageError: a tensor that tells a size is missing, or no Wan model has that size.
  """
  shape, own = functools.partial(tensor_shape, weights, rows), patches.split("/")[0]
  (width,) = shape(f"{patches}/bias", 1)
  if width % HEAD_WIDTH:
    raise UsageError(
      f"{weights.path}: {tensor_name(rows, f'{patches}/bias')} has {width} channels; "
      f"expected a multiple of {HEAD_WIDTH}, the width of a head"
    )
  inner = f"blocks/{own}/ffn/in/bias"
  block = re.escape(tensor_name(rows, f"{inner}[0]").partition("0")[0])
  return {
    "width": width,
    "ffn": shape(f"{inner}[0]", 1)[0],
    "heads": width // HEAD_WIDTH,
    "in_channels": shape(f"{patches}/kernel", 3 if own == "audio" else 5)[1],
    "out_channels": shape(f"{own}/head/bias", 1)[0] // math.prod(patch),
    "frequencies": shape(f"{own}/time_embedding/in/kernel", 2)[1],
    "depth": layer_count(weights, rf"{block}(\d+)"),
    "text_dim": shape(f"{own}/text_embedding/in/kernel", 2)[1],
  }


def agree(
  weights: Weights, sizes: Sizes, config: dict, section: str | None = None
) -> None:
  """Compares the sizes of a stream with those that a config.json states.

  Args:
    section: of the config.json, for the error.

  Raises:
    UsageError: they are others.
  """
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
  place = f"{section}." if section else ""
  for names, value in expected.items():
    for name in names:
      if config.get(name, value) != value:
        raise UsageError(
          f"{weights.path}: config.json says {place}{name}={config[name]}, expected "
          f"{value}, which the tensors have"
        )


def model_of(sizes: Sizes, dtype=jnp.float32, remat: str = "none") -> JointDiT:
  """The network of these sizes: a `JointDiT` of the video stream alone."""
  own = {k: v for k, v in sizes.items() if k not in ("depth", "text_dim")}
  return JointDiT(
    (("video", StreamConfig(**own)),), sizes["depth"], dtype=dtype, remat=remat
  )


def sizes_of_model(model: JointDiT, text_dim: int) -> Sizes:
  """The sizes of a network's video stream, as `sizes_of` reads them of Wan's.

  Args:
    model: the network, which may differ from Wan's in what is no size.
    text_dim: the width of its text embeddings.
  """
  names = ("width", "ffn", "heads", "in_channels", "out_channels", "frequencies")
  stream = dict(model.streams)["video"]
  sizes = {name: getattr(stream, name) for name in (*names, "image_tokens")}
  if stream.image_positions:
    sizes["image_positions"] = stream.image_positions
  return sizes | {"depth": model.depth, "text_dim": text_dim}


def negative_prompt(sizes: Sizes) -> str:
  """The negative prompt that the release was tuned with."""
  last = NEGATIVE_LAST if takes_last(sizes) else ""
  return last + NEGATIVE_IMAGE * sizes["image_tokens"] + NEGATIVE


def takes_last(sizes: Sizes) -> bool:
  """Whether it makes videos between a first and a last frame (FLF2V)."""
  return bool(sizes.get("image_positions"))


def usage_of(about: Mapping[str, Any]) -> dict[str, Any]:
  """How parameters are sampled where nobody says otherwise: what they state, beside
  what a conversion of Wan need not state, as its sizes tell the release.

  Args:
    about: see `checkpoints.find.Parameters`.

  Returns:
    As `checkpoints.usage` has it, always with a `clip`.
  """
  usual: dict[str, Any] = {"clip": dict(CLIPS[16])}
  if about.get("kind") == "wan-dit":
    channels = about["sizes"].get("out_channels", 16)
    usual = {
      "clip": dict(CLIPS[channels]),
      "negative": {"video": negative_prompt(about["sizes"])},
    }
    if takes_last(about["sizes"]):
      usual |= {"clip": dict(LAST_CLIP), "objective": {"shift": LAST_SHIFT}}
    if channels in AREAS:
      usual |= {"area": AREAS[channels], "area_rule": "within", "fit": "cover"}
  return usual | {k: v for k, v in stated(about).items() if v}


def shapes_of(sizes: Sizes) -> Shapes:
  """Shapes by path of the parameters of the model that `model_of` gives, in float32."""
  return flat_shapes(parameter_shapes(model_of(sizes), (8, sizes["text_dim"])))


def config_of(sizes: Sizes, form: str) -> dict:
  """The config.json that the original code, or diffusers, reads."""
  image, last = sizes["image_tokens"], takes_last(sizes)
  if form == "native":
    return {
      "_class_name": "WanModel",
      "model_type": "flf2v"
      if last
      else "i2v"
      if image
      else "ti2v"
      if sizes["out_channels"] == 48
      else "t2v",
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
    "pos_embed_seq_len": sizes["image_positions"] if last else None,
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
  view=as_released,
  config=config_of,
  other=other_names,
  certain=is_ti2v,
)
