"""Where the clips of a file begin: windows of a clip's length within a row's part."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable

from ccl_jax.data.media import decode as media
from ccl_jax.data.sources.captions import Caption
from ccl_jax.errors import UsageError


def probe_with_sound(
  path: pathlib.Path, sound: pathlib.Path | None = None
) -> media.MediaInfo:
  """What a file holds, with the sound of another file if it has one of its own."""
  info = _probe(path)
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


def probing() -> Callable[..., media.MediaInfo]:
  """`probe_with_sound` that looks once into a file that has many rows. It forgets the
  files it has not been asked for of late, and is for one pass over a folder.
  """
  return functools.lru_cache(64)(probe_with_sound)


def part_of(info: media.MediaInfo, row: Caption) -> media.MediaInfo:
  """The file as if it were only the row's part of it."""
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
  """Starts of the windows of so many `seconds`, one every `hop`; the last frame may be
  `held` so much longer.

  A frame serves the instants half a period before it appears, so at the end of a part
  within a file the last frame is held for half of that: else the next shot would show.
  """
  part = part_of(info, row)
  held = held / 2 if part.end < info.end else held
  room = part.duration - seconds + held + 1e-6
  if room < 0:
    raise media.MediaError(
      f"too short, {part.duration:.2f} s of the {seconds:.2f} s of a clip"
    )
  return [part.start + k * hop for k in range(int(room / hop) + 1)]


def label(name: str, row: Caption) -> str:
  """The name of a row's part of a file, in reports."""
  if (row.start, row.end) == (0.0, math.inf):
    return name
  return f"{name}@{row.start:.3f}"


def check_hop(hop: float | int) -> None:
  if hop <= 0:
    raise UsageError(f"hop is the seconds between clips, got {hop}: use more than 0")


def _probe(path: pathlib.Path) -> media.MediaInfo:
  info = media.probe(path)
  return info if info.end is not None else media.measure(path)
