"""Decoding: picture and sound of one clip, cut from a file on one presentation clock,

  frame k   shows the instant  start + k / fps,              k < F
  sample j  is the sound at    start + j / sample_rate,      j < n.

Both are placed by the file's own timestamps, never by counting, so variable rates, edit
lists, encoder delay and a late track keep their synchrony. A source frame serves the
instants nearest to it, but none more than half a frame period before it appears (a long
still stays up); past the end the last one is held for one period at most. Gaps and a
short tail of the sound are zeros. Seconds and Hz throughout.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import Float32, UInt8

from ccl_jax.data.media.colour import check_colours, rgb_of
from ccl_jax.data.media.door import PIXELS
from ccl_jax.data.media.image import opened_image, upright_rgb, upright_size
from ccl_jax.data.media.orientation import Orientation, orientation_of
from ccl_jax.data.media.sound import BLOCK, decode_sound, sound_blocks
from ccl_jax.data.media.tracks import (
  SHORT_TAIL,
  MediaError,
  MediaInfo,
  Path,
  first_time,
  frames_from,
  measure,
  opened,
  pixel_aspect,
  probe,
  track,
)
from ccl_jax.data.spec import ClipSpec
from ccl_jax.ops import bicubic

__all__ = [
  "SHORT_TAIL",
  "MediaError",
  "MediaInfo",
  "image_size",
  "measure",
  "picture_size",
  "probe",
  "read_audio",
  "read_blocks",
  "read_clip",
  "read_image",
  "read_video",
]

Crop = tuple[int, ...]  # () or (top, left, height, width): pixels of decoded frames


def read_clip(
  path: Path,
  spec: ClipSpec,
  start: float | int | None = None,
  sound: Path | None = None,
  crop: Crop = (),
) -> tuple[UInt8[np.ndarray, "F H W 3"], Float32[np.ndarray, "n"]]:
  """The picture and sound of one clip of a film.

  Args:
    path: the film.
    spec: sizes of the clip; the picture is scaled to cover (H, W), and cut about its
      centre.
    start: of the clip, in seconds; None: the first instant with picture and sound.
    sound: a file with the sound on the same clock; None: the film's own.
    crop: the part of the picture to take; (): all.

  Returns:
    Pixels, and mono sound at the sample rate of the clip, in [-1, 1].

  Raises:
    MediaError: the file cannot be read, lacks a track, or is too short.
  """
  with opened(path) as picture, opened(sound or path) as other:
    video, audio = track(picture, "video"), track(other, "audio")
    if start is None:
      start = max(first_time(video), first_time(audio))
    return (
      _picture(picture, video, spec, start, crop),
      decode_sound(other, audio, start, spec.samples, spec.sample_rate),
    )


def read_video(
  path: Path, spec: ClipSpec, start: float | int | None = None, crop: Crop = ()
) -> UInt8[np.ndarray, "F H W 3"]:
  """The picture alone of the clip that begins at `start`, by default its beginning.

  Raises:
    MediaError: the file cannot be read, has no picture, or is too short.
  """
  with opened(path) as container:
    video = track(container, "video")
    start = first_time(video) if start is None else start
    return _picture(container, video, spec, start, crop)


def read_audio(
  path: Path,
  samples: int | None = None,
  sample_rate: int = 16000,
  start: float | int | None = None,
) -> Float32[np.ndarray, "n"]:
  """Mono sound of any container, in [-1, 1].

  Args:
    samples: their number; None: all there are.
    sample_rate: in Hz.
    start: in seconds; None: the track's beginning.

  Raises:
    MediaError: the file cannot be read, has no sound, or is too short.
  """
  with opened(path) as container:
    audio = track(container, "audio")
    start = first_time(audio) if start is None else start
    return decode_sound(container, audio, start, samples, sample_rate)


def read_blocks(
  path: Path,
  samples: int | None = None,
  sample_rate: int = 16000,
  start: float | int | None = None,
  size: int | None = None,
) -> Iterator[Float32[np.ndarray, "n"]]:
  """As `read_audio`, in blocks of `size` samples, by default a minute: of any length.

  Raises:
    MediaError: the file cannot be read, has no sound, none from `start` on, or is too
      short.
  """
  with opened(path) as container:
    audio = track(container, "audio")
    start = first_time(audio) if start is None else start
    size = BLOCK * sample_rate if size is None else size
    empty = True
    for wave in sound_blocks(container, audio, start, samples, sample_rate, size):
      yield wave
      empty = False
    if empty:
      raise MediaError(f"{container.name}: no sound from {start:.2f} s on")


def read_image(
  path: Path, height: int, width: int, crop: Crop = (), *, squeeze: bool = False
) -> UInt8[np.ndarray, "H W 3"]:
  """A still, upright by its EXIF tag, scaled to cover (H, W), cut about its centre.

  Args:
    path: of the still.
    height, width: H and W.
    crop: the part of it that is taken.
    squeeze: all of it becomes (H, W), whatever its aspect ratio, without antialiasing
      (`ops.bicubic`), as Wan2.1's I2V and Ovi do.

  Raises:
    MediaError: it cannot be read, or `crop` is not within it.
  """
  from PIL import Image, ImageOps

  with opened_image(path) as image:
    image = _cut_out(upright_rgb(image), crop, path)
    if squeeze:
      image = bicubic.resize(np.array(image), height, width)
      return np.floor(image.clip(0, 255) + 0.5).astype(np.uint8)
    image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
    return np.array(image)


def image_size(path: Path, crop: Crop = ()) -> tuple[int, int]:
  """(height, width) in pixels of a still as it is shown, from its headers."""
  if crop:
    return crop[2], crop[3]
  with opened_image(path) as image:
    return upright_size(image)


def picture_size(path: Path, crop: Crop = ()) -> tuple[int, int]:
  """(height, width) in pixels of a film as it is shown.

  It is that of the first frame, or the part of it in `crop`, turned upright, with
  square pixels of the height of the file's own.

  Raises:
    MediaError: no frame can be decoded.
  """
  with opened(path) as container:
    stream = track(container, "video")
    for _, frame in frames_from(container, stream, first_time(stream)):
      _, _, height, width = _box(frame, crop, container.name)
      width = max(round(width * pixel_aspect(stream)), 1)
      return (width, height) if orientation_of(frame).swapped else (height, width)
  raise MediaError(f"{path}: no frame can be decoded")


def _picture(
  container, stream, spec: ClipSpec, start: float, crop: Crop
) -> UInt8[np.ndarray, "F H W 3"]:
  rate = float(spec.rate)
  out = np.empty((spec.frames, spec.height, spec.width, 3), np.uint8)
  scaler, aspect = VideoReformatter(), pixel_aspect(stream)
  done, held, shown = 0, None, 0.0  # instants written; the frame on screen, since when
  turn = None  # that of the first frame: those between key frames may not say

  def hold_until(switch: float) -> int:
    # Instants k / fps before the switch show the frame on screen.
    stop = min(max(math.ceil((switch - start) * rate), done), spec.frames)
    if stop > done:
      if held.is_corrupt:
        raise MediaError(f"{container.name}: damaged picture at {shown:.2f} s")
      box = _box(held, crop, container.name)
      size = spec.height, spec.width
      out[done:stop] = _cover(held, box, *size, aspect, turn, scaler, container.name)
    return stop

  for time, frame in frames_from(container, stream, start):
    turn = orientation_of(frame) if turn is None else turn
    if held is not None:
      # The nearer frame shows, but the next one at most half a period before it
      # appears.
      done = hold_until(max((shown + time) / 2, time - 0.5 / rate))
    elif time - 0.5 / rate > start:
      raise MediaError(
        f"{container.name}: the picture begins at {time:.2f} s and the clip at "
        f"{start:.2f} s"
      )
    held, shown = frame, time
    if done == spec.frames:
      return out
  if held is not None:
    # The last frame lasts as long as the file says, and one period at least.
    end = shown + max(float((held.duration or 0) * held.time_base), 1 / rate)
    done = hold_until(end + 0.5 / rate)  # one instant past the end
    shown = end
  if done < spec.frames:
    raise MediaError(
      f"{container.name}: too short, the picture ends at {shown:.2f} s and the clip at "
      f"{start + spec.seconds:.2f} s"
    )
  return out


def _cover(
  frame,
  box: Crop,
  height: int,
  width: int,
  aspect: float,
  turn: Orientation,
  scaler,
  name: str,
) -> UInt8[np.ndarray, "H W 3"]:
  """RGB pixels, turned: the frame's `box` scaled to cover (height, width), centre cut;
  `aspect` is a source pixel's width over its height.
  """
  check_colours(frame, name)
  if turn.swapped:
    height, width = width, height
  y, x, h, w = box
  # The least scale at which the box covers (height, width).
  scale = max(height / h, width / (w * aspect))
  rows = max(height, round(frame.height * scale))
  columns = max(width, round(frame.width * aspect * scale))
  if rows * columns > PIXELS:
    raise MediaError(
      f"{name}: {h} x {w} pixels would be enlarged {scale:.0f} times to cover "
      f"{height} x {width}"
    )
  rgb = rgb_of(frame, columns, rows, scaler, "AREA" if scale < 1 else "BICUBIC")
  top = _middle(y * scale, h * scale, height, rows)
  left = _middle(x * aspect * scale, w * aspect * scale, width, columns)
  return turn.apply(rgb[top : top + height, left : left + width])


def _middle(begin: float, length: float, wanted: int, whole: int) -> int:
  """First index of the `wanted` pixels in the middle of a stretch of `whole` ones."""
  return min(max(int(begin + (length - wanted) / 2 + 1e-6), 0), whole - wanted)


def _box(frame, crop: Crop, name: Any) -> Crop:
  """`crop`, or all of the frame."""
  if not crop:
    return 0, 0, frame.height, frame.width
  top, left, height, width = crop
  if top + height > frame.height or left + width > frame.width:
    raise MediaError(
      f"{name}: crop {tuple(crop)} is not within its {frame.height} x {frame.width} "
      "pixels"
    )
  return crop


def _cut_out(image: Any, crop: Crop, name: Any) -> Any:
  top, left, height, width = _box(image, crop, name)
  return image.crop((left, top, left + width, top + height)) if crop else image
