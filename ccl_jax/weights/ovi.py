"""Ovi's transformer: two towers of Wan's blocks, and the fusion between them.

One format, that of the release: every name begins with its tower, video_model or
audio_model; the rest is Wan2.1's, but for

  blocks.N.modulation.modulation     one level more
  patch_embedding.{0,2}              of audio: convolutions over time
  blocks.N.cross_attn.*_fusion       keys and values of the other tower

All sizes come from the tensors' shapes. What no tensor tells is the rate of the audio's
positions: it is that of config.json, where there is one, or else the release's. Which
release a file is, its name tells (weights/ovi_release.py).
"""

import math
import pathlib
import re
from collections.abc import Sequence

import jax.numpy as jnp

from ccl_jax.axes import STREAMS, other
from ccl_jax.errors import UsageError
from ccl_jax.models.joint import JointDiT
from ccl_jax.models.layers import EPS
from ccl_jax.models.presets import FUSION, parameter_shapes
from ccl_jax.models.stream import StreamConfig
from ccl_jax.weights.ovi_release import (
  EDITIONS,
  FIRST_EDITION,
  defaults_of,
  edition_of,
  stem_of,
)
from ccl_jax.weights.reader import Weights
from ccl_jax.weights.rules import (
  Row,
  Shapes,
  conv,
  dense,
  flat_shapes,
  norm,
  patch_linear,
)
from ccl_jax.weights.upstream import Sizes, Upstream
from ccl_jax.weights.wan import agree, stream_sizes
from ccl_jax.weights.wan_names import PATCH, native

RATE = 0.19676  # of the release's audio positions: about 31 latent frames to 157 tokens
POINT = (1, 1, 1)  # the audio's patch
# Of a tower; depth and text are of both.
SIZE_NAMES = ("width", "ffn", "heads", "in_channels", "out_channels", "frequencies")
# Our parameter that patches of a stream go through, and the shape of those patches.
FIRST = {
  "video": ("video/patch_embedding", PATCH),
  "audio": ("audio/patch_embedding/in", POINT),
}


def _rows(stream: str) -> list[Row]:
  tower = f"{stream}_model."
  if stream == "video":
    patches = dense(
      f"{tower}patch_embedding", "video/patch_embedding", kernel=patch_linear(PATCH)
    )
  else:
    theirs, ours = f"{tower}patch_embedding", "audio/patch_embedding"
    patches = [
      *dense(f"{theirs}.0", f"{ours}/in", kernel=conv),
      Row(f"{theirs}.2.(w[123]).weight", rf"{ours}/\1/kernel", conv),
    ]
  fusion = rf"{tower}blocks.(\d+).cross_attn"
  ours = f"blocks/{other(stream)}_to_{stream}"
  return [
    *native(stream, tower, patches, modulation="modulation.modulation"),
    *dense(rf"{fusion}.([kv])_fusion", rf"{ours}/\2[\1]"),
    *norm(f"{fusion}.norm_k_fusion", rf"{ours}/norm_k[\1]", bias=False),
    *norm(f"{fusion}.pre_attn_norm_fusion", rf"{ours}/ln_kv[\1]"),
  ]


NATIVE = [*_rows("video"), *_rows("audio")]


def format_of(weights: Weights) -> str:
  """The format, which is always "native".

  Raises:
    UsageError: the tensors are not those of two towers with fusion.
  """
  names = weights.names()
  towers = {n.partition(".")[0] for n in names}
  missing = [s for s in STREAMS if f"{s}_model" not in towers]
  if missing:
    hint = (
      "it looks like one tower alone (Wan: use convert wan-dit)"
      if any(n.startswith("blocks.") for n in names)
      else f"it has {names[0]}"
    )
    raise UsageError(
      f"{weights.path} is no Ovi model: no tensor begins with {missing[0]}_model; "
      f"{hint}; expected model.safetensors of the release"
    )
  if not any(re.search(r"\.cross_attn\.k_fusion\.", n) for n in names):
    raise UsageError(
      f"{weights.path} has Ovi's towers without the fusion between them: no tensor "
      "k_fusion; expected model.safetensors of the release"
    )
  return "native"


