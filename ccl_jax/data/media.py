"""Decoding: picture and sound of one clip, cut from a file on one presentation clock,

  frame k   shows the instant  start + k / fps,              k < F
  sample j  is the sound at    start + j / sample_rate,      j < n.

Both are placed by the file's own timestamps, never by counting, so variable rates, edit
lists, encoder delay and a late track keep their synchrony. A source frame serves the
instants nearest to it, but none more than half a frame period before it appears (a long
still stays up); past the end the last one is held for one period at most. Gaps and a
short tail of the sound are zeros. Seconds and Hz throughout.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import Float32, UInt8

from ccl_jax.data.spec import ClipSpec
from ccl_jax.data.tracks import (
  SHORT_TAIL,
  MediaError,
  MediaInfo,
  Path,
  first_time,
  frames_from,
  measure,
  opened,
  probe,
  track,
)

__all__ = [
  "SHORT_TAIL",
  "MediaError",
  "MediaInfo",
  "image_size",
  "measure",
  "picture_size",
  "probe",
  "read_audio",
  "read_clip",
  "read_image",
  "read_video",
]

_JITTER = 0.01  # seconds off the running sample count: less is noise, more is a gap
_MARGIN = 0.1  # seconds resampled beyond both ends of the clip
_DOWNMIX = {"rematrix_maxval": "1"}  # channels' weights add up to 1: never clips


def read_clip(
  path: Path,
  spec: ClipSpec,
  start: float | int | None = None,
  sound: Path | None = None,
) -> tuple[UInt8[np.ndarray, "F H W 3"], Float32[np.ndarray, "n"]]:
  """The clip that begins at `start`, by default the first instant with picture and
  sound. The picture covers (H, W) and is cropped about its centre; the sound is mono,
  from the file `sound` (on the same clock) where one is given.
  """
  with opened(path) as picture, opened(sound or path) as other:
    video, audio = track(picture, "video"), track(other, "audio")
    if start is None:
      start = max(first_time(video), first_time(audio))
    return (
      _picture(picture, video, spec, start),
      _sound(other, audio, start, spec.samples, spec.sample_rate),
    )


def read_video(
  path: Path, spec: ClipSpec, start: float | int | None = None
) -> UInt8[np.ndarray, "F H W 3"]:
  """The picture alone of the clip that begins at `start` (by default its beginning)."""
  with opened(path) as container:
    video = track(container, "video")
    return _picture(
      container, video, spec, first_time(video) if start is None else start
    )


def read_audio(
  path: Path,
  samples: int | None = None,
  sample_rate: int = 16000,
  start: float | int | None = None,
) -> Float32[np.ndarray, "n"]:
  """Mono sound of any container from `start` on (by default its beginning): `samples`
  of it, or all there is.
  """
  with opened(path) as container:
    audio = track(container, "audio")
    start = first_time(audio) if start is None else start
    return _sound(container, audio, start, samples, sample_rate)


def read_image(path: Path, height: int, width: int) -> UInt8[np.ndarray, "H W 3"]:
  """A still, upright by its EXIF tag, covering (height, width), centre crop."""
  from PIL import Image, ImageOps

  with _image(path) as image:
    image = ImageOps.exif_transpose(image).convert("RGB")
    image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
    return np.array(image)


def image_size(path: Path) -> tuple[int, int]:
  """(height, width) of a still as it is shown, from its headers."""
  with _image(path) as image:
    turned = image.getexif().get(274, 1) >= 5  # the orientation tag: on its side
    return image.size if turned else image.size[::-1]


def picture_size(path: Path) -> tuple[int, int]:
  """(height, width) of a film as it is shown: its first frame, turned upright, with
  square pixels of the height of its own.
  """
  with opened(path) as container:
    stream = track(container, "video")
    for _, frame in frames_from(container, stream, first_time(stream)):
      width = round(frame.width * float(stream.sample_aspect_ratio or 1))
      return (width, frame.height) if frame.rotation % 180 else (frame.height, width)
  raise MediaError(f"{path}: no frame can be decoded")


@contextlib.contextmanager
def _image(path: Path) -> Iterator[Any]:
  from PIL import Image

  try:
    with Image.open(path) as image:
      yield image
  except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as e:
    raise MediaError(f"{path}: not a readable image ({e})") from e


def _picture(
  container, stream, spec: ClipSpec, start: float
) -> UInt8[np.ndarray, "F H W 3"]:
  rate = float(spec.rate)
  out = np.empty((spec.frames, spec.height, spec.width, 3), np.uint8)
  scaler, aspect = VideoReformatter(), float(stream.sample_aspect_ratio or 1)
  done, held, shown = 0, None, 0.0  # instants written; the frame on screen, since when

  def hold_until(switch: float) -> int:
    stop = min(max(math.ceil((switch - start) * rate), done), spec.frames)
    if stop > done:
      if held.is_corrupt:
        raise MediaError(f"{container.name}: damaged picture at {shown:.2f} s")
      out[done:stop] = _cover(held, spec.height, spec.width, aspect, scaler)
    return stop

  for time, frame in frames_from(container, stream, start):
    if held is not None:
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
  frame, height: int, width: int, aspect: float, scaler
) -> UInt8[np.ndarray, "H W 3"]:
  """RGB pixels, upright, scaled to cover (height, width), centre crop; `aspect` is a
  source pixel's width over its height.
  """
  turns = round(frame.rotation / 90)  # counterclockwise
  if turns % 2:
    height, width = width, height
  scale = max(height / frame.height, width / (frame.width * aspect))
  rows = max(height, round(frame.height * scale))
  columns = max(width, round(frame.width * aspect * scale))
  method = "AREA" if scale < 1 else "BICUBIC"
  rgb = scaler.reformat(frame, columns, rows, "rgb24", interpolation=method)
  top, left = (rows - height) // 2, (columns - width) // 2
  crop = rgb.to_ndarray()[top : top + height, left : left + width]
  return np.rot90(crop, turns)


def _sound(
  container, stream, start: float, samples: int | None, sample_rate: int
) -> Float32[np.ndarray, "n"]:
  """Resamples each unbroken run of sound and lays it at its own time."""
  stop = math.inf if samples is None else start + samples / sample_rate
  runs, resampler, form, clock = [], None, None, -math.inf
  for time, frame in frames_from(container, stream, start):
    length = frame.samples / frame.sample_rate
    if time + length < start - _MARGIN:
      continue
    now = frame.format.name, frame.layout.name, frame.sample_rate
    if form != now or abs(time - clock) > _JITTER:
      if runs:
        runs[-1][1].extend(resampler.resample(None))
      resampler = av.AudioResampler("flt", "mono", sample_rate, options=_DOWNMIX)
      runs.append((time, []))
      form, clock = now, time
    runs[-1][1].extend(resampler.resample(frame))
    clock += length
    if clock > stop + _MARGIN:
      break
  if runs:
    runs[-1][1].extend(resampler.resample(None))
  if samples is None:
    samples = round((clock - start) * sample_rate) if runs else 0
  elif clock < stop - SHORT_TAIL:
    raise MediaError(
      f"{container.name}: too short, the sound ends at {max(clock, 0.0):.2f} s and the "
      f"clip at {stop:.2f} s"
    )
  out = np.zeros(samples, np.float32)
  for time, pieces in runs:
    # A resampler that has nothing to convert flushes None.
    wave = np.concatenate([p.to_ndarray()[0] for p in pieces if p] or [out[:0]])
    first = round((time - start) * sample_rate)
    wave = wave[max(-first, 0) :]
    first = max(first, 0)
    out[first : first + len(wave)] = wave[: max(samples - first, 0)]
  return np.clip(out, -1, 1)
