"""BigVGAN's generator, as released: MMAudio's and NVIDIA's vocoders.

  best_netG.pt           MMAudio's 16 kHz mode (from Make-An-Audio 2), version 1
  bigvgan_generator.pt   nvidia/bigvgan_v2_*, with its config.json

Kernels are stored with weight norm, w = g v / |v| for each index of the first axis, as
two tensors: weight_g and weight_v, or parametrizations.weight.original0 and 1. `Folded`
shows the one that they make, and no low-pass filters, which are constants here.

Sizes come from the tensors' shapes, and from a config.json what these do not tell: the
rates (else half the kernels' sizes), the dilations (else 1, 3, 5) and the bound of the
wave (else tanh where the last convolution has a bias, as in version 1).

An export has plain kernels, for `load_state_dict(..., strict=False)` of a BigVGAN after
`remove_weight_norm()`; the filters, which it lacks, are there from the start.
"""

import re
from collections.abc import Sequence

import jax
import ml_dtypes
import numpy as np

from ccl_jax.errors import UsageError
from ccl_jax.models.vocoder import Generator, init_params
from ccl_jax.ops.antialias import low_pass
from ccl_jax.weights.reader import Weights
from ccl_jax.weights.rules import Row, Shapes, conv, flat_shapes
from ccl_jax.weights.upstream import Sizes, Upstream


def _conv(source: str, target: str) -> list[Row]:
  """The rows of a convolution; a transposed one has its inputs first in torch."""
  return [
    Row(f"{source}.weight", f"{target}/kernel", conv),
    Row(f"{source}.bias", f"{target}/bias"),
  ]


NATIVE = [
  *_conv("conv_pre", "first"),
  *_conv(r"ups.(\d+).0", r"up_\1"),
  *_conv(r"resblocks.(\d+).convs([12]).(\d+)", r"block_\1/conv\2_\3"),
  Row(r"resblocks.(\d+).activations.(\d+).act.(alpha|beta)", r"block_\1/snake_\2/\3"),
  Row("activation_post.act.(alpha|beta)", r"snake/\1"),
  *_conv("conv_post", "last"),
]

# Name of a stored direction -> of its length, and of the kernel they make.
_NORMED = (
  (r"(.*\.)weight_v", r"\1weight_g", r"\1weight"),
  (
    r"(.*\.)parametrizations\.weight\.original1",
    r"\1parametrizations.weight.original0",
    r"\1weight",
  ),
)
_FILTER = re.compile(r".*\.(upsample|downsample\.lowpass)\.filter")


class Folded(Weights):
  """A checkpoint with its weight norm folded into kernels, and without its filters.

  Raises:
    UsageError: a low-pass filter is another one than ours, or a length has another
      shape than its direction asks for.
  """

  def __init__(self, weights: Weights):
    self.path, self._weights = weights.path, weights
    self.layout, self.notes = weights.layout, weights.notes
    self._parts = {name: (name,) for name in weights.names()}
    for name in weights.names():
      if _FILTER.fullmatch(name):
        self._check(name)
        del self._parts[name]
      for direction, length, kernel in _NORMED:
        matched = re.fullmatch(direction, name)
        if matched and matched.expand(length) in weights:
          self._pair(name, matched.expand(length), matched.expand(kernel))

  def names(self) -> list[str]:
    return list(self._parts)

  def __contains__(self, name: str) -> bool:
    return name in self._parts

  def shape(self, name: str) -> tuple[int, ...]:
    return self._weights.shape(self._parts[name][0])

  def dtype(self, name: str) -> np.dtype:
    return self._weights.dtype(self._parts[name][0])

  def file_of(self, name: str):
    return self._weights.file_of(self._parts[name][0])

  def read(self, name: str) -> np.ndarray:
    """The tensor; a kernel is folded in float32 at least, and has its file's dtype."""
    v, *g = (self._weights.read(part) for part in self._parts[name])
    return fold(v, *g) if g else v

  def _pair(self, v: str, g: str, kernel: str) -> None:
    shape = self._weights.shape(v)
    expected = (shape[0], *[1] * (len(shape) - 1))
    if self._weights.shape(g) != expected:
      raise UsageError(
        f"{self._weights.file_of(g)}: {g} has shape {self._weights.shape(g)}, expected "
        f"{expected}, a length for each of the first axis of {v}"
      )
    del self._parts[v], self._parts[g]
    self._parts[kernel] = (v, g)

  def _check(self, name: str) -> None:
    taps, ours = self._weights.read(name).astype(np.float32).ravel(), low_pass()
    # A filter stored in half precision differs by its rounding only.
    rounding = float(ml_dtypes.finfo(self._weights.dtype(name)).eps)
    if taps.shape != ours.shape or np.abs(taps - ours).max() > max(rounding, 1e-6):
      raise UsageError(
        f"{self.file_of(name)}: {name} is another filter than BigVGAN's low pass of "
        f"{len(ours)} taps and cutoff 1/4: this vocoder cannot be converted"
      )


