"""Writes folders that appear whole or not at all."""

import contextlib
import os
import pathlib
import shutil
import time
from collections.abc import Iterator

from ccl_jax.errors import UsageError


@contextlib.contextmanager
def new_folder(dst, nbytes: int) -> Iterator[pathlib.Path]:
  """A folder to write into, which becomes `dst` at the end, or is gone.

  What a killed process left of an earlier attempt is swept.

  Args:
    dst: a local folder that is not there yet, or empty.
    nbytes: that will be written, 2 % more of which must be free.

  Raises:
    UsageError: `dst` is there already or not local, or its disk lacks the bytes.
  """
  if "://" in str(dst):
    raise UsageError(f"{dst} is no local folder: name one, and copy it there when done")
  dst = pathlib.Path(dst).absolute()
  if dst.exists() and (not dst.is_dir() or any(dst.iterdir())):
    raise UsageError(f"{dst} is there already: name a new folder")
  fresh = dst.with_name(f".{dst.name}.unfinished")
  try:
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    free = shutil.disk_usage(fresh).free
    if free < 1.02 * nbytes:
      raise UsageError(
        f"{dst} needs {1.02 * nbytes / 1e9:.1f} GB, its disk has {free / 1e9:.1f} GB "
        "free: name a folder on another disk"
      )
    yield fresh
    os.replace(fresh, dst)
  except OSError as e:
    raise UsageError(f"cannot write {dst}: {e.strerror or e}") from e
  finally:
    _remove(fresh)


def _remove(folder: pathlib.Path) -> None:
  """Removes a folder that a write in flight may still be filling."""
  for _ in range(100):
    shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():
      return
    time.sleep(0.05)
