"""Folders that commands write into: which may be named, and one writer at a time.

A lock is an advisory `flock` on a small file in the folder, which names its holder. The
system releases it when the process dies, however it dies, so nothing is ever left to be
removed by hand: a lock file without a living holder is taken over. A folder in a bucket
has an object in its place (`remote.locks`).
"""

import contextlib
import errno
import fcntl
import logging
import os
import pathlib
import re
import shlex
import socket
import sys
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ccl_jax.errors import UsageError
from ccl_jax.files import WriteError, write_error
from ccl_jax.remote import locks
from ccl_jax.remote.paths import BucketPath, Place, is_remote, place, require_buckets
from ccl_jax.remote.stores import Unreachable

_log = logging.getLogger(__name__)

LOCK = ".lock"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# An address that lost a slash would be a folder called "gs:" here.
_HALF = re.compile(r"(gs|s3|https?|ftp|hdfs|file):/(?!/)", re.IGNORECASE)
# File systems that have no locks say one of these.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)
_held: dict[pathlib.Path, int] = {}  # the locks of this process


def refuse_schemes(named: Mapping[str, Any], buckets: Collection[str] = ()) -> None:
  """Checks that no path is an address, such as http://host/x, but for paths in buckets
  where those are understood: of these the bucket must be there.

  Args:
    named: values by the names of their flags or config keys; those that are no texts
      pass, and of lists every element is looked at.
    buckets: names of those that may be gs:// or s3://.

  Raises:
    UsageError: one begins with a scheme, or there is no such bucket.
  """
  for name, value in named.items():
    for path in value if isinstance(value, list | tuple) else [value]:
      if not isinstance(path, str | os.PathLike):
        continue
      text = str(path)
      if name in buckets and is_remote(text):
        require_buckets(name, text)
      elif found := _HALF.match(text):
        raise UsageError(
          f"{name}: got {text}; expected an address with two slashes, {found[1]}://, "
          f"or ./{text} for a folder of this name"
        )
      elif found := _SCHEME.match(text):
        if found[0].lower() == "hf://":
          expected = "addresses of the hub are written hf:OWNER/NAME"
        else:
          expected = (
            "expected a path of this machine's file system, mount or copy what is "
            "elsewhere"
          )
        raise UsageError(f"{name}: got {text}; {found[0]} is not supported: {expected}")


def require_plain(path: str | os.PathLike, *, arrays: bool = False) -> None:
  """Checks that libraries which search by patterns find exactly this folder.

  Args:
    path: of the folder, on this machine or in a bucket.
    arrays: whether checkpoints are written there, which Orbax does in gs:// alone.

  Raises:
    UsageError: its absolute path has one of * ? [ ], or is an address.
  """
  if is_remote(path):
    folder = place(path)
    if arrays and folder.scheme != "gs":
      raise UsageError(
        f"{path}: Orbax writes no checkpoints to {folder.scheme}://: expected gs:// or "
        "a folder of this machine"
      )
    return
  refuse_schemes({"a folder to write": path})
  whole = os.path.abspath(path)
  if found := sorted(set(whole) & set("*?[]")):
    raise UsageError(
      f"{whole} has {' '.join(found)} in its path, which the libraries that write "
      "checkpoints and data sets take for a pattern: name a folder without them"
    )


@contextlib.contextmanager
def hold(
  folder: str | os.PathLike, part: str = "", *, wait: bool = False
) -> Iterator[None]:
  """Keeps a folder for this process, made if it is not there, while the block runs.

  After an error in the block the folders that this made are gone, if nothing else came
  into them. A process may hold one folder twice.

  Args:
    folder: that is written.
    part: of it that is this process's, where several share the folder.
    wait: whether to wait for the process that holds it.

  Raises:
    UsageError: another process holds it, and the line tells which; or it is a file.
    WriteError: the folder cannot be written.
  """
  folder = place(folder).absolute()
  if folder.is_file():
    raise UsageError(f"{folder} is a file; expected a folder")
  with _holding(folder / f"{LOCK}{part}", str(folder), wait):
    yield


@contextlib.contextmanager
def hold_new(path: str | os.PathLike) -> Iterator[None]:
  """As `hold`, for a folder or a file that is to appear whole: the lock lies beside it.

  Raises:
    UsageError: another process holds it; the line tells which.
    WriteError: the folder it lies in cannot be written.
  """
  path = place(path).absolute()
  with _holding(path.with_name(f".{path.name}{LOCK}"), str(path), wait=False):
    yield


@contextlib.contextmanager
def _holding(lock: Place, what: str, wait: bool) -> Iterator[None]:
  if isinstance(lock, BucketPath):
    with contextlib.ExitStack() as stack:
      try:
        stack.enter_context(locks.held(lock, what, _me(), wait=wait))
      except Unreachable as e:
        raise write_error(e, what) from e
      yield
    return
  if lock in _held:
    yield
    return
  made = [p for p in lock.parents if not p.exists()]
  try:
    try:
      lock.parent.mkdir(parents=True, exist_ok=True)
      number = _take(lock, what, wait)
    except WriteError:
      raise
    except OSError as e:
      raise write_error(e, e.filename or what) from e
    _held[lock] = number
    try:
      yield
    finally:
      try:
        # Removed while it is held: who waits for it then finds another file, or none.
        with contextlib.suppress(OSError):
          lock.unlink()
      finally:
        del _held[lock]
        os.close(number)
  except BaseException:
    with contextlib.suppress(OSError):  # the first that is not empty ends it
      for folder in made:
        folder.rmdir()
    raise


def _take(lock: pathlib.Path, what: str, wait: bool) -> int:
  while True:
    number = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
      _flock(number, lock, what, wait)
      # Its last holder may have removed it between the two calls.
      with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(number), os.stat(lock)):
          try:
            _sign(number, lock)
          except BaseException:
            lock.unlink(missing_ok=True)  # while it is held
            raise
          return number
    except BaseException:
      os.close(number)
      raise
    os.close(number)


def _flock(number: int, lock: pathlib.Path, what: str, wait: bool) -> None:
  try:
    fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as e:
    holder = lock.read_text("utf-8", "replace").strip() or "another process"
    if not wait:
      raise UsageError(
        f"{what} is being written by {holder}: wait until it ends, or name another "
        "place"
      ) from e
    _log.warning("waiting for %s, which writes %s", holder, what)
    fcntl.flock(number, fcntl.LOCK_EX)
  except OSError as e:
    if e.errno not in _NO_LOCKS:
      raise
    _log.warning("%s is on a disk without locks", lock.parent)


def _sign(number: int, lock: pathlib.Path) -> None:
  """Writes who holds it."""
  try:
    os.ftruncate(number, 0)
    os.write(number, _me().encode("utf-8", "replace") + b"\n")
  except OSError as e:
    raise write_error(e, lock.parent) from e


def _me() -> str:
  """This process in one line, whatever its arguments are."""
  command = shlex.join(sys.orig_argv)
  line = f"process {os.getpid()} on {socket.gethostname()} ({command[:300]})"
  return " ".join(line.split())


def _forget() -> None:
  """In a fork: its parent alone holds the locks, and they end with the parent."""
  for number in _held.values():
    os.close(number)
  _held.clear()


os.register_at_fork(after_in_child=_forget)
