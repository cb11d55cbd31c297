"""SIGTERM and Ctrl-C ask; a second Ctrl-C insists; the old handlers come back."""

import pathlib
import signal
import subprocess
import sys
import threading

import pytest
from jax.experimental import multihost_utils

from ccl_jax.training import signals
from ccl_jax.training.signals import ShutdownGuard

ROOT = pathlib.Path(__file__).parents[2]

LOOP = """
import time
from ccl_jax.training.signals import ShutdownGuard

with ShutdownGuard() as guard:
  print("ready", flush=True)
  for step in range(3000):
    if guard.agreed(step):
      print("saved", flush=True)
      break
    time.sleep(0.01)
"""


def test_sigterm_ends_a_loop_in_order():
  process = subprocess.Popen(
    [sys.executable, "-c", LOOP], stdout=subprocess.PIPE, text=True, cwd=ROOT
  )
  assert process.stdout.readline() == "ready\n"
  process.send_signal(signal.SIGTERM)
  out, _ = process.communicate(timeout=30)
  assert (out, process.returncode) == ("saved\n", 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_the_flag(number):
  before = signal.getsignal(number)
  with ShutdownGuard() as guard:
    assert not guard.agreed(0)
    signal.raise_signal(number)
    assert guard.requested
    assert guard.agreed(1)
  assert signal.getsignal(number) is before


def test_a_second_ctrl_c_interrupts():
  with ShutdownGuard(), pytest.raises(KeyboardInterrupt):
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)


def test_a_second_sigterm_is_no_more_than_a_request():
  """Schedulers send it again and again while the state is saved."""
  with ShutdownGuard() as guard:
    for _ in range(2):
      signal.raise_signal(signal.SIGTERM)
    assert guard.agreed(3)


def test_threads_leave_the_signals_alone():
  seen = []

  def guarded():
    before = signal.getsignal(signal.SIGTERM)
    with ShutdownGuard() as guard:
      seen.append(signal.getsignal(signal.SIGTERM) is before)
      seen.append(guard.agreed(0))

  thread = threading.Thread(target=guarded)
  thread.start()
  thread.join()
  assert seen == [True, False]


def test_of_several_processes_the_service_names_the_step(monkeypatch):
  """Ctrl-C becomes the SIGTERM that the service hears; its answer of one step holds
  for the steps after.
  """
  sent, asked = [], []

  def reached(step):
    asked.append(step)
    return step == 7

  monkeypatch.setattr(signals, "_distributed", lambda: True)
  monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", reached)
  monkeypatch.setattr(signals.os, "kill", lambda pid, number: sent.append(number))
  before = signal.getsignal(signal.SIGTERM)
  with ShutdownGuard() as guard:
    assert signal.getsignal(signal.SIGTERM) is before
    signal.raise_signal(signal.SIGINT)
    assert guard.requested and sent == [signal.SIGTERM]
    assert [guard.agreed(step) for step in (6, 7, 8)] == [False, True, True]
  assert asked == [6, 7, 8]
