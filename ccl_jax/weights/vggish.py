"""VGGish, the feature network of FAD.

  native  vggish-10086976.pth, of torchvggish: numbers are places in torch's Sequential

All sizes come from the tensors' shapes. Its PCA is not part of FAD.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ccl_jax.errors import UsageError
from ccl_jax.models.scorers.vggish import BANDS, FRAMES, SoundFeatures, VGGish
from ccl_jax.weights.reader import Weights
from ccl_jax.weights.rules import Row, Shapes, conv, dense, flat_shapes
from ccl_jax.weights.upstream import Sizes, Upstream

_CONVS = [f"features.{i}" for i in (0, 3, 6, 8, 11, 13)]  # relu and pooling between
_DENSE = [f"embeddings.{i}" for i in (0, 2, 4)]

NATIVE = [
  *(Row(f"{x}.weight", f"conv_{i}/kernel", conv) for i, x in enumerate(_CONVS)),
  *(Row(f"{x}.bias", f"conv_{i}/bias") for i, x in enumerate(_CONVS)),
  *(row for i, x in enumerate(_DENSE) for row in dense(x, f"dense_{i}")),
]


def format_of(weights: Weights) -> str:
  """Checks that the tensors are VGGish's, and returns "native", the one format.

  Raises:
    UsageError: they are another network's.
  """
  if f"{_CONVS[0]}.weight" in weights and f"{_DENSE[0]}.weight" in weights:
    return "native"
  raise UsageError(
    f"{weights.path} is not VGGish: it lacks {_CONVS[0]}.weight or {_DENSE[0]}.weight, "
    f"but has {weights.names()[0]}"
  )


def sizes_of(weights: Weights, rows: Sequence[Row], config: dict) -> Sizes:
  """The fields of `VGGish`, from the tensors' shapes.

  Raises:
    UsageError: a tensor is missing that they are read from.
  """

  def width(part):
    name = f"{part}.bias"
    if name not in weights:
      raise UsageError(f"{weights.path}: no tensor {name}, which VGGish has")
    return weights.shape(name)[0]

  return {"convs": list(map(width, _CONVS)), "dense": list(map(width, _DENSE))}


def net_of(sizes: Sizes) -> VGGish:
  """The network of sizes that `sizes_of` gave, which may have been JSON."""
  return VGGish(tuple(sizes["convs"]), tuple(sizes["dense"]))


def shapes_of(sizes: Sizes) -> Shapes:
  """Shapes by path of the parameters of `VGGish`, in float32."""
  mel = jnp.zeros((1, FRAMES, BANDS))
  init = lambda key: net_of(sizes).init(key, mel)["params"]
  return flat_shapes(jax.eval_shape(init, jax.random.key(0)))


UPSTREAM = Upstream(
  tables={"native": NATIVE},
  format_of=format_of,
  sizes=sizes_of,
  shapes=shapes_of,
  ignore=(r"pproc\..*",),
  files=("vggish*", "model*"),
  network=lambda params, sizes, dtype: SoundFeatures(params, net_of(sizes)),
)
