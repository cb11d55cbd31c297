"""Latents to pictures and sound, on all devices of a mesh.

The video codec works on rows and columns of pixels: the devices share them, or, where
the clip is decoded by tiles, each has tiles of its own.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from ccl_jax.codecs.bundle import Codecs
from ccl_jax.codecs.images import to_bytes
from ccl_jax.errors import UsageError
from ccl_jax.sharding import spread

TILE = 256  # pixels, where there is no room for the whole: as of diffusers
AUTO, OFF = "auto", "off"


class _Shared:
  """A video codec that all devices of the current mesh work at, but for its tiles."""

  def __init__(self, codec: Any):
    self._codec = codec

  def __getattr__(self, name: str) -> Any:
    return getattr(self._codec, name)

  def encode(self, pixels):
    """As the codec does."""
    return self._codec.encode(self._spread(pixels, self._codec.stride[1]))

  def decode(self, latent):
    """As the codec does."""
    return self._codec.decode(self._spread(latent, 1))

  def _spread(self, x, unit):
    tile = tile_of(self._codec)
    if tile is not None and max(x.shape[2:4]) * self._codec.stride[1] > tile * unit:
      return x  # each has tiles of its own
    return spread(x, {0: 1, 3: unit, 2: unit})


def shared(codecs: Codecs) -> Codecs:
  """The codecs, of which that of the video works on all devices; to be traced."""
  return codecs._replace(video=codecs.video and _Shared(codecs.video))


def decode(codecs: Codecs, latents: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """Pictures uint8 (b, F, H, W, 3) and sound (b, n) of latents; to be jitted."""
  out = {}
  if "video" in latents:
    out["video"] = to_bytes(shared(codecs).video.decode(latents["video"]))
  if "audio" in latents:
    out["audio"] = codecs.audio.decode(latents["audio"])
  return out


def tile_of(codec: Any) -> int | None:
  """The tiles that a video codec works by, in pixels; None: by none."""
  return getattr(codec, "tile", None)


def with_tile(codecs: Codecs, tile: int | None) -> Codecs:
  """The codecs, of which that of the video works by tiles that overlap by a quarter.

  Args:
    codecs: the bundle.
    tile: of `checked_tile`; None: no tiles.
  """
  if not hasattr(codecs.video, "tile"):
    return codecs
  overlap = {} if tile is None else {"overlap": tile // 4}
  return codecs._replace(video=codecs.video.replace(tile=tile, **overlap))


def checked_tile(codecs: Codecs, tile: str | int | None) -> str | int | None:
  """What somebody asks for, if the codec can do it: "auto", pixels, or None for none.

  Args:
    codecs: the bundle.
    tile: "auto", "off", or a side in pixels, as a number or in digits.

  Raises:
    UsageError: it cannot be tiled, or not by such tiles.
  """
  if tile in (AUTO, OFF, None):
    return AUTO if tile == AUTO else None
  pixels = size_of(tile)
  if codecs.video is None or not hasattr(codecs.video, "tile"):
    raise UsageError(
      f"--vae_tile {tile}: the video codec has no tiles, as it needs little memory: "
      "leave it out"
    )
  unit = 4 * codecs.video.stride[1]  # for an overlap of whole latents
  if pixels % unit:
    near = max(round(pixels / unit), 1) * unit
    raise UsageError(
      f"--vae_tile {tile}: expected a multiple of {unit} pixels, 4 latents of this "
      f"video codec: {near}"
    )
  return pixels


def chosen_tile(
  asked: str | int | None, codecs: Codecs, room: Callable[[], bool]
) -> int | None:
  """The tiles that a video is decoded by, in pixels; None: by none.

  Args:
    asked: of `checked_tile`.
    codecs: the bundle, which may state tiles of its own.
    room: whether there is memory without tiles; asked only where it matters.
  """
  if asked != AUTO:
    return asked
  own = tile_of(codecs.video)
  if own is not None or not hasattr(codecs.video, "tile"):
    return own
  return None if room() else TILE


def size_of(tile: str | int) -> int:
  """Pixels of a tile, as a number or in digits.

  Raises:
    UsageError: they are none.
  """
  if not str(tile).isdecimal() or int(tile) < 1:
    raise UsageError(
      f"--vae_tile: got {tile}; expected auto, off, or pixels such as {TILE}"
    )
  return int(tile)
