"""The error that a user can cause, how commands report it, and rules for settings."""

import contextlib
import inspect
import math
import numbers
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class UsageError(Exception):
  """A user's mistake: one line on what was got, what was expected, and what to do.

  What it quotes of a file may hold line breaks or be very long: both are mended here.
  """

  def __str__(self) -> str:
    text = re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]+", " ", super().__str__())
    return text if len(text) <= 1500 else f"{text[:1000]} ... {text[-400:]}"


@contextlib.contextmanager
def one_line_errors():
  """A context that turns a `UsageError` into one line on stderr and exit code 2, and so
  what the system says of a file, such as a file where a folder should be.

  Anything else is a defect and keeps its traceback. Names of files that are no UTF-8
  are printed with escapes.
  """
  if hasattr(sys.stdout, "reconfigure"):
    sys.stdout.reconfigure(errors="backslashreplace")
  try:
    yield
  except UsageError as e:
    print(f"error: {e}", file=sys.stderr)
    sys.exit(2)
  except OSError as e:
    if e.filename is None:
      raise
    print(f"error: {e.filename}: {e.strerror or e}", file=sys.stderr)
    sys.exit(2)


def bind(section: str, keywords: Any, function: Callable, *args, **rest):
  """Calls `function(*args, **rest, **keywords)` with a section of a config.

  Args:
    section: its name, for the message.
    keywords: the section, a ConfigDict or a dict.
    function: whose keywords these are.

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


class Rule(NamedTuple):
  """A rule for the values of a setting.

  Attributes:
    predicate: true of valid values; it may raise TypeError for others.
    words: the same in words, after "expected".
  """

  predicate: Callable[[Any], bool]
  words: str

  def holds(self, value: Any) -> bool:
    """Whether a value, of whatever type, is valid."""
    try:
      return bool(self.predicate(value))
    except TypeError:
      return False


def whole(least: int) -> Rule:
  """The rule for a whole number from `least` on."""
  return Rule(
    lambda x: (
      isinstance(x, numbers.Integral) and not isinstance(x, bool) and x >= least
    ),
    f"a whole number from {least} on",
  )


def number(least: float | int, most: float | int = math.inf) -> Rule:
  """The rule for a finite number from `least` to `most`, both included."""
  words = f"a number from {least:g} " + ("on" if most == math.inf else f"to {most:g}")
  return Rule(lambda x: _finite(x) and least <= x <= most, words)


def positive() -> Rule:
  """The rule for a finite number above 0."""
  return Rule(lambda x: _finite(x) and x > 0, "a number above 0")


def below(most: float | int) -> Rule:
  """The rule for a number from 0 to just below `most`."""
  return Rule(
    lambda x: _finite(x) and 0 <= x < most, f"a number from 0 to below {most:g}"
  )


def one_of(*choices: str) -> Rule:
  """The rule for a name among some choices."""
  return Rule(lambda x: x in choices, f"one of {', '.join(choices)}")


def check_settings(config: Any, rules: Mapping[str, Rule]) -> None:
  """Checks the settings of a config against rules.

  Args:
    config: a ConfigDict or a dict.
    rules: by dotted name.

  Raises:
    UsageError: one is missing, or is not what its rule says.
  """
  for name, rule in rules.items():
    value = config
    for key in name.split("."):
      if key not in value:
        raise UsageError(f"config.{name} is missing; expected {rule.words}")
      value = value[key]
    if not rule.holds(value):
      raise UsageError(f"config.{name}: got {value!r}; expected {rule.words}")


def _finite(x: Any) -> bool:
  real = isinstance(x, numbers.Real) and not isinstance(x, bool)
  return real and math.isfinite(x)
