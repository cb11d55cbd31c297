"""Reads media files: their headers, their tracks, and their frames with times.

The presentation clock is the file's own: timestamp x time base, after the container's
edit lists and the codecs' delay. A file that cannot give what is asked raises
`MediaError`, which names it and says why.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import av

from ccl_jax.data.media.door import (
  CHANNELS,
  PIXELS,
  MediaError,
  Path,
  decoded,
  lacks_display_times,
  open_url,
  opened,
  refuse_encrypted,
)

__all__ = ["MediaError", "Path", "opened"]

SHORT_TAIL = 0.25  # seconds that the sound may end before the picture
RATES = 2000, 768_000  # Hz; a header with another rate is damaged
ASPECT = 16  # of a pixel's sides, at most; a header with another is damaged
DOLBY = ("dvh1", "dvhe", "dva1", "dvav")  # pictures in Dolby's own colours alone
_PREROLL = 0.5  # seconds decoded before a late start: codec delay, reordered frames
_FIRST = 64  # packets among which each track has one
# Bytes a second of a file: where headers promise longer times, packets are asked; where
# packets do, one of them is damaged.
_SPARSE, _LEAST = 200, 2


@dataclasses.dataclass(frozen=True)
class MediaInfo:
  """The facts in a file's headers.

  Attributes:
    start, end: seconds on the presentation clock between which picture and sound are
      both there; `end` is None where the headers do not tell.
    fps, height, width: of the picture, None without one.
  """

  has_video: bool
  has_audio: bool
  start: float
  end: float | None
  fps: float | None
  height: int | None
  width: int | None

  @property
  def duration(self) -> float | None:
    """Seconds from `start` to `end`; None where the headers do not tell."""
    return None if self.end is None else self.end - self.start


def probe(path: Path) -> MediaInfo:
  """Reads a file's headers and its first packets, and decodes nothing.

  Headers that promise more time than the file has bytes for do not tell its end.

  Raises:
    MediaError: it cannot be read, a track is encrypted or has no decoder.
  """
  with opened(path) as container:
    tracks = _main_tracks(container)
    info = _info(container, {s.index: _header_end(container, s) for s in tracks})
    left = {s.index for s in tracks}
    packets = container.demux(*tracks) if tracks else ()
    for packet in itertools.islice(packets, _FIRST):
      refuse_encrypted(container, packet)
      left.discard(packet.stream.index)
      if not left:
        break
    return info


def measure(path: Path) -> MediaInfo:
  """As `probe`, for a file whose headers lack durations: reads every packet.

  Raises:
    MediaError: it cannot be read, or its time stamps are damaged.
  """
  with opened(path) as container:
    tracks = _main_tracks(container)
    ends = {s.index: first_time(s) for s in tracks}
    for packet in container.demux(*tracks) if tracks else ():
      if packet.pts is not None:
        end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
        ends[packet.stream.index] = max(ends[packet.stream.index], end)
    info = _info(container, ends)
    if _is_longer(container, info.duration, _LEAST):
      raise MediaError(
        f"{container.name}: its time stamps say that {container.size} bytes last "
        f"{info.duration:.0f} s: damaged"
      )
    return info


def track(container, kind: str) -> Any:
  """The main "video" or "audio" track of a container; a cover picture is no video.

  Raises:
    MediaError: there is none.
  """
  stream = main_track(container, kind)
  if stream is None:
    raise MediaError(f"{container.name}: no {kind} track")
  return stream


def main_track(container, kind: str) -> Any:
  """The main track of a kind, as `track`, or None if there is none."""
  stream = container.streams.best(kind)
  # Music files carry their cover as a video track of one frame.
  if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
    return None
  if stream.codec_context is None:
    raise MediaError(f"{container.name}: no decoder for the codec of its {kind} track")
  if kind == "audio":
    _check_sound(container, stream)
  else:
    _check_picture(container, stream)
  return stream


def pixel_aspect(stream) -> float:
  """A pixel's width over its height, of a video track."""
  return float(stream.sample_aspect_ratio or 1)


def _check_sound(container, stream) -> None:
  if not RATES[0] <= (stream.rate or 0) <= RATES[1]:
    raise MediaError(
      f"{container.name}: the sound has a sample rate of {stream.rate} Hz, expected "
      f"{RATES[0]} to {RATES[1]}"
    )
  if stream.codec_context.channels > CHANNELS:
    raise MediaError(
      f"{container.name}: the sound has {stream.codec_context.channels} channels, "
      f"expected {CHANNELS} at most"
    )


