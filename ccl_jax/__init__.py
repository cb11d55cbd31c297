"""Joint audio-video diffusion transformers with Cross-Modal Context Learning."""

import sys

__version__ = "0.1.0"

if sys.argv[:1] == ["-m"]:
  # Of `python -m ccl_jax...`, which is yet to be imported: seconds, in which Ctrl-C
  # would be a traceback.
  from ccl_jax.errors import end_interrupted

  sys.excepthook = end_interrupted
