"""The one door to users' pictures: nothing else opens one.

Pillow knows dozens of formats, and runs other programs for some of them: here it gets
the formats in `FORMATS` alone, whatever a file is called. A still becomes 8-bit RGB:

  grey of 16 bits    v / 257
  grey of floats     0 to 1; where values go beyond it 0 to 255, or 0 to 65535
  transparency       on white
  turned by EXIF     upright
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from ccl_jax.data.media.door import MediaError, Path, check_regular, on_disk

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
PIXELS = 2**26  # of a still: 8192 x 8192
_GROUND = (255, 255, 255)
_ORIENTATION = 274  # the EXIF tag


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


def upright_size(image: Any) -> tuple[int, int]:
  """(height, width) in pixels of a still as it is shown, from its headers."""
  turned = image.getexif().get(_ORIENTATION, 1) >= 5  # it lies on its side
  return image.size if turned else image.size[::-1]


def upright_rgb(image: Any) -> Any:
  """A still as 8-bit RGB, upright, on white.

  Raises:
    ValueError: grey values whose range is not known; see the module.
  """
  from PIL import Image, ImageOps

  image = ImageOps.exif_transpose(image)
  if image.mode == "F" or image.mode.startswith("I"):
    return _grey(image)
  # A palette or a colour that is transparent is no channel of its own.
  if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
    image = image.convert("RGBA")
    ground = Image.new("RGBA", image.size, (*_GROUND, 255))
    return Image.alpha_composite(ground, image).convert("RGB")
  return image.convert("RGB")


def _grey(image: Any) -> Any:
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
  scaled = values * (255 / (ranges[0] if floats else 65535))
  grey = np.floor(scaled + 0.5).astype(np.uint8)
  if isinstance(clear, int):
    grey = np.where(values == clear, _GROUND[0], grey).astype(np.uint8)
  return Image.fromarray(grey).convert("RGB")
