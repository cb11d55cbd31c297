"""Which steps are saved: every so many steps, or every so many minutes.

Minutes are those of process 0, and all processes must save the same step. It is asked
seldom: when it has seen how long steps take, it names the step at which to ask again,
so that a run asks some ten times between two saves, and not at every step.
"""

import time
from collections.abc import Callable

from ccl_jax.processes import agreed


class Saves:
  """Says before each step whether the state is to be saved.

  Args:
    every: steps between two saves; does not count where `minutes` does.
    minutes: between two saves; 0: steps count.
    first_step: of this process's run, before which nothing is to be saved.
    clock: seconds, of process 0.
  """

  def __init__(
    self,
    every: int,
    minutes: float | int,
    first_step: int,
    clock: Callable[[], float] = time.monotonic,
  ):
    self._every, self._seconds, self._clock = every, 60 * minutes, clock
    self._first, self._ask = first_step, first_step + 1
    self._asked = first_step, clock()  # the last step that was asked at, and when
    self._saved = clock()

  def due(self, step: int) -> bool:
    """Whether to save before `step`: the same answer in every process.

    Call it at every step, in every process, with consecutive steps.
    """
    if step <= self._first:
      return False
    if not self._seconds:
      return step % self._every == 0
    if step < self._ask:
      return False
    save, self._ask = agreed(lambda: self._decide(step))
    return save

  def _decide(self, step: int) -> tuple[bool, int]:
    """(whether to save now, the step at which to ask again), by process 0."""
    now, (asked, then) = self._clock(), self._asked
    steps, self._asked = step - asked, (step, now)
    pace = (now - then) / steps  # seconds a step
    left = self._saved + self._seconds - now
    # Half a step early is as near as half a step late.
    save = left <= pace / 2
    if save:
      self._saved, left = now, self._seconds
    # The first step was compiled, and paces change: a question is never far ahead.
    most = min(left, self._seconds / 10)
    ahead = round(most / pace) if pace > 0 else 2 * steps
    return save, step + max(min(ahead, 2 * steps), 1)
