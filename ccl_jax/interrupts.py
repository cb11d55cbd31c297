"""Keeps Ctrl-C from being lost.

Python raises KeyboardInterrupt wherever it happens to be, and in a callback of the
garbage collector, such as the one of jax, or in a destructor the exception is printed
and dropped: the program goes on as if nothing had been pressed. Python tells its hook
of unraisable exceptions, which then has the key pressed once more.
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator

# Long enough for the callback to have ended, too short to be felt.
_AGAIN_S = 0.05


@contextlib.contextmanager
def kept_interrupts() -> Iterator[None]:
  """A context in which a Ctrl-C whose exception was dropped comes again at once."""
  before = sys.unraisablehook

  def hook(lost):
    if lost.exc_type is not KeyboardInterrupt:
      return before(lost)
    main = threading.main_thread().ident
    again = threading.Timer(_AGAIN_S, signal.pthread_kill, (main, signal.SIGINT))
    again.daemon = True
    again.start()

  sys.unraisablehook = hook
  try:
    yield
  finally:
    sys.unraisablehook = before
