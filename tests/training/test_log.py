"""The metric log: resume drops what will be taken again; the timer adds up."""

import io
import json
import pathlib
import time
from unittest import mock

import jax.numpy as jnp
import pytest

from ccl_jax import progress
from ccl_jax.files import WriteError
from ccl_jax.progress import Display
from ccl_jax.training.log import MetricLog, StepTimer


def _read(folder):
  return [json.loads(line) for line in (folder / "metrics.jsonl").open()]


def test_lines_are_on_disk_at_once_and_finite_json(tmp_path):
  log = MetricLog(tmp_path, 10)
  log.write(0, {"loss/video": jnp.float32(1.5), "grad_norm": float("inf")})
  assert _read(tmp_path) == [{"step": 0, "loss/video": 1.5, "grad_norm": None}]
  log.close()
  assert list((tmp_path / "tensorboard").glob("events*"))


def test_a_full_disk_is_told_with_the_file(tmp_path):
  log = MetricLog(tmp_path, 10)
  log._lines = open("/dev/full", "a")  # noqa: SIM115
  with pytest.raises(WriteError, match=r"cannot write .*metrics\.jsonl: No space left"):
    log.write(0, {"loss": 1.0})
  log.close()  # what could not be written does not hide the error


def test_resume_drops_steps_that_will_be_taken_again(tmp_path):
  log = MetricLog(tmp_path, 10)
  for step in range(6):
    log.write(step, {"loss": step})
  log.close()
  with (tmp_path / "metrics.jsonl").open("a") as f:
    f.write('{"step": 2, "los')  # a kill in mid-line
  log = MetricLog(tmp_path, 10, start_step=4)
  log.write(4, {"loss": 40})
  log.write(5, {"loss": 50})
  log.close()
  assert [(x["step"], x["loss"]) for x in _read(tmp_path)] == [
    (0, 0), (1, 1), (2, 2), (3, 3), (4, 40), (5, 50)
  ]  # fmt: skip


def test_lines_that_are_no_utf8_are_dropped(tmp_path):
  log = MetricLog(tmp_path, 10)
  log.write(0, {"loss": 1.0})
  log.close()
  with (tmp_path / "metrics.jsonl").open("ab") as f:
    f.write(b'\xff\xfe\n{"step": "1"}\n[]\n' + b"[" * 100_000 + b"\n")
  log = MetricLog(tmp_path, 10, start_step=1)
  log.write(1, {"loss": 2.0})
  log.close()
  assert [(x["step"], x["loss"]) for x in _read(tmp_path)] == [(0, 1.0), (1, 2.0)]


def test_a_resume_that_is_killed_loses_no_line(tmp_path, monkeypatch):
  """What is kept is written beside the lines, and takes their place in the end."""
  log = MetricLog(tmp_path, 10)
  log.write(0, {"loss": 1.0})
  log.close()
  before = (tmp_path / "metrics.jsonl").read_bytes()

  def killed(self, text, *args):
    self.write_bytes(text.encode()[:5])
    raise KeyboardInterrupt

  monkeypatch.setattr(pathlib.Path, "write_text", killed)
  with pytest.raises(KeyboardInterrupt):
    MetricLog(tmp_path, 10, start_step=1)
  assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_the_board_forgets_what_will_be_taken_again(tmp_path, monkeypatch):
  made = []

  class Board:
    def __init__(self, folder, purge_step):
      made.append((pathlib.Path(folder).name, purge_step))

    def add_scalar(self, *row):
      made.append(row)

    def close(self):
      made.append("close")

  monkeypatch.setattr("tensorboardX.SummaryWriter", Board)
  log = MetricLog(tmp_path, 10, start_step=4)
  log.write(4, {"loss": jnp.float32(2), "mfu": 0.5})
  log.close()
  assert made == [("tensorboard", 4), ("loss", 2.0, 4), ("mfu", 0.5, 4), "close"]


