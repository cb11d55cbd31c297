"""The error that a user can cause, how commands report it, and rules for settings."""

import contextlib
import errno
import inspect
import math
import numbers
import os
import re
import select
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ccl_jax.interrupts import kept_interrupts


class UsageError(Exception):
  """A user's mistake: one line on what was got, what was expected, and what to do.

  What it quotes of a file may hold line breaks or be very long: both are mended here.

  Attributes:
    exit_code: of a command that it ends: 2 or, where the same command may succeed later
      (a store that gives no answer), 1, after which launch/host.sh starts it again.
  """

  exit_code = 2

  def __str__(self) -> str:
    text = re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]+", " ", super().__str__())
    return text if len(text) <= 1500 else f"{text[:1000]} ... {text[-400:]}"


def as_grave(error: UsageError, cause: BaseException) -> UsageError:
  """An error, with the exit code of what it was made of."""
  error.exit_code = getattr(cause, "exit_code", 2)
  return error


STOPPED = "interrupted: the same command starts again, or goes on where it was"
# What the system refuses for reasons that are not the program's.
_REFUSALS = (
  errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM,
  errno.EIO, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EMFILE,
)  # fmt: skip


def system_error(error: BaseException) -> OSError | None:
  """What the system refused, if that is the cause of an error: a full disk, one that is
  read-only, missing rights. Libraries wrap it, or only quote its words.
  """
  seen = set()
  while error is not None and id(error) not in seen:
    seen.add(id(error))
    if isinstance(error, OSError) and error.errno in _REFUSALS:
      return error
    if not isinstance(error, LookupError):  # whose text is a key
      for code in _REFUSALS[:6]:
        if os.strerror(code) in str(error):
          return OSError(code, os.strerror(code))
    error = error.__cause__ or error.__context__
  return None


def memory_error(error: BaseException) -> str | None:
  """What is said of a lack of memory, of the host or of a device, in one line, if that
  is the cause of an error.
  """
  seen = set()
  while error is not None and id(error) not in seen:
    seen.add(id(error))
    lines = str(error).strip().splitlines() or [""]
    if isinstance(error, MemoryError) or any(x in lines[0] for x in _NO_ROOM):
      return lines[0][:300]
    error = error.__cause__ or error.__context__
  return None


# What XLA says first: of a device, and of a host's processor.
_NO_ROOM = "RESOURCE_EXHAUSTED", "Out of memory allocating"


@contextlib.contextmanager
def one_line_errors(stopped: str = STOPPED):
  """A context that turns what is not the program's fault into one line on stderr: a
  `UsageError`, what the system says of a file or a lack of memory into exit code 2,
  Ctrl-C into 130.

  Anything else is a defect and keeps its traceback. Names of files that are no UTF-8
  are printed with escapes.

  Args:
    stopped: the line after Ctrl-C.
  """
  if hasattr(sys.stdout, "reconfigure"):
    sys.stdout.reconfigure(errors="backslashreplace")
  try:
    with kept_interrupts():
      yield
  except KeyboardInterrupt:
    # Threads are joined at the end of the process: a second time it ends at once.
    with contextlib.suppress(ValueError):  # not the main thread
      signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))
    _end(stopped, 128 + signal.SIGINT)
  except Exception as e:
    end_unread(e)
    line = one_line(e)
    if line is None:
      raise
    _end(f"error: {line}", getattr(e, "exit_code", 2))


def end_unread(error: BaseException) -> None:
  """Ends the process without a word, as SIGPIPE does, where the error is that nobody
  reads its output any more: `COMMAND --help | head -3`.
  """
  if not isinstance(error, BrokenPipeError):
    return
  # A pipe without a reader is in error; whatever else broke is not of stdout.
  output = select.poll()
  output.register(sys.stdout.fileno(), 0)
  if any(event & select.POLLERR for _, event in output.poll(0)):
    # Python flushes once more at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(128 + signal.SIGPIPE)


def one_line(error: BaseException) -> str | None:
  """What is said of an error that is not the program's fault; None of one that is."""
  if isinstance(error, UsageError):
    return str(error)
  refusal = system_error(error)
  if refusal is None and isinstance(error, OSError) and error.filename is not None:
    refusal = error
  if refusal is not None:
    place = f" {refusal.filename}" if refusal.filename else " a file"
    return f"cannot read or write{place}: {refusal.strerror or refusal}"
  lack = memory_error(error)
  if lack is not None:
    advice = "ask for smaller sizes or fewer clips at once, or use more devices"
    return f"out of memory{lack and f' ({lack})'}: {advice}"
  return None


def end_interrupted(kind: type, error: BaseException, trace: Any) -> None:
  """An exception hook that ends an interrupted program in one line, with code 130."""
  if issubclass(kind, KeyboardInterrupt):
    _end(STOPPED, 128 + signal.SIGINT)
  sys.__excepthook__(kind, error, trace)


def _end(line: str, code: int) -> None:
  print(" ".join(line.split()), file=sys.stderr, flush=True)
  sys.exit(code)


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


THREADS = 1024  # at most: a machine makes no more at once


def whole(least: int, most: int | None = None) -> Rule:
  """The rule for a whole number from `least` to `most`, both included; without `most`
  to what devices can count to.
  """
  last = 2**31 - 1 if most is None else most
  return Rule(
    lambda x: (
      isinstance(x, numbers.Integral) and not isinstance(x, bool) and least <= x <= last
    ),
    f"a whole number from {least} "
    + ("on, below 2^31" if most is None else f"to {most}"),
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


def each(rule: Rule) -> Rule:
  """The rule for a list, each of whose elements keeps a rule."""
  return Rule(
    lambda x: not isinstance(x, str) and all(map(rule.holds, x)),
    f"a list, each {rule.words}",
  )


def one_of(*choices: str) -> Rule:
  """The rule for a name among some choices."""
  return Rule(lambda x: x in choices, f"one of {', '.join(choices)}")


def check_settings(config: Any, rules: Mapping[str, Rule]) -> None:
  """Checks the settings of a config against rules. A number without a rule must be
  finite all the same.

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
  for name, value in _numbers(config):
    if name not in rules and not math.isfinite(value):
      raise UsageError(f"config.{name}: got {value!r}; expected a finite number")


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
  """(dotted name, value) of every float in a config, and of those in its lists."""
  if isinstance(value, float):
    yield name, value
  elif hasattr(value, "keys"):
    for key in value:
      yield from _numbers(value[key], f"{name}.{key}".lstrip("."))
  elif isinstance(value, list | tuple):
    for x in value:
      yield from _numbers(x, name)


def finite_numbers(flag: str, values: Any) -> list[float]:
  """The values of a list of numbers, or of texts of them, or of one; none of None.

  Args:
    flag: its name, for the message.
    values: the list, or a number.

  Raises:
    UsageError: one is no finite number.
  """
  try:
    given = values if isinstance(values, list | tuple | None) else [values]
    found = [float(value) for value in given or ()]
  except (TypeError, ValueError):
    found = [math.nan]
  if not all(map(math.isfinite, found)):
    got = ",".join(map(str, values)) if isinstance(values, list | tuple) else values
    raise UsageError(f"--{flag}: got {got}; expected numbers, all finite")
  return found


def _finite(x: Any) -> bool:
  real = isinstance(x, numbers.Real) and not isinstance(x, bool)
  return real and math.isfinite(x)
