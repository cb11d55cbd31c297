"""Python's syntax trees, for tests that read the source."""

import ast
import gc


def parsed(source: str) -> ast.Module:
  """The tree of a source, with the collector of garbage held off.

  It may run a finalizer that prints a traceback, for which Python 3.11 parses a line:
  in the midst of another parse this ends in "recursion depth mismatch".
  """
  collecting = gc.isenabled()
  gc.disable()
  try:
    return ast.parse(source)
  finally:
    if collecting:
      gc.enable()
