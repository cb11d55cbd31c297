"""The one door to users' films and sounds: nothing else opens one for reading.

FFmpeg takes URLs, devices and lists of other files where a name is given, and guesses
among hundreds of formats. Here it gets `file:` and the absolute path of a regular file
(of one in a bucket, that of its copy), may use no other protocol, reads the formats in
`DEMUXERS` alone, and gives up after `LIMIT` seconds without a result. Whatever fails is
a `MediaError` that names the file.
"""

import atexit
import contextlib
import os
import stat
import threading
import time
from collections.abc import Iterator
from typing import Any

import av

from ccl_jax.data.media.fields import Fields
from ccl_jax.names import file_url
from ccl_jax.remote.copies import local

LIMIT = 30.0  # seconds without a packet or a frame
PIXELS = 2**26  # of a frame: 8192 x 8192
CHANNELS = 64  # of a sound: what libswresample takes
DEMUXERS = (
  *("mov", "matroska", "webm", "avi", "asf", "flv", "gif", "mpegts", "mpeg", "mxf"),
  *("mpegvideo", "dv", "ogg", "wav", "w64", "aiff", "au", "caf", "flac", "mp3", "aac"),
  *("ac3", "eac3", "amr", "wv", "tta"),
)

Path = str | os.PathLike


class MediaError(ValueError):
  """A media file cannot be read as asked; the message names it and says why."""


@contextlib.contextmanager
def on_disk(path: Path) -> Iterator[Path]:
  """The file itself or, of one in a bucket, its copy, as long as the block runs.

  Raises:
    MediaError: there is none in the bucket.
    UsageError: the store does not give it, which says nothing of the file.
  """
  with contextlib.ExitStack() as stack:
    try:
      file = stack.enter_context(local(path))
    except FileNotFoundError as e:
      raise MediaError(f"{path}: {e.strerror}") from e
    yield file


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
  """The file as a PyAV container; whatever fails inside is a `MediaError`.

  Raises:
    MediaError: it is no regular file, of no format in `DEMUXERS`, or damaged.
    UsageError: see `on_disk`.
  """
  with on_disk(path) as file, _opened(path, file) as container:
    yield container


@contextlib.contextmanager
def _opened(path: Path, file: Path) -> Iterator[Any]:
  """As `opened`, of a file of this machine that the user knows as `path`."""
  url = file_url(file)
  try:
    check_regular(file)
    with _counted(), open_url(url) as container:
      yield container
  except MediaError as e:
    # FFmpeg knows the file by another name than the user does.
    raise MediaError(str(e).replace(f"{url}: ", f"{path}: ")) from e
  except av.error.ExitError as e:
    raise MediaError(f"{path}: nothing could be read for {LIMIT:g} s") from e
  except (av.error.InvalidDataError, av.error.ArgumentError) as e:
    raise MediaError(
      f"{path}: damaged, or of no format of films or sounds that is read ({e.strerror})"
    ) from e
  except (av.FFmpegError, OSError, ValueError, ArithmeticError, LookupError) as e:
    raise MediaError(f"{path}: {getattr(e, 'strerror', None) or e}") from e
  except (RuntimeError, MemoryError) as e:
    raise MediaError(f"{path}: cannot be decoded ({e or type(e).__name__})") from e


def open_url(url: str) -> Any:
  """The container at a URL `file:PATH`, for `opened`: with its limits, unchecked."""
  container = av.open(
    url,
    options={"max_pixels": str(PIXELS)},  # of the decoders that look at headers
    container_options={
      "protocol_whitelist": "file",
      "format_whitelist": ",".join(DEMUXERS),
    },
    metadata_errors="replace",
    timeout=LIMIT,
  )
  for stream in container.streams:
    context = stream.codec_context
    if context is not None and stream.type == "video":
      context.options = {"max_pixels": str(PIXELS)}
    elif context is not None and stream.type == "audio" and (count := context.channels):
      # PyAV frees the map of a custom layout twice, the context's and its own: after
      # this the context has no map. Channels are counted here, never placed.
      context.layout = f"{count} channels"
  return container


def check_regular(path: Path) -> None:
  """Checks that a path is that of a regular file: reading a pipe may never end.

  Raises:
    MediaError: there is no such file, or it is a folder, a pipe or a device.
  """
  try:
    mode = os.stat(path).st_mode
  except (OSError, ValueError) as e:
    raise MediaError(f"{path}: {getattr(e, 'strerror', None) or e}") from e
  if not stat.S_ISREG(mode):
    kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a device or a socket"
    raise MediaError(f"{path}: {kind}, expected a regular file")


