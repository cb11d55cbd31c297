"""A new folder is whole or absent."""

import errno
import os
import shutil
import types

import pytest

from ccl_jax.checkpoints.folders import new_folder
from ccl_jax.errors import UsageError


@pytest.fixture
def disk(monkeypatch):
  """Sets the bytes that are free."""

  def free(nbytes):
    usage = types.SimpleNamespace(total=10**9, used=0, free=nbytes)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

  return free


def test_a_folder_appears_when_all_of_it_is_there(tmp_path):
  left = tmp_path / f".new.{2**22 + 1}.part"  # by a process that is no more
  left.mkdir()
  (left / "stale").touch()
  with new_folder(tmp_path / "new", 10) as fresh:
    assert not left.exists() and not list(fresh.iterdir())
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
    ("hdfs://x", "is not supported"),
  ):
    dst = name if "://" in name else tmp_path / name
    with pytest.raises(UsageError, match=reason), new_folder(dst, 0):
      pass
  assert (tmp_path / "empty" / "a").exists() and (tmp_path / "file").is_file()
