"""Local copies of files in buckets, of a bounded size together.

Films, sounds and pictures are opened by libraries that are given files of this machine
and nothing else (data/media/door.py), and so are some others. Such a file is copied
once, under a name that says which path and which writing of it this is. The copies that
were used last are kept: up to `CCL_CACHE_GB` (default 50) in the folder `CCL_CACHE`
(default: ccl_jax/buckets in the user's cache). A copy that is in use stays.
"""

import atexit
import contextlib
import fcntl
import functools
import hashlib
import os
import pathlib
import shutil
import stat
import threading
from collections.abc import Iterator

from ccl_jax.errors import UsageError
from ccl_jax.files import WriteError, new_file, scratch_folder, sweep
from ccl_jax.remote.paths import BucketPath, Named, Place, place
from ccl_jax.remote.stores import Unreachable

FOLDER, LIMIT = "CCL_CACHE", "CCL_CACHE_GB"  # names in the environment
_DEFAULT = 50.0  # GB
_turn = threading.Lock()  # one thread at a time looks for room
_kept = contextlib.ExitStack()  # copies that are in use as long as the process is
atexit.register(_kept.close)


def cache_folder() -> pathlib.Path:
  """The folder that holds all copies on this machine."""
  if own := os.environ.get(FOLDER):
    return pathlib.Path(own).expanduser().absolute()
  home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  return pathlib.Path(home).absolute() / "ccl_jax" / "buckets"


def limit() -> float:
  """The bytes that all copies may have together.

  Raises:
    UsageError: the environment names no number above 0.
  """
  text = os.environ.get(LIMIT, "")
  try:
    size = float(text) if text else _DEFAULT
  except ValueError:
    size = 0.0
  if not 0 < size < float("inf"):
    raise UsageError(f"{LIMIT}: got {text!r}; expected a number of GB above 0")
  return size * 1e9


@contextlib.contextmanager
def local(path: Named) -> Iterator[pathlib.Path]:
  """A file of this machine with the bytes of a file: itself, or a copy of what is in a
  bucket, which stays there while the block runs.

  Raises:
    FileNotFoundError: there is none in the bucket.
    UsageError: it has more bytes than copies may have, or the store does not give it.
  """
  path = place(path)
  if not isinstance(path, BucketPath):
    yield path
    return
  number, copy = _copied(path)
  try:
    yield copy
  finally:
    os.close(number)


@contextlib.contextmanager
def local_tree(path: Named) -> Iterator[pathlib.Path]:
  """A file or folder of this machine with what is in another: itself or, of one in a
  bucket, a copy of its name, which is there while the block runs.

  Raises:
    UsageError: there is none in the bucket, or it has more bytes than copies may have;
      what the block says of the copy is said of the original.
  """
  path = place(path)
  if not isinstance(path, BucketPath):
    yield path
    return
  files = [path] if path.is_file() else list(path.walk())
  if not files:
    raise UsageError(f"{path}: there is no such file or folder")
  size = sum(file.stat().st_size for file in files)
  if size > limit():
    raise UsageError(
      f"{path} has {size / 1e9:.1f} GB, which are copied to this machine, and copies "
      f"may have {limit() / 1e9:g} GB together: set {LIMIT}"
    )
  name = hashlib.sha256(str(path).encode()).hexdigest()[:16]
  with (
    contextlib.ExitStack() as stack,
    scratch_folder(cache_folder() / "folders" / name) as scratch,
  ):
    top = scratch / path.name
    for file in files:
      # The same bytes under another name: a copy may go, and is here nevertheless.
      here = top if file == path else top / file.relative_to(path)
      here.parent.mkdir(parents=True, exist_ok=True)
      os.link(stack.enter_context(local(file)), here)
    try:
      yield top
    except UsageError as e:
      if str(top) not in str(e):
        raise
      raise UsageError(str(e).replace(str(top), str(path))) from e


@functools.cache
def kept_tree(path: Place) -> pathlib.Path:
  """As `local_tree`, for what is in use as long as the process is."""
  return _kept.enter_context(local_tree(path))


