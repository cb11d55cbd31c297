"""FVD: the Frechet distance of films by I3D's logits (Unterthiner et al., 2018).

A film's features are one row of 400. Its pictures are scaled, bilinearly and without
antialiasing, until the short side is 224 and the long one rounded up, cropped about the
centre and brought to [-1, 1]. How many frames a film has is part of the protocol: 16
and whole clips are both common, and do not compare.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, UInt8

from ccl_jax.metrics.base import Unscorable
from ccl_jax.models.scorers.i3d import I3D, LEAST_FRAMES, SIDE


class FilmFeatures(struct.PyTreeNode):
  """Parameters of `net`, and the network."""

  params: Any  # not typed as arrays: transformations put shapes, shardings here
  net: I3D = struct.field(pytree_node=False, default=I3D())

  def __call__(self, pixels: Float[Array, "F s s 3"]) -> Float[Array, " e"]:
    """Features of `film_pixels`."""
    return self.net.apply({"params": self.params}, pixels[None])[0]


@jax.jit
def film_pixels(video: UInt8[Array, "F H W 3"]) -> Float[Array, "F s s 3"]:
  """What the network sees of a film."""
  frames, height, width, _ = video.shape
  scale = SIDE / min(height, width)
  size = tuple(
    SIDE if n == min(height, width) else math.ceil(n * scale) for n in (height, width)
  )
  pixels = jax.image.resize(
    video.astype(jnp.float32), (frames, *size, 3), "bilinear", antialias=False
  )
  top, left = ((n - SIDE) // 2 for n in size)
  return pixels[:, top : top + SIDE, left : left + SIDE] / 127.5 - 1


# By itself, so that films of all sizes run the same program.
_features = jax.jit(lambda net, pixels: net(pixels))


def features(
  video: UInt8[np.ndarray, "F H W 3"], net: FilmFeatures
) -> Float[np.ndarray, " e"]:
  """The row of a film.

  Raises:
    Unscorable: it has too few frames.
  """
  if len(video) < LEAST_FRAMES:
    raise Unscorable(f"{len(video)} frames; I3D needs {LEAST_FRAMES}")
  return np.asarray(_features(net, film_pixels(video)))
