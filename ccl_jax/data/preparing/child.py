"""A process of its own for what may crash: a decoder that dies ends one file, no run.

The process is started once and kept: starting one takes a second or two. It is not
forked: its parent has threads, of a runner or of decoders.
"""

import multiprocessing
import signal
from collections.abc import Sequence
from concurrent import futures
from typing import Any

from ccl_jax.data.media.decode import MediaError
from ccl_jax.data.preparing.rows import Options, rows_of
from ccl_jax.data.sources.captions import Row
from ccl_jax.remote.paths import place

CRASHED = (
  "the process that decoded it died: a fault of its decoder, or a lack of memory"
)


class Child:
  """A process that gives the rows of files, one after the other."""

  def __init__(self):
    self._pool = None

  def rows(
    self, root: str, name: str, rows: Sequence[Row], options: Options
  ) -> list[dict[str, Any]] | str:
    """As `rows_of`, or the reason why the file gives none.

    Raises:
      UsageError: a mistake that is no file's: a function that measures no speech.
    """
    if self._pool is None:
      self._pool = futures.ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), _begin
      )
    try:
      return self._pool.submit(_rows, root, name, rows, options).result()
    except futures.process.BrokenProcessPool:
      self.close()
      return CRASHED

  def close(self) -> None:
    """Ends the process, when it is through with its file."""
    if self._pool is not None:
      self._pool.shutdown(cancel_futures=True)
      self._pool = None


def _begin() -> None:
  """Ctrl-C is the parent's business, which lets the file that is read be finished."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)


def _rows(root: str, name: str, rows: Sequence[Row], options: Options) -> list | str:
  folder = place(root)
  try:
    return rows_of(folder, name, rows, options)
  except MediaError as e:
    # A bad file is a reason in the table's list, not the end of the run.
    return str(e).removeprefix(f"{folder / name}: ")
