"""Profiles some steps of a run: traces for xprof, TensorBoard and Perfetto."""

from collections.abc import Sequence

import jax

from ccl_jax.errors import UsageError
from ccl_jax.remote.mirror import Mirror
from ccl_jax.remote.paths import Place


class Profile:
  """Traces the steps `first` to `last` of a process into `folder`.

  The step before the first has been waited for when the trace begins, and the last when
  it ends, so that the trace holds these steps and no others.

  Args:
    folder: for the trace.
    steps: (first, last), or () for no trace.

  Raises:
    UsageError: `steps` is neither.
  """

  def __init__(self, folder: Place, steps: Sequence[int] = ()):
    if steps and (len(steps) != 2 or not 0 <= steps[0] <= steps[1]):
      raise UsageError(
        f"config.profile: got {tuple(steps)}; expected (first, last) step, as (10, 12)"
      )
    self._folder, self._mirror = folder, None
    self._first, self._last = steps or (-1, -1)
    self._running = False

  def begin(self, step: int, state) -> None:
    """Starts the trace if `step` is the first; called before the step is dispatched.

    Args:
      state: that the step starts from.
    """
    if step == self._first:
      jax.block_until_ready(state)
      self._mirror = Mirror(self._folder)
      jax.profiler.start_trace(self._mirror.folder)
      self._running = True

  def end(self, step: int, state) -> None:
    """Ends the trace if `step` is the last; called after the step was dispatched.

    Args:
      state: that the step returned.
    """
    if step == self._last:
      jax.block_until_ready(state)
      self.close()

  def close(self) -> None:
    """Ends a running trace and writes it: a run may stop before the last step."""
    if self._running:
      jax.profiler.stop_trace()
      self._running = False
      self._mirror.close()
