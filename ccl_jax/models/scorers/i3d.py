"""I3D on pixels: a film to the 400 logits of Kinetics, the features of FVD.

Inception-v1 with three-dimensional kernels (Carreira and Zisserman, 2017, arXiv
1705.07750). A unit is

  relu((W * x - mean) / sqrt(var + 1e-5) scale + bias)

and a mixed layer four branches side by side: b0 a unit 1^3; b1 and b2 a unit 1^3 and
one 3^3; b3 the largest of 3^3 and a unit 1^3. Everything pads as TensorFlow's SAME:
what a stride lacks, more of it after than before. Names are those of the release.

Pixels (b F H W 3) are in [-1, 1], 224 x 224. Logits are the mean over time: one every
8 frames, each over two steps, so there must be 9 frames.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

EXACT = jax.lax.Precision.HIGHEST
EPS = 1e-5
SIDE, LEAST_FRAMES = 224, 9
MIXED = ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")
BRANCHES = ("b0", "b1a", "b1b", "b2a", "b2b", "b3b")


class Unit(nn.Module):
  """A convolution, normalised by the stored statistics of training, and relu."""

  features: int
  kernel: int
  stride: int = 1

  @nn.compact
  def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b s i j e"]:
    conv = nn.Conv(
      self.features,
      3 * (self.kernel,),
      self.stride,
      use_bias=False,
      precision=EXACT,
    )
    nn.share_scope(self, conv)
    x = conv(x)
    ones, zeros = nn.initializers.ones, nn.initializers.zeros
    value = lambda name, init: self.param(name, init, (self.features,))
    # (x - mean) / sqrt(var + eps) scale + bias as x factor + offset.
    factor = value("scale", ones) * jax.lax.rsqrt(value("var", ones) + EPS)
    offset = value("bias", zeros) - value("mean", zeros) * factor
    return nn.relu(
      x * jnp.broadcast_to(factor, x.shape) + offset[None, None, None, None]
    )


class Mixed(nn.Module):
  """Four branches side by side, joined on channels.

  Attributes:
    widths: of the units, in the order of `BRANCHES`.
  """

  widths: tuple[int, ...]

  @nn.compact
  def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h w e"]:
    unit = {
      name: Unit(width, 3 if name in ("b1b", "b2b") else 1, name=name)
      for name, width in zip(BRANCHES, self.widths, strict=True)
    }
    return jnp.concatenate(
      [
        unit["b0"](x),
        unit["b1b"](unit["b1a"](x)),
        unit["b2b"](unit["b2a"](x)),
        unit["b3b"](_pool(x, 3, 1)),
      ],
      axis=-1,
    )


class I3D(nn.Module):
  """Pixels to logits; the defaults are the sizes of the release.

  Attributes:
    stem: widths of the units before the mixed layers.
    mixed: widths of each mixed layer's units.
    classes: logits.
  """

  stem: tuple[int, ...] = (64, 64, 192)
  mixed: tuple[tuple[int, ...], ...] = (
    (64, 96, 128, 16, 32, 32),
    (128, 128, 192, 32, 96, 64),
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
  )
  classes: int = 400

  @nn.compact
  def __call__(self, x: Float[Array, "b F H W 3"]) -> Float[Array, "b e"]:
    x = Unit(self.stem[0], 7, 2, name="Conv3d_1a_7x7")(x)
    x = _pool(x, (1, 3, 3), (1, 2, 2))
    x = Unit(self.stem[1], 1, name="Conv3d_2b_1x1")(x)
    x = Unit(self.stem[2], 3, name="Conv3d_2c_3x3")(x)
    x = _pool(x, (1, 3, 3), (1, 2, 2))
    for name, widths in zip(MIXED, self.mixed, strict=True):
      if name == "4b":
        x = _pool(x, 3, 2)
      if name == "5b":
        x = _pool(x, 2, 2)
      x = Mixed(widths, name=f"Mixed_{name}")(x)
    # Logits at every pair of time steps, then their mean.
    x = nn.avg_pool(x, (2, 7, 7))
    return nn.Dense(self.classes, precision=EXACT, name="logits")(x).mean((1, 2, 3))


def _pool(x, window, stride):
  cube = lambda n: n if isinstance(n, tuple) else 3 * (n,)
  return nn.max_pool(x, cube(window), cube(stride), "SAME")


class FilmFeatures(struct.PyTreeNode):
  """The network with its parameters, as a function of one film's pixels.

  Attributes:
    params: of `net`.
    net: the network.
  """

  params: Any  # not typed as arrays: transformations put shapes, shardings here
  net: I3D = struct.field(pytree_node=False, default=I3D())

  def __call__(self, pixels: Float[Array, "F s s 3"]) -> Float[Array, " e"]:
    """I3D features of pixels prepared by `film_pixels`, one vector a film."""
    return self.net.apply({"params": self.params}, pixels[None])[0]
