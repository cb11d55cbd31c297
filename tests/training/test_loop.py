"""The loop's events in their order, by hand: a clock that only its parts move."""

import functools
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.checkpoints.checkpointer import Checkpointer
from ccl_jax.errors import UsageError
from ccl_jax.training.log import MetricLog, StepTimer
from ccl_jax.training.loop import train
from ccl_jax.training.profile import Profile

READ, STEP, SAVE = 0.25, 2.0, 5.0  # seconds


class Late:
  """A loss that the device computes, one step after the other, while others go on."""

  def __init__(self, run, value):
    self.run, self.value = run, value
    self.end = run.busy = max(run.now, run.busy) + STEP

  def is_ready(self):
    return self.run.now >= self.end

  def block_until_ready(self):
    self.run.now = max(self.run.now, self.end)
    return self

  def __array__(self, dtype=None, copy=None):
    return np.asarray(self.block_until_ready().value, dtype)


class Run:
  """The parts of a run of which a step's metrics are its number, and what they did.

  The state counts updates; batch n holds n, of which the batch's clips are n and its
  FLOPs 100 n.
  """

  def __init__(
    self,
    monkeypatch,
    metrics=None,
    *,
    loss=jnp.float32,
    shape=lambda n: 1,
    name=lambda n: "step",
  ):
    self.now, self.events, self.lines, self.next = 0.0, [], [], 0
    monkeypatch.setattr(time, "perf_counter", lambda: self.now)
    self.late, self.busy = loss is Late, 0.0
    made = functools.partial(Late, self) if self.late else loss
    self.metrics = metrics or (lambda n: {"loss": made(n), "grad_norm": 1.0})
    self.shape, self.name = shape, name
    run = self

    class Saver(Checkpointer):
      def __init__(self):
        pass

      def save(self, step, state, data_state, metadata):
        run.now += SAVE
        run.events.append(("save", step, state, data_state["next"], metadata["a"]))

      def wait(self):
        run.events.append("wait")

    class Lines(MetricLog):
      def __init__(self):
        pass

      def write(self, step, metrics):
        run.events.append(("log", step))
        run.lines.append((step, metrics))

      def flush(self):
        run.events.append("flush")

    class Traces(Profile):
      def __init__(self):
        pass

      def begin(self, step, state):
        run.events.append(("begin", step, state))

      def end(self, step, state):
        run.events.append(("end", step, state))

      def close(self):
        run.events.append("close")

    self.checkpointer, self.log, self.profile = Saver(), Lines(), Traces()

  def __next__(self):
    self.now += READ
    self.next += 1
    return np.full(self.shape(self.next - 1), self.next - 1)

  def get_state(self):
    return {"next": self.next}

  def update(self, state, batch):
    self.now += 0 if self.late else STEP
    # Metrics that a program would compute; these stand-ins are made on the host.
    with jax.transfer_guard("allow"):
      return state + 1, self.metrics(int(batch["x"].flat[0]))

  def __call__(self, first=3, total=10, tasks=(), save_every=4, log_every=3):
    self.next = first
    self.timer = StepTimer(peak_flops=1000.0)
    self.names = []

    def step_of(step, batch):
      self.names.append(step)
      return self.name(step), self.update

    return train(
      first,
      step_of=step_of,
      batches=self,
      encode=lambda batch: {"x": batch},
      checkpointer=self.checkpointer,
      metadata={"a": 1},
      save_every=save_every,
      log=self.log,
      log_every=log_every,
      timer=self.timer,
      tasks=tasks,
      first_step=first,
      total_steps=total,
      work_of=lambda batch: (int(batch["x"].flat[0]), 100.0 * batch["x"].flat[0]),
      profile=self.profile,
    )


