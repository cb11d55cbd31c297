"""What JAX does before every small program, done once: a fifth of the suite's time."""

import gc
import threading
from collections.abc import Callable

from jax._src.interpreters import mlir


def quicken() -> Callable[[], None]:
  """Lowers all programs of a thread in one context of MLIR, which takes as long to make
  as a small program to lower, and looks for garbage after 50,000 new objects, not 700:
  tracing makes many, and JAX looks through its own each time.

  Returns:
    what drops the contexts with the constants in them; the next programs have others.
  """
  gc.set_threshold(50_000, 20, 20)
  make = getattr(mlir, "make_ir_context", None)  # no part of JAX's interface
  if make is None:
    return lambda: None
  kept = threading.local()

  def made_once():
    if not hasattr(kept, "context"):
      kept.context = make()
    return kept.context

  def renew():
    nonlocal kept
    kept = threading.local()

  mlir.make_ir_context = made_once
  return renew
