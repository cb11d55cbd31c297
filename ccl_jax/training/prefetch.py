"""Moves batches of stored latents from the host to the devices, ahead of their step.

Text rows travel at the length of the longest text in the data and get their full
length, zeros, on the device; so do bf16 latents their float32.
"""

import contextlib
import math
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from ccl_jax.axes import STREAMS
from ccl_jax.sharding import LOGICAL, batch_sharding, global_batch, local_rows

_PAUSE = 0.003  # seconds in which a caller that has got a batch starts its step


def make_finisher(
  null_text: Float[Array, "l e"], mesh: Mesh
) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
  """A function from batches of `LatentBatches`, on the devices, to those of a step.

  Args:
    null_text: the embedding of no text, whose l rows every text gets.
    mesh: of the run.
  """
  sharding = batch_sharding(mesh)
  length = null_text.shape[0]

  @jax.jit
  def finish(batch):
    names = (*STREAMS, "video_std")
    out = {k: batch[k].astype(jnp.float32) for k in names if k in batch}
    rows = batch["text"][:, :length]
    # Zeros past a text need not travel: they are made here.
    short = length - rows.shape[1]
    out["text"] = jnp.pad(rows, ((0, 0), (0, short), (0, 0))).astype(jnp.float32)
    return jax.lax.with_sharding_constraint(out, sharding)

  return lambda batch: finish(batch) | {"null_text": null_text}


class DevicePrefetch:
  """An iterator of host batches as one of device batches, the next one on its way.

  A thread only moves data: programs that run on several processes stay in the caller's
  thread, which starts them in the same order everywhere. The state is that of the batch
  the caller has got.

  Args:
    batches: an iterator with `get_state`, `set_state` and `close`.
    mesh: of the run.
  """

  def __init__(self, batches: Any, mesh: Mesh):
    self._batches, self._mesh = batches, mesh
    shards = math.prod(mesh.shape[axis] for axis in LOGICAL["batch"])
    # Rows of all processes to this one's: batches differ in size, their shares do not.
    self._shares = shards // len(local_rows(mesh, shards))  # of a batch, over processes
    self._state = batches.get_state()
    self._ready: queue.Queue | None = None

  def __iter__(self) -> "DevicePrefetch":
    return self

  def __next__(self) -> dict[str, jax.Array]:
    if self._ready is None:
      # Room for one: more would hold device memory for nothing.
      self._ready, self._stop = queue.Queue(1), threading.Event()
      self._thread = threading.Thread(
        target=self._work, args=(self._ready, self._stop), daemon=True
      )
      self._thread.start()
    batch, state, error = self._ready.get()
    if error is not None:
      self.close()
      raise error
    self._state = state
    return batch

  def get_state(self) -> dict[str, Any]:
    """The state after the batch that the caller got last, not the one on its way."""
    return self._state

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Continues from a state of `get_state`; batches on their way are dropped."""
    self._halt()
    self._batches.set_state(state)
    self._state = self._batches.get_state()

  def close(self) -> None:
    """Stops the thread, and closes the iterator of host batches."""
    self._halt()
    self._batches.close()

  def _halt(self) -> None:
    if self._ready is None:
      return
    self._stop.set()
    while self._thread.is_alive():
      with contextlib.suppress(queue.Empty):
        self._ready.get(timeout=0.05)  # it may wait for room
    self._ready = None

  def _work(self, ready: queue.Queue, stop: threading.Event) -> None:
    while not stop.is_set():
      try:
        batch = self._put(next(self._batches))
        ready.put((batch, self._batches.get_state(), None))
        # The caller first: a copy of many megabytes would hold the interpreter.
        stop.wait(_PAUSE)
      except BaseException as e:  # it is the caller's
        ready.put((None, None, e))
        return

  def _put(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    size = self._shares * len(batch["text"])
    return global_batch(batch, local_rows(self._mesh, size), size, self._mesh)
