"""The size of a clip that takes its aspect ratio from its first frame."""

import dataclasses
import math

from ccl_jax.data.media.decode import MediaError, image_size
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.generation.inputs import Files


def size_for_area(height: int, width: int, area: int, unit: int) -> tuple[int, int]:
  """(height, width) in multiples of `unit` of at most `area` pixels, near an aspect.

  One side is rounded down, the other is the longest that the area leaves; of the two
  ways to do so the nearer aspect ratio is taken, and height first where both are as
  near (Wan2.2's rule, of TI2V-5B).

  Args:
    height, width: of the picture.
    area: of the clip.
    unit: pixels.
  """
  ratio = width / height
  below = lambda x: max(math.floor(x / unit), 1) * unit

  def distance(size):
    own = size[1] / size[0]
    return max(own / ratio, ratio / own)

  # Not so flat that the least of the other side is more than the area.
  ratio = min(max(ratio, unit**2 / area), area / unit**2)
  longest = math.sqrt(area * ratio)
  w, h = below(longest), below(area / longest)
  return min((h, below(area / h)), (below(area / w), w), key=distance)


def spec_for(spec: ClipSpec, files: Files, area: int | None) -> ClipSpec:
  """The spec with the aspect ratio of the first of the clips' images.

  Args:
    spec: of clips without an image.
    files: by input, a file for every clip.
    area: pixels of a clip; None: clips do not follow their images.

  Raises:
    UsageError: the image cannot be read.
  """
  if area is None or not files.get("image"):
    return spec
  try:
    height, width = image_size(files["image"][0])
  except MediaError as e:
    raise UsageError(f"image: {e}") from e
  height, width = size_for_area(height, width, area, spec.unit)
  return dataclasses.replace(spec, height=height, width=width)
