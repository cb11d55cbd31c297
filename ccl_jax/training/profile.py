"""Traces of some steps of a run, for xprof, TensorBoard and Perfetto."""

import pathlib
from collections.abc import Sequence

import jax

from ccl_jax.errors import UsageError


class Profile:
  """Traces the steps `first` to `last` of a process into `folder`.

  The step before the first has been waited for when the trace begins, and the last when
  it ends, so that the trace holds these steps and no others.
  """

  def __init__(self, folder: pathlib.Path, steps: Sequence[int] = ()):
    if steps and (len(steps) != 2 or not 0 <= steps[0] <= steps[1]):
      raise UsageError(
        f"config.profile: got {tuple(steps)}; expected (first, last) step, as (10, 12)"
      )
    self._folder = folder
    self._first, self._last = steps or (-1, -1)
    self._running = False

  def begin(self, step: int, state) -> None:
    """Before a step is dispatched, with the state it starts from."""
    if step == self._first:
      jax.block_until_ready(state)
      jax.profiler.start_trace(self._folder)
      self._running = True

  def end(self, step: int, state) -> None:
    """After a step was dispatched, with the state it returned."""
    if step == self._last:
      jax.block_until_ready(state)
      self.close()

  def close(self) -> None:
    """Writes what there is: the run may stop in between."""
    if self._running:
      jax.profiler.stop_trace()
      self._running = False