def fold(v: np.ndarray, g: np.ndarray) -> np.ndarray:
  """The kernel g v / |v|, with the norm over all axes but the first."""
  # bfloat16 and float16 would lose the norm of a large kernel.
  wide = v.astype(np.promote_types(v.dtype, np.float32))
  norm = np.sqrt(np.sum(wide * wide, axis=tuple(range(1, v.ndim)), keepdims=True))
  # w = g v / |v|
  return (wide * (g.astype(wide.dtype) / norm)).astype(v.dtype)


def format_of(weights: Weights) -> str:
  """Checks that the tensors are BigVGAN's generator's, and returns "native", the one
  format.

  Raises:
    UsageError: they are another network's.
  """
  if "activation_post.act.alpha" in weights:  # other vocoders have conv_pre, too
    return "native"
  raise UsageError(
    f"{weights.path} is not BigVGAN's generator: it has no activation_post.act.alpha, "
    f"but {weights.names()[0]}"
  )


def sizes_of(weights: Weights, rows: Sequence[Row], config: dict) -> Sizes:
  """The fields of `Generator`, from the tensors' shapes and BigVGAN's config.json.

  Raises:
    UsageError: a tensor is missing that they are read from, or another kind of BigVGAN.
  """
  config = config.get("bigvgan", config)
  if not config.get("snake_logscale", True):
    raise UsageError(
      f"{weights.path}: its config.json says snake_logscale: false; only parameters "
      "stored as logarithms, as in all released BigVGANs, are supported"
    )

  def shape(name):
    if len(weights.shape(name) if name in weights else ()) != 3:
      raise UsageError(
        f"{weights.path}: no tensor {name} with 3 axes, which every BigVGAN of AMP "
        "blocks 1 has"
      )
    return weights.shape(name)

  def count(name):
    matched = (re.fullmatch(name, n) for n in weights.names())
    return 1 + max((int(m[1]) for m in matched if m), default=0)

  channels, bands, _ = shape("conv_pre.weight")
  kernels = [shape(f"ups.{i}.0.weight")[2] for i in range(count(r"ups\.(\d+)\..*"))]
  # Each level averages as many residual blocks as there are kernel sizes.
  averaged = count(r"resblocks\.(\d+)\..*") // len(kernels)
  sizes = [shape(f"resblocks.{j}.convs1.0.weight")[2] for j in range(averaged)]
  dilations = config.get("resblock_dilation_sizes", [[1, 3, 5]] * averaged)
  bias = "conv_post.bias" in weights
  return {
    "bands": bands,
    "channels": channels,
    # By BigVGAN's convention a transposed kernel is twice its stride.
    "rates": config.get("upsample_rates", [k // 2 for k in kernels]),
    "kernels": kernels,
    "blocks": [list(block) for block in zip(sizes, dilations)],
    "bias": bias,
    "tanh": config.get("use_tanh_at_final", bias or "upsample_rates" in config),
  }


def generator_of(sizes: Sizes) -> Generator:
  """The network of sizes that `sizes_of` gave, which may have been JSON."""
  blocks = tuple((size, tuple(dilations)) for size, dilations in sizes["blocks"])
  fixed = {name: tuple(sizes[name]) for name in ("rates", "kernels")}
  return Generator(**sizes | fixed | {"blocks": blocks})


def shapes_of(sizes: Sizes) -> Shapes:
  """Shapes by path of the parameters of `Generator`, in float32."""
  init = lambda key: init_params(key, generator_of(sizes))
  return flat_shapes(jax.eval_shape(init, jax.random.key(0)))


def config_of(sizes: Sizes, form: str) -> dict:
  """The fields of BigVGAN's config.json that describe the network."""
  return {
    "num_mels": sizes["bands"],
    "upsample_initial_channel": sizes["channels"],
    "upsample_rates": sizes["rates"],
    "upsample_kernel_sizes": sizes["kernels"],
    "resblock": "1",
    "resblock_kernel_sizes": [size for size, _ in sizes["blocks"]],
    "resblock_dilation_sizes": [dilations for _, dilations in sizes["blocks"]],
    "activation": "snakebeta",
    "snake_logscale": True,
    "use_bias_at_final": sizes["bias"],
    "use_tanh_at_final": sizes["tanh"],
  }


UPSTREAM = Upstream(
  tables={"native": NATIVE},
  format_of=format_of,
  sizes=sizes_of,
  shapes=shapes_of,
  places=("", "ext_weights"),
  files=("best_netG*", "bigvgan_generator*", "bigvgan_weights*", "model*"),
  stem="bigvgan_generator",
  config=config_of,
  view=Folded,
)
