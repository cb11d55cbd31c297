"""A film of a picture and a sound of two files, whose packets are copied as they are.

What a user gave stays what it is: its codec, its rate and channels, its rotation, its
frames at their own times. Only what an mp4 does not hold is encoded anew. The picture's
first frame and the sound's first sample get time 0, where the model had both.
"""

import contextlib
import errno
import heapq
import itertools
import logging
import os
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from ccl_jax.data.media.colour import rgb_of
from ccl_jax.data.media.door import (
  decoded,
  lacks_display_times,
  opened,
  refuse_encrypted,
)
from ccl_jax.data.media.orientation import orientation_of
from ccl_jax.data.media.sound import decode_channels
from ccl_jax.data.media.tracks import MediaError, first_time, pixel_aspect, track
from ccl_jax.errors import UsageError
from ccl_jax.files import new_file
from ccl_jax.generation.scratch import Scratch
from ccl_jax.names import file_url
from ccl_jax.viz.media import AAC_LAYOUTS, AAC_RATES, write_sound, write_timed

Path = str | os.PathLike
# What players take in an mp4, and what keeps its time in one.
HELD = {
  "video": {"h264", "hevc", "av1", "vp9", "mpeg4"},
  "audio": {"aac", "mp3", "opus", "flac", "alac", "ac3", "eac3", "mp2"},
}
CALLED = {"video": "picture", "audio": "sound"}
LATE = 1.0  # seconds that a packet may come before one that is shown earlier
_ANEW = {"video": "H.264", "audio": "AAC"}
_log = logging.getLogger(__name__)


def write_joined(
  path: Path, made: Path, given: Path, kind: str, seconds: float
) -> None:
  """Writes an mp4 of a stream that was made and one that was given.

  A note says what of the given one is encoded anew, and why.

  Args:
    path: of the file.
    made: a file with the made stream.
    given: the user's file.
    kind: the given stream, "video" or "audio".
    seconds: of the clip; of what is given packets that begin later are left out.

  Raises:
    UsageError: what is given cannot be read any more.
    WriteError: the system refused.
  """
  other = "audio" if kind == "video" else "video"
  scratch = Scratch()
  try:
    why = _why_not(given, kind)
    if why is None:
      try:
        _join(path, {other: made, kind: given}, seconds)
        return
      except av.FFmpegError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG):
          raise
        why = f"an mp4 cannot hold it ({e.strerror})"
    _log.warning(
      "%s: %s: the %s is encoded anew, as %s",
      *(given, why, CALLED[kind], _ANEW[kind]),
    )
    fresh = scratch.path / "given.mp4"
    _encode_anew(fresh, given, kind, seconds)
    _join(path, {other: made, kind: fresh}, seconds)
  except MediaError as e:
    raise UsageError(f"{kind}: {e}") from e


def _why_not(path: Path, kind: str) -> str | None:
  """Why a track cannot be copied into an mp4; None where it can.

  Raises:
    MediaError: the file cannot be read.
  """
  with opened(path) as container:
    stream = track(container, kind)
    codec = stream.codec_context.codec.canonical_name
    if codec not in HELD[kind]:
      return f"an mp4 holds no {codec}"
    if lacks_display_times(container, stream):
      return "an avi does not say when its frames are shown"
  return None


def _join(path: Path, sources: dict[str, Path], seconds: float) -> None:
  """Writes the tracks of two files, in the order of their times of decoding."""
  with contextlib.ExitStack() as stack:
    tracks = {}
    for kind, source in sources.items():
      packets = _packets(source, kind, seconds)
      stack.callback(packets.close)
      tracks[kind] = next(packets), packets
    partial = stack.enter_context(new_file(path))
    options = {"movflags": "faststart"}
    out = stack.enter_context(
      av.open(file_url(partial), "w", format="mp4", options=options)
    )
    named = []
    for kind in CALLED:
      template, packets = tracks[kind]
      place = out.add_stream_from_template(template)
      named.append(zip(packets, itertools.repeat(place)))
    for (_, packet), place in heapq.merge(*named, key=lambda x: x[0][0]):
      packet.stream = place
      out.mux(packet)


def _packets(path: Path, kind: str, seconds: float) -> Iterator[Any]:
  """The track of a file, and then (time of decoding, packet) of what it shows before
  `seconds`, the track's beginning being time 0.

  Packets that are shown later and are decoded before one of these stay, since it may
  need them.
  """
  with opened(path) as container:
    stream = track(container, kind)
    yield stream
    base = stream.time_base
    start = round(first_time(stream) / base)
    waiting = []
    for packet in container.demux(stream):
      if packet.dts is None or packet.pts is None:
        continue  # the end
      refuse_encrypted(container, packet)
      packet.pts -= start
      packet.dts -= start
      at = float(packet.pts * base)
      waiting.append((float(packet.dts * base), packet))
      if at < seconds:
        yield from waiting
        waiting = []
      elif at >= seconds + LATE:
        break


def _encode_anew(path: Path, given: Path, kind: str, seconds: float) -> None:
  if kind == "audio":
    _encode_sound(path, given, seconds)
  else:
    write_timed(path, _pictures(given, seconds))


def _pictures(path: Path, seconds: float) -> Iterator[tuple[float, np.ndarray]]:
  """(time, RGB) of a film's frames: upright, with square pixels, at their own times."""
  scaler, turn = VideoReformatter(), None
  with opened(path) as container:
    stream = track(container, "video")
    start, aspect = first_time(stream), pixel_aspect(stream)
    for frame in decoded(container, stream):
      at = None if frame.pts is None else float(frame.pts * frame.time_base) - start
      if at is not None and at >= seconds:
        return
      turn = orientation_of(frame) if turn is None else turn
      if at is not None:
        columns = max(round(frame.width * aspect), 1)
        rgb = rgb_of(frame, columns, frame.height, scaler, "BICUBIC")
        yield at, turn.apply(rgb)


def _encode_sound(path: Path, given: Path, seconds: float) -> None:
  """The sound as AAC: at its own rate or the one next to it, with its channels if they
  are mono, stereo or 5.1.
  """
  with opened(given) as container:
    stream = track(container, "audio")
    rate = min(AAC_RATES, key=lambda r: abs(r - stream.rate))
    start, samples = first_time(stream), round(seconds * rate)
    wave = decode_channels(container, stream, start, samples, rate)
  if len(wave) not in AAC_LAYOUTS:
    _log.warning("%s: its %d channels become one", given, len(wave))
    wave = wave.mean(0, keepdims=True)
  write_sound(path, wave, rate)
