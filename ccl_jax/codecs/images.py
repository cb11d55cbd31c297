"""Pixels as bytes and in [-1, 1], and Wan2.1-I2V's condition on an image."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ccl_jax.codecs.bundle import Codecs

STILL = 5  # latent frames after which a still one's latents hardly change


def to_unit(pixels):
  """Pixels 0..255 of any shape as float32 in [-1, 1]."""
  return pixels.astype(jnp.float32) / 127.5 - 1


def to_bytes(pixels):
  """Pixels of any shape, clipped to [-1, 1], as the nearest of 0..255, uint8."""
  return jnp.round((pixels.clip(-1, 1) + 1) * 127.5).astype(jnp.uint8)


def image_condition(
  codecs: Codecs,
  first: Float[Array, "b H W 3"],
  frames: int,
  last: Float[Array, "b H W 3"] | None = None,
) -> tuple[Float[Array, "b t h w 20"], Float[Array, "b i 1280"]]:
  """Wan2.1-I2V's condition on a first frame in [-1, 1], and its CLIP tokens; or that of
  Wan2.1-FLF2V on a first and a last one.

  The condition is a mask, and the latent of a clip of mid-grey between those frames
  (reference: WanI2V.generate, WanFLF2V.generate). The mask tells of four pictures in
  its 4 channels which are given: 1, 1, 1, 1 in the first latent frame, which stands for
  its one picture four times, and 0, 0, 0, 1 in the last one, if its frame is given.

  Args:
    codecs: with `video` and `image`.
    first: the frame, one per sample.
    frames: F, of the clip.
    last: of the clip; its CLIP tokens follow those of the first.
  """
  pixels = jnp.zeros((first.shape[0], frames, *first.shape[1:])).at[:, 0].set(first)
  tokens = codecs.image.encode(first)
  if last is not None:
    pixels = pixels.at[:, -1].set(last)
    tokens = jnp.concatenate([tokens, codecs.image.encode(last)], 1)
  latent = codecs.video.encode(pixels)
  mask = jnp.zeros((*latent.shape[:-1], 4)).at[:, 0].set(1)
  if last is not None:
    mask = mask.at[:, -1, ..., -1].set(1)
  return jnp.concatenate([mask, latent], -1), tokens


def last_latent(
  codecs: Codecs, last: Float[Array, "b H W 3"], t: int
) -> Float[Array, "b 1 h w c"]:
  """The last latent frame of a clip that ends in a picture: that of a film in which it
  stands still, as a causal codec has other latents for what begins.

  Args:
    codecs: with `video`.
    last: the picture in [-1, 1], one per sample.
    t: latent frames of the clip.
  """
  still = jnp.repeat(last[:, None], 4 * (min(t, STILL) - 1) + 1, 1)
  return codecs.video.encode(still)[:, -1:]
