"""Files that appear whole or not at all.

A file is written under a hidden name in the folder of its place, synced to the disk and
renamed. After a kill or a power cut its name holds the old bytes or the new ones, never
a part of them. The hidden name, .NAME.PROCESS.part, is locked by its writer: what a
dead process left is told from what a living one writes, on this machine or another.

In a bucket (`remote.paths`) an object does so by itself: a file is written on this
machine and uploaded at once. A folder is several objects: `UNFINISHED` is in it as long
as it is not whole, and `require_whole` looks for it.
"""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from ccl_jax.errors import UsageError, as_grave
from ccl_jax.remote.locks import require_held
from ccl_jax.remote.paths import BucketPath, place

Path = str | os.PathLike
UNFINISHED = ".unfinished"  # in a folder of a bucket that is not whole
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
  path = place(path)
  if isinstance(path, BucketPath):
    with _uploaded(path) as part:
      yield part
    return
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
def _uploaded(path: BucketPath) -> Iterator[pathlib.Path]:
  """As `new_file`, of a file in a bucket."""
  with _one_line(path), tempfile.TemporaryDirectory(prefix="ccl_jax-") as folder:
    part = pathlib.Path(folder, path.name)
    part.touch()
    yield part
    require_held(path)
    path.upload(part)


@contextlib.contextmanager
def scratch_folder(path: Path) -> Iterator[pathlib.Path]:
  """A hidden folder beside `path`, for the caller to fill and to `put`; what is left
  of it at the end is removed, and so is what dead processes left of theirs.

  Raises:
    WriteError: the system refused to make it.
  """
  path = place(path)
  if isinstance(path, BucketPath):
    with _one_line(path):
      fresh = tempfile.TemporaryDirectory(prefix="ccl_jax-")
    with fresh as folder:
      yield pathlib.Path(folder)
    return
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


def put(fresh: pathlib.Path, path: Path) -> None:
  """Puts a folder of `scratch_folder` into its place. One that is there goes: on a disk
  by two renames, so that a reader finds the old one or the new, for all but an instant.

  Raises:
    OSError: the system refused.
  """
  path = place(path)
  if isinstance(path, BucketPath):
    with unfinished(path):
      for file in sorted(p for p in fresh.rglob("*") if p.is_file()):
        (path / file.relative_to(fresh).as_posix()).upload(file)
    return
  stale = hidden(path, "old")
  if path.exists():
    path.rename(stale)
  fresh.rename(path)
  shutil.rmtree(stale, ignore_errors=True)


@contextlib.contextmanager
def unfinished(path: BucketPath) -> Iterator[None]:
  """Marks a folder in a bucket as not whole while the block writes it. What was in it
  is removed first, and after an error all of it.

  Raises:
    WriteError: the store refused.
  """
  require_held(path)
  with _one_line(path):
    mark = path / UNFINISHED
    mark.write_bytes(b"This folder is being written, or its writer died.\n")
    for old in path.walk():
      if old != mark:
        old.unlink(missing_ok=True)
  try:
    yield
    require_held(path)
    mark.unlink()
  except BaseException:
    with contextlib.suppress(OSError, UsageError):
      remove_folder(path)
    raise


def require_whole(folder: Path) -> None:
  """Checks that a folder in a bucket is whole.

  Raises:
    UsageError: its writer has not ended, or died.
  """
  folder = place(folder)
  if isinstance(folder, BucketPath) and (folder / UNFINISHED).exists():
    raise UsageError(
      f"{folder} is half uploaded: its writer has not ended, or died. Run the command "
      "that writes it again, or name another folder"
    )


def is_whole_folder(folder: Path) -> bool:
  """Whether there is a folder that was written to its end."""
  folder = place(folder)
  if isinstance(folder, BucketPath) and (folder / UNFINISHED).exists():
    return False
  return folder.is_dir()


def remove_folder(folder: Path) -> None:
  """Removes a folder and all in it, as far as the system lets it."""
  folder = place(folder)
  if isinstance(folder, BucketPath):
    with contextlib.suppress(OSError):
      folder.remove_all()
  else:
    shutil.rmtree(folder, ignore_errors=True)


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
  """Adds a line to a file of this machine; it is on the disk when this returns. A kill
  may leave a part of it, without its line break.

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
  path = place(path).absolute()
  if isinstance(path, BucketPath):
    with _one_line(path):
      if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
      probe = path.with_name(f".{path.name}.{os.getpid()}.part")
      probe.write_bytes(bytes(1))
      probe.unlink()
    return
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
  nothing has come there. Those of living processes stay. In a bucket there are none.
  """
  folder = place(folder)
  if isinstance(folder, BucketPath):
    return
  with contextlib.suppress(FileNotFoundError):
    for left in list(folder.iterdir()):
      found = _HIDDEN.fullmatch(left.name)
      if not found or name not in (None, found["name"]):
        continue
      if _is_alive(left, int(found["process"])):
        continue
      own = left.with_name(found["name"])
      with contextlib.suppress(OSError):
        if found["age"] == "old" and not own.exists():
          left.rename(own)
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
  refused = WriteError(error.errno, error.strerror or str(error), str(path))
  return as_grave(refused, error)
