"""The training loop: one line of events, in a stated order.

At step n, before anything moves: if a save is due, the metrics of step n - 1 are read
and checked, the log is put where it belongs, then the state and the data iterator are
saved as they stand, which is "after n updates". If an evaluation is due, it sees the
same state. Then the iterator gives batch n, step n is dispatched, and while it runs the
metrics of step n - 1 are read, checked and logged. A loss or an update that is not
finite therefore never reaches a checkpoint.

Between the host's batch and the metrics nothing moves unasked: a transfer that is not
explicit (`jax.device_put`, `jax.device_get`) would make every step wait, and raises.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from ccl_jax import progress
from ccl_jax.axes import STREAMS
from ccl_jax.checkpoints.checkpointer import Checkpointer
from ccl_jax.errors import UsageError
from ccl_jax.tasks import TASKS
from ccl_jax.training.log import MetricLog, StepTimer
from ccl_jax.training.profile import Profile
from ccl_jax.training.saves import Saves
from ccl_jax.training.signals import ShutdownGuard


def train(
  state: Any,
  *,
  step_of: Callable[[int, Mapping[str, jax.Array]], tuple[str, Callable]],
  batches: Any,
  encode: Callable[[Mapping[str, np.ndarray]], Mapping[str, jax.Array]],
  checkpointer: Checkpointer,
  metadata: dict,
  save_every: int,
  log: MetricLog,
  log_every: int,
  timer: StepTimer,
  tasks: tuple[str, ...],
  first_step: int,
  total_steps: int,
  work_of: Callable[[Mapping[str, jax.Array]], tuple[int, float]],
  profile: Profile,
  evaluate: Callable[[Any], Mapping[str, float]] | None = None,
  evaluate_every: int = 0,
  save_minutes: float | int = 0,
) -> tuple[Any, bool]:
  """Runs steps `first_step` to `total_steps`.

  Args:
    state: the train state; it is donated.
    step_of: name and jitted function (state, batch) -> (state, metrics) of a step and
      its batch.
    batches: the data iterator, with `get_state`.
    encode: host batch to device batch.
    checkpointer, metadata: where steps are saved, and what is saved with each.
    save_every, log_every: steps between two of each.
    save_minutes: between two saves, in place of steps; 0: steps count.
    log, timer: of the run.
    tasks: names behind the rows of the metric `by_task`; none: there is no such.
    first_step, total_steps: the first to run, and the first that is not run.
    work_of: clips and FLOPs of a batch.
    profile: which steps to trace.
    evaluate: parameters (the moving average) to metrics, logged every `evaluate_every`
      steps and at the end.

  Returns:
    The state, and whether all steps were done: False after a request to stop, with the
    state saved.

  Raises:
    UsageError: a scalar among the metrics, such as the loss or the norm of the update,
      was not finite; the last checkpoint is from before it.
  """
  window = _Window(tasks, first_step)
  pending = None
  compiled = set()

  def finish(pending):
    if pending is not None:
      metrics, work = pending
      window.add(jax.device_get(metrics), work)
      if window.steps >= log_every:  # here, so that a save finds the lines of its steps
        tell()

  def tell():
    work = window.work()
    rates = timer.rates(**work) if work["steps"] else {}
    log.write(window.last, window.means() | rates)

  def read():
    start = time.perf_counter()
    batch = next(batches)
    # No time is lost while the devices still compute the step before.
    if pending is None or pending[0]["loss"].is_ready():
      timer.add("data", time.perf_counter() - start)
    return batch

  def save(step):
    with timer("save"):
      log.flush()
      checkpointer.save(step, state, batches.get_state(), metadata)

  def measure(step):
    progress.phase("evaluating")
    with timer("evaluate"):
      log.write_held_out(step, evaluate(state.ema))

  saves = Saves(save_every, save_minutes, first_step)
  with ShutdownGuard() as guard:
    for step in range(first_step, total_steps):
      # All processes stop before the same step, or a collective would wait for ever.
      stop = guard.agreed(step)
      # Metrics before the save: a state that is not finite must not be kept.
      if stop or saves.due(step):
        finish(pending)
        pending = None
        if stop and window.steps:
          tell()
        save(step)
      if stop:
        break
      if evaluate is not None and step % evaluate_every == 0:
        measure(step)
      batch = read()
      with jax.transfer_guard("disallow"):
        batch = encode(batch)
      name, run = step_of(step, batch)
      # XLA compiles per shape: a new bucket is a new program.
      program = (name, *((k, x.shape) for k, x in sorted(batch.items())))
      if pending and pending[0]["loss"].is_ready():
        finish(pending)
        pending = None
      profile.begin(step, state)
      timed = program in compiled
      with jax.transfer_guard("disallow"):
        if timed:
          state, metrics = run(state, batch)
        else:
          # Waited for, so that its time counts as compilation and not as a slow step.
          compiled.add(program)
          progress.phase("compiling")
          with timer("compile"):
            state, metrics = jax.block_until_ready(run(state, batch))
          progress.phase("step", total_steps)
      profile.end(step, state)
      # What was not ready is waited for when the next step is under way, so that the
      # devices are never idle.
      finish(pending)
      pending = metrics, work_of(batch) if timed else None
    else:
      stop = False
    finish(pending)
    if not stop:
      if window.steps:
        tell()
      save(total_steps)
      if evaluate is not None:
        measure(total_steps)
    checkpointer.wait()
    profile.close()
  return state, not stop


class _Window:
  """Means of the metrics since the last line of the log."""

  def __init__(self, tasks: tuple[str, ...], first_step: int):
    self._tasks, self._next = tasks, first_step
    self._rows: list[dict] = []
    self._work: list[tuple[int, float]] = []

  @property
  def steps(self) -> int:
    return len(self._rows)

  @property
  def last(self) -> int:
    return self._next - 1

  def work(self) -> dict[str, int | float]:
    """Steps, clips and FLOPs of the window, without the steps that were compiled."""
    clips, flops = (sum(w[i] for w in self._work) for i in (0, 1))
    return {"steps": len(self._work), "clips": clips, "flops": flops}

  def add(self, metrics: dict, work: tuple[int, float] | None) -> None:
    """Takes the metrics and the work of the next step, None of one whose time is that
    of its compilation; raises where a scalar is not finite.
    """
    step, self._next = self._next, self._next + 1
    scalars = {k: x for k, x in metrics.items() if np.ndim(x) == 0}
    if not all(map(np.isfinite, scalars.values())):
      raise UsageError(
        f"step {step}: the loss is {metrics['loss']}, its gradient's norm "
        f"{metrics['grad_norm']}, {self._blame(metrics)}; expected finite numbers. "
        "The last checkpoint is from before this step: lower the learning rate or look "
        "at the data, then run the same command again"
      )
    self._rows.append(metrics)
    self._work += [] if work is None else [work]

  def _blame(self, metrics) -> str:
    """The tasks whose loss is not finite, among those that the batch drew; without any,
    the terms.
    """
    terms = [k for k, x in metrics.items() if np.ndim(x) == 0 and not np.isfinite(x)]
    if "by_task" not in metrics:
      return f"in {', '.join(terms)}"

    def broken(name, row, drawn):
      columns = [j for j, s in enumerate(STREAMS) if s in TASKS[name].generated]
      return drawn and not np.isfinite(row[columns]).all()

    rows = zip(self._tasks, metrics["by_task"], metrics["drawn"])
    names = [name for name, row, drawn in rows if broken(name, row, drawn)]
    if names:
      return f"in task {', '.join(names)}"
    return f"in {', '.join(terms)}, though the loss of every task was finite"

  def means(self) -> dict[str, float]:
    """Scalars of the window, and a fresh window."""
    rows, self._rows, self._work = self._rows, [], []
    scalars = [k for k, x in rows[-1].items() if np.ndim(x) == 0]
    # A term that joined in the middle of the window is averaged from there on.
    out = {k: float(np.mean([r[k] for r in rows if k in r])) for k in scalars}
    if not self._tasks:
      return out
    by_task = np.stack([r["by_task"] for r in rows])
    seen = np.isfinite(by_task)
    sums = np.where(seen, by_task, 0).sum(0)
    for i, task in enumerate(self._tasks):
      for j, stream in enumerate(STREAMS):
        if seen[:, i, j].any():
          out[f"loss/{task}/{stream}"] = float(sums[i, j] / seen[:, i, j].sum())
    return out
