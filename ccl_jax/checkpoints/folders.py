"""Writes folders that appear whole or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator

from ccl_jax.checkpoints.steps import folder_of
from ccl_jax.errors import UsageError
from ccl_jax.files import UNFINISHED, scratch_folder, unfinished
from ccl_jax.places import hold_new
from ccl_jax.remote.paths import BucketPath, Place


@contextlib.contextmanager
def new_folder(dst: str | os.PathLike, nbytes: int) -> Iterator[Place]:
  """A folder to write into, which becomes `dst` at the end, or is gone. In a bucket it
  is `dst` itself, marked as unfinished until then.

  What a killed process left of an earlier attempt is swept; one that still writes it
  keeps it.

  Args:
    dst: a folder that is not there yet, or empty.
    nbytes: that will be written, 2 % more of which must be free on a disk.

  Raises:
    UsageError: `dst` is there already or is an address that is not understood, another
      process writes it, or its disk lacks the bytes.
  """
  dst = folder_of(dst)
  with hold_new(dst):
    try:
      if isinstance(dst, BucketPath):
        if dst.exists() and not (dst / UNFINISHED).exists():
          raise UsageError(f"{dst} is there already: name a new folder")
        with unfinished(dst):
          yield dst
        return
      if dst.exists() and (not dst.is_dir() or any(dst.iterdir())):
        raise UsageError(f"{dst} is there already: name a new folder")
      with scratch_folder(dst) as fresh:
        free = shutil.disk_usage(fresh).free
        if free < 1.02 * nbytes:
          raise UsageError(
            f"{dst} needs {1.02 * nbytes / 1e9:.1f} GB, its disk has "
            f"{free / 1e9:.1f} GB free: name a folder on another disk"
          )
        yield fresh
        os.replace(fresh, dst)
    except UsageError:
      raise
    except OSError as e:
      raise UsageError(f"cannot write {dst}: {e.strerror or e}") from e
