"""Local copies of files in buckets: made once, kept within bounds, never half."""

import os
import pathlib
import threading
import time

import pytest

from ccl_jax.errors import UsageError
from ccl_jax.remote import copies, mirror
from ccl_jax.remote.copies import local, local_tree
from ccl_jax.remote.mirror import Mirror


@pytest.fixture
def downloads(folder, monkeypatch):
  """Names of what was downloaded."""
  seen, download = [], type(folder).download

  def counted(self, path):
    seen.append(self.name)
    download(self, path)

  monkeypatch.setattr(type(folder), "download", counted)
  return seen


def write(folder, **sizes):
  for name, size in sizes.items():
    (folder / name).write_bytes(name.encode() * size)


def use(path):
  with local(path) as copy:
    data = copy.read_bytes()
  time.sleep(0.01)  # a later use has a later time
  return data


def test_a_file_is_copied_once_and_again_when_it_is_written(folder, downloads, cache):
  write(folder, a=3)
  assert [use(folder / "a") for _ in range(3)] == [b"aaa"] * 3 and downloads == ["a"]
  (folder / "a").write_bytes(b"bbb")
  assert use(folder / "a") == b"bbb" and downloads == ["a", "a"]
  with local(folder / "a") as copy:
    assert copy.parent == cache and copy.name.endswith("-a")


def test_a_file_of_this_machine_is_itself(tmp_path):
  with local(tmp_path / "x") as file, local_tree(str(tmp_path)) as tree:
    assert file == tmp_path / "x" and tree == tmp_path


