"""Benchmarks in turn on a device: each a process that may fail, within a time."""

import json
import signal
import time

import pytest

from tests.flags.command import command

device = command("bench device").module
PART = device.Part("step x", ["step", "--size=x"])
NONE = {"rows": []}


@pytest.fixture
def program(monkeypatch, tmp_path):
  """Sets what stands in for Python, a script of the shell."""

  def use(text):
    file = tmp_path / "program"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    monkeypatch.setattr(device.sys, "executable", str(file))

  return use


def test_what_a_benchmark_tells_is_its_last_object_with_rows(program, tmp_path):
  program(
    """echo '{"device": "x"}'; echo 'forward, seconds 1'
    echo "{\\"asked\\": \\"$*\\", \\"rows\\": [1], \\"env\\": \\"$XLA_PYTHON_CLIENT_PREALLOCATE\\"}"
    echo 'bye'"""  # noqa: E501
  )
  found = device.run(PART, tmp_path, 60.0)
  assert found.pop("took") < 60
  asked = "-m ccl_jax.bench step --size=x"
  assert found == {"asked": asked, "rows": [1], "env": "false"}


def test_one_that_fails_keeps_its_rows_and_says_why(program, tmp_path):
  program("""echo '{"rows": [2]}'; echo 'Traceback' >&2; echo 'OOM' >&2; exit 3""")
  found = device.run(PART, tmp_path, 60.0)
  assert found["rows"] == [2] and found["failed"] == "exit 3: OOM"
  program("exit 1")
  found = device.run(PART, tmp_path, 60.0)
  assert found["rows"] == [] and found["failed"] == "exit 1: no word"


@pytest.fixture
def in_the_background():
  """As a script starts what ends with `&`: SIGINT is ignored."""
  before = signal.signal(signal.SIGINT, signal.SIG_IGN)
  yield
  signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("in_the_background")
def test_one_that_lasts_is_interrupted_and_then_ended(program, tmp_path, monkeypatch):
  program(
    """trap 'echo "{\\"rows\\": [3]}"; exit 1' INT; while :; do sleep 0.05; done"""
  )
  found = device.run(PART, tmp_path, 5.0)  # a shell needs some of it to begin
  assert found["rows"] == [3] and found["failed"] == "stopped: the time was over"
  monkeypatch.setattr(device, "GRACE", 0.2)
  program("trap '' INT; while :; do :; done")
  start = time.perf_counter()
  found = device.run(PART, tmp_path, 0.5)
  assert found["rows"] == [] and "stopped" in found["failed"]
  assert time.perf_counter() - start < 10


def test_a_part_that_fails_leaves_the_others(monkeypatch, tmp_path):
  """The report is written after each; without a row it is tried without the peer."""
  seen = []

  def run(part, out, seconds):
    file = out / "device.json"
    seen.append(
      (part.argv, list(json.loads(file.read_text())["parts"]) if file.exists() else [])
    )
    if part.argv[0] == "parts":
      return NONE | {"failed": "exit 1: OOM", "took": 1.0}
    alone = "--nopeer" in part.argv
    return {"rows": [{"x": 1}], "took": 1.0} if alone else NONE | {"failed": "no torch"}

  monkeypatch.setattr(device, "run", run)
  todo = [PART, device.Part("parts x", ["parts"]), device.Part("more", ["parts", "y"])]
  report = device.measure(todo, tmp_path, 60.0)
  assert seen == [
    (["step", "--size=x"], []),
    (["step", "--size=x", "--nopeer"], []),
    (["parts"], ["step x"]),
    (["parts", "y"], ["step x", "parts x"]),
  ]
  assert report == json.loads((tmp_path / "device.json").read_text())
  step = report["parts"]["step x"]
  assert (
    step["rows"] == [{"x": 1}] and step["peer"] == "no torch" and "failed" not in step
  )
  assert step["command"] == "python -m ccl_jax.bench step --size=x"
  text = device.tables(report)
  assert "failed: exit 1: OOM" in text and "peer: no torch" in text


def test_what_is_not_begun_is_named(monkeypatch, tmp_path):
  now = [0.0]
  monkeypatch.setattr(device.time, "perf_counter", lambda: now[0])

  def run(part, out, seconds):
    now[0] += 40
    return {"rows": [{"what": "a", "ms": 1.0}, {"what": "b", "x": 2}], "left": seconds}

  monkeypatch.setattr(device, "run", run)
  todo = [device.Part(name, ["parts"]) for name in "abc"]
  report = device.measure(todo, tmp_path, 60.0)
  assert [part["left"] for part in report["parts"].values()] == [60, 20]
  assert report["not begun"] == ["c"]
  text = device.tables(report)
  assert "| what | ms | x |" in text and "| b |  | 2 |" in text
  assert "Not begun: c." in text
