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
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO

LOG_COLUMNS = 100  # of a line in a file
LOG_SECONDS = 30.0  # between two lines of one phase in a file
_TERMINAL_SECONDS = 0.1  # between two paintings of the line


class Display:
  """A line that says what is being done, how much of it is done and how long it takes.

  Args:
    stream: a text file, or a terminal.
    clock: seconds, from any time on.
  """

  def __init__(self, stream: TextIO, clock=time.monotonic):
    self._stream, self._clock, self._lock = stream, clock, threading.RLock()
    self._terminal = stream.isatty()
    self._dirty = False  # there is a line that is not ended
    self._shown = -float("inf")
    self._set("", None, "")

  def phase(self, name: str, total: int | None = None, unit: str = "") -> None:
    """Begins another phase, of `total` items where that is known.

    Args:
      name: what is done, such as "compiling".
      total: how many items it has.
      unit: of the items, said after their count; "B" counts bytes.
    """
    with self._lock:
      if (name, total, unit) == (self.name, self._total, self._unit) and not total:
        return
      self._set(name, total, unit)
      if total is None or self._terminal:
        self._paint(())

  def _set(self, name, total, unit):
    self.name, self._total, self._unit = name, total, unit
    self._done, self._first = 0, None

  def at(self, done: int, notes: Sequence[str] = ()) -> None:
    """So many items of the phase are done.

    Args:
      done: of all, those of an earlier process too.
      notes: more to say, the most important first: as many as the line has room for.
    """
    with self._lock:
      self._done, now = done, self._clock()
      if self._first is None:
        self._first = done, now
      wait = _TERMINAL_SECONDS if self._terminal else LOG_SECONDS
      if done == self._total or now - self._shown >= wait:
        self._shown = now
        self._paint(notes)

  def advance(self, items: int = 1) -> None:
    """So many more items of the phase are done."""
    with self._lock:
      self.at(self._done + items)

  def say(self, text: str, file: TextIO | None = None) -> None:
    """Prints a line that stays.

    Args:
      text: of the line.
      file: where to; None: beside the progress.
    """
    with self._lock:
      if self._terminal and self._dirty:
        self._stream.write("\r\x1b[K")
        self._stream.flush()
        self._dirty = False
      print(text, file=self._stream if file is None else file, flush=True)

  def end(self) -> None:
    """Ends the line, so that other text begins on a new one."""
    with self._lock:
      if self._terminal and self._dirty:
        self._stream.write("\n")
        self._stream.flush()
      self._dirty = False
      self._set("", None, "")

  def _paint(self, notes):
    width = LOG_COLUMNS
    if self._terminal:
      width = shutil.get_terminal_size((80, 24)).columns - 1
    line = fitted([self._count(), *self._left(), *notes], width)
    start, stop = ("\r\x1b[K", "") if self._terminal else ("", "\n")
    self._stream.write(start + line + stop)
    self._stream.flush()
    self._dirty = True

  def _count(self) -> str:
    if self._total is None:
      return self.name
    if self._unit == "B":
      scale, unit = (1e9, "GB") if self._total >= 1e9 else (1e6, "MB")
      return f"{self.name} {self._done / scale:.1f}/{self._total / scale:.1f} {unit}"
    return f"{self.name} {self._done}/{self._total} {self._unit}".rstrip()

  def _left(self) -> list[str]:
    """The time that is left, by the pace since the first item was done."""
    if self._total is None or self._first is None:
      return []
    began, at = self._first
    left = self._total - self._done
    if self._done <= began or left <= 0:
      return []
    seconds = (self._clock() - at) / (self._done - began) * left
    return [f"{datetime.timedelta(seconds=round(seconds))} left"]


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


@contextlib.contextmanager
def shown(stream: TextIO | None = None) -> Iterator[None]:
  """A context in which the functions of this module show what they are told.

  Args:
    stream: where to; None: standard error.
  """
  global _display
  before, _display = _display, Display(sys.stderr if stream is None else stream)
  try:
    yield
  finally:
    _display.end()
    _display = before


def phase(name: str, total: int | None = None, unit: str = "") -> None:
  """Begins another phase: see `Display.phase`."""
  if _display is not None:
    _display.phase(name, total, unit)


def at(done: int, notes: Sequence[str] = ()) -> None:
  """So many items of the phase are done: see `Display.at`."""
  if _display is not None:
    _display.at(done, notes)


def advance(items: int = 1) -> None:
  """So many more items are done: see `Display.advance`."""
  if _display is not None:
    _display.advance(items)


def say(text: str, file: TextIO | None = None) -> None:
  """Prints a line that stays, on standard error if no file is named."""
  if _display is not None:
    _display.say(text, file)
  else:
    print(text, file=sys.stderr if file is None else file, flush=True)


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
