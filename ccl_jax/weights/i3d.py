"""I3D, the feature network of FVD.

  native  i3d_pretrained_400.pt, a dict of tensors, or i3d_torchscript.pt, whose
          attributes have these names

All sizes come from the tensors' shapes.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ccl_jax.errors import UsageError
from ccl_jax.models.scorers.i3d import BRANCHES, I3D, MIXED, FilmFeatures
from ccl_jax.weights.reader import Weights
from ccl_jax.weights.rules import Row, Shapes, Transform, conv, flat_shapes
from ccl_jax.weights.upstream import Sizes, Upstream, tensor_name

# (out, in, 1, 1, 1) <-> (in, out)
_POINT = Transform(lambda x: x[:, :, 0, 0, 0].T, lambda x: x.T[..., None, None, None])


def _unit(source: str, target: str) -> list[Row]:
  return [
    Row(f"{source}.conv3d.weight", f"{target}/kernel", conv),
    Row(f"{source}.bn.weight", f"{target}/scale"),
    Row(f"{source}.bn.bias", f"{target}/bias"),
    Row(f"{source}.bn.running_mean", f"{target}/mean"),
    Row(f"{source}.bn.running_var", f"{target}/var"),
  ]


NATIVE = [
  *_unit(r"(Conv3d_\w+)", r"\1"),
  *_unit(r"(Mixed_\w+).(b\w+)", r"\1/\2"),
  Row("logits.conv3d.weight", "logits/kernel", _POINT),
  Row("logits.conv3d.bias", "logits/bias"),
]
_STEM = ("Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3")


def format_of(weights: Weights) -> str:
  """Checks that the tensors are I3D's, and returns "native", the one format.

  Raises:
    UsageError: they are another network's.
  """
  first = f"{_STEM[0]}.conv3d.weight"
  if first in weights:
    return "native"
  raise UsageError(f"{weights.path} is not I3D: no {first}, but {weights.names()[0]}")


def sizes_of(weights: Weights, rows: Sequence[Row], config: dict) -> Sizes:
  """The fields of `I3D`, from the tensors' shapes.

  Raises:
    UsageError: a tensor is missing that they are read from.
  """

  def width(target):
    name = tensor_name(rows, target)
    if name not in weights:
      raise UsageError(f"{weights.path}: no tensor {name}, which I3D has")
    return weights.shape(name)[0]

  return {
    "stem": [width(f"{name}/kernel") for name in _STEM],
    "mixed": [[width(f"Mixed_{m}/{b}/kernel") for b in BRANCHES] for m in MIXED],
    "classes": width("logits/bias"),
  }


def net_of(sizes: Sizes) -> I3D:
  """The network of sizes that `sizes_of` gave, which may have been JSON."""
  return I3D(tuple(sizes["stem"]), tuple(map(tuple, sizes["mixed"])), sizes["classes"])


def shapes_of(sizes: Sizes) -> Shapes:
  """Shapes by path of the parameters of `I3D`, in float32."""
  film = jax.ShapeDtypeStruct((1, 9, 224, 224, 3), jnp.float32)
  init = lambda key, film: net_of(sizes).init(key, film)["params"]
  return flat_shapes(jax.eval_shape(init, jax.random.key(0), film))


UPSTREAM = Upstream(
  tables={"native": NATIVE},
  format_of=format_of,
  sizes=sizes_of,
  shapes=shapes_of,
  ignore=(r".*\.num_batches_tracked",),
  files=("i3d*", "model*"),
  network=lambda params, sizes, dtype: FilmFeatures(params, net_of(sizes)),
)
