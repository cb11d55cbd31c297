"""SyncNet's weights by the names of their release, syncnet_v2.model."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ccl_jax.errors import UsageError
from ccl_jax.models.scorers.syncnet import (
  CEPSTRA,
  FRAMES,
  LIPS,
  ROWS,
  SIDE,
  SOUND,
  SyncNet,
  Tower,
)
from ccl_jax.weights.reader import Weights
from ccl_jax.weights.rules import (
  Row,
  Shapes,
  Transform,
  conv,
  dense,
  flat_shapes,
  norm,
)
from ccl_jax.weights.upstream import Sizes, Upstream, tensor_name

_CONVS, _NORMS = (0, 4, 8, 11, 14, 18), (1, 5, 9, 12, 15, 19)  # in their lists
_TOWERS = {"lips": "lip", "sound": "aud"}
_INPUTS = {"lips": (SIDE, SIDE, 3 * FRAMES), "sound": (CEPSTRA, ROWS, 1)}
_LAYERS = {"lips": LIPS, "sound": SOUND}


def over_frames(frames: int) -> Transform:
  """The transform of a convolution over all `frames` of a window.

  It is one over pictures of so many times the channels: (out, c, t, h, w) <-> (h, w, c
  t, out).
  """

  def forward(x):
    return conv.forward(x.reshape(x.shape[0], -1, *x.shape[3:]))

  def backward(x):
    x = conv.backward(x)
    return x.reshape(x.shape[0], -1, frames, *x.shape[2:])

  return Transform(forward, backward)


def _norm(source: str, target: str) -> list[Row]:
  return [
    *norm(source, target),
    Row(f"{source}.running_mean", f"{target}/mean"),
    Row(f"{source}.running_var", f"{target}/var"),
  ]


def _tower(ours: str, theirs: str) -> list[Row]:
  rows = []
  for i, (c, n) in enumerate(zip(_CONVS, _NORMS)):
    # Only the first layer of the lips spans five frames; the others are 3-D by name.
    layout = over_frames(1 if i else FRAMES) if ours == "lips" else conv
    rows += [
      Row(f"netcnn{theirs}.{c}.weight", f"{ours}/conv_{i}/kernel", layout),
      Row(f"netcnn{theirs}.{c}.bias", f"{ours}/conv_{i}/bias"),
      *_norm(f"netcnn{theirs}.{n}", f"{ours}/norm_{i}"),
    ]
  return [
    *rows,
    *dense(f"netfc{theirs}.0", f"{ours}/hidden"),
    *_norm(f"netfc{theirs}.1", f"{ours}/hidden_norm"),
    *dense(f"netfc{theirs}.3", f"{ours}/out"),
  ]


NATIVE = [row for names in _TOWERS.items() for row in _tower(*names)]


def format_of(weights: Weights) -> str:
  """Checks that the tensors are SyncNet's, and returns "native", the one format.

  Raises:
    UsageError: they are another network's.
  """
  if "netcnnlip.0.weight" in weights:
    return "native"
  raise UsageError(
    f"{weights.path} is no SyncNet: it has no netcnnlip.0.weight, but "
    f"{weights.names()[0]}"
  )


def sizes_of(weights: Weights, rows: Sequence[Row], config: dict) -> Sizes:
  """The fields of each `Tower`, from the tensors' shapes.

  Raises:
    UsageError: a tensor is missing that they are read from.
  """

  def width(layer):
    name = tensor_name(rows, f"{layer}/kernel")
    if name not in weights:
      raise UsageError(f"{weights.path}: no tensor {name}, which every SyncNet has")
    return weights.shape(name)[0]

  return {
    tower: {
      # torch has outputs first: a kernel's first axis is its width.
      "widths": [width(f"{tower}/conv_{i}") for i in range(len(_CONVS))],
      "hidden": width(f"{tower}/hidden"),
      "out": width(f"{tower}/out"),
    }
    for tower in _TOWERS
  }


def shapes_of(sizes: Sizes) -> Shapes:
  """Shapes by path of the parameters of both towers, in float32."""

  def init(key):
    params = {}
    for name, size in sizes.items():
      fields = size | {"widths": tuple(size["widths"])}
      x = jnp.zeros((1, *_INPUTS[name]))
      params[name] = Tower(_LAYERS[name], **fields).init(key, x)["params"]
    return params

  return flat_shapes(jax.eval_shape(init, jax.random.key(0)))


UPSTREAM = Upstream(
  tables={"native": NATIVE},
  format_of=format_of,
  sizes=sizes_of,
  shapes=shapes_of,
  ignore=(r".*\.num_batches_tracked",),  # training's counters
  files=("syncnet_v2.model", "syncnet*"),
  stem="syncnet_v2",
  network=lambda params, sizes, dtype: SyncNet(params),
)
