"""The work behind the page: one clip at a time, told step by step, ended when asked.

Clips are made in the order in which they were asked for. Whoever leaves, or asks for
it, ends the own clip at its next step. Others wait for that and lose nothing.
"""

import contextlib
import html
import logging
import queue
import re
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from ccl_jax.errors import one_line
from ccl_jax.generation.previews import Listener, Pictures
from ccl_jax.generation.scratch import PREFIX
from ccl_jax.page.asked import LABELS

WAITING = 16  # clips that may wait at a time
HEARTBEAT = 0.5  # seconds between two looks at a client that may have gone
STRIP, TALL, WIDE = 6, 160, 960  # frames of a preview; its pixels


class Cancelled(Exception):
  """Somebody has asked for a clip's end, or has left."""


class Failed(Exception):
  """A clip cannot be made, for a reason that is one line."""


class Event(NamedTuple):
  """What there is to tell of a clip that is being made.

  Attributes:
    phase: "waiting" for other clips, "working" before the first step, or "sampling".
    step, steps: that are done, and all.
    preview: of the latents, once there is one.
    notes: warnings so far, in the words of the command.
    before: clips that come first, while it waits.
  """

  phase: str
  step: int = 0
  steps: int = 0
  preview: Pictures | None = None
  notes: Sequence[str] = ()
  before: int = 0


class _Made(NamedTuple):
  clip: Any


class _Turn:
  """A clip that is made, or waits: whose it is, what it tells, whether it is to end."""

  def __init__(self, who: str):
    self.who, self.ended = who, False
    self.told: queue.SimpleQueue[Event | _Made | Exception] = queue.SimpleQueue()

  def news(self) -> tuple[Event | None, _Made | Exception | None]:
    """(the newest event, what has ended the work), None where there is none within
    `HEARTBEAT`. Steps may come faster than a browser is told of them.
    """
    event = last = None
    with contextlib.suppress(queue.Empty):
      last = self.told.get(timeout=HEARTBEAT)
      while isinstance(last, Event):
        event, last = last, None
        last = self.told.get_nowait()
    return event, last


class Work:
  """Makes clips one after the other, each in a thread of its own."""

  def __init__(self):
    self._line: list[_Turn] = []  # the first one's clip is being made
    self._changed = threading.Condition()

  def run(
    self, make: Callable[[Listener], Any], who: str = ""
  ) -> Generator[Event, None, Any]:
    """Events while `make` works, two a second at least; then what it returns.

    A generator that is closed early ends the work at its next step.

    Args:
      make: does the work, and calls the listener after every step.
      who: the name by which `cancel` knows it.

    Raises:
      Cancelled: by `cancel`.
      Failed: the work failed for a reason of the user's or the machine's, or too many
        clips wait.
    """
    turn, notes, now = _Turn(who), [], Event("waiting")
    with self._changed:
      if len(self._line) > WAITING:
        raise Failed(f"{WAITING} clips wait already: try again in a minute")
      self._line.append(turn)
    threading.Thread(target=self._make, args=(make, turn, notes), daemon=True).start()
    try:
      while True:
        yield now._replace(notes=tuple(notes))
        event, last = turn.news()
        now = event or now
        if last is None:
          continue
        if not isinstance(last, Cancelled) or event is not None:
          yield now._replace(notes=tuple(notes))  # those of the end too
        if isinstance(last, _Made):
          return last.clip
        line = one_line(last)
        if line is None:
          raise last
        raise Failed(line) from last
    finally:
      self._end(turn)

  def cancel(self, who: str) -> None:
    """Ends the clips of a name, of which nothing more is told: at once where they wait,
    else at the next step.
    """
    with self._changed:
      turns = [turn for turn in self._line if turn.who == who]
    for turn in turns:
      turn.told.put(Cancelled())
      self._end(turn)

  def _end(self, turn: _Turn) -> None:
    with self._changed:
      turn.ended = True
      self._changed.notify_all()

  def _make(self, make, turn: _Turn, notes: list[str]) -> None:
    """The thread of a clip."""

    def heard(step, steps, preview):
      if turn.ended:
        raise Cancelled
      turn.told.put(Event("sampling", step, steps, preview))

    try:
      self._wait(turn)
      turn.told.put(Event("working"))
      with _notes(notes):
        made = _Made(make(heard))
    except Exception as e:
      made = e
    turn.told.put(made)
    made = None  # an error that failed here holds this frame
    with self._changed:
      self._line.remove(turn)
      self._changed.notify_all()

  def _wait(self, turn: _Turn) -> None:
    with self._changed:
      while True:
        if turn.ended:
          raise Cancelled
        if (before := self._line.index(turn)) == 0:
          return
        turn.told.put(Event("waiting", before=before))
        self._changed.wait()


@contextlib.contextmanager
def _notes(notes: list[str]) -> Iterator[None]:
  """A context in which this thread's warnings of the package are appended to a list."""
  own = threading.get_ident()

  class Notes(logging.Handler):
    def emit(self, record):
      if record.thread == own:
        notes.append(record.getMessage())

  logger, handler = logging.getLogger("ccl_jax"), Notes(logging.WARNING)
  logger.addHandler(handler)
  try:
    yield
  finally:
    logger.removeHandler(handler)


def in_page_words(text: str) -> str:
  """A line of error or a note as a user of the page reads it.

  Uploads and clips are called by their names: the folders of `generation.scratch`, in
  which they lie, say nothing to their users. Flags are called as their fields are:
  "Sound" for --audio FILE.
  """
  folder = re.escape(f"{tempfile.gettempdir()}/{PREFIX}")
  text = re.sub(rf"{folder}[^/\s]+/(?:[^/\s]+/)*", "", text)
  flag = rf"--({'|'.join(LABELS)})\b(?: FILE(, or '\w+' on every line of a manifest)?)?"
  return re.sub(flag, lambda found: f'"{LABELS[found[1]]}"', text)


def said(event: Event) -> str:
  """An event as HTML: what is being done, a bar, and the notes."""
  if event.phase == "waiting":
    come = "clip comes" if event.before == 1 else "clips come"
    text = f"waiting: {event.before} {come} first"
  elif event.phase == "working":
    text = "reading and compiling: the first clip of its kind takes longer"
  elif event.step == event.steps:
    text = "decoding"
  else:
    text = f"step {event.step} of {event.steps}"
  bar = f'<progress max="{event.steps or 1}" value="{event.step}"></progress>'
  return f'<div class="ccl-status" role="status">{bar} {text}</div>' + noted(
    event.notes
  )


def noted(notes: Sequence[str]) -> str:
  """Notes as lines of HTML, in the page's words."""
  texts = (html.escape(in_page_words(text)) for text in notes)
  return "".join(f'<div class="ccl-note">note: {text}</div>' for text in texts)


def picture_of(preview: Pictures) -> UInt8[np.ndarray, "H W 3"]:
  """A preview as one picture: frames side by side, the sound's channels below them."""
  from PIL import Image

  parts = []
  if "video" in preview:
    video = preview["video"]
    shown = np.linspace(0, len(video) - 1, min(STRIP, len(video))).astype(int)
    strip = np.concatenate(list(video[shown]), 1)
    height = max(round(WIDE * strip.shape[0] / strip.shape[1]), 1)
    nearest = Image.Resampling.NEAREST
    parts.append(np.array(Image.fromarray(strip).resize((WIDE, height), nearest)))
  if "audio" in preview:
    sound = Image.fromarray(preview["audio"]).resize((WIDE, TALL // 2))
    parts.append(np.array(sound.convert("RGB")))
  return np.concatenate(parts)