def kept(path: Place) -> pathlib.Path:
  """As `local`, for a file that is in use as long as the process is."""
  return _kept.enter_context(local(path))


def needs_copy(path: Place) -> bool:
  """Whether ArrayRecord, which reads files of this machine and of gs://, reads none
  there.
  """
  return isinstance(path, BucketPath) and path.scheme != "gs"


def built_data(workdir: Place) -> pathlib.Path:
  """The folder of the data sets that a run builds for itself: in the run's or, of a run
  in a bucket, on this machine; always the same one, and nothing bounds it.
  """
  if not isinstance(workdir, BucketPath):
    return workdir / "data"
  name = hashlib.sha256(str(workdir).encode()).hexdigest()[:16]
  return cache_folder() / "data" / f"{name}-{workdir.name}"


def _copied(path: BucketPath) -> tuple[int, pathlib.Path]:
  """A copy, and the number of the open file that keeps it there."""
  status = path.stat()
  if not stat.S_ISREG(status.st_mode):
    raise UsageError(f"{path} is a folder; expected a file")
  about = f"{path} {status.st_size} {status.mark}"
  digest = hashlib.sha256(about.encode()).hexdigest()[:24]
  copy = cache_folder() / "files" / f"{digest}-{path.name[-100:]}"
  while True:
    number = _pinned(copy)
    if number is not None:
      return number, copy
    try:
      _fetch(path, copy, status.st_size)
    except WriteError as e:
      raise UsageError(
        f"{path} cannot be copied to this machine ({e}): make room, or set {FOLDER} to "
        "a folder on another disk"
      ) from e


def _pinned(copy: pathlib.Path) -> int | None:
  """The number of the open copy, which is not removed while it is open; None if it is
  not there.
  """
  try:
    number = os.open(copy, os.O_RDONLY | os.O_CLOEXEC)
  except FileNotFoundError:
    return None
  try:
    fcntl.flock(number, fcntl.LOCK_SH)
    # It may have been removed between the two calls.
    if os.path.samestat(os.fstat(number), os.stat(copy)):
      os.utime(copy)  # used now
      return number
  except FileNotFoundError:
    pass
  except BaseException:
    os.close(number)
    raise
  os.close(number)
  return None


def _fetch(path: BucketPath, copy: pathlib.Path, size: int) -> None:
  with _turn:
    if copy.exists():  # another thread has made it
      return
    refused = None
    try:
      with new_file(copy) as part:
        _make_room(path, copy.parent, size)
        try:
          path.download(part)
        except (FileNotFoundError, Unreachable) as e:
          refused = e
          raise
        if (got := part.stat().st_size) != size:
          raise UsageError(f"{path}: {got} of {size} bytes came: try again")
    except WriteError as e:
      raise (refused or e) from e


def _make_room(path: BucketPath, folder: pathlib.Path, size: int) -> None:
  """Removes the copies that were not used for longest, until `size` more bytes fit."""
  most = limit()
  sweep(folder)  # what dead processes left
  found = [(p.stat(), p) for p in folder.iterdir() if not p.name.startswith(".")]
  files = sorted(found, key=lambda x: x[0].st_mtime)
  used = sum(status.st_size for status, _ in files)
  for status, old in files:
    if used + size <= most and shutil.disk_usage(folder).free >= size:
      return
    if _removed(old):
      used -= status.st_size
  if used + size > most:
    raise UsageError(
      f"{path} has {size / 1e9:.1f} GB, and copies of files in buckets may have "
      f"{most / 1e9:g} GB together, of which {used / 1e9:.1f} are in use: set {LIMIT}, "
      "or copy what is in the bucket to this machine"
    )


def _removed(copy: pathlib.Path) -> bool:
  """Removes a copy that is not in use; whether it did."""
  try:
    number = os.open(copy, os.O_RDONLY | os.O_CLOEXEC)
  except FileNotFoundError:
    return True
  try:
    fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    copy.unlink(missing_ok=True)
    return True
  except BlockingIOError:
    return False
  finally:
    os.close(number)
