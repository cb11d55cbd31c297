"""Stops a run in order: SIGTERM (preemption) or Ctrl-C asks the training loop to stop.

One process: the signal sets a flag, the loop sees it before the next step, saves and
returns; a second Ctrl-C interrupts at once. Many processes: a signal reaches them at
different steps, or only one of them, yet a save is collective. JAX's preemption service
then hears the SIGTERM and names one step at which all processes stop.
"""

import os
import signal
import threading


class ShutdownGuard:
  """A context in which signals ask for a stop, rather than end the process.

    with ShutdownGuard() as guard:
      ...
      if guard.agreed(step): save and leave

  Attributes:
    requested: whether this process was asked to stop.
  """

  def __init__(self):
    self.requested = False  # this process was asked to stop
    self._agreed = False
    self._previous = {}

  def __enter__(self) -> "ShutdownGuard":
    if threading.current_thread() is not threading.main_thread():
      return self  # Python delivers signals to the main thread only
    self._distributed = _distributed()
    # With several processes SIGTERM stays with JAX's preemption service.
    handled = [signal.SIGINT] if self._distributed else [signal.SIGINT, signal.SIGTERM]
    for number in handled:
      self._previous[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *exc) -> None:
    for number, handler in self._previous.items():
      # None: the handler was installed by C code and cannot be put back.
      signal.signal(number, signal.SIG_DFL if handler is None else handler)
    self._previous = {}

  def _handle(self, number, frame):
    if number == signal.SIGINT and self.requested:
      raise KeyboardInterrupt
    self.requested = True
    if self._distributed:
      os.kill(os.getpid(), signal.SIGTERM)  # tells the other processes

  def agreed(self, step: int) -> bool:
    """Whether to stop before `step`: the same answer in every process.

    Call it at every step, in every process, with consecutive steps.
    """
    if _distributed():
      from jax.experimental import multihost_utils

      reached = multihost_utils.reached_preemption_sync_point(step)
      self._agreed = self._agreed or reached
      return self._agreed
    return self.requested


def _distributed() -> bool:
  import jax

  return jax.distributed.is_initialized() and jax.process_count() > 1
