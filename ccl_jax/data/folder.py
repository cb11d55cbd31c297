"""A folder of ordinary films as a random-access source of clips.

Every mp4, mov, mkv or webm below the folder is cut into windows of a clip's length, one
every `hop` seconds. Captions come from JSON lines (any *.jsonl in the folder; fields
`file` or `id`, `prompt` or `caption` or `text`, and `audio` for sound in a file of its
own) or from NAME.txt beside NAME.mp4; a film without either has the caption "".
"""

import json
import logging
import pathlib
import threading
from concurrent import futures
from typing import Any, NamedTuple

from ccl_jax.data import media
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
    if hop <= 0:
      raise UsageError(f"hop is the seconds between clips, got {hop}: use more than 0")
    if not self.root.is_dir():
      raise UsageError(f"no folder at {self.root}: give a folder of {_kinds()} files")
    paths = {_name(path, self.root): path for path in _films(self.root)}
    if not paths:
      raise UsageError(f"no films in {self.root}: expected {_kinds()} files")
    captions, self.unmatched = _captions(self.root, paths)
    with futures.ThreadPoolExecutor(8) as pool:
      cuts = pool.map(lambda n: self._cut(n, paths[n], captions.get(n, {}), hop), paths)
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
    self, name: str, path: pathlib.Path, entry: dict, hop: float | int
  ) -> list[Window]:
    """The windows of one film, none where it is no use."""
    sound = self.root / entry["audio"] if entry.get("audio") else None
    try:
      info = _probe(path)
      if not info.has_video:
        raise media.MediaError("no video track")
      start, end = info.start, info.end
      if sound is not None:
        other = _probe(sound)
        if not other.has_audio:
          raise media.MediaError(f"no audio track in {sound.name}")
        start, end = max(start, other.start), min(end, other.end + media.SHORT_TAIL)
      elif not info.has_audio:
        raise media.MediaError("no audio track")
      # The last frame may be held for one period.
      room = end - start - self.spec.seconds + 1 / self.spec.fps + 1e-6
      if room < 0:
        raise media.MediaError(
          f"too short, {end - start:.2f} s of the {self.spec.seconds:.2f} s of a clip"
        )
    except media.MediaError as e:
      with self._lock:
        self.skipped.append((name, str(e).removeprefix(f"{path}: ")))
      return []
    text = entry.get("text") or _sidecar(path)
    starts = (start + k * hop for k in range(int(room / hop) + 1))
    return [Window(name, s, path, sound, text) for s in starts]

  def _fail(self, name: str, reason: str) -> None:
    with self._lock:
      known = name in self.failed
      self.failed.setdefault(name, reason)
    if not known:
      _log.warning("unreadable, the next clip takes its place: %s", reason)


def _probe(path: pathlib.Path) -> media.MediaInfo:
  info = media.probe(path)
  return info if info.end is not None else media.measure(path)


def _kinds() -> str:
  return " ".join(SUFFIXES)


def _name(path: pathlib.Path, root: pathlib.Path) -> str:
  return path.relative_to(root).as_posix()


def _films(root: pathlib.Path) -> list[pathlib.Path]:
  return [
    path
    for path in sorted(root.rglob("*"))
    if path.suffix.lower() in SUFFIXES and path.name[0] != "." and path.is_file()
  ]


def _sidecar(path: pathlib.Path) -> str:
  text = path.with_suffix(".txt")
  return text.read_text("utf-8", "replace").strip() if text.is_file() else ""


def _captions(root: pathlib.Path, paths: dict) -> tuple[dict[str, dict], list[str]]:
  """({film: {"text", "audio"}}, the entries whose film is not in the folder)."""
  names = {name: name for name in paths}
  names |= {str(pathlib.PurePosixPath(name).with_suffix("")): name for name in paths}
  entries, unmatched = {}, []
  for table in sorted(root.glob("*.jsonl")):
    for number, line in enumerate(table.read_bytes().splitlines(), 1):
      if not line.strip():
        continue
      where = f"{table} line {number}"
      try:
        row = json.loads(line)
      except ValueError as e:
        raise UsageError(f"{where} is not JSON ({e}): expected one object") from e
      key = (row.get("file") or row.get("id")) if isinstance(row, dict) else None
      text = _first_of(row, "prompt", "caption", "text") if key else None
      audio = row.get("audio") if key else None
      if not all(isinstance(value, str) for value in (key, text or "", audio or "")):
        raise UsageError(
          f"{where}: expected an object with a string `file` or `id`, and strings "
          f"`prompt` (or `caption`, `text`) and `audio` if any, got {str(row)[:80]}"
        )
      if key in names:
        entries[names[key]] = {"text": text, "audio": audio}
      else:
        unmatched.append(key)
        _log.warning("%s: no film %s in the folder", where, key)
  return entries, unmatched


def _first_of(row: dict, *keys: str):
  return next((row[key] for key in keys if row.get(key)), None)
