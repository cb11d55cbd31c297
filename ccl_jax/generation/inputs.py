"""Files that clips are made from, decoded for a clip; what is cut off is said.

A film covers the clip, its middle is used. Of a still the model has the rule
(`checkpoints.usage`): "cover", the same, or "squeeze", all of it in the clip's aspect
ratio.
"""

import contextlib
import functools
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ccl_jax.data.media.decode import (
  MediaError,
  image_size,
  picture_size,
  read_blocks,
  read_image,
  read_video,
)
from ccl_jax.data.sources.windows import probe_with_sound
from ccl_jax.data.spec import SAMPLES_PER_TOKEN, ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.remote.paths import Place

Files = Mapping[str, Sequence[Place]]  # by input, a file for every clip
KEPT = 0.95  # share of a picture below which a cut is worth a warning
_log = logging.getLogger(__name__)


def read_inputs(
  files: Files, spec: ClipSpec, fit: str = "cover"
) -> dict[str, np.ndarray]:
  """The inputs of `LoadedModel.generate`: `image` and `last_image` uint8 (b, H, W, 3),
  `audio` float32 (b, n), `video` uint8 (b, F, H, W, 3).

  What of a picture is cut off or squeezed, and what of a film or sound comes after the
  clip's end, is said in a warning.

  Args:
    files: by input.
    spec: of the clips.
    fit: of a first frame, of `checkpoints.usage.FITS`; a last one covers the clip, or
      the video would end in another aspect ratio than it begins in.

  Raises:
    UsageError: a file is not there, cannot be decoded, or is too short.
  """
  still = functools.partial(_read_still, fit=fit)
  last = functools.partial(_read_still, name="last_image", fit="cover")
  readers = {
    "image": still,
    "last_image": last,
    "audio": _read_sound,
    "video": _read_film,
  }
  out = {}
  for name, paths in files.items():
    try:
      read = {path: readers[name](path, spec) for path in dict.fromkeys(paths)}
    except MediaError as e:
      raise UsageError(f"{name}: {e}") from e
    out[name] = np.stack([read[path] for path in paths])
  return out


def _read_still(
  path: Place, spec: ClipSpec, fit: str, name: str = "image"
) -> np.ndarray:
  size, squeeze = image_size(path), fit == "squeeze"
  (_warn_of_squeeze if squeeze else _warn_of_crop)(name, path, size, spec)
  return read_image(path, spec.height, spec.width, squeeze=squeeze)


def _read_film(path: Place, spec: ClipSpec) -> np.ndarray:
  pixels = read_video(path, spec)
  _warn_of_crop("video", path, picture_size(path), spec)
  _warn_of_rest("video", path, spec)
  return pixels


def _read_sound(path: Place, spec: ClipSpec) -> np.ndarray:
  # The first block alone: a sound of hours costs no more than a short one.
  with contextlib.closing(read_blocks(path, size=spec.samples)) as blocks:
    wave = next(blocks)
  if len(wave) < enough(spec):
    raise UsageError(
      f"audio: {path} lasts {len(wave) / spec.sample_rate:.2f} s; expected at least "
      f"{enough(spec) / spec.sample_rate:.2f} s for {spec.frames} frames: give longer "
      "sound or fewer frames"
    )
  wave = np.pad(wave, (0, spec.samples - len(wave)))
  _warn_of_rest("audio", path, spec)
  return wave


def enough(spec: ClipSpec) -> int:
  """Samples that a given sound must have: sound as long as the picture is enough, as
  Ovi's last token may end after both.
  """
  return min(spec.samples, math.floor(spec.seconds * spec.sample_rate))


def _warn_of_crop(name: str, path, size: tuple[int, int], spec: ClipSpec) -> None:
  kept = kept_share(size, (spec.height, spec.width))
  if kept < KEPT:
    _log.warning(
      "%s: %s has %d x %d pixels (height x width), the clip %d x %d: %d %% of the "
      "picture is kept, its middle; cut it yourself, or give another --size",
      *(name, path, *size, spec.height, spec.width, round(100 * kept)),
    )


def _warn_of_squeeze(name: str, path, size: tuple[int, int], spec: ClipSpec) -> None:
  kept = kept_share(size, (spec.height, spec.width))
  if kept < KEPT:
    _log.warning(
      "%s: %s has %d x %d pixels (height x width), the clip %d x %d: all of it is "
      "squeezed into that, one side to %d %% of what its aspect ratio asks for; cut it "
      "yourself, or leave --size away",
      *(name, path, *size, spec.height, spec.width, round(100 * kept)),
    )


def kept_share(size: tuple[int, int], wanted: tuple[int, int]) -> float:
  """The share of a picture that is left of it when it covers a clip.

  Args:
    size: of the picture, height and width in pixels.
    wanted: of the clip.
  """
  ratio = (size[0] / size[1]) / (wanted[0] / wanted[1])
  return min(ratio, 1 / ratio)


def _warn_of_rest(name: str, path, spec: ClipSpec) -> None:
  whole = probe_with_sound(path).duration
  if whole is not None and whole > spec.seconds + 1 / spec.fps:
    _log.warning(
      "%s: %s lasts %.2f s, the clip %.2f s: only its beginning is used; give more "
      "--seconds for more of it",
      *(name, path, whole, spec.seconds),
    )


def check_arrays(given: Mapping[str, Any], b: int, spec: ClipSpec) -> None:
  """Whether what is given to b clips has their sizes.

  Args:
    given: by name the arrays of `LoadedModel.generate`, or None.
    b: the number of clips.
    spec: of each.

  Raises:
    UsageError: an array is of another shape.
  """
  picture = (spec.height, spec.width, 3)
  expected = {
    "video": (b, spec.frames, *picture),
    "audio": (b, spec.samples),
    "image": (b, *picture),
    "last_image": (b, *picture),
    "still": (b, *picture),
  }
  for name, array in given.items():
    if array is not None and np.shape(array) != expected[name]:
      raise UsageError(
        f"{name}: got an array of shape {np.shape(array)}; expected {expected[name]} "
        f"for {b} clips of {spec.frames} frames of {spec.width} x {spec.height} pixels"
      )


def check_before(
  before: Mapping[str, Any] | None, streams: Sequence[str], b: int, spec: ClipSpec
) -> None:
  """Whether clips can begin with this: see `LoadedModel.generate`.

  Args:
    before: by stream, or None.
    streams: that are generated.
    b: the number of clips.
    spec: of each.

  Raises:
    UsageError: a stream is missing, of another shape, or leaves nothing to be made.
  """
  if before is None:
    return
  if sorted(before) != sorted(streams):
    raise UsageError(
      f"extend: got {', '.join(before) or 'nothing'}; expected {', '.join(streams)}, "
      "what the task makes"
    )
  shapes = {s: np.shape(x) for s, x in before.items()}
  picture = (spec.height, spec.width, 3)
  for s, shape in shapes.items():
    rest, whole, step, first = {
      "video": (picture, spec.frames, 4, 1),
      "audio": ((), spec.samples, SAMPLES_PER_TOKEN, 0),
    }[s]
    n = shape[1] if len(shape) > 1 else 0
    fits = shape == (b, n, *rest) and 0 < n < whole and n % step == first
    if not fits:
      raise UsageError(
        f"extend: {s} has the shape {shape}; expected {(b, 'n', *rest)} with n of "
        f"{step} k{' + 1' * first}, below {whole}"
      )
