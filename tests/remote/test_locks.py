"""One writer of a folder in a bucket, whoever dies, on this machine or another."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from ccl_jax import files
from ccl_jax.errors import UsageError
from ccl_jax.places import LOCK, hold, hold_new
from ccl_jax.remote import locks

ROOT = pathlib.Path(__file__).parents[2]
HOLDER = """
import sys, time
from ccl_jax.places import hold
with hold(sys.argv[1]):
  print("held", flush=True)
  time.sleep(60)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  """Signs of life and patience of a test, in the same proportion."""
  for name, seconds in (("BEAT", 0.2), ("PATIENCE", 0.9), ("_LOOK", 0.02)):
    monkeypatch.setattr(locks, name, seconds)


def another(run, **about):
  """Writes the lock of a process of another machine."""
  lock = {"holder": "process 7 on far", "machine": "far", "process": 7, "start": "1"}
  (run / LOCK).write_bytes(json.dumps(lock | about).encode())


@contextlib.contextmanager
def living(run):
  """Another machine's process that holds a folder and gives signs of life."""
  mine = locks._Lock(run / LOCK, str(run), "process 8 on far (train)")
  mine._mine["machine"] = "far"
  mine.take(wait=False)
  beats = threading.Thread(target=mine.live)
  beats.start()
  try:
    yield mine
  finally:
    mine.ended.set()
    beats.join()
    mine.leave()


def test_a_folder_is_held_and_left(folder):
  run = folder / "run"
  with hold(run), hold(run), hold_new(folder / "new"), hold(run, "-1"):
    names = [str(p.relative_to(folder)) for p in folder.walk()]
    assert names == [".new.lock", f"run/{LOCK}", f"run/{LOCK}-1"]
    about = json.loads((run / LOCK).read_bytes())
    assert f"process {os.getpid()} on {os.uname().nodename}" in about["holder"]
  assert not list(folder.walk())
  (folder / "file").write_bytes(b"")
  with pytest.raises(UsageError, match="file is a file"), hold(folder / "file"):
    pass


def test_one_that_lives_is_told_of(folder, capsys):
  with living(folder / "run"):
    start = time.monotonic()
    words = "run is being written by process 8 on far .train.: wait until it ends"
    with pytest.raises(UsageError, match=words), hold(folder / "run"):
      pass
    assert time.monotonic() - start < 0.9  # a sign of life is enough
    assert "looking whether that still runs" in capsys.readouterr().err
    with hold(folder / "other"):
      pass


def test_one_may_wait_for_it(folder):
  with contextlib.ExitStack() as stack:
    other = stack.enter_context(living(folder / "run"))
    threading.Timer(0.4, stack.close).start()
    start = time.monotonic()
    with hold(folder / "run", wait=True):
      assert time.monotonic() - start > 0.3 and other.ended.is_set()


@pytest.mark.parametrize("about", [{}, {"machine": None}, {"process": "x"}])
def test_a_machine_that_is_gone_is_waited_for_and_taken_over(folder, about):
  another(folder / "run", **about)
  start = time.monotonic()
  with hold(folder / "run"):
    assert time.monotonic() - start > 0.9
    assert b"far" not in (folder / "run" / LOCK).read_bytes()
  assert not list(folder.walk())


def test_a_lock_that_says_nothing_is_one_too(folder):
  (folder / "run" / LOCK).write_bytes(b"\xff[")
  start = time.monotonic()
  with hold(folder / "run"):
    assert time.monotonic() - start > 0.9


def test_a_process_of_this_machine_that_is_gone_is_known_at_once(folder):
  process = subprocess.Popen(
    [sys.executable, "-c", HOLDER, str(folder / "run")],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == "held\n"
  assert not locks._is_gone((folder / "run" / LOCK).read_bytes())
  process.send_signal(signal.SIGKILL)
  process.wait()
  start = time.monotonic()
  with hold(folder / "run"):
    assert time.monotonic() - start < locks.PATIENCE
  assert not list(folder.walk())


def test_its_number_may_be_anothers_now(folder):
  """A process of this machine, and of this number, that began at another time."""
  about = locks._process(os.getpid())
  another(folder / "run", **about | {"start": "1"})
  start = time.monotonic()
  with hold(folder / "run"):
    assert time.monotonic() - start < locks.PATIENCE


def test_of_two_that_take_over_one_succeeds(folder):
  another(folder / "run")
  taken, refused = [], []
  ready = threading.Barrier(2)

  def contend(name):
    mine = locks._Lock(folder / "run" / LOCK, "run", name)
    mine._mine["machine"] = "far"
    ready.wait()
    try:
      mine.take(wait=False)
    except UsageError as e:
      refused.append(str(e))
      return
    taken.append(name)
    threading.Thread(target=mine.live, daemon=True).start()
    time.sleep(1)  # so that the other sees a sign of life
    mine.ended.set()

  both = [threading.Thread(target=contend, args=(n,)) for n in ("one", "two")]
  for thread in both:
    thread.start()
  for thread in both:
    thread.join()
  assert len(taken) == 1 and len(refused) == 1
  assert f"being written by {taken[0]}" in refused[0]


def test_who_has_lost_a_folder_writes_nothing_more(folder):
  run = folder / "run"
  with pytest.raises(UsageError, match="taken over by process 7 on far"), hold(run):
    files.write_text(run / "a", "mine")
    another(run)  # which found no sign of life
    deadline = time.monotonic() + 20
    while not locks._held[run / LOCK].lost:
      assert time.monotonic() < deadline
      time.sleep(0.02)
    files.write_text(folder / "elsewhere", "mine")
    files.write_text(run / "codecs" / "b", "mine")
  # What is the other's stays.
  names = [str(p.relative_to(folder)) for p in folder.walk()]
  assert names == ["elsewhere", f"run/{LOCK}", "run/a"]


def test_a_beat_whose_answer_was_lost_is_no_loss(folder):
  """The lock was written, and this process believes that it was not."""
  run, deadline = folder / "run", time.monotonic() + 20

  def beats_again(mine, number):
    while mine._beats < number:
      assert not mine.lost and time.monotonic() < deadline
      time.sleep(0.02)

  with hold(run):
    mine = locks._held[run / LOCK]
    old = mine._generation
    beats_again(mine, 3)
    assert mine._generation != old
    mine._generation = old
    beats_again(mine, mine._beats + 3)
    assert mine._generation != old
  assert not list(folder.walk())


def test_a_fork_does_not_hold_it(folder):
  with hold(folder / "run"):
    pid = os.fork()
    if pid == 0:
      os._exit(len(locks._held))
    assert os.waitpid(pid, 0)[1] == 0
    assert (folder / "run" / LOCK).exists()


@pytest.mark.parametrize(
  "content", [b"", b"\xff", b"[" * 100_000, b'{"holder": 3}', b"3"]
)
def test_who_holds_a_lock_that_says_nothing(content):
  assert locks._holder(content) == "somebody" and not locks._is_gone(content)
