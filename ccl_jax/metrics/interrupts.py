"""Keeps Ctrl-C from being lost.

Python raises KeyboardInterrupt wherever it happens to be, and in a callback of the
garbage collector, such as the one of jax, or in a destructor the exception is printed
and dropped: the program goes on as if nothing had been pressed. So the key is
remembered as well, and asked for between two pieces of work.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def kept_interrupts() -> Iterator[Callable[[], None]]:
  """A context that gives a function which raises KeyboardInterrupt after a Ctrl-C.

  Where Ctrl-C does something else already, or is ignored, it does so still.
  """
  pressed = threading.Event()

  def handle(number, frame):
    pressed.set()
    raise KeyboardInterrupt

  def check():
    if pressed.is_set():
      raise KeyboardInterrupt

  main = threading.current_thread() is threading.main_thread()
  if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
    yield check
    return
  signal.signal(signal.SIGINT, handle)
  try:
    yield check
  finally:
    signal.signal(signal.SIGINT, signal.default_int_handler)
