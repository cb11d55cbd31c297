"""Films as a random-access source of clips: those of a folder, or those of a list.

Every film is cut into windows of a clip's length, one every `hop` seconds. Captions are
those of `captions.py`; a film without one has "".
"""

import logging
import mimetypes
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

from ccl_jax.data.media import decode as media
from ccl_jax.data.media.loudness import apply_gain
from ccl_jax.data.sources.captions import Caption, read_captions, sidecar
from ccl_jax.data.sources.windows import (
  SHORT,
  cached_probe,
  check_hop,
  label,
  window_starts,
)
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.names import printable
from ccl_jax.remote.paths import BucketPath, Place, place

SUFFIXES = (
  *(".mp4", ".mov", ".mkv", ".webm", ".m4v", ".avi", ".ts", ".mts", ".m2ts", ".mpg"),
  *(".mpeg", ".vob", ".flv", ".f4v", ".wmv", ".asf", ".3gp", ".3g2", ".ogv", ".mxf"),
  *(".dv", ".gif"),
)
# Films, stills and sounds that Python's own table of types does not have.
_NOT_IN_THE_TABLE = """
  .rm .rmvb .divx .mk3d .ogm .ogx .nut .ivf .y4m .yuv .264 .h264 .avc .265 .h265 .hevc
  .mjpg .mjpeg .mj2 .m2v .mpv .m2p .m2t .evo .trp .tp .wtv .gxf .swf .amv .nsv .f4p
  .3gp2 .insv .lrv .mod .tod .braw .r3d .mlv .cine
  .heic .heif .heics .heifs .avif .avifs .jxl .jfif .jif .dib .jp2 .j2k .jpf .jpx .apng
  .exr .hdr .pfm .dpx .tga .pcx .psd .psb .xcf .eps .dng .cr2 .cr3 .nef .arw .orf .rw2
  .raf .pef .srw
  .wave .m4b .m4r .spx .awb .ec3 .mp1 .mpga .ape .shn .dsf .dff .tak .mpc .ofr .dts .thd
  .mlp .alac .voc .gsm .mid .midi .aa .aax .oma .rf64 .bwf
"""
_MORE = frozenset(_NOT_IN_THE_TABLE.split())
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
SOUNDS = (
  *(".wav", ".flac", ".mp3", ".m4a", ".aac", ".ogg", ".opus", ".oga", ".weba", ".mka"),
  *(".wma", ".aif", ".aiff", ".caf", ".amr", ".ac3", ".eac3", ".mp2", ".wv", ".tta"),
  *(".au", ".w64"),
)
# (place, bytes) that mp4, Matroska, AVI and WAV, Ogg, FLAC, MP3, FLV, MPEG, PNG and
# JPEG begin with.
_HEADS = (
  *((4, b"ftyp"), (0, b"\x1aE\xdf\xa3"), (0, b"RIFF"), (0, b"OggS"), (0, b"fLaC")),
  *(
    (0, b"ID3"),
    (0, b"FLV\x01"),
    (0, b"\0\0\x01\xba"),
    (0, b"\x89PNG"),
    (0, b"\xff\xd8\xff"),
  ),
)
_log = logging.getLogger(__name__)


class Window(NamedTuple):
  """A clip of a film: its file, its start in seconds, the row it is of, its caption."""

  name: str
  start: float
  row: Caption
  text: str


