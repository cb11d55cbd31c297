"""FVD: the Frechet distance of films by I3D's logits (Unterthiner et al., 2018).

A film's features are one row of 400. Its pictures are scaled, bilinearly and without
antialiasing, until the short side is 224 and the long one rounded up, cropped about the
centre and brought to [-1, 1]. How many frames a film has is part of the protocol: 16
and whole clips are both common, and do not compare.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from ccl_jax.metrics.base import Unscorable
from ccl_jax.models.scorers.i3d import LEAST_FRAMES, SIDE, FilmFeatures


@jax.jit
def film_pixels(video: UInt8[Array, "F H W 3"]) -> Float[Array, "F s s 3"]:
  """A film as I3D sees it: 224 x 224 pixels in [-1, 1]."""
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
  """The feature row of a film, 400 logits.

  Raises:
    Unscorable: it has too few frames.
  """
  if len(video) < LEAST_FRAMES:
    raise Unscorable(f"{len(video)} frames; I3D needs {LEAST_FRAMES}")
  return np.asarray(_features(net, film_pixels(video)))
