"""Windows of sound at 16 kHz, cut at random from a folder of any media.

Row r of batch g is drawn from the seed (seed, g, r) alone: a file in proportion to its
length, then an instant of it. So a run that goes on at step g hears what an undisturbed
one hears, on any number of processes, and nothing but g has to be saved.

What is held out for scores is never drawn: files chosen by a hash of their names, one
in ten, so that adding files moves none; where a folder is too small to have one, the
last tenth of every file. Small folders are decoded once and kept; of others, threads
decode the windows of the next batches.
"""

import contextlib
import itertools
import logging
import os
import pathlib
import zlib
from collections.abc import Iterator, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from ccl_jax import hub
from ccl_jax.data.media import decode as media
from ccl_jax.data.media.sound import BLOCK
from ccl_jax.data.sources.folder import SOUNDS, SUFFIXES, files_of, relative
from ccl_jax.data.sources.windows import probe_with_sound
from ccl_jax.errors import UsageError

RATE = 16000
SHARE = 10  # one part in so many is held out
AHEAD = 3  # batches that threads read before they are asked for
TRIES = 8  # windows drawn in place of one that cannot be read
_log = logging.getLogger(__name__)


class Span(NamedTuple):
  """Samples `start` to `stop` of a file, whose first sample is at `origin` seconds."""

  path: pathlib.Path
  origin: float
  start: int
  stop: int

  @property
  def samples(self) -> int:
    """The number of samples of the span."""
    return self.stop - self.start


