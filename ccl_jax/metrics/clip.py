"""A clip as metrics see it: decoded once, then shown at every rate that is asked for.

The clock begins with the first instant that has both picture and sound. Pictures change
their rate as ffmpeg's fps filter does it (metrics/fps.py); sound does by sinc
interpolation (metrics/resample.py), or by libswresample where integers are asked for,
as SyncNet's reference has them.
"""

import functools
import math
import pathlib
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
from jaxtyping import Float32, Int16, UInt8

from ccl_jax.data.media.sound import JITTER, lay_runs
from ccl_jax.data.media.tracks import MediaError, main_track, opened, probe
from ccl_jax.metrics.base import Unscorable
from ccl_jax.metrics.fps import fps_indices
from ccl_jax.metrics.resample import resample


class Picture(NamedTuple):
  """All frames of a file, when each appears (s), and when the last one goes."""

  frames: UInt8[np.ndarray, "F H W 3"]
  times: list[Fraction]
  end: Fraction
  rate: float


class Sound(NamedTuple):
  """All samples of a file, by channel."""

  wave: Float32[np.ndarray, "c n"]
  rate: int
  layout: str


class Clip:
  """One clip.

  Attributes:
    name: its id.
    fields: its line of the manifest.
  """

  def __init__(
    self,
    path: str | pathlib.Path,
    name: str = "",
    fields: Mapping[str, Any] = {},
    needs: frozenset[str] = frozenset({"picture", "sound"}),
  ):
    self.path, self.name, self.fields = pathlib.Path(path), name, fields
    self._needs = needs

  @functools.cached_property
  def _decoded(self) -> dict[str, Any] | MediaError:
    try:
      return decode(self.path, self._needs)
    except MediaError as e:
      return e

  def _part(self, kind: str):
    if isinstance(self._decoded, MediaError):
      reason = str(self._decoded).replace(str(self.path), self.path.name)
      raise Unscorable(f"cannot be decoded: {reason}")
    if self._decoded[kind] is None:
      raise Unscorable(f"no {'video' if kind == 'picture' else 'audio'} track")
    return self._decoded[kind]

  @property
  def decoded(self) -> bool:
    """Whether it has been."""
    return "_decoded" in vars(self)

  def check(self, kinds: frozenset[str]) -> None:
    """Decodes the clip.

    Raises:
      Unscorable: the file is damaged, or lacks one of these.
    """
    for kind in sorted(kinds):
      self._part(kind)

  @property
  def fps(self) -> float:
    """Frames per second of the file."""
    return self._part("picture").rate

  @property
  def seconds(self) -> float:
    """Length of the picture."""
    return float(self._part("picture").end)

  def frames(self, fps: float | int | None = None) -> UInt8[np.ndarray, "F H W 3"]:
    """The frames, all of them or at another rate, from time 0."""
    picture = self._part("picture")
    if fps is None:
      return picture.frames
    times = [*picture.times, picture.end]
    unit = Fraction(1, math.lcm(*{t.denominator for t in times}))
    pts = np.array([int(t / unit) for t in picture.times])
    shown = fps_indices(pts, int(picture.end / unit), unit, fps)
    early = max(-math.floor(picture.times[0] * Fraction(fps) + Fraction(1, 2)), 0)
    return picture.frames[shown[early:]]

  def sound(self, rate: int) -> Float32[np.ndarray, " n"]:
    """Mono, the mean of the channels."""
    sound = self._part("sound")
    return resample(sound.wave.mean(0), sound.rate, rate)

  def first_channel(self, rate: int) -> Float32[np.ndarray, " n"]:
    """Of stereo the left one."""
    sound = self._part("sound")
    return resample(sound.wave[0], sound.rate, rate)

  def integers(self, rate: int) -> Int16[np.ndarray, " n"]:
    """Mono at the scale of int16."""
    sound = self._part("sound")
    if not sound.wave.size:
      return np.zeros(0, np.int16)
    frame = av.AudioFrame.from_ndarray(
      np.ascontiguousarray(sound.wave), "fltp", sound.layout
    )
    frame.sample_rate, frame.pts = sound.rate, 0
    resampler = av.AudioResampler("s16", "mono", rate)
    pieces = [*resampler.resample(frame), *resampler.resample(None)]
    return np.concatenate([p.to_ndarray()[0] for p in pieces if p])


def decode(path: str | pathlib.Path, needs: frozenset[str]) -> dict[str, Any]:
  """Picture and sound of a file in one pass; None for a track that is not there, or is
  not needed.

  Raises:
    MediaError: it is damaged, or no media file.
  """
  probe(path)  # a truncated file decodes without an error
  with opened(path) as container:
    streams = {
      "picture": main_track(container, "video"),
      "sound": main_track(container, "audio"),
    }
    here = {kind: s for kind, s in streams.items() if s is not None}
    zero = max(
      ((s.start_time or 0) * s.time_base for s in here.values()), default=Fraction(0)
    )
    wanted = {kind: s for kind, s in here.items() if kind in needs}
    held = {kind: [] for kind in wanted}
    if "sound" in wanted:
      s = wanted["sound"]
      resampler = av.AudioResampler("fltp", s.layout, s.rate)
    for frame in container.decode(*wanted.values()) if wanted else ():
      if frame.pts is None:
        continue
      time = frame.pts * frame.time_base - zero
      if isinstance(frame, av.VideoFrame):
        if frame.is_corrupt:
          raise MediaError(f"{path}: damaged picture at {float(time):.2f} s")
        pixels = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
        long = (frame.duration or 0) * frame.time_base
        held["picture"].append((time, long, pixels))
      else:
        held["sound"] += [(time, x.to_ndarray()) for x in resampler.resample(frame)]
    parts = {"picture": None, "sound": None}
    if "picture" in wanted:
      parts["picture"] = _picture(path, held["picture"], wanted["picture"])
    if "sound" in wanted:
      parts["sound"] = _sound(held["sound"], s.rate, s.layout)
  return parts


def _picture(path, held, stream) -> Picture:
  if not held:
    raise MediaError(f"{path}: not one frame can be decoded")
  rate = stream.average_rate or stream.guessed_rate or Fraction(25)
  times = [time for time, _, _ in held]
  end = times[-1] + (held[-1][1] or 1 / rate)
  return Picture(np.stack([x for *_, x in held]), times, end, float(rate))


def _sound(held, rate: int, layout) -> Sound:
  """Lays each unbroken run of sound at its own time."""
  runs, clock = [], None
  for time, piece in held:
    if clock is None or abs(time - clock) > JITTER:
      runs.append((time, []))
      clock = time
    runs[-1][1].append(piece)
    clock += Fraction(piece.shape[1], rate)
  length = max(round(clock * rate), 0) if runs else 0
  placed = ((round(time * rate), pieces) for time, pieces in runs)
  wave = lay_runs(placed, layout.nb_channels, length)
  return Sound(np.clip(wave, -1, 1), rate, layout.name)
