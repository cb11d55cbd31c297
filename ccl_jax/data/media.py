"""Decoding: picture and sound of one clip, cut from a file on one presentation clock,

  frame k   shows the instant  start + k / fps,              k < F
  sample j  is the sound at    start + j / sample_rate,      j < n.

Both are placed by the file's own timestamps, never by counting, so variable rates, edit
lists, encoder delay and a late track keep their synchrony. A source frame serves the
instants nearest to it, but none more than half a frame period before it appears (a long
still stays up); past the end the last one is held for one period at most. Gaps and a
short tail of the sound are zeros.

Seconds and Hz throughout. A file that cannot give what is asked raises `MediaError`,
which names it and says why.
"""

import contextlib
import dataclasses
import math
import pathlib
from collections.abc import Iterator

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import Float32, UInt8

from ccl_jax.data.spec import ClipSpec

SHORT_TAIL = 0.25  # sound may end this long before the picture
_JITTER = 0.01  # timestamps this far from the sample count are a gap, less is noise
_PREROLL = 0.5  # decode from this long before a late start: codec delay, reordering


class MediaError(ValueError):
  """A file that cannot be read as asked: its name and the reason."""


@dataclasses.dataclass(frozen=True)
class MediaInfo:
  """What a file's headers say. Picture and sound are both there from `start` to `end`
  (seconds on the presentation clock; `end` is None where the headers do not tell)."""

  has_video: bool
  has_audio: bool
  start: float
  end: float | None
  fps: float | None
  height: int | None
  width: int | None

  @property
  def duration(self) -> float | None:
    return None if self.end is None else self.end - self.start


def probe(path: str | pathlib.Path) -> MediaInfo:
  """Reads the headers only."""
  with _open(path) as container:
    return _info(
      container, {s.index: _header_end(container, s) for s in _used(container)}
    )


def measure(path: str | pathlib.Path) -> MediaInfo:
  """As `probe`, for a file without durations: reads every packet, decodes none."""
  with _open(path) as container:
    ends = {s.index: _first(s) for s in _used(container)}
    for packet in container.demux(*_used(container)):
      if packet.pts is not None:
        end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
        ends[packet.stream.index] = max(ends[packet.stream.index], end)
    return _info(container, ends)


def read_clip(
  path: str | pathlib.Path,
  spec: ClipSpec,
  start: float | None = None,
  sound: str | pathlib.Path | None = None,
) -> tuple[UInt8[np.ndarray, "F H W 3"], Float32[np.ndarray, "n"]]:
  """The clip that begins at `start`, by default the first instant with picture and
  sound. The picture covers (H, W) and is cropped about its centre; the sound is mono,
  from the file `sound` (on the same clock) where one is given.
  """
  with _open(path) as picture, _open(sound or path) as other:
    tracks = _best(picture, "video"), _best(other, "audio")
    if tracks[0] is None:
      raise MediaError(f"{path}: no video track")
    if tracks[1] is None:
      raise MediaError(f"{sound or path}: no audio track")
    if start is None:
      start = max(_first(track) for track in tracks)
    video = _picture(path, _decode(path, picture, tracks[0], start), spec, start)
    audio = _sound(
      sound or path,
      _decode(sound or path, other, tracks[1], start),
      start,
      spec.samples,
      spec.sample_rate,
    )
  return video, audio


def read_audio(
  path: str | pathlib.Path,
  samples: int | None = None,
  sample_rate: int = 16000,
  start: float | None = None,
) -> Float32[np.ndarray, "n"]:
  """Mono sound of any container from `start` on (by default its beginning): `samples`
  of it, or all there is."""
  with _open(path) as container:
    track = _best(container, "audio")
    if track is None:
      raise MediaError(f"{path}: no audio track")
    if start is None:
      start = _first(track)
    frames = _decode(path, container, track, start)
    return _sound(path, frames, start, samples, sample_rate)


def read_image(
  path: str | pathlib.Path, height: int, width: int
) -> UInt8[np.ndarray, "H W 3"]:
  """A still, upright by its EXIF tag, covering (height, width), centre crop."""
  from PIL import Image, ImageOps

  try:
    with Image.open(path) as image:
      image = ImageOps.exif_transpose(image).convert("RGB")
      image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
      return np.array(image)
  except (OSError, ValueError, Image.DecompressionBombError) as e:
    raise MediaError(f"{path}: not a readable image ({e})") from e


@contextlib.contextmanager
def _open(path) -> Iterator[av.container.InputContainer]:
  try:
    with av.open(str(path), metadata_errors="ignore") as container:
      yield container
  except MediaError:
    raise
  except (av.FFmpegError, OSError, ValueError) as e:
    raise MediaError(f"{path}: {getattr(e, 'strerror', None) or e}") from e


def _best(container, kind: str):
  """The main track of a kind; a cover picture is no video."""
  stream = container.streams.best(kind)
  if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
    return None
  return stream


def _used(container) -> list:
  return [s for s in (_best(container, kind) for kind in ("video", "audio")) if s]


def _first(stream) -> float:
  return float((stream.start_time or 0) * stream.time_base)


def _header_end(container, stream) -> float | None:
  if stream.index_entries:
    last = stream.index_entries[-1]
    if 0 < container.size < last.pos + last.size:
      raise MediaError(
        f"{container.name}: truncated, {container.size} bytes of at least "
        f"{last.pos + last.size}"
      )
  if stream.duration:
    return _first(stream) + float(stream.duration * stream.time_base)
  if container.duration:
    return ((container.start_time or 0) + container.duration) / av.time_base
  return None