def test_progress_lines_without_a_terminal(tmp_path, capsys):
  """The loss and the speed before the losses of tasks, as far as a line has room."""
  with progress.shown():
    log = MetricLog(tmp_path, 100)
    for step in range(100):
      rates = {"step_seconds": 0.5, "clips_per_second": 4.0, "mfu": 0.41}
      rates["goodput"] = 0.9
      losses = {"loss": 1.5, "loss/a": 0.25, "loss/joint/audio": 2.0}
      log.write(step, losses | {"other": 3.0} | rates)
    log.close()
  summary = "loss 1.5000  0.50 s/step  4.00 clips/s  MFU 41.0%  goodput 90.0%"
  first, last = capsys.readouterr().err.splitlines()
  assert first == f"step 1/100  {summary}  loss/a 0.2500"
  assert last == f"step 100/100  {summary}  loss/a 0.2500"


def test_progress_lines_tell_the_time_that_is_left(tmp_path, capsys, monkeypatch):
  clock = [1000.0]
  monkeypatch.setattr("time.monotonic", lambda: clock[0])
  file = io.StringIO()
  with mock.patch.object(progress, "_display", Display(file, lambda: clock[0])):
    log = MetricLog(tmp_path, 100, start_step=10)
    for step, now in ((11, 1000.0), (21, 1040.0), (22, 1069.9), (41, 1070.0)):
      clock[0] = now  # 30 s from line to line
      log.write(step, {"loss": 1.0})
    log.close()
  assert file.getvalue().splitlines() == [
    "step 12/100  loss 1.0000",
    "step 22/100  0:05:12 left  loss 1.0000",  # 4 s a step, 78 to go
    "step 42/100  0:02:15 left  loss 1.0000",  # 70 / 30 s a step, 58 to go
  ]


def test_a_run_begins_at_step_0_in_a_folder_that_is_made(tmp_path):
  """All of its path; a later run without a start begins anew."""
  for loss in (1.0, 2.0):
    log = MetricLog(tmp_path / "runs" / "a", 10)
    log.write(0, {"loss": loss})
    log.close()
  lines = (tmp_path / "runs" / "a" / "metrics.jsonl").read_text().splitlines()
  assert lines == ['{"step": 0, "loss": 2.0}']


def test_other_processes_write_nothing(tmp_path):
  log = MetricLog(tmp_path / "run", 10, enabled=False)
  log.write(0, {"loss": 1.0})
  log.close()
  assert not (tmp_path / "run").exists()


def test_timer_separates_phases_from_steps(monkeypatch):
  now = [100.0]
  monkeypatch.setattr(time, "perf_counter", lambda: now[0])
  timer = StepTimer(peak_flops=1000.0)
  with timer("compile"):
    now[0] += 30
  now[0] += 10  # 5 steps of 2 s
  got = timer.rates(steps=5, clips=20, flops=3000.0)
  assert got == {
    "step_seconds": 2.0,
    "clips_per_second": 2.0,
    "mfu": 0.3,
    "seconds/compile": 30.0,
    "goodput": 0.25,
  }
  for _ in range(2):
    with timer("data"):
      now[0] += 5
    now[0] += 5
  got = timer.rates(steps=5, clips=20, flops=3000.0)
  assert (got["step_seconds"], got["seconds/data"]) == (2.0, 10.0)
  assert got["goodput"] == pytest.approx(20 / 60)
  with pytest.raises(KeyError), timer("save"):  # time is lost there too
    now[0] += 3
    raise KeyError
  now[0] += 4
  got = timer.rates(steps=1, clips=2, flops=2000.0)
  assert (got["step_seconds"], got["seconds/save"], got["mfu"]) == (4.0, 3.0, 0.5)
  other = StepTimer()  # of a device whose peak nobody knows
  now[0] += 4
  got = other.rates(steps=2, clips=6, flops=1.0)
  assert got == {"step_seconds": 2.0, "clips_per_second": 1.5, "goodput": 1.0}