class FilmSource:
  """Clips `{"video", "audio", "text", "id"}` by index, the same at every reading.

  A clip that turns out unreadable is replaced by the next readable one.

  Attributes:
    root, spec: the folder, and the sizes of a clip.
    windows: the clips.
    skipped: (name, reason) of films that give no clip.
    failed: the reason by name of films that could not be read later.
  """

  def __init__(
    self,
    root: str | os.PathLike,
    spec: ClipSpec,
    rows: Mapping[str, Sequence[Caption]],
    hop: float | int | None = None,
  ):
    """`rows` are the captions of every film below `root`; a film has at least one."""
    self.root, self.spec = place(root), spec
    self.skipped: list[tuple[str, str]] = []
    self.failed: dict[str, str] = {}
    self._lock = threading.Lock()
    hop = spec.seconds if hop is None else hop
    check_hop(hop)
    with futures.ThreadPoolExecutor(8) as pool:
      cuts = pool.map(lambda name: self._cut(name, rows[name], hop), rows)
      self.windows = [window for cut in cuts for window in cut]
    self.skipped.sort()
    for name, reason in self.skipped:
      _log.warning("skipped %s: %s", name, reason)
    # Counted for the log: captions are easily misplaced, and nobody notices.
    used = {w.name: w.text for w in self.windows}
    _log.info(
      "%s: %d clips from %d of %d films; %d films lack a caption",
      *(self.root, len(self.windows), len(used), len(rows)),
      list(used.values()).count(""),
    )
    if not self.windows:
      short = any(reason.startswith(SHORT) for _, reason in self.skipped)
      advice = "sounds, stills and silent films are for encode"
      raise UsageError(
        f"no usable film among {len(rows)} in {self.root}, first: "
        f"{': '.join(self.skipped[0])} "
        f"({'give longer ones, or fewer config.clip.frames' if short else advice})"
      )

  @property
  def texts(self) -> list[str]:
    """The captions of the clips, each once."""
    return list(dict.fromkeys(window.text for window in self.windows))

  def __len__(self) -> int:
    return len(self.windows)

  def __getitem__(self, index: int) -> dict[str, Any]:
    count = len(self.windows)
    if not 0 <= index < count:
      raise IndexError(f"clip {index} of {count}")
    for step in range(count):
      # The next readable clip, always the same one: order is a function of the files.
      window = self.windows[(index + step) % count]
      row, path = window.row, self.root / window.name
      sound = row.sound(self.root)
      try:
        video, audio = media.read_clip(path, self.spec, window.start, sound, row.crop)
      except media.MediaError as e:
        self._fail(window.name, str(e))
        continue
      name = f"{printable(window.name)}@{window.start:.3f}"
      audio = apply_gain(audio, row.gain)
      return {"video": video, "audio": audio, "text": window.text, "id": name}
    raise UsageError(f"no clip of {self.root} can be read any more: {self.failed}")

  def _cut(self, name: str, rows: Sequence[Caption], hop: float | int) -> list[Window]:
    """The windows of one film, none where it is no use."""
    path, windows, probe = self.root / name, [], cached_probe()
    for row in rows:
      try:
        info = probe(path, row.sound(self.root))
        if not info.has_video or not info.has_audio:
          missing = "audio" if info.has_video else "video"
          raise media.MediaError(f"no {missing} track")
        starts = window_starts(info, row, self.spec.seconds, hop, 1 / self.spec.fps)
        text = row.text or sidecar(path)
      except media.MediaError as e:
        with self._lock:
          reason = str(e).removeprefix(f"{path}: ")
          self.skipped.append((label(name, row), reason))
        continue
      windows += [Window(name, s, row, text) for s in starts]
    return windows

  def _fail(self, name: str, reason: str) -> None:
    with self._lock:
      known = name in self.failed
      self.failed.setdefault(name, reason)
    if not known:
      _log.warning("unreadable, the next clip takes its place: %s", reason)


class FolderSource(FilmSource):
  """The clips of every film below a folder.

  Attributes:
    unmatched: the captions without a film.
  """

  def __init__(
    self,
    root: str | os.PathLike,
    spec: ClipSpec,
    hop: float | int | None = None,
    captions: str = "",
  ):
    root = place(root)
    names = [relative(path, root) for path in files_of(root, SUFFIXES)]
    if not names:
      raise UsageError(f"no films in {root}: expected {' '.join(SUFFIXES)} files")
    rows, self.unmatched = read_captions(root, names, captions)
    warn_of_unread(root, (*SUFFIXES, *IMAGES, *SOUNDS))
    super().__init__(root, spec, {n: rows.get(n, [Caption()]) for n in names}, hop)
    if self.unmatched:
      _log.info("%s: %d captions lack a film", root, len(self.unmatched))


def relative(path: Place, root: Place) -> str:
  """The path below `root`, with "/" on every system."""
  return path.relative_to(root).as_posix()


def files_of(root: Place, suffixes: tuple[str, ...]) -> list[Place]:
  """All files below a folder with one of the suffixes, in order, but for hidden ones.

  Raises:
    UsageError: there is no such folder.
  """
  if not root.is_dir():
    kinds = " ".join(suffixes)
    raise UsageError(f"no folder at {root}: give a folder of {kinds} files")
  return [
    path
    for path in sorted(root.rglob("*"))
    if path.suffix.lower() in suffixes and path.name[0] != "." and _is_file(path)
  ]


def _is_file(path: Place) -> bool:
  """Whether what was listed is a file: in a bucket nothing else is."""
  return isinstance(path, BucketPath) or path.is_file()


def unread(root: Place, suffixes: tuple[str, ...]) -> list[tuple[str, str]]:
  """(name, reason) of files below a folder that are media by their names, or by how
  they begin where their names say nothing, and are none of those that are read.

  Args:
    root: the folder.
    suffixes: of the media that are read.
  """
  kinds = mimetypes.MimeTypes()
  out = []
  for path in sorted(root.rglob("*")):
    suffix = path.suffix.lower()
    kind = kinds.guess_type(f"x{suffix}")[0] or ""
    known = kind.startswith(("video/", "audio/", "image/")) or suffix in _MORE
    if suffix in suffixes or path.name[0] == "." or not _is_file(path):
      continue
    unsaid = kind in ("", "application/octet-stream")
    if known or (unsaid and _begins_as_media(path)):
      ending = f"that end in {suffix}" if suffix else "without an ending"
      reason = f"files {ending} are not read: make an mp4, wav or png of it"
      out.append((relative(path, root), reason))
  return out


def _begins_as_media(path: Place) -> bool:
  """Whether a file's first bytes are those of a film, a sound or a still; in a bucket,
  where each costs a request, nobody looks.
  """
  if isinstance(path, BucketPath):
    return False
  try:
    with open(path, "rb") as file:
      head = file.read(16)
  except OSError:
    return False
  return any(head.startswith(mark, at) for at, mark in _HEADS)


def warn_of_unread(root: Place, suffixes: tuple[str, ...]) -> list[tuple[str, str]]:
  """As `unread`, and a warning for each."""
  found = unread(root, suffixes)
  for name, reason in found:
    _log.warning("skipped %s: %s", name, reason)
  return found
