"""MMAudio's mel VAE, as released: v1-16.pth and v1-44.pth, and copies as safetensors.

The tensors are the raw weights of training, which MMAudio normalises after it has read
them. They stay raw here (the network normalises in the forward pass), so that an export
is the imported file, tensor by tensor, and MMAudio reads it as it reads its own.

MMAudio refuses a file with a tensor more or less than these, so there is nothing to
ignore. All sizes come from the shapes; `data_mean` and `data_std` are the mel's
statistics per band.
"""

from collections.abc import Sequence

import jax

from ccl_jax.errors import UsageError
from ccl_jax.models.audio_vae import init_params
from ccl_jax.weights.reader import Weights
from ccl_jax.weights.rules import Row, Shapes, conv, flat_shapes, reshape
from ccl_jax.weights.upstream import Sizes, Upstream, tensor_name


def _conv(source: str, target: str) -> Row:
  return Row(f"{source}.weight", f"{target}/weight", conv)


def _block(source: str, target: str) -> list[Row]:
  return [
    *(_conv(f"{source}.{name}", f"{target}/{name}") for name in ("conv1", "conv2")),
    _conv(f"{source}.nin_shortcut", f"{target}/shortcut"),
  ]


_HALF, _EITHER = "(encoder|decoder)", r"\1"
_STATISTIC = reshape((1, -1, 1), (-1,))
NATIVE = [
  _conv(f"{_HALF}.conv_in", f"{_EITHER}/first"),
  *_block(f"{_HALF}.mid.block_1", f"{_EITHER}/middle_0"),
  _conv(f"{_HALF}.mid.attn_1.qkv", f"{_EITHER}/middle_1/qkv"),
  _conv(f"{_HALF}.mid.attn_1.proj_out", f"{_EITHER}/middle_1/out"),
  *_block(f"{_HALF}.mid.block_2", f"{_EITHER}/middle_2"),
  _conv(f"{_HALF}.conv_out", f"{_EITHER}/last"),
  Row(f"{_HALF}.learnable_gain", f"{_EITHER}/gain"),
  *_block(r"encoder.down.(\d).block.(\d)", r"encoder/down_\1_\2"),
  _conv("encoder.down.0.downsample.(conv[12])", r"encoder/downsample/\1"),
  *_block(r"decoder.up.(\d).block.(\d)", r"decoder/up_\1_\2"),
  _conv("decoder.up.1.upsample.conv", "decoder/upsample/conv"),
  Row("data_mean", "data_mean", _STATISTIC),
  Row("data_std", "data_std", _STATISTIC),
]


def format_of(weights: Weights) -> str:
  """Checks that the tensors are MMAudio's VAE's, and returns "native", the one format.

  Raises:
    UsageError: they are another network's.
  """
  if "encoder.learnable_gain" in weights:  # conv_in is in many others, too
    return "native"
  raise UsageError(
    f"{weights.path} is not MMAudio's VAE: it has no encoder.learnable_gain, but "
    f"{weights.names()[0]}"
  )


def sizes_of(weights: Weights, rows: Sequence[Row], config: dict) -> Sizes:
  """The keywords of `init_params`, from the tensors' shapes.

  Raises:
    UsageError: a tensor is missing, or has too few axes, that they are read from.
  """

  def shape(layer):
    name = tensor_name(rows, f"encoder/{layer}/weight")
    if name not in weights or len(weights.shape(name)) != 3:
      raise UsageError(
        f"{weights.path}: no tensor {name} with 3 axes, which every VAE of MMAudio has"
      )
    return weights.shape(name)

  hidden, bands, _ = shape("first")
  return {"bands": bands, "channels": shape("last")[0] // 2, "hidden": hidden}


def shapes_of(sizes: Sizes) -> Shapes:
  """Shapes by path of the parameters of `models.audio_vae`, in float32."""
  init = lambda key: init_params(key, **sizes)
  return flat_shapes(jax.eval_shape(init, jax.random.key(0)))


UPSTREAM = Upstream(
  tables={"native": NATIVE},
  format_of=format_of,
  sizes=sizes_of,
  shapes=shapes_of,
  places=("", "ext_weights"),
  files=("v1-*", "vae_weights*", "mmaudio_vae*", "model*"),
)
