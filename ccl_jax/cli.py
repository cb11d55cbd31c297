"""Runs a command: flags with a config file, and errors in one line."""

import argparse
import collections
import contextlib
import hashlib
import logging as standard_logging
import math
import os
import pathlib
import platform
import re
import sys
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict

from ccl_jax import progress, shipped
from ccl_jax.errors import (
  STOPPED,
  UsageError,
  end_unread,
  one_line_errors,
  system_error,
)
from ccl_jax.places import refuse_schemes

CACHE = "JAX_COMPILATION_CACHE_DIR"
SHORTEST = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
SHOWN_ALIKE = 10  # warnings of one kind that a command prints
# What Python says of a result that nobody waits for any more.
_LATE = "Event loop is closed", "cannot schedule new futures after"


class _Help(argparse.RawDescriptionHelpFormatter):
  """Help as it is written, with the default of every flag that has one."""

  def _get_help_string(self, action):
    text, default = action.help, action.default
    # None and nothing mean "not given": the text says what happens then.
    unsaid = default is False or default in (None, "", [], argparse.SUPPRESS)
    return text if unsaid or "%(default)" in text else f"{text} (default: %(default)s)"


class Parser(argparse.ArgumentParser):
  """A parser of a command without a config, whose mistakes are one line and exit 2.

  Args:
    buckets: names of the flags that may name what is in a bucket.
    options: of argparse's parser.
  """

  def __init__(self, *args, buckets: Collection[str] = (), **options):
    # --out is not meant by --o: a flag that comes later could change what it says.
    super().__init__(*args, allow_abbrev=False, formatter_class=_Help, **options)
    self._buckets = {f"--{name}" for name in buckets}

  def parse_args(self, args=None, namespace=None):
    """As argparse's; an address in the place of a path is a mistake too, and nothing
    where something is expected: an empty path is the current folder.
    """
    given = sys.argv[1:] if args is None else list(args)
    found = super().parse_args(given, namespace)
    for before, arg in zip(["", *given], given):
      if not arg or (arg.startswith("--") and arg.endswith("=")):
        name = (arg or before).rstrip("=")
        where = f"{name}: " if name.startswith("--") else ""
        self.error(f"{where}got an empty argument; expected a value")
    named = {f"--{name}": value for name, value in vars(found).items()}
    try:
      refuse_schemes(named, self._buckets)
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


def _refuse_addresses(buckets: Collection[str]) -> None:
  """Checks the flags that were given, and every text of the config.

  Args:
    buckets: flags and config keys that may name what is in a bucket.

  Raises:
    UsageError: one is an address, such as http://host/run, there is no such bucket, or
      one is empty, as that of a variable of a shell that is not set.
  """
  known = flags.FLAGS
  # A flag --config.KEY is looked at where the config has it.
  others = lambda n: n not in _TEXTS and not n.startswith("config.")
  given = {n: known[n].value for n in known if known[n].present and others(n)}
  for name, value in given.items():
    if value in ("", [], [""]):
      raise UsageError(f"--{name} is empty; expected a value, or leave it out")
  refuse_schemes({f"--{name}": value for name, value in given.items()}, buckets)
  if "config" in flags.FLAGS and flags.FLAGS["config"].value is not None:
    refuse_schemes(dict(_leaves("config", flags.FLAGS["config"].value)), buckets)


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


def process_flags(module: str) -> tuple[flags.FlagHolder, ...]:
  """Defines the flags of a command that several processes run together: --distributed,
  --coordinator, --num_processes and --process_id.

  Args:
    module: the name of the command's module, under whose flags `--help` lists them.
  """
  # As absl calls a module that is run; a program may import two such commands.
  place = sys.argv[0] if module == "__main__" else module
  here = {"module_name": place, "allow_override": True}
  return (
    flags.DEFINE_bool("distributed", False, "Run as one of several processes.", **here),
    flags.DEFINE_string(
      "coordinator",
      None,
      "HOST:PORT of process 0; default: what the TPU pod or Slurm job says.",
      **here,
    ),
    flags.DEFINE_integer(
      "num_processes", None, "Number of processes; needed with --coordinator.", **here
    ),
    flags.DEFINE_integer(
      "process_id",
      None,
      "Number of this process, from 0; needed with --coordinator.",
      **here,
    ),
  )


