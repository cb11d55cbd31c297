"""AudioBox Aesthetics: WavLM-base and four heads.

  native      model.safetensors and config.json
  checkpoint  checkpoint.pt, which holds both; every name begins with "model."

The number of dense layers of a head, and whether norms are between them, show in the
tensors; scales, and whether embeddings are normalised, are told by the config.
"""

import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ccl_jax.errors import UsageError
from ccl_jax.models.scorers.aesthetics import AXES, Aesthetics, AestheticsNet
from ccl_jax.models.scorers.wavlm import WavLM
from ccl_jax.weights.entries import ending
from ccl_jax.weights.pickles import plain_values
from ccl_jax.weights.reader import PICKLES, Weights
from ccl_jax.weights.rules import (
  Row,
  Shapes,
  conv,
  dense,
  flat_shapes,
  linear,
  norm,
  reshape,
)
from ccl_jax.weights.upstream import Sizes, Upstream

_WAVLM = "wavlm_model"
_CONV = f"{_WAVLM}.feature_extractor.conv_layers"
_POSITION = f"{_WAVLM}.encoder.pos_conv.0"
_LAYER = rf"{_WAVLM}.encoder.layers.(\d+)"
_HEAD = r"proj_layer.(\w\w).(\d+)"

NATIVE = [
  Row(rf"{_CONV}.(\d+).0.weight", r"wavlm/features/conv_\1/kernel", conv),
  # Group norm follows the first convolution only (WavLM base).
  *norm(f"{_CONV}.0.2", "wavlm/features/norm_0"),
  *norm(f"{_WAVLM}.layer_norm", "wavlm/norm"),
  *dense(f"{_WAVLM}.post_extract_proj", "wavlm/project"),
  # The positional convolution keeps its weight norm, over the kernel's axis.
  Row(f"{_POSITION}.weight_v", "wavlm/position/v", conv),
  Row(f"{_POSITION}.weight_g", "wavlm/position/g", reshape((1, 1, -1), (-1,))),
  Row(f"{_POSITION}.bias", "wavlm/position/bias"),
  *norm(f"{_WAVLM}.encoder.layer_norm", "wavlm/encoder_norm"),
  # Only the first layer has a table; all read it.
  Row(
    f"{_WAVLM}.encoder.layers.0.self_attn.relative_attention_bias.weight",
    "wavlm/bias_table",
  ),
  *dense(f"{_LAYER}.self_attn.([qkv])_proj", r"wavlm/layers/attn/\2[\1]"),
  *dense(f"{_LAYER}.self_attn.out_proj", r"wavlm/layers/attn/out[\1]"),
  *dense(f"{_LAYER}.self_attn.grep_linear", r"wavlm/layers/attn/gate[\1]"),
  Row(
    f"{_LAYER}.self_attn.grep_a",
    r"wavlm/layers/attn/gate_scale[\1]",
    reshape((1, -1, 1, 1), (-1,)),
  ),
  *norm(f"{_LAYER}.self_attn_layer_norm", r"wavlm/layers/norm_1[\1]"),
  *dense(f"{_LAYER}.(fc[12])", r"wavlm/layers/\2[\1]"),
  *norm(f"{_LAYER}.final_layer_norm", r"wavlm/layers/norm_2[\1]"),
  Row(f"{_HEAD}.weight", r"head_\1/dense_\2/kernel", linear),
  Row(f"{_HEAD}.bias", r"head_\1/dense_\2/bias"),
  Row(f"{_HEAD}.weight", r"head_\1/norm_\2/scale"),
  Row(f"{_HEAD}.bias", r"head_\1/norm_\2/bias"),
  Row(r"layer_weights.(\w\w)", r"layers_\1"),
]
CHECKPOINT = [Row(f"model.{r.source}", r.target, r.transform) for r in NATIVE]
_FIRST = f"{_CONV}.0.0.weight"


def format_of(weights: Weights) -> str:
  """The format by the tensors' names: "native" or "checkpoint".

  Raises:
    UsageError: they are another network's.
  """
  if _FIRST in weights:
    return "native"
  if f"model.{_FIRST}" in weights:
    return "checkpoint"
  raise UsageError(
    f"{weights.path} is not AudioBox Aesthetics: it has no {_FIRST}, but "
    f"{weights.names()[0]}"
  )


