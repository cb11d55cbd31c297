"""A folder that is whole or absent, and where parameters are found."""

import errno
import json
import os
import shutil
import types

import pytest

from ccl_jax.checkpoints.find import find_parameters, read_config
from ccl_jax.checkpoints.folders import new_folder
from ccl_jax.errors import UsageError
from ccl_jax.training.profile import Profile


@pytest.fixture
def disk(monkeypatch):
  """Sets the bytes that are free."""

  def free(nbytes):
    usage = types.SimpleNamespace(total=10**9, used=0, free=nbytes)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

  return free


def test_a_folder_appears_when_all_of_it_is_there(tmp_path):
  left = tmp_path / ".new.unfinished"  # by a killed process
  left.mkdir()
  (left / "stale").touch()
  with new_folder(tmp_path / "new", 10) as fresh:
    assert fresh == left and not list(fresh.iterdir())
    (fresh / "a").write_text("x")
    assert not (tmp_path / "new").exists()
  assert [p.name for p in tmp_path.iterdir()] == ["new"]
  assert [p.name for p in (tmp_path / "new").iterdir()] == ["a"]


def test_a_disk_that_is_too_small_is_told_in_gigabytes(tmp_path, disk):
  disk(12_340_000_000)
  message = "needs 20.4 GB, its disk has 12.3 GB free"  # 2 % more than 20 GB
  with pytest.raises(UsageError, match=message), new_folder(tmp_path / "x", 20 * 10**9):
    pass
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_write_that_ends_early_leaves_nothing(tmp_path, error):
  with pytest.raises(error), new_folder(tmp_path / "new", 10) as fresh:
    (fresh / "a").write_text("x")
    raise error
  assert not list(tmp_path.iterdir())


def test_a_full_disk_is_the_users_to_mend(tmp_path):
  full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
  with (
    pytest.raises(UsageError, match="cannot write .*new: No space left"),
    new_folder(tmp_path / "new", 10),
  ):
    raise full
  assert not list(tmp_path.iterdir())


def test_the_disk_must_hold_it_and_a_fiftieth_more(tmp_path, disk):
  disk(1_020_000)
  with new_folder(tmp_path / "exact", 1_000_000):
    pass
  disk(1_019_999)
  with (
    pytest.raises(UsageError, match=r"new needs 0.0 GB, its disk has 0.0 GB"),
    new_folder(tmp_path / "new", 1_000_000),
  ):
    pass
  assert [p.name for p in tmp_path.iterdir()] == ["exact"]


def test_what_is_there_already_is_left_alone(tmp_path):
  (tmp_path / "empty").mkdir()
  with new_folder(tmp_path / "empty", 0) as fresh:
    (fresh / "a").touch()
  (tmp_path / "file").touch()
  for name, reason in (
    ("empty", "is there already"),
    ("file", "is there already"),
    ("gs://x", "is no local folder"),
  ):
    dst = name if "://" in name else tmp_path / name
    with pytest.raises(UsageError, match=reason), new_folder(dst, 0):
      pass
  assert (tmp_path / "empty" / "a").exists() and (tmp_path / "file").is_file()


def config(folder, **about):
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "config.json").write_text(json.dumps(about))
  return folder


def test_every_kind_of_folder_has_its_parameters(tmp_path):
  """A run trains its parameters, and what it is for is their average."""
  run = config(tmp_path / "run", model={"preset": "tiny"})
  assert find_parameters(run) == (run, "ema", {"model": {"preset": "tiny"}}, None)
  (run / "codecs").mkdir()
  assert find_parameters(run).codecs == run / "codecs"
  for kind in ("joint", "wan-dit"):
    folder = config(tmp_path / kind, kind=kind)
    assert find_parameters(folder) == (folder, "params", {"kind": kind}, None)
  whole = config(tmp_path / "wan", kind="wan")
  dit = config(whole / "dit", kind="wan-dit", size="14b")
  (dit / "codecs").mkdir()  # of nobody
  got = find_parameters(whole)
  assert got == (dit, "params", {"kind": "wan-dit", "size": "14b"}, None)
  (whole / "codecs").mkdir()
  assert find_parameters(whole).codecs == whole / "codecs"
  named = config(tmp_path / "named", kind="joint", codecs=str(run / "codecs"))
  (named / "codecs").mkdir()
  assert find_parameters(named).codecs == run / "codecs"


def test_a_folder_without_parameters(tmp_path):
  (tmp_path / "config.json").write_text("[1]")
  for folder in (tmp_path, tmp_path / "none", config(tmp_path / "x", kind="vocoder")):
    with pytest.raises(UsageError, match="holds no model: expected config.json"):
      find_parameters(folder)
  assert read_config(tmp_path) == read_config(tmp_path / "none") == {}


@pytest.fixture
def traced(monkeypatch):
  calls = []
  start = lambda folder: calls.append(("start", folder.name))
  monkeypatch.setattr("jax.profiler.start_trace", start)
  monkeypatch.setattr("jax.profiler.stop_trace", lambda: calls.append("stop"))
  wait = lambda state: calls.append(("wait", state))
  monkeypatch.setattr("jax.block_until_ready", wait)
  return calls


def test_a_trace_holds_its_steps_and_no_others(tmp_path, traced):
  """The state a step starts from is waited for, then the one the last returned."""
  profile = Profile(tmp_path / "p", (3, 4))
  for step in range(7):
    profile.begin(step, step)
    traced.append(step)
    profile.end(step, step + 1)
  profile.close()
  assert traced == [
    0, 1, 2, ("wait", 3), ("start", "p"), 3, 4, ("wait", 5), "stop", 5, 6
  ]  # fmt: skip


def test_a_run_that_stops_within_a_trace_writes_it(tmp_path, traced):
  profile = Profile(tmp_path / "p", [0, 8])
  profile.begin(0, 0)
  profile.close()
  profile.close()
  assert traced[-2:] == [("start", "p"), "stop"]


def test_steps_to_trace(tmp_path, traced):
  profile = Profile(tmp_path)
  for step in (0, 1):
    profile.begin(step, 0)
    profile.end(step, 0)
  profile.close()
  assert not traced
  Profile(tmp_path, (2, 2))
  for steps in ((3, 2), (-1, 2), (1,), (1, 2, 3)):
    with pytest.raises(UsageError, match=r"expected \(first, last\) step"):
      Profile(tmp_path, steps)