def require_config(config: Any, keys: Sequence[str], example: str) -> Any:
  """The config of a command, if it is one.

  Args:
    config: what --config gives.
    keys: dotted names that a config of the command has, and others lack.
    example: files with such configs, for the message.

  Raises:
    UsageError: it lacks a key: it is a config of another command, or none.
  """
  for name in keys:
    value = config
    for key in name.split("."):
      if not isinstance(value, ConfigDict) or key not in value:
        raise UsageError(
          f"--config: it has no {name}, so it is none of this command; expected one "
          f"such as {example}"
        )
      value = value[key]
  return config


def mesh_sizes(values: Sequence[str] | None) -> tuple[int, ...] | None:
  """The sizes of a flag --mesh; None where it was not given.

  Raises:
    UsageError: they are no whole numbers.
  """
  if values is None:
    return None
  try:
    return tuple(map(int, values))
  except ValueError as e:
    raise UsageError(f"--mesh {','.join(values)}: expected four numbers") from e


def quiet_refusals() -> None:
  """Keeps libraries from telling of a full or read-only disk by themselves, thread by
  thread and with a traceback each: the command says it once, in its line of error.

  So with what is still on its way when one write has failed, and comes back to a loop
  of events or to threads that have ended.
  """

  def is_told(error: BaseException | None) -> bool:
    late = any(text in str(error) for text in _LATE)
    return error is not None and (late or system_error(error) is not None)

  def is_news(record: Any) -> bool:
    error = record.exc_info[1] if record.exc_info else RuntimeError(record.getMessage())
    return not is_told(error)

  def ended(args: Any) -> None:
    if not is_told(args.exc_value):
      threading.__excepthook__(args)

  def dropped(lost: Any) -> None:
    if not is_told(lost.exc_value):
      before(lost)

  before = sys.unraisablehook
  if getattr(before, "__name__", "") != dropped.__name__:  # of an earlier command
    sys.unraisablehook = dropped
  for logger in (logging.get_absl_logger(), standard_logging.getLogger("asyncio")):
    logger.addFilter(is_news)
  threading.excepthook = ended


def run(main: Callable[[], None], buckets: Collection[str] = ()) -> None:
  """Parses the command line, then calls `main`. A mistake is one line and exit 2.

  Args:
    main: of the command.
    buckets: flags and config keys, as "--out" and "config.out", that may name what is
      in a bucket.
  """

  def parse(argv):
    try:
      # --scale-video and --scale_video are one flag.
      args = [_underscored(arg) for arg in argv]
      if progress.HELP & set(args[1:]):
        print(_help(main, argv[0]), flush=True)
        sys.exit(0)
      shipped.make_configs_importable()
      rest = flags.FLAGS(_with_config_files(args))
      # A config file that cannot be read says so when it is first looked at: now.
      if "config" in flags.FLAGS:
        getattr(flags.FLAGS["config"].value, "keys", None)
      if len(rest) > 1:
        raise UsageError(f"unexpected argument {rest[1]!r}; see --help")
      _refuse_addresses(buckets)
      return rest
    except UsageError as e:
      progress.say(f"error: {e}")
      sys.exit(2)
    except Exception as e:
      end_unread(e)
      # Whatever a config file does: its own error arrives with its traceback, whose
      # last line says it.
      lines = str(e).strip().splitlines() or [""]
      text = lines[-1] if "Traceback" in str(e) else " ".join(map(str.strip, lines))
      if not isinstance(e, (flags.Error, ValueError, AttributeError, OSError)):
        text = f"{type(e).__name__}: {text}"
      text = _unknown_key(e, argv) or text
      progress.say(f"error: {text}; see --help")
      sys.exit(2)

  def guarded(_):
    with working():
      main()

  app.run(guarded, flags_parser=parse)


def _unknown_key(error: Any, argv: Sequence[str]) -> str:
  """What is wrong with the flag of a key that the config lacks; "" where that is not
  what ml_collections raised: it says the key alone.
  """
  while isinstance(error, Exception) and error.args:
    error = error.args[0]
  found = re.fullmatch(r"'(\w+)'(?:\n(Did you mean .*))?", str(error))
  if not found:
    return ""
  key, advice = found.groups()
  given = [a for a in argv if a.startswith("--config.") and key in re.split("[.=]", a)]
  where = f"{given[0]}: " if given else ""
  advice = f": {advice[:1].lower()}{advice[1:]}" if advice else ""
  return f"{where}the config has no key '{key}'{advice}"


