"""Runs that span several processes: how they start together, wait, and end together.

A process that dies takes the others with it, so that whoever started them may start
them again: they would wait for ever in the next collective. Death is noticed by the
connection that breaks, or after `heartbeat` seconds of silence; a process that leaves
with an error of its own is waited for as long, then the rest fail too.
"""

import itertools
import json
import os
import sys
import threading
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import jax
from jax._src import distributed

from ccl_jax.errors import UsageError

VERSIONS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "ccl_jax")
_FOR_EVER = 10 * 24 * 3600 * 1000  # in milliseconds: the first process may build data
_turns = itertools.count()


def join_processes(
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  *,
  seconds: int = 300,
  heartbeat: int = 30,
  instead: str = "--coordinator, --num_processes and --process_id",
) -> None:
  """Connects this process to the run's others; to be called before JAX finds devices.

  Args:
    coordinator: HOST:PORT of process 0; None asks the pod or the job scheduler for
      all three.
    num_processes, process_id: of the run, and of this one, from 0.
    seconds: how long to wait for the others.
    heartbeat: seconds of silence after which another process counts as lost.
    instead: the flags that are to be given where neither pod nor scheduler tells.

  Raises:
    UsageError: the three do not fit together, or nobody tells them. If the others do
      not come the process ends with exit code 1 and a line of error.
  """
  given = (coordinator, num_processes, process_id)
  if None in given and given != (None, None, None):
    raise UsageError(
      f"got coordinator={coordinator}, num_processes={num_processes}, "
      f"process_id={process_id}: give all three, or none on a TPU pod or under Slurm"
    )
  if coordinator is not None:
    _check(coordinator, num_processes, process_id)
  # JAX's own time limit ends in an abort without a word to the user.
  watch = threading.Timer(seconds, _nobody_came, (seconds,))
  watch.daemon = True
  watch.start()
  try:
    jax.distributed.initialize(
      *given,
      initialization_timeout=seconds + 60,
      heartbeat_timeout_seconds=heartbeat,
      shutdown_timeout_seconds=heartbeat,
    )
  except ValueError as e:
    raise UsageError(f"--distributed: {str(e).splitlines()[0]} Give {instead}") from e
  finally:
    watch.cancel()
  check_versions(jax.process_index(), {name: version(name) for name in VERSIONS})


def join_if_asked(asked: bool, *where: Any, **options: Any) -> None:
  """`join_processes`, if a command's flags say that there are others.

  Args:
    asked: the flag --distributed.
    where: the flags --coordinator, --num_processes and --process_id.
    options: of `join_processes`.

  Raises:
    UsageError: flags that do not go together.
  """
  if asked:
    join_processes(*where, **options)
  elif any(x is not None for x in where):
    raise UsageError(
      "--coordinator, --num_processes and --process_id go with --distributed: add it"
    )


def check_versions(index: int, mine: dict[str, str]) -> None:
  """Checks that this process has the packages' versions of process 0.

  Others would compile another program, and hang in its first collective.

  Args:
    index: of this process.
    mine: its versions by package.

  Raises:
    UsageError: a version differs.
  """
  store, key = distributed.global_state.client, "ccl_jax/versions"
  if index == 0:
    store.key_value_set(key, json.dumps(mine))
    return
  first = json.loads(store.blocking_key_value_get(key, 60_000))
  wrong = [f"{k} {mine[k]}, not {first[k]}" for k in mine if mine[k] != first[k]]
  if wrong:
    raise UsageError(
      f"process {index} has {', '.join(wrong)} as process 0: install the same on all"
    )


def _nobody_came(seconds: int) -> None:
  """Exit 1, not 2: the others may come to the next attempt."""
  message = f"error: the other processes were not there within {seconds} s: start them"
  print(f"{message} all, with the same coordinator", file=sys.stderr, flush=True)
  os._exit(1)


def first_process(make: Callable[[], Any]) -> Any:
  """Calls `make` in process 0 only: its result there, None in the others, which wait.

  Raises:
    UsageError: `make` raised it, in all processes alike.
  """
  if jax.process_count() == 1:
    return make()
  # Not a collective: those give up long before a data set is built.
  store = distributed.global_state.client
  key = f"ccl_jax/first/{next(_turns)}"
  if jax.process_index():
    code, _, text = store.blocking_key_value_get(key, _FOR_EVER).partition(" ")
    if code != "done":
      error = UsageError(text)
      error.exit_code = int(code)
      raise error
    return None
  try:
    result = make()
  except UsageError as e:
    store.key_value_set(key, f"{e.exit_code} {e}")
    raise
  store.key_value_set(key, "done")
  return result


def agreed(make: Callable[[], Any]) -> Any:
  """Calls `make` in process 0 only: its result in all of them.

  Args:
    make: gives what JSON can say.

  Raises:
    UsageError: `make` raised it, in all processes alike.
  """
  store, key = distributed.global_state.client, f"ccl_jax/agreed/{next(_turns)}"
  result = first_process(make)
  if jax.process_count() == 1:
    return result
  if jax.process_index() == 0:
    store.key_value_set(key, json.dumps(result))
    return result
  return json.loads(store.blocking_key_value_get(key, _FOR_EVER))


def first_process_first(make: Callable[[], Any]) -> Any:
  """Calls `make` in process 0 first, then in the others; the result of its own call.

  Process 0 prepares files, such as a data set; the others find them.

  Raises:
    UsageError: `make` raised it, in all processes alike.
  """
  result = first_process(make)
  return result if jax.process_index() == 0 else make()


def no_such_part(index: int, count: int) -> UsageError:
  """What is said of --process_index and --process_count that name no part of a work."""
  if count < 1:
    return UsageError(f"--process_count is {count}; expected 1 at least")
  return UsageError(
    f"--process_index is {index}; expected 0 to {count - 1} for --process_count {count}"
  )


def _check(coordinator: str, num_processes: int, process_id: int) -> None:
  host, _, port = coordinator.rpartition(":")
  if not host or not port.isdigit():
    raise UsageError(f"coordinator: got {coordinator!r}; expected HOST:PORT")
  if not 0 <= process_id < num_processes:
    raise UsageError(
      f"process_id: got {process_id}; expected 0 to {num_processes - 1} for "
      f"{num_processes} processes"
    )
