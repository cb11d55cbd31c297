"""What JAX does before every small program, done once: a fifth of the suite's time."""

import gc
import threading
from collections.abc import Callable

from jax._src import compiler, distributed
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


def keep_programs() -> None:
  """Every process of several keeps what it compiles, and finds it at its next start.

  JAX writes only what process 0 compiles; on CPUs the others have programs of their
  own.
  """
  write = getattr(compiler, "_cache_write", None)
  state = getattr(distributed, "global_state", None)
  if write is None or state is None:
    return

  def write_anyway(*args, **kwargs):
    process, state.process_id = state.process_id, 0
    try:
      return write(*args, **kwargs)
    finally:
      state.process_id = process

  compiler._cache_write = write_anyway
