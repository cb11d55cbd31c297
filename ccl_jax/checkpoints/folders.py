"""Writes folders that appear whole or not at all."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator

from ccl_jax.errors import UsageError
from ccl_jax.files import scratch_folder
from ccl_jax.places import hold_new, refuse_schemes


@contextlib.contextmanager
def new_folder(dst, nbytes: int) -> Iterator[pathlib.Path]:
  """A folder to write into, which becomes `dst` at the end, or is gone.

  What a killed process left of an earlier attempt is swept; one that still writes it
  keeps it.

  Args:
    dst: a local folder that is not there yet, or empty.
    nbytes: that will be written, 2 % more of which must be free.

  Raises:
    UsageError: `dst` is there already or not local, another process writes it, or its
      disk lacks the bytes.
  """
  refuse_schemes({"a folder to write": dst})
  dst = pathlib.Path(dst).absolute()
  with hold_new(dst):
    if dst.exists() and (not dst.is_dir() or any(dst.iterdir())):
      raise UsageError(f"{dst} is there already: name a new folder")
    try:
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
