"""Batches of clips, the same on any number of processes and threads.

A source of N clips is read in an endless order: epoch after epoch, each a new
permutation drawn from `seed`. Batch g holds the items B g .. B (g + 1) - 1 of that
order, of which a process reads the rows that its devices hold: the processes' rows
together are the batch one process would read. The state is the index of the next item:
one number, equal on all processes, good for any others, any B and any thread count.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import grain
import numpy as np

from ccl_jax.errors import UsageError

_log = logging.getLogger(__name__)

Tokenize = Callable[[list[str]], tuple[np.ndarray, np.ndarray]]


def make_iterator(
  source: Any,
  *,
  batch_size: int,
  seed: int,
  tokenize: Tokenize,
  rows: Sequence[int] | None = None,
  threads: int = 4,
  shuffle: bool = True,
  repeat: bool = True,
) -> "BatchIterator":
  """An iterator over this process's rows of each batch.

  A batch is `video` uint8 (b, F, H, W, 3), `audio` float32 (b, n), `ids` int32 (b, l)
  and `mask` bool (b, l).

  Args:
    source: has len and getitem, and gives clips or records of TFDS (texts as bytes,
      further fields dropped).
    batch_size: rows of all processes.
    seed: of the order.
    tokenize: texts to ids and mask.
    rows: this process's rows of a batch; None: all.
    threads: that read clips.
    shuffle: whether each epoch is a new permutation.
    repeat: endless epochs; else the last N mod B clips of the one epoch are left out.

  Raises:
    UsageError: the source has fewer clips than are needed.
  """
  rows = range(batch_size) if rows is None else rows
  if len(source) < (1 if repeat else batch_size):
    raise UsageError(
      f"the source has {len(source)} clips, fewer than the batch_size {batch_size}"
    )
  order = grain.MapDataset.source(source).seed(seed)
  order = order.shuffle() if shuffle else order
  order = order.repeat() if repeat else order
  return BatchIterator(order, len(source), batch_size, rows, threads, tokenize)


class BatchIterator:
  """The iterator that `make_iterator` returns, with a state to continue from."""

  def __init__(
    self,
    order: grain.MapDataset,
    clips: int,
    batch_size: int,
    rows: Sequence[int],
    threads: int,
    tokenize: Tokenize,
  ):
    self._order, self._clips, self._batch_size = order, clips, batch_size
    self._rows = tuple(rows)
    self._threads, self._tokenize = threads, tokenize
    self._next, self._batches = 0, None

  def __iter__(self) -> "BatchIterator":
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    if self._batches is None:
      self._batches = self._read_from(self._next)
    batch = next(self._batches)
    self._next += self._batch_size
    ids, mask = self._tokenize([_text(text) for text in batch.pop("text")])
    return batch | {"ids": ids, "mask": mask}

  def get_state(self) -> dict[str, int]:
    """The state after the batch that was returned last, as JSON."""
    return {"next_index": self._next, "clips": self._clips}

  def set_state(self, state: dict[str, int]) -> None:
    """Continues from a state of `get_state`.

    Raises:
      UsageError: it is a state of another kind of data.
    """
    if "next_index" not in state:
      raise UsageError(
        "this run was trained on latents, not on clips: name a new workdir, or "
        "the data it began with"
      )
    if state["clips"] != self._clips:
      _log.warning(
        "the data had %d clips when this state was saved, now %d: the order is another",
        *(state["clips"], self._clips),
      )
    self.close()
    self._next = int(state["next_index"])

  def close(self) -> None:
    """Stops the threads that read ahead."""
    if self._batches is not None:
      self._batches.close()
    self._batches = None

  def _read_from(self, start: int) -> grain.DatasetIterator:
    rows = _Rows(self._order, start, self._batch_size, self._rows)
    # The buffer holds clips, not batches: two batches, or one clip for each thread.
    options = grain.ReadOptions(
      num_threads=self._threads,
      prefetch_buffer_size=max(self._threads, 2 * len(self._rows)),
    )
    clips = grain.MapDataset.source(rows).map(_model_inputs)
    return iter(
      clips.to_iter_dataset(options).batch(len(self._rows), drop_remainder=True)
    )


class _Rows:
  """The items of `order` from `start` on that are `rows` of their batch."""

  def __init__(
    self, order: grain.MapDataset, start: int, batch_size: int, rows: tuple[int, ...]
  ):
    self._order, self._start, self._batch_size = order, start, batch_size
    self._rows = rows

  def __len__(self) -> int:
    return (len(self._order) - self._start) // self._batch_size * len(self._rows)

  def __getitem__(self, index: int) -> Any:
    # Item `start + B batch + rows[row]` of the order, for every index of this process.
    batch, row = divmod(index, len(self._rows))
    return self._order[self._start + batch * self._batch_size + self._rows[row]]


def _model_inputs(clip: dict[str, Any]) -> dict[str, Any]:
  return {key: clip[key] for key in ("video", "audio", "text")}


def _text(text: Any) -> str:
  return text.decode("utf-8") if isinstance(text, bytes) else str(text)
