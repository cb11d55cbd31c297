"""Batches of latent records on the host, read ahead by threads.

Of batch g, `Mixture.rows(g)`, a process reads the rows that its devices hold: together
the processes hold the batch that one would read, on any mesh.
The state is how many clips of each bucket were taken, equal on all processes: a run
goes on with any batch sizes. A thread copies each record straight into its row.
"""

import collections
import contextlib
import ctypes
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import Any

import numpy as np

from ccl_jax.axes import STREAMS
from ccl_jax.data.sets.buckets import Bucket
from ccl_jax.data.sets.mixture import Mixture, Row
from ccl_jax.errors import UsageError

AHEAD = 2  # batches under way
_log = logging.getLogger(__name__)


def keep_freed_memory() -> None:
  """Has the C library keep the memory of freed records for the next ones.

  Given back to the system, every page would be cleared anew: reading takes a quarter of
  the time without.
  """
  mmap_threshold, trim_threshold = -3, -1  # names of glibc's malloc.h; others lack them
  with contextlib.suppress(AttributeError, OSError):
    libc = ctypes.CDLL(None)
    libc.mallopt(mmap_threshold, 2**25)  # the most it takes
    libc.mallopt(trim_threshold, 2**30)


class LatentBatches:
  """Iterates over this process's rows of each batch of latents.

  A batch is `text` bf16 (b, l, e), zero past each text, and of `video` bf16 (b, t, h,
  w, c) and `audio` float32 (b, a, c) those that its bucket has and `streams` names;
  beside video `video_std`, of its shape, where a set of the mixture has it: zero for
  the records that do not.

  Args:
    mixture: says what each batch is made of.
    rows: the number of rows of a batch to the indices of this process's.
    threads: that read; 0: the caller does.
    streams: that the model takes.

  Raises:
    UsageError: a bucket has none of the streams.
  """

  def __init__(
    self,
    mixture: Mixture,
    *,
    rows: Callable[[int], Sequence[int]] = range,
    threads: int = 4,
    streams: Sequence[str] = STREAMS,
  ):
    for bucket in mixture.batch_sizes:
      if not set(bucket.streams) & set(streams):
        raise UsageError(
          f"the bucket {bucket.name} has no {' or '.join(streams)}, which is all the "
          "model takes: leave it out with config.data.options.buckets"
        )
    keep_freed_memory()
    self._mixture, self._streams = mixture, streams
    self._rows, self._threads = rows, threads
    self._next = 0
    self._shapes: dict[Bucket, dict[str, tuple[tuple[int, ...], Any]]] = {}
    self._pool: futures.ThreadPoolExecutor | None = None
    self._under_way: collections.deque = collections.deque()

  def __iter__(self) -> "LatentBatches":
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    if not self._threads:
      batch, reads = self._begin(self._next)
      for read in reads:
        read()
    else:
      if self._pool is None:
        self._pool = futures.ThreadPoolExecutor(self._threads)
      # The batch that is asked for, and AHEAD more.
      while len(self._under_way) <= AHEAD:
        batch, reads = self._begin(self._next + len(self._under_way))
        self._under_way.append((batch, [self._pool.submit(read) for read in reads]))
      batch, reads = self._under_way.popleft()
      for read in reads:
        read.result()
    self._next += 1
    return batch

  def get_state(self) -> dict[str, Any]:
    """The state after the batch that was returned last, as JSON."""
    return {
      "next_batch": self._next,
      "clips": self._mixture.taken(self._next),
      "sizes": self._mixture.sizes,
      "order": self._mixture.digest,
    }

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Continues from a state of `get_state`.

    Raises:
      UsageError: it is a state of another kind of data.
    """
    if "next_batch" not in state:
      raise UsageError(
        "this run was trained on clips, not on latents: name a new workdir, or "
        "the data it began with"
      )
    if "clips" not in state:
      raise UsageError(
        "this run was saved by an earlier version, which did not store how many clips "
        "it had seen: go on with that version, or name a new workdir"
      )
    if state["order"] != self._mixture.digest:
      _log.warning(
        "the sets, their weights or the seed are not those of the run so far: after "
        "%d clips the order is another, and some clips may come again or late",
        sum(state["clips"].values()),
      )
    self.close()
    same = state["sizes"] == self._mixture.sizes
    number = int(state["next_batch"]) if same else None
    self._next = self._mixture.go_on(state["clips"], number)

  def close(self) -> None:
    """Stops the threads that read records ahead."""
    if self._pool is not None:
      self._pool.shutdown(cancel_futures=True)
    self._pool = None
    self._under_way.clear()

  def _begin(self, number: int) -> tuple[dict[str, np.ndarray], list]:
    """Batch `number`, still empty, and the calls that fill its rows."""
    bucket, everyones = self._mixture.rows(number)
    rows = [everyones[i] for i in self._rows(len(everyones))]
    shapes = self._row_shapes(bucket, rows[0])
    batch = {
      # Every element is written by `_read`: the record, or zeros past a text.
      k: np.empty((len(rows), *shape), dtype)
      for k, (shape, dtype) in shapes.items()
    }
    return batch, [
      lambda place=place, row=row: self._read(bucket, row, place, batch)
      for place, row in enumerate(rows)
    ]

  def _read(self, bucket: Bucket, row: Row, place: int, batch: dict) -> None:
    record = self._mixture.sets[row.set].buckets[bucket][row.record]
    for name, array in batch.items():
      if name == "video_std" and name not in record:
        array[place] = 0  # it trains on its mean
        continue
      source, target = record[name], array[place]
      if name == "text":
        target = target[: len(source)]
      if source.shape != target.shape:
        raise UsageError(
          f"{record['about']['id']} has {name} latents {source.shape}, others of its "
          f"bucket {target.shape}: encode the sets with the same codecs"
        )
      # As numbers that numpy knows, which it copies without holding the interpreter.
      kind = f"u{source.itemsize}"
      target.view(kind)[...] = source.view(kind)
      array[place, len(source) :] = 0

  def _row_shapes(self, bucket: Bucket, row: Row) -> dict:
    if bucket not in self._shapes:
      record = self._mixture.sets[row.set].buckets[bucket][row.record]
      names = [s for s in bucket.streams if s in self._streams]
      shapes = {s: (record[s].shape, record[s].dtype) for s in names}
      if "video" in names and self._mixture.has_video_std(bucket):
        # By the mixture, not the first record: all batches of a bucket must have one
        # form.
        shapes["video_std"] = shapes["video"]
      text = record["text"]
      rows = self._mixture.text_rows(bucket)
      self._shapes[bucket] = shapes | {"text": ((rows, text.shape[1]), text.dtype)}
    return self._shapes[bucket]
