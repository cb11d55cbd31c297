"""Pixels as bytes and in [-1, 1], and Wan2.1-I2V's condition on an image."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ccl_jax.codecs.bundle import Codecs


def to_unit(pixels):
  """Pixels 0..255 of any shape as float32 in [-1, 1]."""
  return pixels.astype(jnp.float32) / 127.5 - 1


def to_bytes(pixels):
  """Pixels of any shape, clipped to [-1, 1], as the nearest of 0..255, uint8."""
  return jnp.round((pixels.clip(-1, 1) + 1) * 127.5).astype(jnp.uint8)


def image_condition(
  codecs: Codecs, first: Float[Array, "b H W 3"], frames: int
) -> tuple[Float[Array, "b t h w 20"], Float[Array, "b i 1280"]]:
  """Wan2.1-I2V's condition on a first frame in [-1, 1], and its CLIP tokens.

  The condition is a mask, 1 in the 4 channels of the first latent frame, and the latent
  of a clip of that frame followed by mid-grey (reference: WanI2V.generate).

  Args:
    codecs: with `video` and `image`.
    first: the frame, one per sample.
    frames: F, of the clip.
  """
  grey = jnp.zeros((first.shape[0], frames - 1, *first.shape[1:]))
  latent = codecs.video.encode(jnp.concatenate([first[:, None], grey], 1))
  mask = jnp.zeros((*latent.shape[:-1], 4)).at[:, 0].set(1)
  return jnp.concatenate([mask, latent], -1), codecs.image.encode(first)
