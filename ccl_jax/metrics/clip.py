"""A clip for metrics: decoded once, then given at every rate that is asked for.

The clock begins with the first instant that has both picture and sound. Pictures change
their rate as ffmpeg's fps filter does it (metrics/fps.py); sound does by sinc
interpolation (metrics/resample.py), or by libswresample where integers are asked for,
as SyncNet's reference has them.
"""

import functools
import math
import os
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import Float32, Int16, UInt8

from ccl_jax.data.media.colour import check_colours, rgb_of
from ccl_jax.data.media.door import MediaError, decoded, opened
from ccl_jax.data.media.orientation import orientation_of
from ccl_jax.data.media.sound import JITTER, channels_of, lay_runs, mix
from ccl_jax.data.media.tracks import main_track, probe
from ccl_jax.metrics.base import Unscorable
from ccl_jax.metrics.fps import fps_indices
from ccl_jax.metrics.resample import resample
from ccl_jax.remote.paths import place

MOST, MOST_SOUND = 8e9, 1e9  # bytes of a clip's pixels and samples, held as a whole


class Picture(NamedTuple):
  """All frames of a file, with their times in seconds.

  Attributes:
    times: when each appears.
    end: when the last one goes.
    rate: frames per second.
  """

  frames: UInt8[np.ndarray, "F H W 3"]
  times: list[Fraction]
  end: Fraction
  rate: float


class Sound(NamedTuple):
  """All samples of a file, by channel.

  Attributes:
    wave: in [-1, 1].
    rate: in Hz.
  """

  wave: Float32[np.ndarray, "c n"]
  rate: int


class Clip:
  """A clip that is to be scored; its file is decoded when it is first needed.

  Attributes:
    path: of the file.
    name: its id.
    fields: its line of the manifest.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    name: str = "",
    fields: Mapping[str, Any] = {},
    needs: frozenset[str] = frozenset({"picture", "sound"}),
  ):
    self.path, self.name, self.fields = place(path), name, fields
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

  def has(self, kind: str) -> bool:
    """Whether the file has a "picture" or a "sound".

    Raises:
      Unscorable: it cannot be decoded.
    """
    if isinstance(self._decoded, MediaError):
      self._part(kind)
    return self._decoded[kind] is not None

  @property
  def decoded(self) -> bool:
    """Whether the file has been decoded so far."""
    return "_decoded" in vars(self)

  def check(self, kinds: frozenset[str]) -> None:
    """Decodes the clip, and checks that it has what is needed.

    Args:
      kinds: of "picture" and "sound".

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
    """Duration of the clip's picture, in seconds."""
    return float(self._part("picture").end)

  def frames(self, fps: float | int | None = None) -> UInt8[np.ndarray, "F H W 3"]:
    """The frames from time 0 on, at `fps` frames per second; None: all as they are."""
    picture = self._part("picture")
    if fps is None:
      return picture.frames
    times = [*picture.times, picture.end]
    # The coarsest clock in which all times are whole: no rounding of frame times.
    unit = Fraction(1, math.lcm(*{t.denominator for t in times}))
    pts = np.array([int(t / unit) for t in picture.times])
    shown = fps_indices(pts, int(picture.end / unit), unit, fps)
    # Frames before time 0 are dropped: clips start where sound or picture starts last.
    early = max(-math.floor(picture.times[0] * Fraction(fps) + Fraction(1, 2)), 0)
    # Between two frames there may be hours.
    if len(shown) * picture.frames[0].nbytes > MOST:
      raise Unscorable(f"too long to be scored, {self.seconds:.0f} s of pictures")
    return picture.frames[shown[early:]]

  def sound(self, rate: int) -> Float32[np.ndarray, " n"]:
    """Mono sound at `rate` Hz in [-1, 1], mixed as for training (`sound.mix`)."""
    sound = self._part("sound")
    return resample(mix(sound.wave), sound.rate, rate)

  def first_channel(self, rate: int) -> Float32[np.ndarray, " n"]:
    """The first channel's sound at `rate` Hz: of stereo the left one."""
    sound = self._part("sound")
    return resample(sound.wave[0], sound.rate, rate)

  def integers(self, rate: int) -> Int16[np.ndarray, " n"]:
    """Mono sound at `rate` Hz, at the scale of int16, by libswresample: of the same mix
    as `sound`, the mean of the channels, which of stereo is libswresample's own.
    """
    sound = self._part("sound")
    if not sound.wave.size:
      return np.zeros(0, np.int16)
    frame = av.AudioFrame.from_ndarray(mix(sound.wave)[None], "fltp", "mono")
    frame.sample_rate, frame.pts = sound.rate, 0
    resampler = av.AudioResampler("s16", "mono", rate)
    pieces = [*resampler.resample(frame), *resampler.resample(None)]
    return np.concatenate([p.to_ndarray()[0] for p in pieces if p])


