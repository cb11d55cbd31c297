"""VGGish: patches of log mel to 128 numbers, the features of FAD.

Convolutions 3 x 3 with relu, halved by the largest of 2 x 2 after the first, second,
fourth and sixth; then three dense layers on what is left in the order rows, columns,
channels, with relu between them and, as Frechet distances are usually taken, none after
the last. A patch is 96 frames of 64 bands.

Hershey et al. (2017), arXiv 1609.09430.
"""

from typing import Any

import flax.linen as nn
import jax
from flax import struct
from jaxtyping import Array, Float

EXACT = jax.lax.Precision.HIGHEST
FRAMES, BANDS = 96, 64
HALVED = (0, 1, 3, 5)  # convolutions that are pooled


class VGGish(nn.Module):
  """Patches to features; the defaults are the sizes of the release.

  Attributes:
    convs: widths of the convolutions.
    dense: widths of the dense layers.
  """

  convs: tuple[int, ...] = (64, 128, 256, 256, 512, 512)
  dense: tuple[int, ...] = (4096, 4096, 128)

  @nn.compact
  def __call__(self, mel: Float[Array, "b m c"]) -> Float[Array, "b e"]:
    x = mel[..., None]
    for i, width in enumerate(self.convs):
      x = nn.relu(nn.Conv(width, (3, 3), precision=EXACT, name=f"conv_{i}")(x))
      if i in HALVED:
        x = nn.max_pool(x, (2, 2), (2, 2))
    x = x.reshape(len(x), -1)
    for i, width in enumerate(self.dense):
      x = nn.Dense(width, precision=EXACT, name=f"dense_{i}")(nn.relu(x) if i else x)
    return x


class SoundFeatures(struct.PyTreeNode):
  """The network with its parameters, as a function of patches of log mel.

  Attributes:
    params: of `net`.
    net: the network.
  """

  params: Any  # not typed as arrays: transformations put shapes, shardings here
  net: VGGish = struct.field(pytree_node=False, default=VGGish())

  def __call__(self, mel: Float[Array, "b m c"]) -> Float[Array, "b e"]:
    """VGGish features, one vector per patch of log mel."""
    return self.net.apply({"params": self.params}, mel)
