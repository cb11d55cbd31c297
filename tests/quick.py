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
  # No parts of JAX's interface: where they are not there, nothing is shared.
  module, make = (getattr(mlir, x, None) for x in ("ModuleContext", "make_ir_context"))
  if module is None or make is None:
    return lambda: None
  kept, init = threading.local(), module.__init__

  def init_with_kept(self, *args, context=None, **options):
    if context is None:
      if not hasattr(kept, "context"):
        kept.context = make()
      context = kept.context
    init(self, *args, context=context, **options)

  def renew():
    nonlocal kept
    kept = threading.local()

  module.__init__ = init_with_kept
  return renew
