"""A folder that grows: written on this machine, and uploaded now and then.

An object in a bucket cannot be appended to. What appends (a log, TensorBoard, a trace)
writes into a folder of this machine, whose files are uploaded whole: `SECONDS` after
the last time by a thread, and when somebody asks.
"""

import contextlib
import pathlib
import tempfile
import threading
import time

from ccl_jax.remote.locks import require_held
from ccl_jax.remote.paths import BucketPath, Place
from ccl_jax.remote.stores import Unreachable

SECONDS = 30.0


class Mirror:
  """The folder to write into in place of another: of one on this machine, itself.

  Args:
    folder: where the files are to be.
    names: of files and folders that are there and are gone on with.

  Attributes:
    folder: to write into.
  """

  def __init__(self, folder: Place, names: tuple[str, ...] = ()):
    self._target = folder if isinstance(folder, BucketPath) else None
    self._done: dict[pathlib.Path, tuple[int, int]] = {}
    self._turn, self._ended = threading.Lock(), time.monotonic()
    self._thread: threading.Thread | None = None
    if self._target is None:
      self.folder = folder
      return
    self._scratch = tempfile.TemporaryDirectory(prefix="ccl_jax-")
    self.folder = pathlib.Path(self._scratch.name, folder.name)
    self.folder.mkdir()
    for file in (file for name in names for file in _files(folder / name)):
      here = self.folder / file.relative_to(folder)
      here.parent.mkdir(parents=True, exist_ok=True)
      here.write_bytes(file.read_bytes())
      self._done[here] = _state(here)

  def push_soon(self) -> None:
    """Uploads in a thread what has changed, if the last time is long enough ago."""
    if self._target is None or time.monotonic() - self._ended < SECONDS:
      return
    if self._thread is None or not self._thread.is_alive():
      self._thread = threading.Thread(target=self._try, daemon=True)
      self._thread.start()

  def push(self) -> None:
    """Uploads what has changed.

    Raises:
      Unreachable: the store does not take it.
      UsageError: another process has taken over the folder.
    """
    if self._target is None:
      return
    with self._turn:
      require_held(self._target)
      for file in sorted(p for p in self.folder.rglob("*") if p.is_file()):
        state = _state(file)
        if self._done.get(file) != state:
          # Of its bytes as they are now: it may grow meanwhile.
          name = file.relative_to(self.folder).as_posix()
          (self._target / name).write_bytes(file.read_bytes())
          self._done[file] = state
      for gone in [file for file in self._done if not file.exists()]:
        name = gone.relative_to(self.folder).as_posix()
        (self._target / name).unlink(missing_ok=True)
        del self._done[gone]
      self._ended = time.monotonic()

  def close(self) -> None:
    """Uploads what has changed, and removes the folder of this machine.

    Raises:
      Unreachable, UsageError: see `push`.
    """
    if self._target is None:
      return
    try:
      self.push()
    finally:
      self._scratch.cleanup()

  def _try(self) -> None:
    with contextlib.suppress(Unreachable):  # whoever asks next will be told
      self.push()


def _files(path: BucketPath) -> list[BucketPath]:
  """The file of this name, or all below the folder of this name."""
  return [path] if path.is_file() else list(path.walk())


def _state(file: pathlib.Path) -> tuple[int, int]:
  status = file.stat()
  return status.st_size, status.st_mtime_ns
