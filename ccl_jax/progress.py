"""What a command is doing, in one line on standard error, from its first second.

  loading
  compiling
  sampling 3/16  0:12 left

On a terminal the line is rewritten in place and cut to the terminal's width. In a file
a phase is a line of its own, and its count a line every half minute: no carriage
returns. Time that is left is told from the second item on, by the pace since the first
one, which may have waited for a compilation.

Only a command shows it, by `shown`: a program that imports this package hears nothing.
"""

import contextlib
import datetime
import io
import math
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

HELP = {"--help", "-h", "-help", "--helpshort", "--helpfull"}
LOG_COLUMNS = 100  # of a line in a file
LOG_SECONDS = 30.0  # between two lines of one phase in a file
_TERMINAL_SECONDS = 0.1  # between two paintings of the line


class _Count:
  """How many items of something are done, and how fast."""

  def __init__(self, name: str, total: int | None, unit: str):
    self.key = name, total, unit
    self.done, self._first = 0, None

  def at(self, done: int, now: float) -> None:
    if self._first is None or done < self.done:
      self._first = done, now
    self.done = done

  def __str__(self) -> str:
    name, total, unit = self.key
    if total is None:
      return name
    if unit == "B":
      scale, unit = (1e9, "GB") if total >= 1e9 else (1e6, "MB")
      return f"{name} {self.done / scale:.1f}/{total / scale:.1f} {unit}"
    return f"{name} {self.done}/{total} {unit}".rstrip()

  def left(self, now: float) -> list[str]:
    """The time that is left, by the pace since the first item was done."""
    _, total, _ = self.key
    if total is None or self._first is None:
      return []
    began, at = self._first
    left = total - self.done
    if self.done <= began or left <= 0:
      return []
    seconds = (now - at) / (self.done - began) * left
    return [f"{datetime.timedelta(seconds=round(seconds))} left"]


class Display:
  """A line that says what is being done, how much of it is done and how long it takes.

  Args:
    stream: a text file, or a terminal.
    clock: seconds, from any time on.
  """

  def __init__(
    self, stream: io.TextIOBase, clock: Callable[[], float] = time.monotonic
  ):
    self._stream, self._clock, self._lock = stream, clock, threading.RLock()
    self._terminal = stream.isatty()
    self._open = False  # a line of the terminal is not ended
    self._phase, self._part, self._shown = _Count("", None, ""), None, -math.inf

  def phase(self, name: str, total: int | None = None, unit: str = "") -> None:
    """Begins another phase, of `total` items where that is known.

    Args:
      name: what is done, such as "compiling".
      total: how many items it has.
      unit: of the items, said after their count; "B" counts bytes.
    """
    with self._lock:
      if (name, total, unit) == self._phase.key:
        return  # it goes on
      self._phase = _Count(name, total, unit)
      if self._terminal:
        self._paint(())
      elif self._part is None:
        self._shown = -math.inf
        if total is None:
          self._paint(())
      elif total is None and self._clock() - self._shown >= LOG_SECONDS:
        self._shown = self._clock()
        self._paint(())

  def part(self, name: str, done: int, total: int) -> None:
    """What comes is of one part of several, each with phases of its own.

    Args:
      name: of the parts, such as "clips".
      done: parts that are done.
      total: how many there are; when all are done, phases are of the whole again.
    """
    with self._lock:
      if self._part is None or self._part.key != (name, total, ""):
        self._part, self._shown = _Count(name, total, ""), -math.inf
      self._part.at(done, self._clock())
      if done >= total:
        self._part = None

  def at(self, done: int, notes: Sequence[str] = ()) -> None:
    """So many items of the phase are done.

    Args:
      done: of all, those of an earlier process too.
      notes: more to say, the most important first: as many as the line has room for.
    """
    with self._lock:
      now = self._clock()
      self._phase.at(done, now)
      last = done == self._phase.key[1] and (self._terminal or self._part is None)
      wait = _TERMINAL_SECONDS if self._terminal else LOG_SECONDS
      if last or now - self._shown >= wait:
        self._shown = now
        self._paint(notes)

  def advance(self, items: int = 1) -> None:
    """So many more items of the phase are done."""
    with self._lock:
      self.at(self._phase.done + items)

  def say(self, text: str, file: io.TextIOBase | None = None) -> None:
    """Prints a line that stays.

    Args:
      text: of the line.
      file: where to; None: beside the progress.
    """
    with self._lock:
      if self._open:
        self._stream.write("\r\x1b[K")
        self._stream.flush()
        self._open = False
      print(text, file=self._stream if file is None else file, flush=True)

  def end(self) -> None:
    """Ends the line, so that other text begins on a new one."""
    with self._lock:
      if self._open:
        self._stream.write("\n")
        self._stream.flush()
      self._open, self._phase = False, _Count("", None, "")

  def _paint(self, notes):
    width = LOG_COLUMNS
    if self._terminal:
      width = shutil.get_terminal_size((80, 24)).columns - 1
    whole = self._phase if self._part is None else self._part
    names = [str(count) for count in (self._part, self._phase) if count is not None]
    line = fitted([": ".join(names), *whole.left(self._clock()), *notes], width)
    start, stop = ("\r\x1b[K", "") if self._terminal else ("", "\n")
    self._stream.write(start + line + stop)
    self._stream.flush()
    self._open = self._terminal