def decode(path: str | os.PathLike, needs: frozenset[str]) -> dict[str, Any]:
  """Picture and sound of a file, in one pass.

  Args:
    path: of the file.
    needs: of "picture" and "sound".

  Returns:
    `picture` and `sound`; None for one that is not there, or not needed.

  Raises:
    MediaError: it is damaged, or no media file.
  """
  probe(path)  # a truncated file decodes without an error
  with opened(path) as container:
    streams = {
      "picture": main_track(container, "video"),
      "sound": main_track(container, "audio"),
    }
    present = {kind: s for kind, s in streams.items() if s is not None}
    # Time 0 is where both tracks have started.
    zero = max(
      ((s.start_time or 0) * s.time_base for s in present.values()), default=Fraction(0)
    )
    wanted = {kind: s for kind, s in present.items() if kind in needs}
    got = {kind: [] for kind in wanted}
    if "sound" in wanted:
      s, resampler = wanted["sound"], None
    scaler, size, heard = VideoReformatter(), 0, 0
    turn = side = None  # of the first frame; later ones are as large
    for frame in decoded(container, *wanted.values()) if wanted else ():
      if frame.pts is None:
        continue
      time = frame.pts * frame.time_base - zero
      if isinstance(frame, av.VideoFrame):
        if frame.is_corrupt:
          raise MediaError(f"{path}: damaged picture at {float(time):.2f} s")
        check_colours(frame, container.name)
        turn, side = turn or orientation_of(frame), side or (frame.width, frame.height)
        pixels = turn.apply(rgb_of(frame, *side, scaler))
        long = (frame.duration or 0) * frame.time_base
        got["picture"].append((time, long, pixels))
        size += pixels.nbytes
        if size > MOST:
          raise MediaError(f"{path}: too long to be scored, over {MOST / 1e9:g} GB")
      else:
        # By the decoder's channels: a header may know of fewer.
        if resampler is None:
          resampler = av.AudioResampler("flt", frame.layout, s.rate)
        got["sound"] += [(time, channels_of(x)) for x in resampler.resample(frame)]
        heard += 4 * frame.samples * frame.layout.nb_channels
        if heard > MOST_SOUND:
          long = f"{float(time):.0f} s of sound"
          raise MediaError(f"{path}: too long to be scored, {long}")
    parts = {"picture": None, "sound": None}
    if "picture" in wanted:
      parts["picture"] = _picture(path, got["picture"], wanted["picture"])
    if "sound" in wanted:
      parts["sound"] = _sound(got["sound"], s.rate)
  return parts


def _picture(path, frames, stream) -> Picture:
  if not frames:
    raise MediaError(f"{path}: not one frame can be decoded")
  rate = stream.average_rate or stream.guessed_rate or Fraction(25)
  times = [time for time, _, _ in frames]
  # The last frame lasts as long as it says, or else one period.
  end = times[-1] + (frames[-1][1] or 1 / rate)
  return Picture(np.stack([x for *_, x in frames]), times, end, float(rate))


def _sound(frames, rate: int) -> Sound:
  """Lays each unbroken run of sound at its own time."""
  runs, clock = [], None
  for time, piece in frames:
    # A gap or an overlap: a new run, at its own time.
    if clock is None or abs(time - clock) > JITTER:
      runs.append((time, []))
      clock = time
    runs[-1][1].append(piece)
    clock += Fraction(piece.shape[1], rate)
  length = max(round(clock * rate), 0) if runs else 0
  channels = len(frames[0][1]) if frames else 1
  if 4 * length * channels > MOST_SOUND:
    raise MediaError(f"too long to be scored, {float(clock):.0f} s of sound")
  placed = ((round(time * rate), pieces) for time, pieces in runs)
  wave = lay_runs(placed, channels, length)
  return Sound(np.clip(wave, -1, 1), rate)
