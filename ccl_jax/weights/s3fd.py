"""S3FD's weights by the names of their release, sfd_face.pth."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ccl_jax.errors import UsageError
from ccl_jax.models.scorers.s3fd import S3FD, S3FDNet
from ccl_jax.weights.reader import Weights
from ccl_jax.weights.rules import Row, Shapes, conv, flat_shapes
from ccl_jax.weights.upstream import Sizes, Upstream, tensor_name

# Places in the reference's lists of layers, pools and rectifiers counted.
_VGG = {
  "conv1_1": 0, "conv1_2": 2, "conv2_1": 5, "conv2_2": 7, "conv3_1": 10, "conv3_2": 12,
  "conv3_3": 14, "conv4_1": 17, "conv4_2": 19, "conv4_3": 21, "conv5_1": 24,
  "conv5_2": 26, "conv5_3": 28, "fc6": 31, "fc7": 33,
}  # fmt: skip
_EXTRAS = ("conv6_1", "conv6_2", "conv7_1", "conv7_2")


def _conv(source: str, target: str) -> list[Row]:
  return [
    Row(f"{source}.weight", f"{target}/kernel", conv),
    Row(f"{source}.bias", f"{target}/bias"),
  ]


NATIVE = [
  *(row for ours, i in _VGG.items() for row in _conv(f"vgg.{i}", ours)),
  *(row for i, ours in enumerate(_EXTRAS) for row in _conv(f"extras.{i}", ours)),
  Row("L2Norm([345])_3.weight", r"norm\1/scale"),
  *_conv(r"(loc|conf).(\d)", r"\1_\2"),
]


def format_of(weights: Weights) -> str:
  """Checks that the tensors are S3FD's, and returns "native", the one format.

  Raises:
    UsageError: they are another network's.
  """
  if "L2Norm3_3.weight" in weights:
    return "native"
  raise UsageError(
    f"{weights.path} is no S3FD face detector: it has no L2Norm3_3.weight, but "
    f"{weights.names()[0]}"
  )


def sizes_of(weights: Weights, rows: Sequence[Row], config: dict) -> Sizes:
  """The fields of `S3FDNet`, from the tensors' shapes.

  Raises:
    UsageError: a tensor is missing that they are read from.
  """

  def width(layer):
    name = tensor_name(rows, f"{layer}/kernel")
    if name not in weights:
      raise UsageError(f"{weights.path}: no tensor {name}, which every S3FD has")
    return weights.shape(name)[0]

  return {
    "widths": [width(f"conv{i}_1") for i in range(1, 6)],
    "fc": width("fc7"),
    "extras": [width(name) for name in _EXTRAS],
  }


def shapes_of(sizes: Sizes) -> Shapes:
  """Shapes by path of the parameters of `S3FDNet`, in float32."""
  net = S3FDNet(tuple(sizes["widths"]), sizes["fc"], tuple(sizes["extras"]))
  init = lambda key: net.init(key, jnp.zeros((1, 32, 32, 3)))["params"]
  return flat_shapes(jax.eval_shape(init, jax.random.key(0)))


UPSTREAM = Upstream(
  tables={"native": NATIVE},
  format_of=format_of,
  sizes=sizes_of,
  shapes=shapes_of,
  files=("sfd_face*", "s3fd*"),
  stem="sfd_face",
  network=lambda params, sizes, dtype: S3FD(params),
)
