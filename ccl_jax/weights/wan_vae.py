"""The tensors of Wan2.1's video VAE, under its own names (`Wan2.1_VAE.pth`); those of
diffusers (`vae/` of its repositories) are renamed to them first.
"""

import os
import re

import jax
import jax.numpy as jnp

from ccl_jax.errors import UsageError
from ccl_jax.models.wan_vae import WanVideoCodec, init_params
from ccl_jax.weights.reader import Weights, open_weights
from ccl_jax.weights.rules import Row, conv, flat_shapes, load_tree, reshape

FILES = ("Wan2.1_VAE.*", "vae.safetensors", "diffusion_pytorch_model*")


def _conv(source: str, target: str) -> list[Row]:
  return [
    Row(f"{source}.weight", f"{target}/kernel", conv),
    Row(f"{source}.bias", f"{target}/bias"),
  ]


def _norm(source: str, target: str, axes: int = 3) -> list[Row]:
  """A scale with `axes` trailing ones in the file."""
  return [Row(f"{source}.gamma", f"{target}/scale", reshape((-1, *(1,) * axes), (-1,)))]


def _block(source: str, target: str) -> list[Row]:
  return [
    *_norm(f"{source}.residual.0", f"{target}/norm1"),
    *_conv(f"{source}.residual.2", f"{target}/conv1"),
    *_norm(f"{source}.residual.3", f"{target}/norm2"),
    *_conv(f"{source}.residual.6", f"{target}/conv2"),
  ]


def _half(name: str, theirs: str, ours: str) -> list[Row]:
  """The encoder or the decoder; its numbered layers are `theirs` there, `ours` here."""
  layer, to_layer = rf"{name}.{theirs}.(\d+)", rf"{name}/{ours}_\1"
  return [
    *_conv(f"{name}.conv1", f"{name}/first"),
    *_block(layer, to_layer),
    *_conv(f"{layer}.shortcut", f"{to_layer}/shortcut"),
    *_conv(f"{layer}.resample.1", f"{to_layer}/in_space"),
    *_conv(f"{layer}.time_conv", f"{to_layer}/in_time"),
    *_block(rf"{name}.middle.([02])", rf"{name}/middle_\1"),
    *_norm(f"{name}.middle.1.norm", f"{name}/middle_1/norm", axes=2),
    *_conv(f"{name}.middle.1.to_qkv", f"{name}/middle_1/qkv"),
    *_conv(f"{name}.middle.1.proj", f"{name}/middle_1/out"),
    *_norm(f"{name}.head.0", f"{name}/norm"),
    *_conv(f"{name}.head.2", f"{name}/last"),
  ]


ROWS = [
  *_half("encoder", "downsamples", "down"),
  *_half("decoder", "upsamples", "up"),
  *_conv("conv1", "encoder/moments"),
  *_conv("conv2", "decoder/latent"),
]

# From diffusers' names, applied one after the other: parts of the networks, ...
_PARTS = (
  (r"^quant_conv\.", "conv1."),
  (r"^post_quant_conv\.", "conv2."),
  (r"\.conv_in\.", ".conv1."),
  (r"\.norm_out\.", ".head.0."),
  (r"\.conv_out\.", ".head.2."),
  (r"\.down_blocks\.(\d+)\.", r".downsamples.\1."),
  (r"\.up_blocks\.(\d)\.upsamplers\.0\.", r".up_blocks.\1.resnets.3."),
  (
    r"\.up_blocks\.(\d)\.resnets\.(\d)\.",
    lambda m: f".upsamples.{4 * int(m[1]) + int(m[2])}.",
  ),
  (r"\.mid_block\.resnets\.(\d)\.", lambda m: f".middle.{2 * int(m[1])}."),
  (r"\.mid_block\.attentions\.0\.", ".middle.1."),
  # ... and of a residual block, which follow a number.
  (r"(\.\d+)\.norm1\.", r"\1.residual.0."),
  (r"(\.\d+)\.conv1\.", r"\1.residual.2."),
  (r"(\.\d+)\.norm2\.", r"\1.residual.3."),
  (r"(\.\d+)\.conv2\.", r"\1.residual.6."),
  (r"(\.\d+)\.conv_shortcut\.", r"\1.shortcut."),
)


def native_name(name: str) -> str:
  """The native name of a tensor with diffusers' name; a native one stays as it is."""
  for pattern, native in _PARTS:
    name = re.sub(pattern, native, name)
  return name


def load_wan_vae(path: str | os.PathLike, **sizes) -> WanVideoCodec:
  """The codec of a checkpoint, of any base width; `sizes` are those of the codec.

  Args:
    path: a file, or a folder as published: Wan's own or diffusers'.

  Raises:
    UsageError: nothing there, or not the weights of this VAE.
  """
  weights = open_weights(path, ("vae", ""), FILES).renamed(native_name)
  params = load_tree(ROWS, weights, flat_shapes(_shapes(weights)))
  return WanVideoCodec(jax.tree.map(jnp.asarray, params), **sizes)


def _shapes(weights: Weights):
  first = "encoder.conv1.weight"
  if first not in weights:
    raise UsageError(
      f"{weights.path} has no tensor {first}: expected the weights of Wan2.1's VAE, "
      "Wan2.1_VAE.pth or diffusers' vae folder"
    )
  width = weights.shape(first)[0]
  return jax.eval_shape(lambda k: init_params(k, width), jax.random.key(0))
