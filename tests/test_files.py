"""The one writer of small files: what a kill, a power cut and a full disk leave."""

import errno
import fcntl
import json
import os
import pathlib
import resource
import subprocess
import sys

import pytest

from ccl_jax.errors import UsageError
from ccl_jax.files import (
  WriteError,
  append_line,
  check_writable,
  new_file,
  sweep,
  write_json,
  write_text,
)


def names(folder):
  return sorted(p.name for p in folder.iterdir())


@pytest.fixture
def calls(monkeypatch):
  """Syncs and renames, in their order."""
  seen, sync, rename = [], os.fsync, os.replace

  def fsync(number):
    seen.append(("fsync", os.path.basename(os.readlink(f"/proc/self/fd/{number}"))))
    sync(number)

  def replace(source, target):
    seen.append(("replace", os.path.basename(source), os.path.basename(target)))
    rename(source, target)

  monkeypatch.setattr(os, "fsync", fsync)
  monkeypatch.setattr(os, "replace", replace)
  return seen


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, calls):
  """Synced under its hidden name, renamed, and then the new name is synced too."""
  write_json(tmp_path / "new" / "a.json", {"a": "é"})
  part = f".a.json.{os.getpid()}.part"
  assert calls == [("fsync", part), ("replace", part, "a.json"), ("fsync", "new")]
  assert (tmp_path / "new" / "a.json").read_bytes() == b'{"a": "\\u00e9"}\n'
  assert names(tmp_path / "new") == ["a.json"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_kill_before_the_new_name_leaves_the_old_file(tmp_path, call):
  """The process dies at once, in a call of the system; its remains can be swept."""
  path = tmp_path / "a.txt"
  write_text(path, "old")
  code = (
    "import os, signal, sys; from ccl_jax.files import write_text\n"
    f"os.{call} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
    "write_text(sys.argv[1], 'new')"
  )
  root = pathlib.Path(__file__).parents[1]
  done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=root, check=False)
  assert done.returncode == -9
  assert path.read_text() == "old" and len(names(tmp_path)) == 2
  (tmp_path / ".b.txt.9.part").touch()
  sweep(tmp_path, "a.txt")
  assert names(tmp_path) == [".b.txt.9.part", "a.txt"]


def test_a_full_disk_is_one_line_with_the_path(tmp_path, monkeypatch):
  path = tmp_path / "a.json"
  write_json(path, {"a": 1})

  def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(os, "fsync", full)
  log = tmp_path / "log"
  for write in (lambda: write_json(path, 2), lambda: append_line(log, "x")):
    with pytest.raises(UsageError, match=r"^cannot write \S*: No space left on dev"):
      write()
  with pytest.raises(WriteError) as e:
    write_json(path, {"a": 2})
  assert (e.value.errno, e.value.filename) == (errno.ENOSPC, str(path))
  assert json.loads(path.read_text()) == {"a": 1}
  assert names(tmp_path) == ["a.json", "log"]


def test_the_system_refuses_for_real(tmp_path):
  """A file that may not grow, a folder that is a file, a disk without room."""
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
  try:
    with pytest.raises(WriteError, match="big.txt: File too large"):
      write_text(tmp_path / "big.txt", "x" * 2000)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert names(tmp_path) == []
  write_text(tmp_path / "a", "")
  with pytest.raises(WriteError, match=r"a/b: (Not a directory|File exists)"):
    write_text(tmp_path / "a" / "b", "")
  with pytest.raises(WriteError, match="/dev/full: No space left on device"):
    append_line("/dev/full", "x")


def test_an_error_while_writing_leaves_nothing(tmp_path):
  with pytest.raises(KeyError), new_file(tmp_path / "a") as part:
    part.write_text("x")
    raise KeyError
  assert names(tmp_path) == []


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EIO])
def test_a_folder_that_cannot_be_synced(tmp_path, monkeypatch, code):
  """Some file systems sync no folders, which is no error; a broken disk is one."""
  sync = os.fsync

  def fsync(number):
    if os.path.isdir(f"/proc/self/fd/{number}"):
      raise OSError(code, os.strerror(code))
    sync(number)

  monkeypatch.setattr(os, "fsync", fsync)
  if code == errno.EIO:
    with pytest.raises(WriteError, match="Input/output error"):
      write_text(tmp_path / "a", "x")
  else:
    write_text(tmp_path / "a", "x")
  assert (tmp_path / "a").read_text() == "x"


