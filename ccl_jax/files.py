"""Files that appear whole or not at all.

A file is written under a hidden name in the folder of its place, synced to the disk and
renamed. After a kill or a power cut its name holds the old bytes or the new ones, never
a part of them. The hidden name, .NAME.PROCESS.part, is locked by its writer: what a
dead process left is told from what a living one writes, on this machine or another.
"""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import re
import shutil
import time
from collections.abc import Iterator
from typing import Any

from ccl_jax.errors import UsageError

Path = str | os.PathLike
# What a process writes, or has put aside for the moment of a rename.
_HIDDEN = re.compile(r"\.(?P<name>.+)\.(?P<process>\d+)\.(?P<age>part|old)")


class WriteError(UsageError, OSError):
  """A file cannot be written: the disk is full, read-only or broken.

  It is an `OSError` too, with `errno`, `strerror` and `filename`, for a command that
  can tell the user more.
  """

  def __str__(self) -> str:
    return f"cannot write {self.filename}: {self.strerror}"


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[pathlib.Path]:
  """A hidden name beside `path`, which becomes `path` when the block ends. An error in
  the block leaves the file as it was. Makes the folder.

  Raises:
    WriteError: the system refused; also for an `OSError` of the block.
  """
  path = pathlib.Path(path)
  part = hidden(path)
  with _one_line(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
      part.touch()
      with _locked(part):
        yield part
      put_in_place(part, path)
    finally:
      with contextlib.suppress(OSError):
        part.unlink(missing_ok=True)


def put_in_place(part: pathlib.Path, path: pathlib.Path) -> None:
  """Renames a file that is whole to its name, `part` to `path` in the same folder.

  Raises:
    WriteError: the system refused.
  """
  with _one_line(path):
    # Without this order a power cut may leave the new name on an empty file.
    _sync(part)
    os.replace(part, path)
    _sync_folder(path.parent)


@contextlib.contextmanager
def scratch_folder(path: Path) -> Iterator[pathlib.Path]:
  """A hidden folder beside `path`, for the caller to fill and to rename; what is left
  of it at the end is removed, and so is what dead processes left of theirs.

  Raises:
    WriteError: the system refused to make it.
  """
  path = pathlib.Path(path)
  part = hidden(path)
  with _one_line(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent, path.name)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
  try:
    with _locked(part):
      yield part
  finally:
    # A write in flight may still be filling it.
    for _ in range(100):
      shutil.rmtree(part, ignore_errors=True)
      if not part.exists():
        break
      time.sleep(0.05)


def hidden(path: pathlib.Path, age: str = "part") -> pathlib.Path:
  """The hidden name beside `path` that is this process's: of what it writes, "part", or
  of what it puts aside, "old".
  """
  return path.with_name(f".{path.name}.{os.getpid()}.{age}")


def write_text(path: Path, text: str) -> None:
  """Writes a text in UTF-8; what is no valid Unicode, as a file's name may hold, as
  escapes, which are what JSON has for it.

  Raises:
    WriteError: see `new_file`.
  """
  with new_file(path) as part:
    part.write_text(text, "utf-8", "backslashreplace")


def write_json(path: Path, value: Any, indent: int | None = None) -> None:
  """Writes a value as JSON in ASCII, which holds file names of any encoding.

  Raises:
    WriteError: see `new_file`.
  """
  write_text(path, json.dumps(value, indent=indent) + "\n")


def append_line(path: Path, line: str) -> None:
  """Adds a line to a file; it is on the disk when this returns. A kill may leave a part
  of it, without its line break.

  Raises:
    WriteError: the system refused.
  """
  with _one_line(path), open(path, "ab", buffering=0) as f:
    f.write(line.encode(errors="backslashreplace") + b"\n")
    os.fsync(f.fileno())


def check_writable(path: Path) -> None:
  """Writes and removes a file beside `path`, to be told of a full or read-only disk
  before the work that is to end in `path`.

  Raises:
    WriteError: the system refused; also where `path` is a folder.
  """
  path = pathlib.Path(path).absolute()
  part, made = hidden(path), [p for p in path.parents if not p.exists()]
  with _one_line(path):
    if path.is_dir():
      raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      part.write_bytes(bytes(4096))
    finally:
      with contextlib.suppress(OSError):
        part.unlink(missing_ok=True)
        for folder in made:
          folder.rmdir()


def sweep(folder: Path, name: str | None = None) -> None:
  """Removes what dead processes left in a folder: hidden files and folders, of the name
  `name` or of all names. What a dead process had put aside goes back to its place, if
  nothing has come there. Those of living processes stay.
  """
  with contextlib.suppress(FileNotFoundError):
    for left in list(pathlib.Path(folder).iterdir()):
      found = _HIDDEN.fullmatch(left.name)
      if not found or name not in (None, found["name"]):
        continue
      if _is_alive(left, int(found["process"])):
        continue
      place = left.with_name(found["name"])
      with contextlib.suppress(OSError):
        if found["age"] == "old" and not place.exists():
          left.rename(place)
        elif left.is_dir() and not left.is_symlink():
          shutil.rmtree(left)
        else:
          left.unlink()


def _is_alive(left: pathlib.Path, process: int) -> bool:
  """Whether the writer of a hidden file lives: here by its number, elsewhere by its
  lock.
  """
  if process != os.getpid():  # else of an earlier process: numbers come again
    try:
      os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
      pass
    except PermissionError:
      return True
    else:
      return True
  try:
    number = os.open(left, os.O_RDONLY)
  except OSError:
    return False
  try:
    fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return True
  except OSError:  # a disk without locks
    return False
  finally:
    os.close(number)
  return False


@contextlib.contextmanager
def _locked(part: pathlib.Path) -> Iterator[None]:
  """Holds the lock of a hidden file or folder, where the disk has locks."""
  number = os.open(part, os.O_RDONLY)
  try:
    with contextlib.suppress(OSError):
      fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    yield
  finally:
    os.close(number)


def _sync(path: pathlib.Path) -> None:
  with open(path, "rb") as f:
    os.fsync(f.fileno())


def _sync_folder(folder: pathlib.Path) -> None:
  """Puts the new name on the disk, where the file system can do so."""
  number = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(number)
  except OSError as e:
    if e.errno not in (errno.EINVAL, errno.ENOTSUP):  # as network file systems say
      raise
  finally:
    os.close(number)


@contextlib.contextmanager
def _one_line(path: Path) -> Iterator[None]:
  try:
    yield
  except OSError as e:
    raise write_error(e, path) from e


def write_error(error: OSError, path: Path) -> WriteError:
  """The system's refusal to write `path`; that a folder "exists" means a file does."""
  if isinstance(error, FileExistsError):
    error = OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
  return WriteError(error.errno, error.strerror or str(error), str(path))
