"""Files that appear whole or not at all.

A file is written under a hidden name in the folder of its place, synced to the disk and
renamed. After a kill or a power cut its name holds the old bytes or the new ones, never
a part of them.
"""

import contextlib
import errno
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from ccl_jax.errors import UsageError

Path = str | os.PathLike


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
  part = path.with_name(f".{path.name}.{os.getpid()}.part")
  with _one_line(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
      yield part
      # Without this order a power cut may leave the new name on an empty file.
      _sync(part)
      os.replace(part, path)
      _sync_folder(path.parent)
    finally:
      with contextlib.suppress(OSError):
        part.unlink(missing_ok=True)


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


def sweep(folder: pathlib.Path, name: str) -> None:
  """Removes what killed processes left of the file `name`. None may be writing it."""
  for part in folder.glob(f".{name}.*.part"):
    part.unlink(missing_ok=True)


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
    raise WriteError(e.errno, e.strerror or str(e), str(path)) from e
