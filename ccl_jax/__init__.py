"""Joint audio-video diffusion transformers with Cross-Modal Context Learning."""

import importlib
import sys
from typing import Any

__version__ = "0.1.0"
__all__ = ["Pipeline"]

if sys.argv[:1] == ["-m"]:
  # Of `python -m ccl_jax...`, which is yet to be imported: seconds, in which Ctrl-C
  # would be a traceback.
  from ccl_jax.errors import end_interrupted

  sys.excepthook = end_interrupted


def __getattr__(name: str) -> Any:
  """`Pipeline` of `generation.api`, which is imported when it is first asked for."""
  if name == "Pipeline":
    return importlib.import_module("ccl_jax.generation.api").Pipeline
  raise AttributeError(f"module 'ccl_jax' has no attribute {name!r}")
