"""Folders for files that go with the objects that need them."""

import pathlib
import shutil
import tempfile
import weakref


class Scratch:
  """A folder that is removed with the last object that refers to this one.

  Attributes:
    path: of the folder, which is new and empty.
  """

  def __init__(self):
    self.path = pathlib.Path(tempfile.mkdtemp(prefix="ccl_jax-"))
    weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
