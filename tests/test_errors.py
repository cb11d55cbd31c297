"""How commands end: a user's mistake, the system's refusal and Ctrl-C in one line."""

import errno
import logging as standard_logging
import math
import os
import pathlib
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import jax
import pytest
from absl import logging
from safetensors import SafetensorError

from ccl_jax import cli
from ccl_jax.errors import (
  Rule,
  UsageError,
  check_settings,
  each,
  memory_error,
  one_line_errors,
  system_error,
  whole,
)

ROOT = pathlib.Path(__file__).parents[1]


def ended(capsys, error, **options):
  """Exit code and the line of a command that an error ends."""
  before = signal.getsignal(signal.SIGINT)
  try:
    with pytest.raises(SystemExit) as e, one_line_errors(**options):
      raise error
  finally:
    signal.signal(signal.SIGINT, before)
  (line,) = capsys.readouterr().err.splitlines()
  return e.value.code, line


def refusal(code, path=None):
  return OSError(code, os.strerror(code), path)


def test_a_mistake_is_one_line(capsys):
  assert ended(capsys, UsageError("too\n  small")) == (2, "error: too small")


@pytest.mark.parametrize(
  "code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EIO]
)
def test_a_refusal_of_the_system_is_one_line(capsys, code):
  code_, line = ended(capsys, refusal(code, "/x/a.json"))
  assert code_ == 2 and line.endswith(f" /x/a.json: {os.strerror(code)}")


def test_libraries_wrap_it_or_quote_it():
  cause = refusal(errno.ENOSPC, "a")
  try:
    try:
      raise cause
    except OSError as e:
      raise KeyError("x") from e
  except KeyError as e:
    assert system_error(e) is cause
  for kind in (ValueError, RuntimeError):
    quoted = kind("INTERNAL: write: No space left on device [source locations=..]")
    assert system_error(quoted).errno == errno.ENOSPC
  wrapped = SafetensorError("Error while serializing: No space left on device (os")
  assert system_error(wrapped).errno == errno.ENOSPC
  for other in (ValueError("wrong"), KeyError("No space left on device"),
                FileNotFoundError(errno.ENOENT, "x"), ZeroDivisionError()):  # fmt: skip
    assert system_error(other) is None


@pytest.mark.parametrize("error", [ZeroDivisionError(), FileNotFoundError("x")])
def test_a_defect_keeps_its_traceback(error):
  with pytest.raises(type(error)), one_line_errors():
    raise error


@pytest.mark.parametrize(
  ("error", "words"),
  [
    (MemoryError(), "error: out of memory: ask for smaller sizes"),
    (MemoryError("Unable to allocate 3 TiB"), "of memory (Unable to allocate 3 TiB):"),
    (
      RuntimeError("INTERNAL: Error dispatching: Out of memory allocating 9 bytes.\nx"),
      "of memory (INTERNAL: Error dispatching: Out of memory allocating 9 bytes.):",
    ),
    (
      jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of HBM\n  buffers: ..."),
      "error: out of memory (RESOURCE_EXHAUSTED: Ran out of HBM): ask",
    ),
  ],
)
def test_a_lack_of_memory_is_one_line(capsys, error, words):
  code, line = ended(capsys, error)
  assert code == 2 and words in line


def test_what_lacks_memory_is_the_cause():
  try:
    try:
      raise MemoryError("a")
    except MemoryError as e:
      raise ValueError("b") from e
  except ValueError as e:
    assert memory_error(e) == "a"
  for other in (ValueError("b"), jax.errors.JaxRuntimeError("INTERNAL: c")):
    assert memory_error(other) is None


def test_an_interruption_is_one_line(capsys):
  assert ended(capsys, KeyboardInterrupt())[0] == 130
  own = ended(capsys, KeyboardInterrupt(), stopped="stopped: go on")
  assert own == (130, "stopped: go on")


CODE = """
import os, signal, sys, threading, time
# A shell's background jobs ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv[:] = {argv}
import ccl_jax
from ccl_jax.errors import one_line_errors

def work():
  time.sleep(0.3)
  print("thread is done", flush=True)

threading.Thread(target=work).start()
{body}
"""


