"""The work behind the page: one clip at a time, told step by step, ended when asked.

Whoever leaves, or asks for it, ends the own clip at its next step. Others wait for that
and lose nothing.
"""

import contextlib
import html
import logging
import pathlib
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from ccl_jax.errors import one_line
from ccl_jax.generation.previews import Listener, Pictures

HEARTBEAT = 0.5  # seconds between two looks at a client that may have gone
STRIP, TALL, WIDE = 6, 160, 960  # frames of a preview; its pixels


class Cancelled(Exception):
  """Somebody has asked for a clip's end, or has left."""


class Failed(Exception):
  """A clip cannot be made, for a reason that is one line."""


class Event(NamedTuple):
  """What there is to tell of a clip that is being made.

  Attributes:
    phase: "waiting" for another clip, "working" before the first step, or "sampling".
    step, steps: that are done, and all.
    preview: of the latents, once there is one.
    notes: warnings so far, in the words of the command.
  """

  phase: str
  step: int = 0
  steps: int = 0
  preview: Pictures | None = None
  notes: Sequence[str] = ()


class Work:
  """Makes clips one after the other, each in a thread of its own."""

  def __init__(self):
    self._turn = threading.Lock()

  def run(self, make: Callable[[Listener], Any]) -> Generator[Event, None, Any]:
    """Events while `make` works, two a second at least; then what it returns.

    A generator that is closed early ends the work at its next step.

    Args:
      make: does the work, and calls the listener after every step.

    Raises:
      Failed: the work failed for a reason of the user's or the machine's.
    """
    events, stop, out = queue.SimpleQueue(), threading.Event(), []
    notes: list[str] = []
    now = Event("waiting")

    def heard(step, steps, preview):
      if stop.is_set():
        raise Cancelled
      events.put(Event("sampling", step, steps, preview))

    def work():
      try:
        while not self._turn.acquire(timeout=HEARTBEAT):
          if stop.is_set():
            raise Cancelled
        try:
          events.put(Event("working"))
          with _notes(notes):
            out.append(make(heard))
        finally:
          self._turn.release()
      except Cancelled:
        pass
      except Exception as e:
        events.put(e)
      events.put(None)

    threading.Thread(target=work, daemon=True).start()
    try:
      while True:
        yield now._replace(notes=tuple(notes))
        with contextlib.suppress(queue.Empty):
          told = events.get(timeout=HEARTBEAT)
          if told is None:
            return out[0] if out else None
          if isinstance(told, Exception):
            line = one_line(told)
            if line is None:
              raise told
            raise Failed(line) from told
          now = told
    finally:
      stop.set()


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


def without_folders(text: str, files: Sequence[str | None]) -> str:
  """A line of error or a note in which uploads are called as their users call them.

  Args:
    text: the line.
    files: paths of uploads.
  """
  for file in filter(None, files):
    text = text.replace(file, pathlib.Path(file).name)
  return text


def said(event: Event, files: Sequence[str | None] = ()) -> str:
  """An event as HTML: what is being done, a bar, and the notes.

  Args:
    event: of a clip.
    files: paths of uploads.
  """
  text = {
    "waiting": "waiting for another clip",
    "working": "reading and compiling: the first clip of its kind takes longer",
  }.get(event.phase, f"step {event.step} of {event.steps}")
  if event.steps and event.step == event.steps:
    text = "decoding"
  bar = f'<progress max="{event.steps or 1}" value="{event.step}"></progress>'
  return f'<div class="ccl-status" role="status">{bar} {text}</div>' + noted(
    event.notes, files
  )


def noted(notes: Sequence[str], files: Sequence[str | None] = ()) -> str:
  """Notes as lines of HTML, each as the command prints it."""
  texts = (html.escape(without_folders(text, files)) for text in notes)
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
