"""S3FD, a single-shot face detector: VGG-16 and six maps that faces are read from.

  map        conv3_3  conv4_3  conv5_3  fc7  conv6_2  conv7_2
  stride           4        8       16   32       64      128   pixels
  face size       16       32       64  128      256      512   pixels

At each place of each map stand one prior box of that size (metrics/face_detection.py),
four numbers that move it, and the probability of a face:

  loc  = conv3x3(x),   conf = softmax(conv3x3(x)),   first map: softmax(max(3 of 4), 1)

the first three maps being x / |x| by place, times a learned scale per channel. Input is
RGB less its mean (123, 117, 104). Zhang et al., "S3FD: Single Shot Scale-invariant Face
Detector", 2017, as released with syncnet_python.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, UInt8

MEAN = (123.0, 117.0, 104.0)  # of RGB
STAGES = (2, 2, 3, 3, 3)  # convolutions before each halving
EXACT = jax.lax.Precision.HIGHEST  # float32 products on every accelerator


class UnitNorm(nn.Module):
  """x / |x| over channels, times a scale per channel."""

  init: float

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    constant = nn.initializers.constant(self.init)
    scale = self.param("scale", constant, x.shape[-1:])
    # x / |x| by place, times a learned scale.
    length = jnp.sqrt(jnp.sum(x * x, -1, keepdims=True)) + 1e-10
    return x / length * scale.reshape(1, 1, 1, -1)


class S3FDNet(nn.Module):
  """Pictures less their mean to (conf, loc), map by map, row by row.

  Attributes:
    widths: channels of VGG's five stages.
    fc: of fc6 and fc7.
    extras: of conv6_1, conv6_2, conv7_1, conv7_2.
  """

  widths: tuple[int, ...] = (64, 128, 256, 512, 512)
  fc: int = 1024
  extras: tuple[int, ...] = (256, 512, 128, 256)

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w 3"]
  ) -> tuple[Float[Array, "b p 2"], Float[Array, "b p 4"]]:
    maps = []
    for i, (width, depth) in enumerate(zip(self.widths, STAGES, strict=True), 1):
      for j in range(1, depth + 1):
        x = nn.relu(_conv(width, f"conv{i}_{j}")(x))
      if i >= 3:
        # Initial scales of the paper's table; released weights bring their own.
        maps.append(UnitNorm((10.0, 8.0, 5.0)[i - 3], name=f"norm{i}")(x))
      # Only the third pool rounds up, as in the released network.
      x = _halve(x, ceil=i == 3)
    # VGG's first dense layer as a convolution, thinned out by dilation (DeepLab).
    x = nn.relu(_conv(self.fc, "fc6", padding=6, kernel_dilation=6)(x))
    x = nn.relu(_conv(self.fc, "fc7", kernel=1)(x))
    maps.append(x)
    for i, (inner, outer) in enumerate((self.extras[:2], self.extras[2:]), 6):
      x = nn.relu(_conv(inner, f"conv{i}_1", kernel=1)(x))
      x = nn.relu(_conv(outer, f"conv{i}_2", strides=2)(x))
      maps.append(x)
    scores, moves = [], []
    for i, x in enumerate(maps):
      score = _conv(2 if i else 4, f"conf_{i}")(x)
      if i == 0:  # small faces: three guesses at what else it could be
        other = score[..., :3].max(-1, keepdims=True)
        score = jnp.concatenate([other, score[..., 3:]], -1)
      scores.append(score.reshape(len(x), -1, 2))
      moves.append(_conv(4, f"loc_{i}")(x).reshape(len(x), -1, 4))
    conf = nn.softmax(jnp.concatenate(scores, 1), -1)
    return conf, jnp.concatenate(moves, 1)


class S3FD(struct.PyTreeNode):
  """The detector with its parameters, an argument of jitted functions.

  Attributes:
    params: of `S3FDNet`; its sizes are theirs.
  """

  params: Any  # not typed as arrays: transformations put shapes, shardings here

  def detect(
    self, images: UInt8[Array, "b h w 3"]
  ) -> tuple[Float[Array, "b p 2"], Float[Array, "b p 4"]]:
    """(conf, loc) of RGB pictures: [.., 1] of conf is the probability of a face."""
    x = images.astype(jnp.float32) - jnp.array(MEAN).reshape(1, 1, 1, 3)
    return S3FDNet(**net_sizes(self.params)).apply({"params": self.params}, x)


def level_sizes(height: int, width: int) -> list[tuple[int, int]]:
  """(rows, columns) of the six maps of a picture; 0 where it is too small for one."""
  maps, size = [], (height, width)
  for stage in range(1, 6):
    if stage >= 3:
      maps.append(size)
    size = tuple((n + (stage == 3)) // 2 for n in size)
  for _ in range(3):
    maps.append(size)
    size = tuple((n + 1) // 2 for n in size)
  return maps


def net_sizes(params: Any) -> dict[str, Any]:
  """The fields of the `S3FDNet` whose parameters these are."""
  last = lambda name: params[name]["kernel"].shape[-1]
  return {
    "widths": tuple(last(f"conv{i}_1") for i in range(1, 6)),
    "fc": last("fc7"),
    "extras": tuple(last(f"conv{i}_{j}") for i in (6, 7) for j in (1, 2)),
  }


def _conv(features: int, name: str, kernel: int = 3, **kwargs) -> nn.Conv:
  kwargs = {"padding": kernel // 2, "precision": EXACT} | kwargs
  return nn.Conv(features, (kernel, kernel), name=name, **kwargs)


def _halve(x: Float[Array, "b h w c"], ceil: bool) -> Float[Array, "b i j c"]:
  """Maximum of 2 x 2; an odd last row or column is dropped, or kept with `ceil`."""
  pad = [(0, n % 2 if ceil else 0) for n in x.shape[1:3]]
  return nn.max_pool(x, (2, 2), (2, 2), pad)
