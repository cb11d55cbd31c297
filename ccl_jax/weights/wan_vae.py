"""Wan2.1's video VAE: its tensors by either name; and what serves other releases'.

  native     the original release, Wan2.1_VAE.pth
  diffusers  Wan-AI/Wan2.1-*-Diffusers, in vae/

A convolution is two rows, a norm one; layers are numbered along each network.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax

from ccl_jax.errors import UsageError
from ccl_jax.models.wan_vae import init_params
from ccl_jax.models.wan_vae_layers import MULTIPLIERS, WAN21, WAN22, Release
from ccl_jax.weights.reader import Weights
from ccl_jax.weights.rules import (
  Row,
  conv,
  dense,
  flat_shapes,
  reshape,
)
from ccl_jax.weights.upstream import Sizes, Upstream, tensor_name, tensor_shape


class Names(NamedTuple):
  """The names that a release gives to the parts of its VAE.

  Attributes:
    down, up: of the numbered layers, in order.
    block: of a residual block's norm, convolution, norm, convolution and shortcut.
    middle: of the two blocks, and the attention between them.
  """

  first: str
  down: Sequence[str]
  up: Sequence[str]
  block: Sequence[str]  # norm, convolution, norm, convolution, shortcut
  middle: Sequence[str]
  norm: str
  last: str
  moments: str
  latent: str


def table(names: Names) -> list[Row]:
  """The rows of both networks, by the names of a release."""
  return [
    *_conv(names.moments, "encoder/moments"),
    *_half("encoder", "down", names.down, names),
    *_conv(names.latent, "decoder/latent"),
    *_half("decoder", "up", names.up, names),
  ]


def _half(half: str, ours: str, layers: Sequence[str], names: Names) -> list[Row]:
  before, attention, after = (f"{half}.{part}" for part in names.middle)
  rows = [
    *_conv(f"{half}.{names.first}", f"{half}/first"),
    *_block(before, f"{half}/middle_0", names),
    # The attention is within frames, in 2-D: its scale has two trailing axes.
    *_norm(f"{attention}.norm", f"{half}/middle_1/norm", axes=2),
    *_conv(f"{attention}.to_qkv", f"{half}/middle_1/qkv"),
    *_conv(f"{attention}.proj", f"{half}/middle_1/out"),
    *_block(after, f"{half}/middle_2", names),
    *_norm(f"{half}.{names.norm}", f"{half}/norm"),
    *_conv(f"{half}.{names.last}", f"{half}/last"),
  ]
  for i, layer in enumerate(layers):
    source, target = f"{half}.{layer}", f"{half}/{ours}_{i}"
    rows += _block(source, target, names)
    rows += _conv(f"{source}.resample.1", f"{target}/in_space")
    rows += _conv(f"{source}.time_conv", f"{target}/in_time")
  return rows


def _block(source: str, target: str, names: Names) -> list[Row]:
  norm1, conv1, norm2, conv2, shortcut = (f"{source}.{part}" for part in names.block)
  return [
    *_norm(norm1, f"{target}/norm1"),
    *_conv(conv1, f"{target}/conv1"),
    *_norm(norm2, f"{target}/norm2"),
    *_conv(conv2, f"{target}/conv2"),
    *_conv(shortcut, f"{target}/shortcut"),
  ]


_conv = functools.partial(dense, kernel=conv)


def _norm(source: str, target: str, axes: int = 3) -> list[Row]:
  """A scale that has `axes` trailing ones in the file."""
  return [Row(f"{source}.gamma", f"{target}/scale", reshape((-1, *(1,) * axes), (-1,)))]


NATIVE_NAMES = Names(
  first="conv1",
  # Four levels of two blocks, with a resampling after each but the last: 11 layers.
  down=[f"downsamples.{i}" for i in range(11)],
  # Four levels of three blocks, with a resampling after each but the last: 15.
  up=[f"upsamples.{i}" for i in range(15)],
  block=["residual.0", "residual.2", "residual.3", "residual.6", "shortcut"],
  middle=["middle.0", "middle.1", "middle.2"],
  norm="head.0",
  last="head.2",
  moments="conv1",
  latent="conv2",
)
NATIVE = table(NATIVE_NAMES)
_UP = ["resnets.0", "resnets.1", "resnets.2", "upsamplers.0"]
DIFFUSERS_NAMES = Names(
  first="conv_in",
  down=[f"down_blocks.{i}" for i in range(11)],
  # diffusers nests the levels; the last has no upsampler, so 15 of 16 names.
  up=[f"up_blocks.{i}.{part}" for i in range(4) for part in _UP][:15],
  block=["norm1", "conv1", "norm2", "conv2", "conv_shortcut"],
  middle=["mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"],
  norm="norm_out",
  last="conv_out",
  moments="quant_conv",
  latent="post_quant_conv",
)
DIFFUSERS = table(DIFFUSERS_NAMES)


# Release -> command of `convert`.
_COMMANDS = {WAN21: "wan-vae", WAN22: "wan22-vae"}


def make_upstream(
  release: Release,
  native: Sequence[Row],
  diffusers: Sequence[Row],
  files: Sequence[str],
  config: dict,
) -> Upstream:
  """The VAE of a release, for the converter.

  Args:
    release: whose VAE it is.
    native, diffusers: its tables.
    files: patterns of its files' names, in order of preference.
    config: what diffusers' config.json says of this release alone.
  """
  tables = {"native": native, "diffusers": diffusers}
  init = functools.partial(init_params, release=release)
  return Upstream(
    tables=tables,
    format_of=lambda weights: _format_of(weights, release, tables),
    sizes=lambda weights, rows, _: _sizes_of(weights, release, rows),
    shapes=lambda sizes: flat_shapes(
      jax.eval_shape(lambda key: init(key, **sizes), jax.random.key(0))
    ),
    places=("", "vae"),
    files=files,
    stem="diffusion_pytorch_model",
    config=lambda sizes, form: _config_of(sizes, form, release, config),
  )


def _format_of(weights: Weights, release: Release, tables) -> str:
  for form, rows in tables.items():
    if tensor_name(rows, "decoder/first/kernel") in weights:
      return form
  raise UsageError(
    f"{weights.path} is not {release.name}'s VAE: it has neither decoder.conv1.weight "
    f"nor decoder.conv_in.weight, but {weights.names()[0]}; expected "
    f"{release.name}_VAE.pth or vae/diffusion_pytorch_model.safetensors of the release"
  )


def _sizes_of(weights: Weights, release: Release, rows: Sequence[Row]) -> Sizes:
  """Base widths, from the shapes of the first and the last convolution."""
  channels = tensor_shape(weights, rows, "decoder/latent/kernel", 5)[0]
  if channels != release.channels:
    other = next((r for r in _COMMANDS if r.channels == channels), None)
    known = f", not {other.name}'s (use: convert {_COMMANDS[other]})" if other else ""
    raise UsageError(
      f"{weights.path} has {tensor_name(rows, 'decoder/latent/kernel')} of {channels} "
      f"channels, expected {release.channels}: {release.name}'s VAE{known}"
    )
  width = tensor_shape(weights, rows, "encoder/first/kernel", 5)[0]
  decoder = tensor_shape(weights, rows, "decoder/last/kernel", 5)[1]
  # Where both are alike one number says it, as it does in earlier conversions.
  return {"width": width} | ({"decoder_width": decoder} if decoder != width else {})


def _config_of(sizes: Sizes, form: str, release: Release, config: dict) -> dict:
  """The config.json that diffusers reads; the original release has none."""
  if form == "native":
    return {}
  return {
    "_class_name": "AutoencoderKLWan",
    "base_dim": sizes["width"],
    "z_dim": release.channels,
    "dim_mult": list(MULTIPLIERS),
    "num_res_blocks": 2,
    "attn_scales": [],
    "temperal_downsample": [False, True, True],  # their spelling
    "dropout": 0.0,
    "latents_mean": list(release.mean),
    "latents_std": list(release.std),
    **({"decoder_base_dim": n} if (n := sizes.get("decoder_width")) else {}),
    **config,
  }


UPSTREAM = make_upstream(
  WAN21,
  NATIVE,
  DIFFUSERS,
  ("Wan2.1_VAE*", "vae.safetensors", "diffusion_pytorch_model*"),
  {},
)