def sizes_of(weights: Weights, rows: Sequence[Row], config: dict) -> Sizes:
  """The sizes of both towers, their depth, the width of their text embeddings, and
  which release they are of.

  Raises:
    UsageError: a size that no such model has, another one than in config.json, or
      towers that fusion cannot join.
  """
  towers = {}
  for s in STREAMS:
    sizes = stream_sizes(weights, rows, *FIRST[s])
    agree(weights, sizes, _section(config, s), s)
    towers[s] = sizes
  words = {"depth": "blocks", "width": "channels", "text_dim": "channels of text"}
  for name, word in words.items():
    video, audio = (towers[s][name] for s in STREAMS)
    if video != audio:
      raise UsageError(
        f"{weights.path}: the video tower has {video} {word}, the audio tower {audio}; "
        "fusion joins towers of equal width and depth that read one text encoder"
      )
  shared = {name: towers["video"][name] for name in ("depth", "text_dim")}
  first = weights.file_of(weights.names()[0])
  # A tower that is described without a factor has none.
  usual = 1.0 if "audio" in config else RATE
  rate = _section(config, "audio").get("temporal_rope_scaling_factor", usual)
  if not isinstance(rate, int | float) or not 0 < rate < math.inf:
    raise UsageError(
      f"{weights.path}: config.json says audio.temporal_rope_scaling_factor={rate!r}, "
      "expected a positive number"
    )
  own = {s: {k: v for k, v in towers[s].items() if k not in shared} for s in STREAMS}
  taps = weights.shape("audio_model.patch_embedding.0.weight")[-1]
  own["audio"] |= {"taps": taps, "rate": rate}
  return own | shared | {"edition": edition_of(pathlib.Path(first).name)}


def _section(config: dict, stream: str) -> dict:
  section = config.get(stream, {})
  return section if isinstance(section, dict) else {}


def streams_of(sizes: Sizes) -> dict[str, StreamConfig]:
  """The configs of both towers, as streams by name."""
  return {
    "video": StreamConfig(**sizes["video"], patch=PATCH),
    "audio": StreamConfig(**sizes["audio"], patch=POINT, positions="time"),
  }


def model_of(sizes: Sizes, dtype=jnp.float32, remat: str = "none") -> JointDiT:
  """The network of these sizes: a `JointDiT` of both streams, with fusion."""
  streams = tuple(streams_of(sizes).items())
  return JointDiT(streams, sizes["depth"], FUSION, dtype=dtype, remat=remat)


def sizes_of_model(model: JointDiT, text_dim: int, edition: str | None = None) -> Sizes:
  """The sizes of a network of two streams, as `sizes_of` reads them of Ovi's.

  Args:
    model: the network, which may differ from Ovi's in what is no size.
    text_dim: the width of its text embeddings.
    edition: that it started from, of `ovi_release.EDITIONS`; None: not known.
  """
  sizes = {"depth": model.depth, "text_dim": text_dim}
  sizes["edition"] = edition if edition in EDITIONS else FIRST_EDITION
  for s, c in model.streams:
    names = SIZE_NAMES if s == "video" else (*SIZE_NAMES, "taps", "rate")
    sizes[s] = {name: getattr(c, name) for name in names}
  return sizes


def shapes_of(sizes: Sizes) -> Shapes:
  """Shapes by path of the parameters of the model that `model_of` gives, in float32."""
  return flat_shapes(parameter_shapes(model_of(sizes), (8, sizes["text_dim"])))


def config_of(sizes: Sizes, form: str) -> dict:
  """The towers' settings as the reference has them, in one config.json."""

  def tower(stream, kind, patch):
    own = sizes[stream]
    return {
      "patch_size": list(patch),
      "model_type": kind,
      "dim": own["width"],
      "ffn_dim": own["ffn"],
      "freq_dim": own["frequencies"],
      "num_heads": own["heads"],
      "num_layers": sizes["depth"],
      "in_dim": own["in_channels"],
      "out_dim": own["out_channels"],
      "text_len": 512,
      "text_dim": sizes["text_dim"],
      "qk_norm": True,
      "cross_attn_norm": True,
      "eps": EPS,
    }

  rate = {"temporal_rope_scaling_factor": sizes["audio"]["rate"]}
  return {
    "video": tower("video", "ti2v", PATCH),
    "audio": tower("audio", "t2a", (1,)) | rate,
  }


UPSTREAM = Upstream(
  tables={"native": NATIVE},
  format_of=format_of,
  sizes=sizes_of,
  shapes=shapes_of,
  places=("", "Ovi"),
  files=("model*", "*.safetensors"),
  config=config_of,
  stem=lambda sizes: stem_of(sizes["edition"]),
  usage=lambda sizes: defaults_of(sizes["edition"], sizes["depth"]),
  plain_fp8=True,
)