def test_events_come_in_their_order(monkeypatch):
  """Saves of what n updates made, before batch n is asked for; a line when a window's
  last metrics are there; at the end one more of each.
  """
  run = Run(monkeypatch)
  assert run() == (10, True)
  assert run.names == list(range(3, 10))
  at = lambda n: [("begin", n, n), ("end", n, n + 1)]
  before = [*at(3), "flush", ("save", 4, 4, 4, 1), *at(4), *at(5)]
  between = [*at(7), "flush", ("save", 8, 8, 8, 1), *at(8)]
  after = [("log", 9), "flush", ("save", 10, 10, 10, 1), "wait", "close"]
  assert run.events == [
    *before, ("log", 5), *at(6), *between, ("log", 8), *at(9), *after
  ]  # fmt: skip
  # Where a step is still computed its line comes when the next one is under way.
  run = Run(monkeypatch, loss=Late)
  run()
  assert run.events == [
    *before, *at(6), ("log", 5), *between, *at(9), ("log", 8), *after
  ]  # fmt: skip


def test_a_save_finds_the_lines_of_all_its_steps(monkeypatch):
  """Who kills a run after a save loses none: at a save the log is flushed first."""
  run = Run(monkeypatch)
  run(log_every=1)
  told = [e for e in run.events if e[0] in ("log", "save") or e == "flush"]
  saved = lambda n: ["flush", ("save", n, n, n, 1)]
  assert told == [
    ("log", 3), *saved(4), *(("log", n) for n in (4, 5, 6, 7)), *saved(8),
    ("log", 8), ("log", 9), *saved(10),
  ]  # fmt: skip
  # Step 3 was a compilation: it has no speed.
  assert [n for n, line in run.lines if "step_seconds" not in line] == [3]


@pytest.mark.parametrize(
  ("loss", "data", "total"),
  # Every read takes 0.25 s of the host, or those with no step behind them.
  [(jnp.float32, (1, 1.75), (12, 23.75)), (Late, (0.5, 0.75), (11.5, 22.75))],
)
def test_every_window_counts_its_own_work(monkeypatch, loss, data, total):
  """Steps of 2 s: 4 + 5 clips at first, without the one that was compiled, then
  6 + 7 + 8, and 9.
  """
  run = Run(monkeypatch, loss=loss)
  run()
  assert [(n, line["loss"]) for n, line in run.lines] == [(5, 4), (8, 7), (9, 9)]
  first, second, _ = lines = [line for _, line in run.lines]
  for line, clips, seconds in zip(lines, (9, 21, 9), (4, 6, 2)):
    assert line["step_seconds"] == pytest.approx(2)
    assert line["clips_per_second"] == pytest.approx(clips / seconds)
    assert line["mfu"] == pytest.approx(100 * clips / seconds / 1000)
  # Beside the steps are reads, a compiled step and a save, then two.
  assert first["seconds/compile"] == second["seconds/compile"] == 2
  assert (first["seconds/data"], second["seconds/data"]) == data
  assert (first["seconds/save"], second["seconds/save"]) == (5, 10)
  assert first["goodput"] == pytest.approx(4 / total[0])
  assert second["goodput"] == pytest.approx(10 / total[1])


def test_a_read_behind_a_running_step_loses_no_time(monkeypatch):
  run = Run(monkeypatch, loss=Late)
  run(save_every=100)
  # The first read had no step before it, the second one that was waited for.
  assert run.lines[0][1]["seconds/data"] == 2 * READ


@pytest.mark.parametrize("differ", [{"shape": (2, 3)}, {"name": ("one", "other")}])
def test_every_program_is_compiled_once(monkeypatch, differ):
  """Of a name and the shapes of a batch."""
  ((key, two),) = differ.items()
  run = Run(monkeypatch, **{key: lambda n: two[n % 2]})
  run(save_every=100)
  assert run.lines[0][1]["seconds/compile"] == 2 * STEP


def asked_to_stop_at(number, update):
  """An update in which, of that batch, somebody asks the process to end."""

  def asked(state, batch):
    if batch["x"][0] == number:
      signal.raise_signal(signal.SIGTERM)
    return update(state, batch)

  return asked