class Sounds:
  """The sounds below a folder, and windows of them.

  Attributes:
    root: the folder.
    shortest: samples below which a span is of no use.
    train, held_out: the spans to draw from, and those that are never drawn.
    skipped: (name, reason) of the files that give none.
  """

  def __init__(
    self, root: str | pathlib.Path, *, shortest: int, cache_gb: float, hold: bool = True
  ):
    """Reads the headers of all files, and the files themselves if they fit.

    Args:
      shortest: samples below which a span is of no use.
      cache_gb: of decoded sound to keep at most.
      hold: whether to hold out a tenth; else all is both.

    Raises:
      UsageError: no folder, no media, or no sound in it that is long enough.
    """
    self.root, self.shortest = hub.local(root), shortest
    files = files_of(self.root, (*SOUNDS, *SUFFIXES))
    if not files:
      kinds = " ".join((*SOUNDS, *SUFFIXES))
      raise UsageError(f"no media in {root}: expected {kinds} files")
    with futures.ThreadPoolExecutor(8) as pool:
      spans = dict(zip(files, pool.map(self._probe, files)))
      self.skipped = [(p.name, s) for p, s in spans.items() if isinstance(s, str)]
      whole = [s for s in spans.values() if isinstance(s, Span)]
      self._kept: dict[pathlib.Path, np.ndarray] = {}
      # float32: 4 bytes a sample.
      if 4 * sum(s.stop for s in whole) <= cache_gb * 1e9:
        whole = [s for s in pool.map(self._keep, whole) if s is not None]
    for name, reason in self.skipped:
      _log.warning("skipped %s: %s", name, reason)
    if not whole:
      raise UsageError(
        f"no usable sound among {len(files)} files in {root}, first: "
        f"{': '.join(self.skipped[0])}"
      )
    self.train, self.held_out = self._split(whole) if hold else (whole, whole)

  @property
  def seconds(self) -> float:
    """Seconds of all sound to train on."""
    return sum(span.samples for span in self.train) / RATE

  def read(self, span: Span, start: int, samples: int) -> Float32[np.ndarray, "n"]:
    """`samples` of a span, from its sample `start` on.

    Raises:
      MediaError: it cannot be read.
    """
    start += span.start
    if span.path in self._kept:
      return self._kept[span.path][start : start + samples]
    return media.read_audio(span.path, samples, RATE, span.origin + start / RATE)

  def draw(self, key: Sequence[int], samples: int) -> Float32[np.ndarray, "n"]:
    """The window of `samples` that belongs to a key, of the spans to train on.

    Raises:
      UsageError: no span is so long, or windows in turn cannot be read.
    """
    rng, reason = np.random.default_rng(key), ""
    spans = [span for span in self.train if span.samples >= samples]
    # Each span counts by the windows it holds, so every instant is as likely.
    ends = np.cumsum([span.samples - samples + 1 for span in spans])
    if not spans:
      longest = max(span.samples for span in self.train)
      raise UsageError(
        f"no sound in {self.root} is as long as a window, {samples / RATE:.2f} s; the "
        f"longest has {longest / RATE:.2f} s: take shorter windows"
      )
    for _ in range(TRIES):
      place = int(rng.integers(ends[-1]))
      # The span whose range of starts holds `place`.
      i = int(np.searchsorted(ends, place, "right"))
      try:
        return self.read(spans[i], place - int(ends[i - 1] if i else 0), samples)
      except media.MediaError as e:
        reason = str(e)
        _log.warning("unreadable, another window takes its place: %s", reason)
    raise UsageError(f"{TRIES} windows in turn could not be read, the last: {reason}")

  def windows(
    self, spans: Sequence[Span], samples: int
  ) -> Iterator[Float32[np.ndarray, "n"]]:
    """All windows of `samples` of the spans, in rounds.

    The first window of every span comes first, then the second of each, so that the
    first few windows are of many files.
    """
    rounds = max((span.samples // samples for span in spans), default=0)
    for i in range(rounds):
      for span in spans:
        if (i + 1) * samples <= span.samples:
          yield self.read(span, i * samples, samples)

  def _probe(self, path: pathlib.Path) -> Span | str:
    """The whole of a file, or why it is of no use."""
    try:
      info = probe_with_sound(path)
      if not info.has_audio:
        return "no audio track"
    except media.MediaError as e:
      return str(e).removeprefix(f"{path}: ")
    samples = int(info.duration * RATE)
    if samples < self.shortest:
      return (
        f"too short, {samples / RATE:.2f} s of the {self.shortest / RATE:.2f} s of a "
        "window"
      )
    return Span(path, info.start, 0, samples)

  def _keep(self, span: Span) -> Span | None:
    """Decodes a file, whose headers may have promised too much."""
    try:
      # Little more than the headers promise: they decided that all is kept.
      with contextlib.closing(media.read_blocks(span.path)) as blocks:
        count = span.stop // (BLOCK * RATE) + 1
        wave = np.concatenate(list(itertools.islice(blocks, count)))
    except media.MediaError as e:
      wave, reason = np.zeros(0, np.float32), str(e).removeprefix(f"{span.path}: ")
    else:
      reason = f"too short, {len(wave) / RATE:.2f} s"
    if len(wave) < self.shortest:
      self.skipped.append((span.path.name, reason))
      return None
    self._kept[span.path] = wave
    return span._replace(stop=len(wave))

  def _split(self, whole: list[Span]) -> tuple[list[Span], list[Span]]:
    name = lambda span: os.fsencode(relative(span.path, self.root))
    # By the name alone: files that are added later move none.
    held = [zlib.crc32(name(span)) % SHARE == 0 for span in whole]
    if any(held) and not all(held):
      train = [span for span, h in zip(whole, held) if not h]
      return train, [span for span, h in zip(whole, held) if h]
    train, held_out = [], []
    for span in whole:
      # No file was chosen, or all were: the end of each is held out instead.
      cut = span.stop - max(span.stop // SHARE, self.shortest)
      if cut < self.shortest:  # too short for both
        train.append(span)
        continue
      train.append(span._replace(stop=cut))
      held_out.append(span._replace(start=cut))
    return train, held_out


class WindowBatches:
  """Endless batches {"wave": float32 (rows, samples)}, drawn by their number.

  Args:
    sounds: to draw from.
    samples: of a window.
    rows: of a batch, those of this process.
    seed: of all windows.
    threads: that decode.
  """

  def __init__(
    self, sounds: Sounds, *, samples: int, rows: Sequence[int], seed: int, threads: int
  ):
    self._sounds, self._samples, self._rows = sounds, samples, tuple(rows)
    self._seed, self._next = seed, 0
    self._pool = futures.ThreadPoolExecutor(threads)
    self._coming: dict[int, list[futures.Future]] = {}

  def __next__(self) -> dict[str, np.ndarray]:
    # By number: a batch that is under way already is not asked for again.
    for g in range(self._next, self._next + AHEAD):
      if g not in self._coming:
        self._coming[g] = [self._submit(g, r) for r in self._rows]
    windows = [row.result() for row in self._coming.pop(self._next)]
    self._next += 1
    return {"wave": np.stack(windows)}

  def get_state(self) -> dict[str, Any]:
    """The state after the batch that was returned last, as JSON."""
    return {"next_batch": self._next}

  def set_state(self, state: dict[str, Any]) -> None:
    """Continues from a state of `get_state`; batches under way are dropped."""
    self._next, self._coming = int(state["next_batch"]), {}

  def close(self) -> None:
    """Stops the threads that decode windows ahead."""
    self._pool.shutdown(cancel_futures=True)

  def _submit(self, batch: int, row: int) -> futures.Future:
    key = (self._seed, batch, row)
    return self._pool.submit(self._sounds.draw, key, self._samples)