def _with_config_files(args: list[str]) -> list[str]:
  """The arguments, with the file of a config in place of its name."""
  out, follows = [], False
  for arg in args:
    name, equals, value = arg.partition("=")
    if follows:
      arg = shipped.config_file(arg)
    elif name == "--config" and equals:
      arg = f"{name}={shipped.config_file(value)}"
    follows = arg == "--config"
    out.append(arg)
  return out


def _help(main: Callable[[], None], program: str) -> str:
  """The help of a command: what its module says, with examples, and its flags."""
  module = main.__module__
  place = program if module == "__main__" else module
  text = flags.FLAGS.module_help(place).strip("\n")
  listed = text.partition("\n")[2]  # after the name of the module
  return f"{(sys.modules[module].__doc__ or '').strip()}\n\nFlags:\n\n{listed}"


@contextlib.contextmanager
def working(stopped: str = STOPPED) -> Iterator[None]:
  """A context for the work of a command: its progress is shown, what it compiles is
  kept for the next one, libraries do not chatter, and an error of the user's is one
  line and exit 2.

  Args:
    stopped: the line after Ctrl-C.
  """
  _quiet()
  quiet_refusals()
  _keep_programs()
  with one_line_errors(stopped), progress.shown(), warnings_shown():
    yield


class _Notes(standard_logging.Handler):
  """Prints warnings of this package as lines beside the progress; of many that differ
  in their values alone, such as files that are skipped, the first ones.
  """

  def __init__(self):
    super().__init__(standard_logging.WARNING)
    self._alike = collections.Counter()

  def emit(self, record: standard_logging.LogRecord) -> None:
    """Prints a record, or counts it."""
    kind = record.name, record.lineno
    self._alike[kind] += 1
    if self._alike[kind] <= SHOWN_ALIKE:
      progress.say(f"note: {record.getMessage()}")
    elif self._alike[kind] == SHOWN_ALIKE + 1:
      progress.say("note: more of these are only counted")

  def close(self) -> None:
    """Says how many there were of what was only counted."""
    for (module, _), count in self._alike.items():
      if count > SHOWN_ALIKE:
        progress.say(f"note: {count} such notes in all of {module}")
    super().close()


@contextlib.contextmanager
def warnings_shown() -> Iterator[None]:
  """A context in which the warnings of this package's modules are lines on standard
  error, "note: ...", whatever verbosity libraries are held to.
  """
  ours = standard_logging.getLogger("ccl_jax")
  notes, level, spread = _Notes(), ours.level, ours.propagate
  ours.setLevel(standard_logging.WARNING)
  ours.addHandler(notes)
  # Handlers above, absl's or those that a library has set up by now, would print them
  # once more, each in its own form.
  ours.propagate = False
  try:
    yield
  finally:
    ours.removeHandler(notes)
    ours.setLevel(level)
    ours.propagate = spread
    notes.close()


def _quiet() -> None:
  """Warnings of the libraries are for developers; python -W shows them."""
  logging.set_verbosity(logging.ERROR)
  for name in ("jax", "orbax", "etils"):
    standard_logging.getLogger(name).setLevel(standard_logging.ERROR)
  if not sys.warnoptions:
    warnings.simplefilter("ignore")


def _keep_programs() -> None:
  """Compiled programs go to a folder of the user's, unless JAX has been told another,
  and all of them: by itself JAX keeps what took a second, and the small ones, some
  hundred, would be compiled again at every start.

  JAX_COMPILATION_CACHE_DIR names another folder, JAX_ENABLE_COMPILATION_CACHE=0 keeps
  nothing.
  """
  if SHORTEST not in os.environ:
    _tell_jax(SHORTEST, 0.0)
  if CACHE in os.environ:
    return
  home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  folder = pathlib.Path(home) / "ccl_jax" / "programs" / _processor()
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError:
    return  # nothing is kept where nothing can be written
  _tell_jax(CACHE, str(folder))


def _tell_jax(variable: str, value: str | float) -> None:
  """Sets a variable of the environment that JAX reads, here and in child processes."""
  os.environ[variable] = str(value)
  if "jax" in sys.modules:  # else it reads the environment
    sys.modules["jax"].config.update(variable.lower(), value)


def _processor() -> str:
  """A name of this kind of processor: another may not know a program's instructions."""
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:
    lines = []
  able = next((x for x in lines if x.startswith(("flags", "Features"))), "")
  return f"{platform.machine()}-{hashlib.sha256(able.encode()).hexdigest()[:8]}"
