"""Folders for files that go with the objects that need them."""

import os
import pathlib
import shutil
import tempfile
import weakref

PREFIX = "ccl_jax-"  # of the names of such folders


class Scratch:
  """A folder that is removed with the last object that refers to this one.

  Attributes:
    path: of the folder, which is new and empty.

  Args:
    parent: the folder that it is in; None: that of temporary files.
  """

  def __init__(self, parent: str | os.PathLike | None = None):
    self.path = pathlib.Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