def test_threads_that_ask_at_once_share_a_copy(folder, downloads):
  write(folder, a=1000)
  got = []
  threads = [
    threading.Thread(target=lambda: got.append(use(folder / "a"))) for _ in "1234"
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert got == [b"a" * 1000] * 4 and downloads == ["a"]


def test_what_was_used_longest_ago_goes_first(folder, downloads, monkeypatch, cache):
  monkeypatch.setenv(copies.LIMIT, "1e-8")  # ten bytes
  write(folder, a=4, b=4, c=4)
  use(folder / "a"), use(folder / "b"), use(folder / "a"), use(folder / "c")
  assert sorted(p.name[-1] for p in cache.iterdir()) == ["a", "c"]
  assert downloads == ["a", "b", "c"]
  use(folder / "b")
  assert sorted(p.name[-1] for p in cache.iterdir()) == ["b", "c"]


def test_what_is_in_use_stays(folder, monkeypatch, cache):
  monkeypatch.setenv(copies.LIMIT, "1e-8")
  write(folder, a=4, b=4, c=4, d=11)
  with local(folder / "a") as a, local(folder / "b"):
    words = "c has 0.0 GB, and copies .* may have 1e-08 GB together.*CCL_CACHE_GB"
    with pytest.raises(UsageError, match=words):
      use(folder / "c")
    assert a.read_bytes() == b"aaaa"
  assert use(folder / "c") == b"cccc"
  with pytest.raises(UsageError, match="d has 0.0 GB"):
    use(folder / "d")
  assert not [p for p in cache.iterdir() if p.name.endswith(".part")]


@pytest.mark.parametrize("text", ["0", "-1", "many", "inf", "nan"])
def test_no_bound(monkeypatch, text):
  monkeypatch.setenv(copies.LIMIT, text)
  with pytest.raises(UsageError, match="CCL_CACHE_GB: got .*expected a number of GB"):
    copies.limit()


def test_half_a_file_is_none(folder, monkeypatch, cache):
  write(folder, a=4)
  monkeypatch.setattr(type(folder), "download", lambda self, p: p.write_bytes(b"aa"))
  with pytest.raises(UsageError, match="a: 2 of 4 bytes came"):
    use(folder / "a")
  assert not list(cache.iterdir())
  with pytest.raises(FileNotFoundError, match="none"):
    use(folder / "none")
  with pytest.raises(UsageError, match="is a folder; expected a file"):
    (folder / "x" / "y").write_bytes(b"")
    use(folder / "x")


def test_what_a_dead_process_left_goes(folder, cache):
  write(folder, a=4)
  cache.mkdir(parents=True)
  (cache / ".x-a.99999999.part").write_bytes(b"half")
  use(folder / "a")
  assert [p.name[-2:] for p in cache.iterdir()] == ["-a"]


def test_a_folder_has_its_names_here(folder, monkeypatch):
  write(folder / "weights", one=2, two=3)
  (folder / "weights" / "sub" / "three").write_bytes(b"3")
  with local_tree(folder / "weights") as tree:
    assert tree.name == "weights"
    found = {p.relative_to(tree).as_posix(): p.read_bytes() for p in tree.rglob("*")
             if p.is_file()}  # fmt: skip
    assert found == {"one": b"oneone", "two": b"twotwotwo", "sub/three": b"3"}
    assert not any(p.is_symlink() for p in tree.rglob("*"))
  assert not tree.exists()
  with local_tree(folder / "weights" / "one") as file:
    assert file.name == "one" and file.read_bytes() == b"oneone"
  with pytest.raises(UsageError, match=f"{folder}/none: there is no such"):
    local_tree(folder / "none").__enter__()
  with (
    pytest.raises(UsageError, match=f"^{folder}/weights/one is damaged$"),
    local_tree(folder / "weights") as tree,
  ):
    raise UsageError(f"{tree / 'one'} is damaged")
  monkeypatch.setenv(copies.LIMIT, "1e-8")
  with pytest.raises(UsageError, match="weights has 0.0 GB, which are copied"):
    local_tree(folder / "weights").__enter__()


def test_data_that_a_run_builds_lie_on_this_machine(folder, cache, tmp_path):
  assert copies.built_data(tmp_path / "run") == tmp_path / "run" / "data"
  built = copies.built_data(folder / "run")
  assert built.parent == cache.parent / "data" and built.name.endswith("-run")
  assert built == copies.built_data(folder / "run")
  assert built != copies.built_data(folder / "other" / "run")


def names(folder):
  return [str(p.relative_to(folder)) for p in folder.walk()]


def test_a_folder_that_grows_is_uploaded_now_and_then(folder, monkeypatch):
  (folder / "run" / "log").write_bytes(b"1\n")
  (folder / "run" / "old" / "x").write_bytes(b"x")
  (folder / "run" / "other").write_bytes(b"-")
  grown = Mirror(folder / "run", ("log", "old", "none"))
  here = grown.folder
  assert isinstance(here, pathlib.Path) and here.name == "run"
  assert sorted(p.name for p in here.rglob("*")) == ["log", "old", "x"]
  with (here / "log").open("a") as f:
    f.write("2\n")
  (here / "board").mkdir()
  (here / "board" / "events").write_bytes(b"e")
  grown.push_soon()  # too soon
  assert (folder / "run" / "log").read_bytes() == b"1\n"
  (folder / "run" / "old" / "x").write_bytes(b"y")  # not changed here: not uploaded
  grown.push()
  assert (folder / "run" / "log").read_bytes() == b"1\n2\n"
  assert (folder / "run" / "old" / "x").read_bytes() == b"y"
  monkeypatch.setattr(mirror, "SECONDS", 0)
  (here / "board" / "events").unlink()
  (here / "board" / "more").write_bytes(b"m")
  grown.push_soon()
  grown._thread.join()
  assert names(folder / "run") == ["board/more", "log", "old/x", "other"]
  os.truncate(here / "log", 0)
  grown.close()
  assert (folder / "run" / "log").read_bytes() == b"" and not here.exists()


def test_a_folder_of_this_machine_is_written_as_it_is(tmp_path):
  grown = Mirror(tmp_path, ("log",))
  assert grown.folder == tmp_path
  grown.push_soon(), grown.push(), grown.close()
  assert tmp_path.exists()