def test_a_request_to_stop_saves_the_state_and_its_metrics(monkeypatch):
  run = Run(monkeypatch)
  run.update = asked_to_stop_at(5, run.update)
  assert run() == (6, False)
  assert run.events[-6:] == [
    ("end", 5, 6), ("log", 5), "flush", ("save", 6, 6, 6, 1), "wait", "close"
  ]  # fmt: skip
  ((step, line),) = run.lines
  assert (step, line["loss"], line["step_seconds"]) == (5, 4, 2)


def test_a_request_to_stop_saves_a_window_that_is_not_full(monkeypatch):
  run = Run(monkeypatch)
  run.update = asked_to_stop_at(5, run.update)
  assert run(log_every=100) == (6, False)
  assert run.events[-5:] == [
    ("log", 5), "flush", ("save", 6, 6, 6, 1), "wait", "close"
  ]  # fmt: skip
  ((step, line),) = run.lines
  assert (step, line["loss"], line["clips_per_second"]) == (5, 4, 9 / 4)


def test_a_step_that_was_restored_is_not_saved_again(monkeypatch):
  run = Run(monkeypatch)
  run(first=8, total=10)
  saves = [e for e in run.events if e[0] == "save"]
  assert saves == [("save", 10, 10, 10, 1)]


def test_a_run_that_is_done_only_saves(monkeypatch):
  run = Run(monkeypatch)
  assert run(first=7, total=7) == (7, True)
  assert run.events == ["flush", ("save", 7, 7, 7, 1), "wait", "close"]
  assert not run.lines


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_reaches_no_checkpoint(monkeypatch, name, value):
  """Also that of the step just before a save."""
  good = {"loss": jnp.float32(1), "grad_norm": 1.0}
  run = Run(
    monkeypatch, lambda n: good | ({name: jnp.float32(value)} if n == 7 else {})
  )
  with pytest.raises(UsageError, match=rf"step 7: the loss is .* in {name}; expected"):
    run()
  assert [e[1] for e in run.events if e[0] == "save"] == [4]


TASKS = ("single", "a2v", "v2a")


def by_task(n):
  """Rows are tasks, columns video and audio; NaN: not drawn, or no loss of it."""
  nan = np.nan
  rows = [[n, 10 * n], [nan, nan], [nan, 2.0 * n]]
  if n == 5:
    rows = [[nan, nan], [4.0, nan], [nan, 8.0]]
  drawn = np.array([n != 5, n == 5, True])
  return {
    "loss": jnp.float32(n), "grad_norm": 1.0, "by_task": np.array(rows), "drawn": drawn,
  }  # fmt: skip


def test_losses_by_task_are_means_of_where_they_were_drawn(monkeypatch):
  run = Run(monkeypatch, by_task)
  run(tasks=TASKS)
  line = run.lines[0][1]
  losses = {k: v for k, v in line.items() if k.startswith("loss")}
  assert losses == {
    "loss": 4,
    "loss/single/video": 3.5,  # of steps 3 and 4
    "loss/single/audio": 35,
    "loss/a2v/video": 4,  # of step 5 alone
    "loss/v2a/audio": (6 + 8 + 8) / 3,
  }


def test_the_task_that_broke_is_named(monkeypatch):
  """Of the drawn ones, by the streams that they generate."""

  def metrics(n):
    rows = np.array([[np.nan, np.nan], [1.0, np.nan], [np.nan, np.inf]])
    drawn = np.array([False, True, True])
    loss = jnp.float32(np.nan)
    return {"loss": loss, "grad_norm": 1.0, "by_task": rows, "drawn": drawn}

  with pytest.raises(UsageError, match="in task v2a; expected finite"):
    Run(monkeypatch, metrics)(tasks=TASKS)


def test_a_term_that_joins_within_a_window_is_averaged_from_there_on(monkeypatch):
  good = lambda n: {"loss": jnp.float32(n), "grad_norm": 1.0}
  run = Run(monkeypatch, lambda n: good(n) | ({"loss/late": n} if n > 3 else {}))
  run()
  assert run.lines[0][1]["loss/late"] == 4.5
