"""Cuts files into clips: windows of a clip's length within a row's part of the file."""

import dataclasses
import functools
import math
from collections.abc import Callable

from ccl_jax.data.media import decode as media
from ccl_jax.data.sources.captions import Caption
from ccl_jax.errors import UsageError
from ccl_jax.remote.paths import Place

SHORT = "too short"  # how the reason begins by which a file gives no clip


def probe_with_sound(path: Place, sound: Place | None = None) -> media.MediaInfo:
  """The headers of a file, with the sound of another file if that is named.

  Args:
    path: of the film or sound.
    sound: of the file with the film's sound, on the same clock.

  Raises:
    MediaError: a file cannot be read, has neither picture nor sound, or `sound` has no
      audio.
  """
  info = _probe(path)
  if not info.has_video and not info.has_audio:
    raise media.MediaError(f"{path}: no picture and no sound")
  if sound is None or not info.has_video:
    return info
  other = _probe(sound)
  if not other.has_audio:
    raise media.MediaError(f"no audio track in {sound.name}")
  return dataclasses.replace(
    info,
    has_audio=True,
    start=max(info.start, other.start),
    end=min(info.end, other.end + media.SHORT_TAIL),
  )


def cached_probe() -> Callable[..., media.MediaInfo]:
  """A `probe_with_sound` that remembers the last 64 files.

  It opens a file with many rows once, and is for one pass over a folder.
  """
  return functools.lru_cache(64)(probe_with_sound)


def part_of(info: media.MediaInfo, row: Caption) -> media.MediaInfo:
  """The headers as if the file were only the row's part of it.

  Raises:
    MediaError: the part is outside of the file.
  """
  start, end = max(info.start, row.start), min(info.end, row.end)
  if end <= start:
    raise media.MediaError(
      f"the part from {row.start:g} to {row.end:g} s is outside of the file, which "
      f"lasts from {info.start:.2f} to {info.end:.2f} s"
    )
  return dataclasses.replace(info, start=start, end=end)


def window_starts(
  info: media.MediaInfo,
  row: Caption,
  seconds: float,
  hop: float | int,
  held: float | int = 0,
) -> list[float]:
  """Starts of a file's windows, in seconds.

  A frame serves the instants half a period before it appears, so at the end of a part
  within a file the last frame is held for half of that: else the next shot would show.

  Args:
    info: headers of the file.
    row: says which part of it.
    seconds: length of a window.
    hop: seconds from one start to the next.
    held: seconds that the last frame may be held beyond its own.

  Raises:
    MediaError: the part is shorter than a window.
  """
  part = part_of(info, row)
  held = held / 2 if part.end < info.end else held
  # 1e-6: a clip of exactly this length must not fail by rounding.
  room = part.duration - seconds + held + 1e-6
  if room < 0:
    raise media.MediaError(
      f"{SHORT}, {part.duration:.2f} s of the {seconds:.2f} s of a clip"
    )
  return [part.start + k * hop for k in range(int(room / hop) + 1)]


def label(name: str, row: Caption) -> str:
  """The name of a row's part of a file, for reports: NAME or NAME@START."""
  if (row.start, row.end) == (0.0, math.inf):
    return name
  return f"{name}@{row.start:.3f}"


def check_hop(hop: float | int) -> None:
  """Checks that the seconds between clips are more than 0.

  Raises:
    UsageError: they are not.
  """
  if hop <= 0:
    raise UsageError(f"hop is the seconds between clips, got {hop}: use more than 0")


def _probe(path: Place) -> media.MediaInfo:
  info = media.probe(path)
  return info if info.end is not None else media.measure(path)
