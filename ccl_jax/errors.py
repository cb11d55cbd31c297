"""The one error a user can cause, and how an entry point reports it."""

import contextlib
import inspect
import sys
from collections.abc import Callable
from typing import Any


class UsageError(Exception):
  """A mistake of the user's: one line that says what was got, what was expected,
  and what to do.
  """


@contextlib.contextmanager
def one_line_errors():
  """Turns a `UsageError` into one line on stderr and exit code 2; anything else is a
  defect and keeps its traceback.
  """
  try:
    yield
  except UsageError as e:
    print(f"error: {e}", file=sys.stderr)
    sys.exit(2)


def bind(section: str, keywords: Any, function: Callable, *args, **rest):
  """Calls `function(*args, **rest, **keywords)`, the keywords being a config section
  (a ConfigDict or a dict).

  Raises:
    UsageError: a key of the section is missing or unknown.
  """
  try:
    inspect.signature(function).bind(*args, **rest, **keywords)
  except TypeError as e:
    raise UsageError(
      f"config.{section}: {e}; compare its keys {sorted(keywords)} with those of "
      "configs/common.py"
    ) from e
  return function(*args, **rest, **keywords)
