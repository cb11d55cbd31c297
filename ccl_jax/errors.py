"""The one error a user can cause, and how an entry point reports it."""

import contextlib
import sys


class UsageError(Exception):
  """A mistake of the user's: one line that says what was got, what was expected,
  and what to do."""


@contextlib.contextmanager
def one_line_errors():
  """Turns a `UsageError` into one line on stderr and exit code 2; anything else is a
  defect and keeps its traceback."""
  try:
    yield
  except UsageError as e:
    print(f"error: {e}", file=sys.stderr)
    sys.exit(2)