def test_lines_are_added_one_by_one(tmp_path, calls):
  for line in ("a", "é"):
    append_line(tmp_path / "log", line)
  assert (tmp_path / "log").read_text("utf-8") == "a\né\n"
  assert calls == [("fsync", "log")] * 2


LIVING = """
import sys, time
from ccl_jax.files import new_file, scratch_folder
with new_file(sys.argv[1] + "/a.json") as part, scratch_folder(sys.argv[1] + "/c"):
  print("writing", flush=True)
  time.sleep(60)
"""


def test_what_dead_processes_left_is_swept_and_what_living_ones_write_is_not(tmp_path):
  gone = 2**22 + 1  # no process has this number
  root = pathlib.Path(__file__).parents[1]
  process = subprocess.Popen(
    [sys.executable, "-c", LIVING, str(tmp_path)],
    cwd=root, stdout=subprocess.PIPE, text=True,
  )  # fmt: skip
  try:
    assert process.stdout.readline() == "writing\n"
    living = [f".a.json.{process.pid}.part", f".c.{process.pid}.part"]
    (tmp_path / f".b.json.{gone}.part").touch()
    (tmp_path / f".d.{gone}.part").mkdir()
    (tmp_path / f".d.{gone}.part" / "x").touch()
    (tmp_path / ".hidden").touch()
    # A number that another process has by now, and one written from another machine.
    (tmp_path / f".e.{os.getppid()}.part").touch()
    here = tmp_path / f".f.{gone + 1}.part"
    here.touch()
    with here.open() as file:
      fcntl.flock(file, fcntl.LOCK_EX)
      sweep(tmp_path)
    left = {*living, ".hidden", f".e.{os.getppid()}.part", here.name}
    assert set(names(tmp_path)) == left
  finally:
    process.kill()
    process.wait()
  sweep(tmp_path)
  assert set(names(tmp_path)) == {".hidden", f".e.{os.getppid()}.part"}


def test_what_was_put_aside_comes_back_where_nothing_took_its_place(tmp_path):
  gone = 2**22 + 1
  for name in ("codecs", "other"):
    (tmp_path / f".{name}.{gone}.old").mkdir()
    (tmp_path / f".{name}.{gone}.old" / "old").touch()
  (tmp_path / "other").mkdir()
  sweep(tmp_path)
  assert names(tmp_path) == ["codecs", "other"]
  assert names(tmp_path / "codecs") == ["old"] and names(tmp_path / "other") == []


def test_a_disk_is_tried_before_the_work(tmp_path):
  check_writable(tmp_path / "a" / "b.json")
  assert names(tmp_path) == []
  (tmp_path / "file").touch()
  for path, why in (
    (tmp_path, "Is a directory"),
    (tmp_path / "file" / "x", "Not a directory"),
    ("/proc/none/x", "No such file"),
  ):
    with pytest.raises(WriteError, match=f"cannot write {path}: {why}"):
      check_writable(path)


def test_names_that_are_no_unicode_are_written_as_json_has_them(tmp_path):
  """As Python spells a name that is no UTF-8: JSON in the text stays JSON."""
  text = '{"name": "caf\udce9 \u00e9"}'
  write_text(tmp_path / "a.json", text)
  append_line(tmp_path / "b.jsonl", text)
  written = b'{"name": "caf\\udce9 \xc3\xa9"}'
  assert (tmp_path / "a.json").read_bytes() == written
  assert (tmp_path / "b.jsonl").read_bytes() == written + b"\n"
  assert json.loads(written)["name"] == "caf\udce9 \u00e9"
