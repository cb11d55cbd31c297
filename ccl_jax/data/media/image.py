"""The one door to users' pictures: nothing else opens one.

Pillow knows dozens of formats, and runs other programs for some of them: here it gets
the formats in `FORMATS` alone, whatever a file is called. A still becomes 8-bit RGB:

  grey of 16 bits    v / 257; of 12 bits v 255 / 4095
  grey of floats     0 to 1; where values go beyond it 0 to 255, or 0 to 65535
  0 is white         as a TIFF says it
  transparency       on white
  turned by EXIF     upright
  PQ, HLG            refused: what they show is no grey of a screen
"""

import contextlib
import os
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from ccl_jax.data.media.door import MediaError, Path, check_regular, on_disk

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
PIXELS = 2**26  # of a still: 8192 x 8192
_GROUND = (255, 255, 255)
# Tags of EXIF and TIFF.
_WIDTH, _HEIGHT, _BITS, _KIND, _ORIENTATION = 256, 257, 258, 262, 274
_WHITE_IS_ZERO = 0  # a kind of TIFF
_HDR = {16: "PQ", 18: "HLG"}  # transfers of ITU-T H.273


@contextlib.contextmanager
def opened_image(path: Path) -> Iterator[Any]:
  """A still as Pillow has it, its pixels not read yet; of a moving one the first.

  Whatever fails inside is a `MediaError`.

  Raises:
    MediaError: it is no regular file, of no format in `FORMATS`, damaged or too large.
    UsageError: see `on_disk`.
  """
  with on_disk(path) as file, _opened_image(path, file) as image:
    yield image


@contextlib.contextmanager
def _opened_image(path: Path, file: Path) -> Iterator[Any]:
  """As `opened_image`, of a file of this machine that the user knows as `path`."""
  from PIL import Image

  check_regular(file)
  try:
    with open(file, "rb") as data:
      if light := _HDR.get(_transfer(data)):
        raise MediaError(f"{path}: its light is {light}: make a picture of sRGB of it")
    with Image.open(file, formats=FORMATS) as image:
      if image.width * image.height > PIXELS:
        raise MediaError(
          f"{path}: {image.width} x {image.height} pixels, expected {PIXELS} at most"
        )
      yield image
  except MediaError:
    raise
  except Image.UnidentifiedImageError as e:
    raise MediaError(
      f"{path}: not a readable image, expected one of {', '.join(FORMATS)}"
    ) from e
  except Exception as e:  # Pillow's plugins raise what they come upon
    reason = str(e).removeprefix(f"{file}: ") or type(e).__name__
    raise MediaError(f"{path}: not a readable image ({reason})") from e


def _transfer(data: BinaryIO) -> int | None:
  """The transfer that a PNG names in its chunk cICP, which Pillow does not read."""
  if data.read(8) != b"\x89PNG\r\n\x1a\n":
    return None
  while len(head := data.read(8)) == 8:
    length, kind = struct.unpack(">I4s", head)
    if kind == b"cICP":
      return next(iter(data.read(2)[1:]), None)
    if kind == b"IDAT":  # it comes before the pixels
      return None
    data.seek(length + 4, os.SEEK_CUR)
  return None


def upright_size(image: Any) -> tuple[int, int]:
  """(height, width) in pixels of a still as it is shown, from its headers."""
  lies = image.getexif().get(_ORIENTATION) in (5, 6, 7, 8)  # on its side
  tags = _tags(image)
  if tags and image.size != (tags.get(_WIDTH), tags.get(_HEIGHT)):
    lies = False  # Pillow has turned a TIFF itself
  return image.size if lies else image.size[::-1]


def _tags(image: Any) -> Any:
  """The tags of a TIFF; of others none."""
  return getattr(image, "tag_v2", {})


def upright_rgb(image: Any) -> Any:
  """A still as 8-bit RGB, upright, on white.

  Raises:
    ValueError: grey values whose range is not known; see the module.
  """
  from PIL import Image, ImageOps

  tags = _tags(image)
  steps = _steps(image)
  image = ImageOps.exif_transpose(image)
  if image.mode == "F" or image.mode.startswith("I"):
    bits = 12 if tags.get(_BITS) == (12,) else 16
    return _grey(image, 2**bits - 1, tags.get(_KIND) == _WHITE_IS_ZERO)
  if isinstance(clear := image.info.get("transparency"), int):
    image.info["transparency"] = clear * steps
  # A palette or a colour that is transparent is no channel of its own.
  if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
    image = image.convert("RGBA")
    ground = Image.new("RGBA", image.size, (*_GROUND, 255))
    return Image.alpha_composite(ground, image).convert("RGB")
  return image.convert("RGB")


def _steps(image: Any) -> int:
  """Of a grey PNG of 2 or 4 bits the level of 8 bits that 1 becomes, of others 1:
  Pillow has levels of 8 bits, but a transparent one as it is stored.
  """
  stored = image.tile[0].args if image.format == "PNG" and image.tile else None
  return {"L;2": 85, "L;4": 17}.get(stored, 1)


def _grey(image: Any, most_stored: int, inverted: bool) -> Any:
  from PIL import Image

  values, clear = np.asarray(image).astype(np.float64), image.info.get("transparency")
  floats = image.mode == "F"
  least, most = float(values.min()), float(values.max())
  # NaN is in no range.
  ranges = [r for r in (1, 255, 65535) if 0 <= least and most <= r]
  if not ranges:
    raise ValueError(
      f"grey values from {least:g} to {most:g}, expected 0 to 1, 255 or 65535"
    )
  scaled = values * (255 / (ranges[0] if floats else most_stored))
  scaled = 255 - scaled if inverted else scaled
  grey = np.floor(scaled.clip(0, 255) + 0.5).astype(np.uint8)
  if isinstance(clear, int):
    grey = np.where(values == clear, _GROUND[0], grey).astype(np.uint8)
  return Image.fromarray(grey).convert("RGB")