def sizes_of(weights: Weights, rows: Sequence[Row], config: dict) -> Sizes:
  """The sizes of `WavLM` and of a `Head`, and the scales of the scores.

  Sizes are read from the tensors' shapes, scales from the config, or from what a pickle
  holds beside its tensors.

  Raises:
    UsageError: a tensor is missing that they are read from, or the config is not that
      of a network that scores as described.
  """
  weights = weights.renamed(lambda name: name.removeprefix("model."))

  def shape(name):
    if name not in weights:
      raise UsageError(
        f"{weights.path}: no tensor {name}, which AudioBox Aesthetics has"
      )
    return weights.shape(name)

  def numbers(pattern):
    return sorted(int(m[1]) for n in weights.names() if (m := re.fullmatch(pattern, n)))

  layer = f"{_WAVLM}.encoder.layers.0"
  channels = shape(_FIRST)[0]
  width, per_group, taps = shape(f"{_POSITION}.weight_v")
  buckets, heads = shape(f"{layer}.self_attn.relative_attention_bias.weight")
  in_features = numbers(rf"{_CONV}\.(\d+)\.0\.weight")
  in_head = numbers(r"proj_layer\.CE\.(\d+)\.weight")
  # A head's norms have one axis, its dense layers two.
  is_dense = lambda i: len(weights.shape(f"proj_layer.CE.{i}.weight")) == 2
  scale, unit = _settings(weights, config)
  return {
    "wavlm": {
      "channels": channels,
      "kernels": [shape(f"{_CONV}.{i}.0.weight")[2] for i in in_features],
      "width": width,
      "ffn": shape(f"{layer}.fc1.weight")[0],
      "heads": heads,
      "depth": len(numbers(rf"{_WAVLM}\.encoder\.layers\.(\d+)\.fc1\.weight")),
      "buckets": buckets,
      "taps": taps,
      "groups": width // per_group,
    },
    "dense": [i for i in in_head if is_dense(i)],
    "norms": not all(map(is_dense, in_head)),
    "unit": unit,
    "scale": scale,
  }


def _settings(weights: Weights, config: dict) -> tuple[list[list[float]], bool]:
  """((mean, deviation) by axis, whether embeddings are normalised)."""
  # The pickle of the release has the settings in it; safetensors have a config.json.
  file = weights.file_of(_FIRST)
  if "target_transform" not in config and ending(file) in PICKLES:
    values = plain_values(file)
    scale = {"target_transform": values.get("target_transform")}
    config = (values.get("model_cfg") or {}) | scale
  scale = config.get("target_transform")
  try:
    scale = [[float(scale[axis][key]) for key in ("mean", "std")] for axis in AXES]
    if not np.isfinite(scale).all():
      raise ValueError("a scale that is not finite")
  except (KeyError, IndexError, TypeError, ValueError, OverflowError) as e:
    raise UsageError(
      f"{weights.path}: no target_transform with mean and std of {', '.join(AXES)}; "
      "expected the release's config.json beside the weights"
    ) from e
  if not config.get("use_weighted_layer_sum", True):
    raise UsageError(
      f"{weights.path}: use_weighted_layer_sum is off; expected a release that sums "
      "layers by weights"
    )
  return scale, bool(config.get("normalize_embed", True))


def net_of(sizes: Sizes) -> AestheticsNet:
  """The network of sizes that `sizes_of` gave, which may have been JSON."""
  wavlm = sizes["wavlm"] | {"kernels": tuple(sizes["wavlm"]["kernels"])}
  return AestheticsNet(
    WavLM(**wavlm), tuple(sizes["dense"]), sizes["norms"], sizes["unit"]
  )


def shapes_of(sizes: Sizes) -> Shapes:
  """Shapes by path of the parameters of `Aesthetics`, in float32."""
  # Any length that gives a few frames: shapes do not depend on it.
  wave = jnp.zeros((1, 4000))
  init = lambda key: net_of(sizes).init(key, wave, wave == 0)["params"]
  return flat_shapes(jax.eval_shape(init, jax.random.key(0)))


def config_of(sizes: Sizes, form: str) -> dict:
  """The config.json of the release, for an export."""
  return {
    "proj_num_layer": len(sizes["dense"]),
    "proj_ln": sizes["norms"],
    # The weighted sum also counts what enters the first layer.
    "nth_layer": 1 + sizes["wavlm"]["depth"],
    "use_weighted_layer_sum": True,
    "normalize_embed": sizes["unit"],
    "output_dim": 1,
    "target_transform": {
      axis: {"mean": mean, "std": std}
      for axis, (mean, std) in zip(AXES, sizes["scale"])
    },
  }


UPSTREAM = Upstream(
  tables={"native": NATIVE, "checkpoint": CHECKPOINT},
  format_of=format_of,
  sizes=sizes_of,
  shapes=shapes_of,
  ignore=(rf"(model\.)?{_WAVLM}\.mask_emb",),  # for training only
  files=("model*", "checkpoint*"),
  config=config_of,
  network=lambda params, sizes, dtype: Aesthetics(
    params, net_of(sizes), tuple(map(tuple, sizes["scale"]))
  ),
)
