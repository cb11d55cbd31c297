"""Decodes media files to pictures and sound."""

from ccl_jax.data.media.decode import (
  MediaError,
  image_size,
  measure,
  picture_size,
  probe,
  read_audio,
  read_clip,
  read_image,
  read_video,
)

__all__ = [
  "MediaError",
  "image_size",
  "measure",
  "picture_size",
  "probe",
  "read_audio",
  "read_clip",
  "read_image",
  "read_video",
]
