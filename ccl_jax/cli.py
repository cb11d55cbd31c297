"""Runs a command: flags with a config file, and errors in one line."""

import argparse
import math
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import app, flags, logging

from ccl_jax.errors import UsageError, one_line_errors, system_error
from ccl_jax.places import refuse_schemes


class Parser(argparse.ArgumentParser):
  """A parser of a command without a config, whose mistakes are one line and exit 2."""

  def parse_args(self, *args, **kwargs):
    """As argparse's; an address in the place of a path is a mistake too."""
    found = super().parse_args(*args, **kwargs)
    try:
      refuse_schemes({f"--{name}": value for name, value in vars(found).items()})
    except UsageError as e:
      self.error(str(e))
    return found

  def error(self, message):
    """Prints what is wrong in one line and exits with 2."""
    print(f"error: {message}; see {self.prog} --help", file=sys.stderr)
    sys.exit(2)


def _underscored(arg: str) -> str:
  """Arguments with flag names spelt with underscores: --scale-video=3 becomes
  --scale_video=3.
  """
  if not arg.startswith("--"):
    return arg
  name, equals, value = arg[2:].partition("=")
  return "--" + name.replace("-", "_") + equals + value


# Flags whose values are texts and no paths.
_TEXTS = ("prompt", "negative_prompt", "negative_prompt_video", "negative_prompt_audio")


def _refuse_addresses() -> None:
  """Checks the flags that were given, and every text of the config.

  Raises:
    UsageError: one is an address, such as gs://bucket/run.
  """
  known = flags.FLAGS
  given = {n: known[n].value for n in known if known[n].present and n not in _TEXTS}
  refuse_schemes({f"--{name}": value for name, value in given.items()})
  if "config" in flags.FLAGS and flags.FLAGS["config"].value is not None:
    refuse_schemes(dict(_leaves("config", flags.FLAGS["config"].value)))


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
  if hasattr(value, "keys"):
    for key in value:
      yield from _leaves(f"{name}.{key}", value[key])
  else:
    yield name, value


def finite(text: str) -> float:
  """A number of a command line, for argparse: no nan and nothing endless.

  Raises:
    argparse.ArgumentTypeError: it is none.
  """
  try:
    value = float(text)
  except ValueError:
    value = math.nan
  if not math.isfinite(value):
    raise argparse.ArgumentTypeError(f"got {text!r}; expected a finite number")
  return value


def numbers(flag: str, values: Sequence[str | float] | None) -> list[float]:
  """The values of a list of numbers; none where the flag was not given.

  Raises:
    UsageError: one is no finite number.
  """
  try:
    return [finite(str(v)) for v in values or ()]
  except argparse.ArgumentTypeError as e:
    raise UsageError(
      f"--{flag}: got {','.join(map(str, values))}; expected numbers, all finite"
    ) from e


def quiet_refusals() -> None:
  """Keeps libraries from telling of a full or read-only disk by themselves, thread by
  thread and with a traceback each: the command says it once, in its line of error.
  """

  def is_news(record: Any) -> bool:
    error = record.exc_info[1] if record.exc_info else RuntimeError(record.getMessage())
    return system_error(error) is None

  def ended(args: Any) -> None:
    if args.exc_value is None or system_error(args.exc_value) is None:
      threading.__excepthook__(args)

  logging.get_absl_logger().addFilter(is_news)
  threading.excepthook = ended


def run(main: Callable[[], None]) -> None:
  """Parses the command line, then calls `main`. A mistake is one line and exit 2."""

  def parse(argv):
    try:
      # --scale-video and --scale_video are one flag.
      rest = flags.FLAGS([_underscored(arg) for arg in argv])
      # A config file that cannot be read says so when it is first looked at: now.
      if "config" in flags.FLAGS:
        getattr(flags.FLAGS["config"].value, "keys", None)
      if len(rest) > 1:
        raise UsageError(f"unexpected argument {rest[1]!r}; see --help")
      _refuse_addresses()
      return rest
    except (flags.Error, ValueError, AttributeError, KeyError, OSError) as e:
      # A config file's own error arrives with its traceback; its last line says it.
      lines = str(e).strip().splitlines() or [type(e).__name__]
      text = lines[-1] if "Traceback" in str(e) else " ".join(map(str.strip, lines))
      print(f"error: {text}; see --help", file=sys.stderr)
      sys.exit(2)
    except UsageError as e:
      print(f"error: {e}", file=sys.stderr)
      sys.exit(2)

  def guarded(_):
    logging.set_verbosity(logging.WARNING)
    quiet_refusals()
    with one_line_errors():
      main()

  app.run(guarded, flags_parser=parse)
