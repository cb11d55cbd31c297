"""Which folders may be written, and by whom: one process at a time, whoever dies."""

import errno
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from ccl_jax import places
from ccl_jax.errors import UsageError
from ccl_jax.files import WriteError
from ccl_jax.places import hold, hold_new, refuse_schemes, require_plain

ROOT = pathlib.Path(__file__).parents[1]
HOLDER = """
import sys, time
from ccl_jax.places import hold
with hold(sys.argv[1]):
  print("held", flush=True)
  time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
  """Another process that holds `tmp_path / "run"`."""
  process = subprocess.Popen(
    [sys.executable, "-c", HOLDER, str(tmp_path / "run")],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == "held\n"
  yield process
  process.kill()
  process.wait()


def test_a_second_process_is_told_of_the_first(tmp_path, holder):
  with pytest.raises(UsageError) as e, hold(tmp_path / "run"):
    pass
  line = str(e.value)
  assert f"process {holder.pid} on {os.uname().nodename}" in line
  assert "-c" in line and "\n" not in line and str(tmp_path / "run") in line
  with hold(tmp_path / "run", "-1"), hold(tmp_path / "other"):  # these are free
    pass


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_death_releases_it(tmp_path, holder, how):
  holder.send_signal(how)
  holder.wait()
  with hold(tmp_path / "run"):
    assert (tmp_path / "run" / places.LOCK).exists()
  assert not list((tmp_path / "run").iterdir())


def test_one_may_wait_for_it(tmp_path, holder, capfd):
  os.kill(holder.pid, signal.SIGTERM)  # while this one waits, or before
  with hold(tmp_path / "run", wait=True):
    pass


def test_a_fork_does_not_hold_it(tmp_path):
  """A child that outlives its parent, as a decoder may, keeps no folder from others."""
  with hold(tmp_path / "run"):
    pid = os.fork()
    if pid == 0:
      time.sleep(30)
      os._exit(0)
  try:
    with hold(tmp_path / "run"):
      pass
  finally:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_a_process_may_hold_one_folder_twice(tmp_path):
  with hold(tmp_path), hold(tmp_path):
    pass
  assert not list(tmp_path.iterdir())


def test_what_is_refused_leaves_no_folder(tmp_path):
  with pytest.raises(UsageError), hold(tmp_path / "a" / "b"):
    raise UsageError("wrong")
  with pytest.raises(UsageError), hold_new(tmp_path / "a" / "b"):
    raise UsageError("wrong")
  assert not list(tmp_path.iterdir())
  with pytest.raises(UsageError), hold(tmp_path / "a" / "b"):
    (tmp_path / "a" / "b" / "mine").touch()
    raise UsageError("late")
  assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["mine"]


def test_a_new_folder_has_its_lock_beside_it(tmp_path):
  with hold_new(tmp_path / "new"):
    assert [p.name for p in tmp_path.iterdir()] == [".new.lock"]
    (tmp_path / "new").mkdir()
  assert [p.name for p in tmp_path.iterdir()] == ["new"]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
  (tmp_path / "file").touch()
  with pytest.raises(UsageError, match="file is a file"), hold(tmp_path / "file"):
    pass
  inside = tmp_path / "file" / "folder"
  with pytest.raises(WriteError, match="cannot write .*file"), hold(inside):
    pass
  with pytest.raises(WriteError, match="cannot write /proc"), hold("/proc/none"):
    pass


def test_a_lock_that_cannot_be_signed_leaves_nothing(tmp_path, monkeypatch):
  """On a full disk a file can be made, and nothing be written into it."""

  def full(number, data):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr("ccl_jax.places.os.write", full)
  for held in (hold(tmp_path / "a"), hold_new(tmp_path / "b")):
    with pytest.raises(WriteError, match="cannot write .*No space left"), held:
      pass
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  "path", ["gs://b/x", "s3://b", "hdfs://h/x", "file:///tmp/x", "HTTP://h", "a+b-1://x"]
)
def test_addresses_are_refused(path):
  for value in (path, [path], ("fine", path), pathlib.PurePosixPath(path + "/y")):
    if isinstance(value, pathlib.PurePath):
      continue  # which has made one slash of two
    with pytest.raises(UsageError, match="--out: got .*is not supported"):
      refuse_schemes({"--fine": "a", "--out": value})


@pytest.mark.parametrize("path", ["s3:/b/x", "gs:/b", "HTTP:/h/x", "file:/tmp/x"])
def test_an_address_that_lost_a_slash(path):
  """It would be a folder of this machine, called "s3:"."""
  with pytest.raises(UsageError, match="--out: got .*expected an address with two sla"):
    refuse_schemes({"--out": path}, ["--out"])
  refuse_schemes({"--out": f"./{path}"}, ["--out"])


def test_what_is_no_address():
  refuse_schemes({"a": "runs/x", "b": "/abs:0.5+/b:1", "c": None, "d": 3, "e": "C:/x",
                  "f": ["v5p:4x4x4", "host:99"], "g": "1://x", "h": ""})  # fmt: skip


@pytest.mark.parametrize("name", ["x[05]", "x*", "x?", "[", "a]", "p*/run"])
def test_patterns_are_refused(name, tmp_path):
  with pytest.raises(UsageError, match="takes? for a pattern"):
    require_plain(tmp_path / name)
  require_plain(tmp_path / "x{1,2}~ é'$")


def test_a_pattern_above_is_seen_too(tmp_path, monkeypatch):
  (tmp_path / "x[05]").mkdir()
  monkeypatch.chdir(tmp_path / "x[05]")
  with pytest.raises(UsageError, match="pattern"):
    require_plain("run")
