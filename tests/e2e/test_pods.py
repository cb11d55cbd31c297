"""One run on two processes, then on one, then on two again: it is asked to stop, is
killed, and ends where a run ends that nothing disturbed.
"""

import json
import signal
import time

import pytest

from tests.e2e.commands import Command, meeting
from tests.e2e.conftest import train_flags
from tests.e2e.test_run import logged, saved

# One small program: compilation is what this test costs.
SMALL = [
  "--config.clip.frames=5",
  "--config.clip.height=16",
  "--config.batch.size=8",
  "--config.checkpoint.every=1",  # a step of two processes takes seconds
  "--config.codec.text_length=8",
  "--config.codec.text_dim=32",
  "--config.tasks.draw=step",
  "--config.tasks.probabilities.joint=1.0",
  *(f"--config.tasks.probabilities.{task}=0.0" for task in ("single", "a2v", "v2a")),
]
# A device more is a message more to each of the others, in every collective.
DEVICES = 4
POD = ["--config.mesh=(1,2,2,1)"]
HOST = ["--config.mesh=(2,2,1,1)"]


class Processes:
  """A run on `count` processes that share the devices."""

  def __init__(self, workdir, count, *flags):
    self._workdir = workdir
    self.all = []
    for which in meeting(count):
      line = train_flags(workdir, *SMALL, *flags, *which)
      self.all.append(Command("ccl_jax.train", line, devices=DEVICES // count))

  def __enter__(self):
    return self

  def __exit__(self, *exc):
    for process in self.all:
      process.send_signal(signal.SIGKILL)
      process.wait()

  def outputs(self):
    return [process.output() for process in self.all]

  def wait_for_step(self, step):
    """Until a checkpoint of that step or a later one is whole."""
    deadline = time.time() + 300
    while max(saved(self._workdir), default=0) < step:
      assert all(p.poll() is None for p in self.all), self.outputs()
      assert time.time() < deadline, self.outputs()
      time.sleep(0.02)

  def codes(self, seconds=300):
    """Exit codes of all."""
    end = time.time() + seconds
    return [p.wait(max(0.1, end - time.time())) for p in self.all]


def newest(workdir):
  return max(saved(workdir))


@pytest.fixture(scope="module")
def disturbed(home):
  """The folder of the run."""
  workdir = home / "pods" / "disturbed"
  workdir.parent.mkdir()
  for_ever = "--config.steps=100000"
  with Processes(workdir, 2, *POD, for_ever) as run:
    run.wait_for_step(1)
    run.all[1].send_signal(signal.SIGTERM)
    assert run.codes() == [0, 0], run.outputs()
    stopped = [
      json.dumps({"stopped": True, "workdir": str(workdir)}) in out
      for out in run.outputs()
    ]
    assert stopped == [True, False]
  before = newest(workdir)
  with Processes(workdir, 1, *HOST, for_ever) as run:
    run.wait_for_step(before + 1)
    run.all[0].send_signal(signal.SIGKILL)
  assert newest(workdir) > before
  report = ["--config.report.tasks=('a2v',)", "--config.report.clips=2"]
  total = f"--config.steps={newest(workdir) + 2}"
  with Processes(workdir, 2, *POD, total, *report) as run:
    assert run.codes() == [0, 0], run.outputs()
    assert ["clips, loss curves" in out for out in run.outputs()] == [True, False]
  return workdir


def test_the_end_is_that_of_a_run_that_nothing_disturbed(home, disturbed):
  whole = home / "pods" / "whole"
  total = f"--config.steps={newest(disturbed)}"
  with Processes(whole, 1, *HOST, total) as run:
    assert run.codes() == [0], run.outputs()
  rows = {w: {r["step"]: r["loss"] for r in logged(w)} for w in (disturbed, whole)}
  assert rows[disturbed] == pytest.approx(rows[whole], rel=1e-5)
  assert len(logged(disturbed)) == len(rows[disturbed]) == newest(disturbed)
