"""A folder of ordinary films as a random-access source of clips.

Every mp4, mov, mkv or webm below the folder is cut into windows of a clip's length, one
every `hop` seconds. Captions are those of `captions.py`; a film without one has "".
"""

import dataclasses
import logging
import pathlib
import threading
from concurrent import futures
from typing import Any, NamedTuple

from ccl_jax.data import media
from ccl_jax.data.captions import Caption, read_captions, sidecar
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm")
_log = logging.getLogger(__name__)


class Window(NamedTuple):
  """A clip to be: which file, from when (s), with which sound and caption."""

  name: str
  start: float
  path: pathlib.Path
  sound: pathlib.Path | None
  text: str


class FolderSource:
  """Clips `{"video", "audio", "text", "id"}` by index, the same at every reading.

  `skipped` lists (name, reason) of files that give no clip. A clip that turns out
  unreadable is replaced by the next readable one; `failed` maps such files to the
  reason.
  """

  def __init__(
    self, root: str | pathlib.Path, spec: ClipSpec, hop: float | int | None = None
  ):
    self.root, self.spec = pathlib.Path(root), spec
    self.skipped: list[tuple[str, str]] = []
    self.failed: dict[str, str] = {}
    self._lock = threading.Lock()
    hop = spec.seconds if hop is None else hop
    check_hop(hop)
    paths = {relative(path, self.root): path for path in files_of(self.root, SUFFIXES)}
    if not paths:
      raise UsageError(f"no films in {self.root}: expected {' '.join(SUFFIXES)} files")
    captions, self.unmatched = read_captions(self.root, paths)
    with futures.ThreadPoolExecutor(8) as pool:
      cuts = pool.map(
        lambda n: self._cut(n, paths[n], captions.get(n, Caption()), hop), paths
      )
      self.windows = [window for cut in cuts for window in cut]
    self.skipped.sort()
    for name, reason in self.skipped:
      _log.warning("skipped %s: %s", name, reason)
    _log.info(
      "%s: %d clips from %d of %d films; %d films lack a caption, %d captions a film",
      *(self.root, len(self.windows), len(paths) - len(self.skipped), len(paths)),
      *(len({w.name for w in self.windows if not w.text}), len(self.unmatched)),
    )
    if not self.windows:
      raise UsageError(
        f"no usable film among {len(paths)} in {self.root}, first: "
        f"{': '.join(self.skipped[0])}"
      )

  def __len__(self) -> int:
    return len(self.windows)

  def __getitem__(self, index: int) -> dict[str, Any]:
    count = len(self.windows)
    if not 0 <= index < count:
      raise IndexError(f"clip {index} of {count}")
    for step in range(count):
      window = self.windows[(index + step) % count]
      try:
        video, audio = media.read_clip(
          window.path, self.spec, window.start, window.sound
        )
      except media.MediaError as e:
        self._fail(window.name, str(e))
        continue
      name = f"{window.name}@{window.start:.3f}"
      return {"video": video, "audio": audio, "text": window.text, "id": name}
    raise UsageError(f"no clip of {self.root} can be read any more: {self.failed}")

  def _cut(
    self, name: str, path: pathlib.Path, entry: Caption, hop: float | int
  ) -> list[Window]:
    """The windows of one film, none where it is no use."""
    sound = self.root / entry.audio if entry.audio else None
    try:
      info = probe_with_sound(path, sound)
      if not info.has_video or not info.has_audio:
        missing = "audio" if info.has_video else "video"
        raise media.MediaError(f"no {missing} track")
      starts = window_starts(info, self.spec.seconds, hop, 1 / self.spec.fps)
      text = entry.text or sidecar(path)
    except media.MediaError as e:
      with self._lock:
        self.skipped.append((name, str(e).removeprefix(f"{path}: ")))
      return []
    return [Window(name, s, path, sound, text) for s in starts]

  def _fail(self, name: str, reason: str) -> None:
    with self._lock:
      known = name in self.failed
      self.failed.setdefault(name, reason)
    if not known:
      _log.warning("unreadable, the next clip takes its place: %s", reason)


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


def window_starts(
  info: media.MediaInfo, seconds: float, hop: float | int, held: float | int = 0
) -> list[float]:
  """Starts of the windows of so many `seconds`, one every `hop`; the last frame may be
  `held` so much longer.
  """
  room = info.duration - seconds + held + 1e-6
  if room < 0:
    raise media.MediaError(
      f"too short, {info.duration:.2f} s of the {seconds:.2f} s of a clip"
    )
  return [info.start + k * hop for k in range(int(room / hop) + 1)]


def check_hop(hop: float | int) -> None:
  if hop <= 0:
    raise UsageError(f"hop is the seconds between clips, got {hop}: use more than 0")


def relative(path: pathlib.Path, root: pathlib.Path) -> str:
  return path.relative_to(root).as_posix()


def files_of(root: pathlib.Path, suffixes: tuple[str, ...]) -> list[pathlib.Path]:
  """All such files below a folder in order, but for hidden ones."""
  if not root.is_dir():
    kinds = " ".join(suffixes)
    raise UsageError(f"no folder at {root}: give a folder of {kinds} files")
  return [
    path
    for path in sorted(root.rglob("*"))
    if path.suffix.lower() in suffixes and path.name[0] != "." and path.is_file()
  ]


def _probe(path: pathlib.Path) -> media.MediaInfo:
  info = media.probe(path)
  return info if info.end is not None else media.measure(path)
