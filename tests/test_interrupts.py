"""Ctrl-C where Python drops the exception: in callbacks and destructors."""

import gc
import os
import signal
import sys
import time

import pytest

from ccl_jax.errors import one_line_errors
from ccl_jax.interrupts import kept_interrupts
from ccl_jax.metrics.base import Metric
from ccl_jax.metrics.records import Records
from ccl_jax.metrics.runner import Item, evaluate

# Long for a program that was told to stop, short for a test that fails.
PATIENCE_S = 20


@pytest.fixture(autouse=True)
def usual_handler():
  """Also where a shell has started the tests in the background, and it is ignored."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


def key():
  os.kill(os.getpid(), signal.SIGINT)
  sum(range(10))  # the interpreter looks for signals here


def in_a_callback():
  def press(phase, info):
    if phase == "stop":
      gc.callbacks.remove(press)
      key()

  gc.callbacks.append(press)
  gc.collect()


def in_a_destructor():
  class Last:
    def __del__(self):
      key()

  Last()


@pytest.fixture(params=[in_a_callback, in_a_destructor])
def lost(request):
  """Presses the key where the exception gets lost."""
  return request.param


def work():
  """Goes on until it is interrupted."""
  end = time.monotonic() + PATIENCE_S
  while time.monotonic() < end:
    time.sleep(0.01)


def test_it_comes_again(lost, capsys):
  before = sys.unraisablehook
  with pytest.raises(KeyboardInterrupt), kept_interrupts():
    lost()
    work()
  assert sys.unraisablehook is before
  assert capsys.readouterr().err == ""


def test_a_command_ends_in_one_line(lost, capsys):
  with pytest.raises(SystemExit) as e, one_line_errors("stopped here"):
    lost()
    work()
  assert e.value.code == 130
  assert capsys.readouterr().err == "stopped here\n"


def test_elsewhere_it_is_raised_at_once():
  with kept_interrupts(), pytest.raises(KeyboardInterrupt):
    key()


def test_another_exception_is_told_as_ever(monkeypatch):
  told = []
  monkeypatch.setattr(sys, "unraisablehook", told.append)

  class Last:
    def __del__(self):
      raise ValueError("of a destructor")

  with kept_interrupts():
    Last()
  assert [str(x.exc_value) for x in told] == ["of a destructor"]


def test_an_evaluation_ends_and_keeps_its_records(lost, tmp_path):
  paths = [tmp_path / f"{name}.mp4" for name in "ab"]
  for path in paths:
    path.write_text(path.name)

  def score(clip):
    if clip.path == paths[1]:
      lost()
      work()
    return {"x": 1}

  metric = Metric("none", {}, lambda: score, needs=())
  items = [Item(path.stem, path, {}) for path in paths]
  with pytest.raises(KeyboardInterrupt):
    evaluate(items, [metric], Records(tmp_path / "out"))
  assert len((tmp_path / "out/records.jsonl").read_text().splitlines()) == 1