def decoded(container: Any, *streams: Any) -> Iterator[Any]:
  """The frames of tracks, as they come, but those of a picture without a time; of an
  interlaced picture see `fields`.

  Raises:
    MediaError: a track is encrypted, or nothing could be decoded for `LIMIT` seconds.
    SystemExit: in a thread, when the program ends.
  """
  last = time.monotonic()
  counted: dict[int, _DisplayTimes] = {}  # by index, tracks without times of display
  fields: dict[int, Fields] = {}  # by index, pictures
  for packet in container.demux(*streams):
    refuse_encrypted(container, packet)
    frames = packet.decode()
    _refuse_custom_layouts(container, frames)
    if lacks_display_times(container, packet.stream):
      counted.setdefault(packet.stream.index, _DisplayTimes()).place(packet, frames)
    if packet.stream.type == "video":
      timed = [frame for frame in frames if frame.pts is not None]
      track = fields.setdefault(packet.stream.index, Fields())
      frames = track.whole(timed, last=packet.dts is None and not packet.size)
    for frame in frames:
      yield frame
      last = time.monotonic()
    if _ending and threading.current_thread() is not threading.main_thread():
      raise SystemExit("the program ends")
    if time.monotonic() - last > LIMIT:
      raise MediaError(f"{container.name}: nothing could be decoded for {LIMIT:g} s")


def refuse_encrypted(container: Any, packet: Any) -> None:
  """Checks that a packet is not encrypted: its decoder would make noise of it.

  Raises:
    MediaError: it is.
  """
  stream = packet.stream
  if packet.has_sidedata("encryption_info") or "enc_key_id" in stream.metadata:
    raise MediaError(f"{container.name}: the {stream.type} track is encrypted")


def lacks_display_times(container: Any, stream: Any) -> bool:
  """Whether a track's packets have no times of display, but those of decoding alone."""
  return stream.type == "video" and container.format.name == "avi"


class _DisplayTimes:
  """Times of display for a picture in an AVI, which has those of decoding alone.

  A decoder gives frames in order, each so many packets late: what the first one is late
  all are.
  """

  def __init__(self):
    self._first = self._late = None
    self._next = 0

  def place(self, packet: Any, frames: list) -> None:
    """Gives the frames that a packet led to their times."""
    if self._first is None:
      self._first = self._next = packet.dts or 0
    for frame in frames:
      if self._late is None:
        self._late = (frame.dts or 0) - self._first
      at = self._next if frame.dts is None else frame.dts - self._late
      frame.pts, self._next = at, at + 1  # a tick is a period


# Channels in the order of FFmpeg's own layouts: one in another order has a map.
_PLACES = (
  *("FL", "FR", "FC", "LFE", "BL", "BR", "FLC", "FRC", "BC", "SL", "SR", "TC", "TFL"),
  *("TFC", "TFR", "TBL", "TBC", "TBR", "DL", "DR", "WL", "WR", "SDL", "SDR", "LFE2"),
  *("TSL", "TSR", "BFC", "BFL", "BFR"),
)
_kept: list[Any] = []  # layouts that must never be freed


def _refuse_custom_layouts(container: Any, frames: list) -> None:
  """As in `open_url`, of layouts that a decoder makes itself."""
  layouts = [frame.layout for frame in frames if isinstance(frame, av.AudioFrame)]
  custom = [layout for layout in layouts if _has_map(layout)]
  if custom:
    _kept.extend(custom)  # not freed, so not twice
    raise MediaError(
      f"{container.name}: its sound has {custom[0].nb_channels} channels in an order "
      "that cannot be read"
    )


def _has_map(layout: Any) -> bool:
  # "stereo", "5.1(side)" and "6 channels" are FFmpeg's own, "6 channels (FR+FL" may be.
  if " (" not in layout.name:
    return False
  names = [channel.name for channel in layout.channels]
  own = set(names) <= set(_PLACES)
  return not own or names != sorted(set(names), key=_PLACES.index)


# Threads that decode must be through before the interpreter ends: one that comes back
# from FFmpeg to an interpreter that is gone takes the process down.
_readers = threading.Condition()
_reading = 0
_ending = False


@contextlib.contextmanager
def _counted() -> Iterator[None]:
  global _reading
  if threading.current_thread() is threading.main_thread():
    yield  # it ends the interpreter itself
    return
  with _readers:
    if _ending:
      raise SystemExit("the program ends")
    _reading += 1
  try:
    yield
  finally:
    with _readers:
      _reading -= 1
      _readers.notify_all()


@atexit.register
def _join() -> None:
  global _ending
  with _readers:
    _ending = True
    _readers.wait_for(lambda: not _reading, LIMIT)