def _info(container, ends: dict[int, float | None]) -> MediaInfo:
  video, audio = _best(container, "video"), _best(container, "audio")
  last = [ends[s.index] for s in (video, audio) if s]
  if video and audio and last[1] is not None:
    last[1] += SHORT_TAIL
  rate = video and (video.average_rate or video.guessed_rate)
  return MediaInfo(
    has_video=video is not None,
    has_audio=audio is not None,
    start=max((_first(s) for s in _used(container)), default=0.0),
    end=min(last) if last and None not in last else None,
    fps=float(rate) if rate else None,
    height=video.height if video else None,
    width=video.width if video else None,
  )


def _decode(
  path, container, stream, start: float
) -> Iterator[tuple[float, av.frame.Frame]]:
  """(time, frame) in order of presentation, from `start` or earlier to the end."""
  if start - _first(stream) > 4 * _PREROLL:
    container.seek(int((start - _PREROLL) * av.time_base))
    frames = _timed(container, stream)
    head = next(frames, None)
    if head is None or head[0] > start:  # a poor index: decode from the beginning
      with _open(path) as fresh:
        yield from _timed(fresh, fresh.streams[stream.index])
      return
    yield head
  else:
    frames = _timed(container, stream)
  yield from frames


def _timed(container, stream) -> Iterator[tuple[float, av.frame.Frame]]:
  for frame in container.decode(stream):
    if frame.pts is not None:
      yield float(frame.pts * frame.time_base), frame


def _picture(
  path, frames, spec: ClipSpec, start: float
) -> UInt8[np.ndarray, "F H W 3"]:
  rate = float(spec.rate)
  out = np.empty((spec.frames, spec.height, spec.width, 3), np.uint8)
  scaler = VideoReformatter()
  done, held, shown = 0, None, -math.inf

  def hold_until(switch: float) -> int:
    """Writes the held frame to every instant before `switch` not yet served."""
    stop = min(max(math.ceil((switch - start) * rate), done), spec.frames)
    if stop > done:
      if held.is_corrupt:
        raise MediaError(f"{path}: damaged picture at {shown:.2f} s")
      out[done:stop] = _cover(held, spec.height, spec.width, scaler)
    return stop

  for time, frame in frames:
    if held is None and time - 0.5 / rate > start:
      raise MediaError(
        f"{path}: the picture begins at {time:.2f} s, after {start:.2f} s"
      )
    if held is not None:
      done = hold_until(max((shown + time) / 2, time - 0.5 / rate))
    held, shown = frame, time
    if done == spec.frames:
      return out
  if held is not None:
    natural = float((held.duration or 0) * held.time_base)
    shown += max(natural, 1 / rate)
    done = hold_until(shown + 0.5 / rate)
  if done < spec.frames:
    raise MediaError(
      f"{path}: too short, the picture ends at {max(shown, 0):.2f} s and the clip at "
      f"{start + spec.seconds:.2f} s"
    )
  return out


def _cover(frame, height: int, width: int, scaler) -> UInt8[np.ndarray, "H W 3"]:
  """RGB pixels, upright, scaled to cover (height, width), centre crop."""
  turns = round(frame.rotation / 90)
  if turns % 2:
    height, width = width, height
  scale = max(height / frame.height, width / frame.width)
  rows = max(height, round(frame.height * scale))
  columns = max(width, round(frame.width * scale))
  rgb = scaler.reformat(
    frame, columns, rows, "rgb24", interpolation="AREA" if scale < 1 else "BICUBIC"
  ).to_ndarray()
  top, left = (rows - height) // 2, (columns - width) // 2
  return np.rot90(rgb[top : top + height, left : left + width], turns)


def _sound(
  path, frames, start: float, samples: int | None, sample_rate: int
) -> Float32[np.ndarray, "n"]:
  """Resamples runs of unbroken sound and lays each at its own time."""
  stop = math.inf if samples is None else start + samples / sample_rate
  runs, resampler, kind, clock = [], None, None, -math.inf
  for time, frame in frames:
    length = frame.samples / frame.sample_rate
    if time + length < start - 0.1:
      continue
    now = frame.format.name, frame.layout.name, frame.sample_rate
    if kind != now or abs(time - clock) > _JITTER:
      if resampler is not None:
        runs[-1][1].extend(resampler.resample(None))
      resampler, kind, clock = av.AudioResampler("flt", "mono", sample_rate), now, time
      runs.append((time, []))
    runs[-1][1].extend(resampler.resample(frame))
    clock += length
    if clock > stop + 0.1:
      break
  if resampler is not None:
    runs[-1][1].extend(resampler.resample(None))
  if samples is None:
    samples = max(0, round((clock - start) * sample_rate)) if runs else 0
  elif clock < stop - SHORT_TAIL:
    raise MediaError(
      f"{path}: too short, the sound ends at {max(clock, 0):.2f} s and the clip at "
      f"{stop:.2f} s"
    )
  out = np.zeros(samples, np.float32)
  for time, pieces in runs:
    wave = np.concatenate([p.to_ndarray()[0] for p in pieces if p] or [out[:0]])
    first = round((time - start) * sample_rate)
    wave = wave[max(-first, 0) :][: max(samples - max(first, 0), 0)]
    out[max(first, 0) : max(first, 0) + len(wave)] = wave
  return np.clip(out, -1, 1)
