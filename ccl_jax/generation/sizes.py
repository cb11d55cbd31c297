"""The size of a clip: that somebody asks for, or that follows what it is made from."""

import dataclasses
import math
import re
from collections.abc import Mapping

from ccl_jax.data.media.decode import MediaError, image_size, read_blocks
from ccl_jax.data.spec import FRAMES, ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.generation.inputs import Files, enough


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


def nearest_size(height: int, width: int, area: int, unit: int) -> tuple[int, int]:
  """(height, width) in multiples of `unit` whose product is as near to an area as can
  be, at about an aspect; of equally near ones that of the nearest aspect (Ovi's rule).

  Args:
    height, width: of the picture.
    area: of the clip, which may be exceeded.
    unit: pixels.
  """
  ratio = width / height
  middle = max(round(math.sqrt(max(area // unit**2, 1) / ratio)), 1)
  rows = [max(middle + i, 1) for i in range(-3, 4)]
  sizes = [(p * unit, max(round(p * ratio), 1) * unit) for p in rows]
  # And both sides scaled to the area, each rounded by itself.
  scale = math.sqrt(area / (height * width))
  sizes.append(tuple(max(round(x * scale / unit), 1) * unit for x in (height, width)))
  return min(sizes, key=lambda s: (abs(s[0] * s[1] - area), abs(s[1] / s[0] - ratio)))


def each_side(height: int, width: int, area: int, unit: int) -> tuple[int, int]:
  """(height, width) of an area at an aspect, each rounded down by itself to multiples
  of `unit` (Wan2.1's rule, of I2V).

  Args:
    height, width: of the picture.
    area: of the clip.
    unit: pixels.
  """
  # A root that should be whole may come out a little less.
  below = lambda x: max(math.floor(math.sqrt(x) + 1e-6) // unit, 1) * unit
  return below(area * height / width), below(area * width / height)


AUTO = "auto"
LONGEST = 32  # times as long as a clip of training, as a sound decides
RULES = {"within": size_for_area, "nearest": nearest_size, "each": each_side}


def spec_for(
  spec: ClipSpec, files: Files, area: int | None, rule: str = "within"
) -> ClipSpec:
  """The spec with the aspect ratio of the clips' first frames or, without any, of their
  last ones.

  Args:
    spec: of clips without an image.
    files: by input, a file for every clip.
    area: pixels of a clip; None: clips do not follow their images.
    rule: of `RULES`, by which a size is found.

  Raises:
    UsageError: an image cannot be read, or clips that are made together need several
      sizes.
  """
  name = next((name for name in ("image", "last_image") if files.get(name)), None)
  if area is None or name is None:
    return spec
  try:
    shapes = {path: image_size(path) for path in dict.fromkeys(files[name])}
  except MediaError as e:
    raise UsageError(f"{name}: {e}") from e
  sizes = {path: RULES[rule](*size, area, spec.unit) for path, size in shapes.items()}
  first, (height, width) = next(iter(sizes.items()))
  for path, size in sizes.items():
    if size != (height, width):
      raise UsageError(
        f"{name}: {first} needs clips of {height} x {width} pixels (height x width) "
        f"and {path} of {size[0]} x {size[1]}: give --height and --width, or make them "
        "by two commands, or of a manifest with --batch 1"
      )
  return dataclasses.replace(spec, height=height, width=width)


def as_long_as_sound(spec: ClipSpec, files: Files) -> ClipSpec:
  """The spec with as many frames as the clips' sounds last, where any are given.

  Args:
    spec: of a clip of training.
    files: by input, a file for every clip.

  Raises:
    UsageError: a sound cannot be read, or is too short or too long for a clip, or clips
      that are made together need several lengths.
  """
  if not files.get("audio"):
    return spec
  frames = {}
  for path in dict.fromkeys(files["audio"]):
    # Not what the headers promise: a block at a time, however long it is.
    try:
      samples = sum(map(len, read_blocks(path)))
    except MediaError as e:
      raise UsageError(f"audio: {e}") from e
    whole = math.floor(samples * spec.rate / spec.sample_rate)
    frames[path] = 4 * ((whole - 1) // 4) + 1
    longer = dataclasses.replace(spec, frames=max(frames[path], 1) + 4)
    if enough(longer) <= samples:  # whole tokens may end a little before the picture
      frames[path] = longer.frames
    lasts = samples / spec.sample_rate
    if whole < 1:
      raise UsageError(
        f"audio: {path} lasts {lasts:.3f} s, less than a frame: give longer sound"
      )
    if frames[path] > LONGEST * spec.frames:
      raise UsageError(
        f"audio: {path} lasts {lasts:.0f} s, and a clip of training {spec.seconds:.3g} "
        "s: give --seconds for as much of it as you want"
      )
  first, n = next(iter(frames.items()))
  for path, other in frames.items():
    if other != n:
      raise UsageError(
        f"audio: {first} needs clips of {n} frames and {path} of {other}: give "
        "--frames or --seconds, or make them by two commands, or of a manifest with "
        "--batch 1"
      )
  return dataclasses.replace(spec, frames=n)


def resized(
  spec: ClipSpec,
  sizes: Mapping[str, int | None],
  size: str | None = None,
  seconds: float | int | None = None,
) -> ClipSpec:
  """The clip with sizes that somebody asks for, in the words of the flags.

  Args:
    spec: the clip whose other sizes are kept.
    sizes: `frames`, `height` and `width`, or None.
    size: "WxH", in their place; or "auto": the spec's own, until an image tells.
    seconds: in place of the frames: the nearest length that a clip can have.

  Raises:
    UsageError: sizes that no clip can have.
  """
  sizes = dict(sizes)
  if size not in (None, AUTO):
    match = re.fullmatch(r"(\d+)[xX](\d+)", size)
    if not match:
      raise UsageError(f"--size: got {size}; expected WxH, as 832x480, or {AUTO}")
    sizes |= {"width": int(match[1]), "height": int(match[2])}
  if seconds is not None:
    frames = seconds * spec.fps
    if not frames > 0:
      raise UsageError(f"--seconds: got {seconds:g}; expected a length above 0")
    if frames > FRAMES:
      most = FRAMES / spec.fps
      raise UsageError(f"--seconds: got {seconds:g}; expected at most {most:.0f}")
    sizes["frames"] = max(4 * round((frames - 1) / 4) + 1, 1)
  return dataclasses.replace(
    spec, **{name: n for name, n in sizes.items() if n is not None}
  )
