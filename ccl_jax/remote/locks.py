"""Locks in buckets: one writer of a folder at a time, on any machine.

A lock is an object that names its holder. It is made, renewed, taken over and removed
on the condition that it is still the generation that was seen last, so that of two that
try one alone succeeds. The holder writes it anew every `BEAT` seconds. Who finds a lock
watches it: if it changes, its holder lives; if it does not for `PATIENCE` seconds, or
its holder was a process of this machine that is gone, it is taken over. No clocks are
compared.
"""

import contextlib
import json
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from ccl_jax.errors import UsageError
from ccl_jax.remote.paths import BucketPath, kvstore
from ccl_jax.remote.stores import Unreachable, no_answer, reached

BEAT = 20.0  # seconds between two signs of life
PATIENCE = 90.0  # seconds without one after which a holder counts as dead
_LOOK = 1.0  # seconds between two looks at another's lock
_held: dict[BucketPath, "_Lock"] = {}  # the locks of this process


@contextlib.contextmanager
def held(
  lock: BucketPath, what: str, holder: str, *, wait: bool = False
) -> Iterator[None]:
  """Keeps a lock while the block runs. A process may hold one twice.

  Args:
    lock: the object.
    what: is locked, for messages.
    holder: this process, in words.
    wait: whether to wait for another that holds it.

  Raises:
    UsageError: another process holds it, and the line tells which.
    Unreachable: the store does not answer.
  """
  if lock in _held:
    yield
    return
  _held[lock] = mine = _Lock(lock, what, holder)
  try:
    mine.take(wait)
    beats = threading.Thread(target=mine.live, daemon=True, name=f"lock of {what}")
    beats.start()
    try:
      yield
    finally:
      mine.ended.set()
      beats.join()
      mine.leave()
  finally:
    del _held[lock]


def require_held(path: BucketPath) -> None:
  """Checks that no other process has taken over a folder that this one holds.

  Args:
    path: that is about to be written.

  Raises:
    UsageError: the folder it is in is another's now.
  """
  for lock in list(_held.values()):
    if lock.lost and lock.folder in (path, *path.parents):
      raise UsageError(
        f"{lock.what} was taken over by {lock.lost}, as this process gave no sign of "
        f"life for {PATIENCE:g} s: nothing more is written"
      )


class _Lock:
  """A lock that this process holds, or tries to."""

  def __init__(self, path: BucketPath, what: str, holder: str):
    self.what, self.folder, self.lost = what, path.parent, ""
    self.ended = threading.Event()
    self._path = path
    self._mine = {"holder": holder, "token": uuid.uuid4().hex, **_process(os.getpid())}
    self._beats = 0
    self._generation: Any = None

  def take(self, wait: bool) -> None:
    """Takes the lock, or raises what `held` says."""
    reached(self._path.scheme, self._path.bucket)  # TensorStore would try for minutes
    seen, since, told = None, 0.0, False
    while True:
      state, content, generation = self._read()
      now = time.monotonic()
      free = state == "missing" or _is_gone(content)
      if free or (seen == (content, generation) and now - since > PATIENCE):
        if self._write(generation):
          return
        seen = None
        continue
      if seen != (content, generation):
        if seen is not None and not wait:
          raise UsageError(
            f"{self.what} is being written by {_holder(content)}: wait until it ends, "
            "or name another place"
          )
        seen, since = (content, generation), now
      if not told:
        told = True
        print(
          f"{self.what} is held by {_holder(content)}: "
          + ("waiting for it" if wait else "looking whether that still runs")
          + f", at most {PATIENCE:g} s if it does not",
          file=sys.stderr,
          flush=True,
        )
      time.sleep(_LOOK)

  def live(self) -> None:
    """Renews the lock until `ended`; notes who has taken it over."""
    while not self.ended.wait(BEAT):
      with contextlib.suppress(Unreachable):  # the next beat tries again
        if self._write(self._generation):
          continue
        state, content, generation = self._read()
        if _parsed(content).get("token") == self._mine["token"]:
          # Written, though the answer was lost.
          self._generation = generation
          continue
        self.lost = _holder(content) if state == "value" else "somebody who removed it"
        return

  def leave(self) -> None:
    """Removes the lock, if it is still this process's."""
    if not self.lost:
      with contextlib.suppress(Unreachable):
        self._call("write", None, if_equal=self._generation)

  def _read(self) -> tuple[str, bytes, bytes]:
    found = self._call("read")
    return found.state, found.value, found.stamp.generation

  def _write(self, generation: bytes) -> bool:
    """Writes the lock where it has this generation; whether it had."""
    self._beats += 1
    content = json.dumps(self._mine | {"beat": self._beats}).encode()
    stamp = self._call("write", content, if_equal=generation)
    if stamp.generation:
      self._generation = stamp.generation
    return bool(stamp.generation)

  def _call(self, name: str, *args: Any, **options: Any) -> Any:
    import tensorstore as ts

    try:
      store = ts.KvStore.open(kvstore(self.folder)).result()
      return getattr(store, name)(self._path.name.encode(), *args, **options).result()
    except (ValueError, OSError, RuntimeError) as e:
      text = " ".join(str(e).split())[:300]
      raise no_answer(f"its lock cannot be used ({text})", self.what) from e


def _process(number: int) -> dict[str, Any]:
  """What tells a process from all others, of this machine and elsewhere; {} where the
  system does not say.
  """
  try:
    with open("/proc/sys/kernel/random/boot_id") as f:
      machine = f"{f.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    with open(f"/proc/{number}/stat") as f:
      # Field 22, counted after the name in brackets: when it was started.
      start = f.read().rpartition(")")[2].split()[19]
  except (OSError, IndexError):
    return {}
  return {"machine": machine, "process": number, "start": start}


def _is_gone(content: bytes) -> bool:
  """Whether the holder was a process of this machine that runs no longer."""
  about = _parsed(content)
  here = _process(os.getpid())
  if not here or about.get("machine") != here["machine"]:
    return False
  number = about.get("process")
  return isinstance(number, int) and _process(number).get("start") != about.get("start")


def _holder(content: bytes) -> str:
  holder = _parsed(content).get("holder")
  return " ".join(holder.split())[:400] if isinstance(holder, str) else "somebody"


def _parsed(content: bytes) -> dict[str, Any]:
  try:
    value = json.loads(content)
  except (ValueError, RecursionError):
    return {}
  return value if isinstance(value, dict) else {}


def _forget() -> None:
  """In a fork: its parent alone holds the locks."""
  _held.clear()


os.register_at_fork(after_in_child=_forget)