@pytest.mark.parametrize(
  ("argv", "body"),
  [
    (["-m"], "os.kill(os.getpid(), signal.SIGINT); time.sleep(5)"),  # while it imports
    (
      ["x"],
      "with one_line_errors():\n  os.kill(os.getpid(), signal.SIGINT); time.sleep(5)",
    ),
  ],
)
def test_an_interrupted_process_ends_with_130_and_joins_its_threads(argv, body):
  code = CODE.format(argv=argv, body=body)
  command = [sys.executable, "-c", code]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
  assert done.returncode == 130, done.stderr
  assert done.stdout == "thread is done\n"
  assert len(done.stderr.splitlines()) == 1 and "interrupted" in done.stderr


def test_a_second_interruption_ends_at_once():
  body = (
    "def press():\n  time.sleep(0.1); os.kill(os.getpid(), signal.SIGINT)\n"
    "with one_line_errors():\n  threading.Thread(target=press).start()\n"
    "  raise KeyboardInterrupt"
  )
  code = CODE.format(argv=["x"], body=body)
  command = [sys.executable, "-c", code]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
  assert done.returncode == 130 and not done.stdout  # the thread was not waited for
  assert "Traceback" not in done.stderr


def test_output_that_nobody_reads_any_more_ends_without_a_word():
  # `COMMAND --help | head -1`
  read, write = os.pipe()
  os.close(read)
  code = (
    "from ccl_jax.errors import one_line_errors\n"
    "with one_line_errors():\n  print('help', flush=True)"
  )
  command = [sys.executable, "-c", code]
  done = subprocess.run(
    command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, timeout=60
  )
  os.close(write)
  assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_another_broken_pipe_is_a_defect():
  with pytest.raises(BrokenPipeError), one_line_errors():
    raise BrokenPipeError(errno.EPIPE, "Broken pipe")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_without_a_rule_is_finite_all_the_same(value):
  rules = {"a": whole(0)}
  for place in ({"c": value}, {"c": (1.0, value)}, {"c": {"d": [(2, value)]}}):
    with pytest.raises(UsageError, match=r"config\.b\.c.*finite"):
      check_settings({"a": 1, "b": place}, rules)
  endless = rules | {"b.c": Rule(lambda x: x > 0, "above 0")}
  if value > 0:
    check_settings({"a": 1, "b": {"c": value}}, endless)


def test_rules_of_lists_and_of_large_numbers():
  assert each(whole(1)).holds((1, 2)) and not each(whole(1)).holds((1, 0))
  assert not each(whole(1)).holds("12") and not each(whole(1)).holds(3)
  assert each(each(whole(1))).holds(((1, 2), (3,)))
  assert whole(0).holds(2**31 - 1) and not whole(0).holds(2**31)
  assert whole(0, 3).holds(3) and not whole(0, 3).holds(4)
  assert whole(0, 3).words == "a whole number from 0 to 3"


def test_threads_and_libraries_do_not_tell_of_a_full_disk_too(
  capfd, caplog, monkeypatch
):
  log = logging.get_absl_logger()
  monkeypatch.setattr(log, "filters", list(log.filters))
  tasks = standard_logging.getLogger("asyncio")
  monkeypatch.setattr(tasks, "filters", list(tasks.filters))
  monkeypatch.setattr(threading, "excepthook", threading.excepthook)
  shown = lambda lost: print(lost.exc_value, file=sys.stderr)
  monkeypatch.setattr(sys, "unraisablehook", shown)
  cli.quiet_refusals()
  full = refusal(errno.ENOSPC, "x")
  for error in (full, ValueError("RESOURCE_EXHAUSTED: No space left on device [..]")):
    try:
      raise error
    except Exception:
      logging.exception("a save failed")
    logging.error("the thread raised an exception: %s", error)
  late = RuntimeError("cannot schedule new futures after interpreter shutdown")
  for error in (full, late, KeyError("a defect")):
    thread = threading.Thread(target=lambda e=error: (_ for _ in ()).throw(e))
    thread.start()
    thread.join()
  logging.error("another error")
  # As TensorStore's threads and asyncio's tasks tell of it.
  for error in (RuntimeError("Event loop is closed"), full, KeyError("a lost one")):
    sys.unraisablehook(SimpleNamespace(exc_type=type(error), exc_value=error))
  standard_logging.getLogger("asyncio").error("never retrieved", exc_info=full)
  told = capfd.readouterr().err + caplog.text
  assert "No space" not in told and "a save failed" not in told
  assert "Event loop" not in told and "schedule" not in told and "never" not in told
  assert "a defect" in told and "another error" in told and "a lost one" in told