def _check_picture(container, stream) -> None:
  if stream.width * stream.height > PIXELS:
    raise MediaError(
      f"{container.name}: pictures of {stream.width} x {stream.height} pixels, "
      f"expected {PIXELS} at most"
    )
  if not 1 / ASPECT <= pixel_aspect(stream) <= ASPECT:
    raise MediaError(
      f"{container.name}: a header says that its pixels are "
      f"{stream.sample_aspect_ratio} times as wide as high, expected 1/{ASPECT} to "
      f"{ASPECT}"
    )
  if stream.metadata.get("alpha_mode") == "1":
    raise MediaError(
      f"{container.name}: transparency of VP8 and VP9 cannot be read: make a film "
      "without it, or one of ProRes 4444"
    )
  if _tag(stream) in DOLBY:
    raise MediaError(
      f"{container.name}: Dolby Vision without an HDR10 or HLG layer cannot be read"
    )


def _tag(stream) -> str:
  try:
    return stream.codec_context.codec_tag
  except UnicodeDecodeError:
    return ""


def first_time(stream) -> float:
  """The time of a track's first frame, in seconds on the presentation clock."""
  return float((stream.start_time or 0) * stream.time_base)


def frames_from(container, stream, start: float) -> Iterator[tuple[float, Any]]:
  """(time, frame) in order of presentation, from `start` or earlier to the end."""
  frames = _timed_frames(container, stream)
  # A near start is reached sooner by decoding than by a seek to a key frame.
  late = start - first_time(stream) > 4 * _PREROLL
  # Where frames change places, a key frame of an AVI does not say when it is shown.
  if late and not (lacks_display_times(container, stream) and stream.has_b_frames):
    container.seek(int((start - _PREROLL) * av.time_base))
    head = next(frames, None)
    if head is None or head[0] > start:  # a poor index: decode from the beginning
      with open_url(container.name) as fresh:
        yield from _timed_frames(fresh, fresh.streams[stream.index])
      return
    yield head
  yield from frames


def _timed_frames(container, stream) -> Iterator[tuple[float, Any]]:
  for frame in decoded(container, stream):
    if frame.pts is not None:
      yield float(frame.pts * frame.time_base), frame


def _main_tracks(container) -> list:
  tracks = (main_track(container, kind) for kind in ("video", "audio"))
  return [stream for stream in tracks if stream is not None]


def _header_end(container, stream) -> float | None:
  if stream.index_entries:
    # The index says where the last packet ends: a truncated file is shorter.
    last = stream.index_entries[-1]
    if 0 < (container.size or 0) < last.pos + last.size:
      raise MediaError(
        f"{container.name}: truncated, {container.size} bytes of at least "
        f"{last.pos + last.size}"
      )
  start, end = first_time(stream), None
  if stream.duration:
    end = start + float(stream.duration * stream.time_base)
  elif container.duration:
    end = ((container.start_time or 0) + container.duration) / av.time_base
  return None if end is None or _is_longer(container, end - start, _SPARSE) else end


def _is_longer(container, seconds: float | None, rate: int) -> bool:
  """Whether a file of so many seconds has fewer than `rate` bytes a second."""
  size = container.size or 0
  return seconds is not None and 0 < size < rate * seconds


def _info(container, ends: dict) -> MediaInfo:
  video, audio = (main_track(container, kind) for kind in ("video", "audio"))
  last = [ends[stream.index] for stream in _main_tracks(container)]
  # Sound that ends a little early is filled up with zeros (media/sound.py).
  if video and audio and last[1] is not None:
    last[1] += SHORT_TAIL
  # Variable rates have an average; raw streams have a guess only.
  rate = video and (video.average_rate or video.guessed_rate)
  return MediaInfo(
    has_video=video is not None,
    has_audio=audio is not None,
    # Both tracks are there from the later start to the earlier end.
    start=max(map(first_time, _main_tracks(container)), default=0.0),
    end=min(last) if last and None not in last else None,
    fps=float(rate) if rate else None,
    height=video.height if video else None,
    width=video.width if video else None,
  )
