"""SIGTERM and Ctrl-C ask; a second Ctrl-C insists; the old handlers come back."""

import pathlib
import signal
import subprocess
import sys

import pytest

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