def fitted(parts: Sequence[str], width: int) -> str:
  """The first parts that fit into a line of so many columns; the first one, cut.

  Args:
    parts: of the line, the most important first.
    width: in columns.
  """
  line = parts[0][:width]
  for part in parts[1:]:
    if len(line) + 2 + len(part) > width:
      break
    line += "  " + part
  return line


_display: Display | None = None


def starting() -> None:
  """Says on a terminal that a command is loading, before it imports what takes seconds;
  not of one that is asked for help. In a file the first line is that of accepted flags.
  """
  global _display
  if sys.stderr.isatty() and not HELP & set(sys.argv):
    _display = Display(sys.stderr)
    _display.phase("loading")


@contextlib.contextmanager
def shown(stream: io.TextIOBase | None = None) -> Iterator[None]:
  """A context in which the functions of this module show what they are told.

  Args:
    stream: where to; None: standard error.
  """
  global _display
  before = _display
  if _display is None or stream is not None:
    _display = Display(sys.stderr if stream is None else stream)
  try:
    yield
  finally:
    _display.end()
    _display = before


def is_shown() -> bool:
  """Whether a command shows its progress, and so is worth telling."""
  return _display is not None


def end() -> None:
  """Ends the line, so that other text begins on a new one."""
  if _display is not None:
    _display.end()


def phase(name: str, total: int | None = None, unit: str = "") -> None:
  """Begins another phase of the work: see `Display.phase`."""
  if _display is not None:
    _display.phase(name, total, unit)


def at(done: int, notes: Sequence[str] = ()) -> None:
  """So many items of the phase are done: see `Display.at`."""
  if _display is not None:
    _display.at(done, notes)


def part(name: str, done: int, total: int) -> None:
  """What comes is of one part of several: see `Display.part`."""
  if _display is not None:
    _display.part(name, done, total)


def advance(items: int = 1) -> None:
  """So many more items are done: see `Display.advance`."""
  if _display is not None:
    _display.advance(items)


def say(text: str, file: io.TextIOBase | None = None) -> None:
  """Prints a line that stays, on standard error if no file is named."""
  if _display is not None:
    _display.say(text, file)
  else:
    print(text, file=sys.stderr if file is None else file, flush=True)


class Bar:
  """A phase that counts: `update`, `write` and `close` as of tqdm's bars.

  Args:
    name: what is done, such as "encoding".
    total: how many items there are.
    unit: of the count; "B" counts bytes.
  """

  def __init__(self, name: str, total: int, unit: str = ""):
    phase(name, total, unit)

  def __enter__(self) -> "Bar":
    return self

  def __exit__(self, *error) -> None:
    self.close()

  def update(self, items: int = 1) -> None:
    """So many more items are done: see `Display.advance`."""
    advance(items)

  def write(self, text: str, file: io.TextIOBase | None = None) -> None:
    """Prints a line that stays: see `Display.say`."""
    say(text, file)

  def close(self) -> None:
    """Ends the line: what is printed next begins on a new one."""
    end()


def counted(items: Iterable[Any], name: str, total: int, unit: str = "") -> Iterator:
  """The items, each counted when the next one is asked for.

  Args:
    items: of the phase.
    name: what is done with them.
    total: how many there are.
    unit: of the count.
  """
  phase(name, total, unit)
  for item in items:
    yield item
    advance()
