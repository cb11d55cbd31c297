"""Ctrl-C in a callback of the garbage collector, where Python drops the exception."""

import gc
import os
import signal

import pytest

from ccl_jax.metrics.base import Metric
from ccl_jax.metrics.interrupts import kept_interrupts
from ccl_jax.metrics.records import Records
from ccl_jax.metrics.runner import Item, evaluate

pytestmark = pytest.mark.filterwarnings(
  "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(autouse=True)
def usual_handler():
  """Also where a shell has started the tests in the background, and it is ignored."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


@pytest.fixture
def lost():
  """Presses the key where the exception gets lost, once the garbage is collected."""

  def press(phase, info):
    if phase == "stop":
      gc.callbacks.remove(press)
      os.kill(os.getpid(), signal.SIGINT)
      sum(range(10))  # the interpreter looks for signals here

  def collect():
    gc.callbacks.append(press)
    gc.collect()

  return collect


def test_it_is_raised_when_asked_for(lost):
  with kept_interrupts() as check:
    check()
    lost()
    with pytest.raises(KeyboardInterrupt):
      check()
  assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_elsewhere_it_is_raised_at_once():
  with kept_interrupts(), pytest.raises(KeyboardInterrupt):
    os.kill(os.getpid(), signal.SIGINT)
    sum(range(10))


def test_a_handler_that_is_there_stays():
  heard = []
  before = signal.signal(signal.SIGINT, lambda *_: heard.append(True))
  try:
    with kept_interrupts() as check:
      os.kill(os.getpid(), signal.SIGINT)
      check()
  finally:
    signal.signal(signal.SIGINT, before)
  assert heard == [True]


def test_a_run_ends_after_the_record_at_hand(lost, tmp_path):
  paths = [tmp_path / f"{name}.mp4" for name in "ab"]
  for path in paths:
    path.write_text(path.name)
  metric = Metric("none", {}, lambda: lambda clip: lost() or {"x": 1}, needs=())
  items = [Item(path.stem, path, {}) for path in paths]
  with pytest.raises(KeyboardInterrupt):
    evaluate(items, [metric], Records(tmp_path / "out"))
  assert len((tmp_path / "out/records.jsonl").read_text().splitlines()) == 1
