"""Records on disk: when they are there, what their keys hang on, what a kill leaves."""

import hashlib
import json
import os
import pathlib

import numpy as np
import pytest

from ccl_jax.metrics import outputs
from ccl_jax.metrics.base import Metric, Unscorable
from ccl_jax.metrics.frechet import write_features
from ccl_jax.metrics.records import Records, digest, sha256
from ccl_jax.metrics.runner import Item, evaluate


@pytest.fixture
def events(monkeypatch):
  """Writes, syncs and renames, in their order."""
  seen = []
  fsync, save, replace = os.fsync, np.save, os.replace

  def synced(descriptor):
    path = pathlib.Path(os.readlink(f"/proc/self/fd/{descriptor}"))
    if path.is_file():
      seen.append(("fsync", path.name, os.path.getsize(path)))
    fsync(descriptor)

  def saved(file, array):
    seen.append(("save", pathlib.Path(file.name).name))
    save(file, array)

  def replaced(source, target):
    seen.append(("rename", source.name, target.name))
    replace(source, target)

  monkeypatch.setattr(os, "fsync", synced)
  monkeypatch.setattr(np, "save", saved)
  monkeypatch.setattr(os, "replace", replaced)
  return seen


def test_what_a_run_leaves_is_whole_or_the_old_one(tmp_path, monkeypatch):
  """Reports and features are written beside their names, and take them in the end."""
  film, out = tmp_path / "a.mp4", tmp_path / "out"
  film.write_text("a")

  def write(k):
    x = np.arange(6.0).reshape(3, 2) + k
    write_features(out / "fad.npz", x)
    results = run(tmp_path / "records", [film], x=k, protocol=f"{k}")
    item = Item("a", film, {})
    metric = Metric("m", {"a": k}, scorer(k), needs=())
    outputs.write_outputs(out, [item], [], [metric], {}, results, {}, f"{k}")
    return {p.name: p.read_bytes() for p in out.iterdir()}

  before = write(0)
  assert len(before) == 5 and all(before.values())
  with monkeypatch.context() as patch:
    patch.setattr(os, "replace", lambda *_: None)  # nothing gets its name
    assert write(1) == before
  after = write(1)
  assert after.keys() == before.keys()
  assert not [name for name in before if after[name] == before[name]]


def row(key, **scores):
  return {"key": key, "id": "a", "metric": "fad", "scores": scores}


def test_a_record_is_on_the_disk_before_it_counts(tmp_path, events):
  """All of its line, and its arrays, whole, before it."""
  records = Records(tmp_path)
  made = records.add(row("k", x=1.5, features=np.arange(6.0).reshape(2, 3)))
  assert made["scores"] == {"x": 1.5, "features": {"file": "features/fad/k.npy"}}
  size = (tmp_path / "records.jsonl").stat().st_size
  part = f".k.npy.{os.getpid()}.part"
  assert events == [
    ("save", part),
    ("fsync", part, (tmp_path / "features/fad/k.npy").stat().st_size),
    ("rename", part, "k.npy"),
    ("fsync", "records.jsonl", size),
  ]
  np.testing.assert_array_equal(
    np.load(tmp_path / "features/fad/k.npy"), [[0, 1, 2], [3, 4, 5]]
  )


def test_a_record_counts_once_it_is_on_the_disk(tmp_path, monkeypatch):
  def full(descriptor):
    raise OSError("disk full")

  monkeypatch.setattr(os, "fsync", full)
  records = Records(tmp_path)
  with pytest.raises(OSError, match="disk full"):
    records.add(row("k", x=1))
  assert records.find("k", "a") is None


def test_what_is_found_has_the_name_that_is_asked_for(tmp_path):
  records = Records(tmp_path)
  records.add(row("k", x=1))
  records.add(row("l", features=np.zeros(2)))
  records.add({"key": "m", "id": "a", "metric": "fad", "reason": "short"})
  again = Records(tmp_path)
  assert again.find("k", "b") == row("k", x=1) | {"id": "b"}
  assert again.find("m", "a")["reason"] == "short" and again.find("n", "a") is None
  assert again.find("l", "a")
  (tmp_path / "features/fad/l.npy").unlink()
  assert again.find("l", "a") is None  # its arrays are a part of it


def test_a_line_that_is_cut_off_is_dropped_and_the_last_of_a_key_holds(tmp_path):
  records = Records(tmp_path)
  for x in (1, 2):
    records.add(row("k", x=x))
  path = tmp_path / "records.jsonl"
  whole = path.read_bytes()
  path.write_bytes(whole + b'{"key": "l", "id"')
  again = Records(tmp_path)
  assert path.read_bytes() == whole
  assert again.find("k", "a")["scores"] == {"x": 2} and again.find("l", "a") is None
  again.add(row("l", x=3))
  assert path.read_bytes().count(b"\n") == 3


def test_hashes_of_files_and_folders(tmp_path):
  """A folder is the names and hashes of what is in it, hidden things left out."""
  (tmp_path / "b").mkdir()
  (tmp_path / ".git").mkdir()
  for name, text in (("z", "1"), ("b/y", "22"), (".git/x", "3"), (".hid", "4")):
    (tmp_path / name).write_text(text)
  of = lambda text: hashlib.sha256(text.encode()).hexdigest()
  assert sha256(tmp_path / "z") == of("1")
  assert sha256(tmp_path) == of(f"b/y {of('22')}\nz {of('1')}\n")
  text = '[{"a": 1, "b": "é"}, [2]]'
  assert digest({"b": "é", "a": 1}, [2]) == of(text)[:32]


def scorer(x):
  return lambda: lambda clip: {"x": x, "fields": dict(clip.fields)}


def run(folder, films, x=0, protocol="p", fields=("prompt",), name="m", prompt="q"):
  metric = Metric(name, {"a": protocol}, scorer(x), needs=(), fields=fields)
  items = [Item(path.stem, path, {"prompt": prompt, "seed": x}) for path in films]
  return evaluate(items, [metric], Records(folder))


def test_a_record_counts_while_nothing_that_it_hangs_on_changes(tmp_path):
  films = [tmp_path / f"{n}.mp4" for n in "ab"]
  for path in films:
    path.write_text(path.stem)
  out = tmp_path / "out"
  assert run(out, films).scored == 2
  again = run(out, films, x=9)  # neither the seed nor the code is what it reads
  assert again.scored == again.decoded == 0
  assert again.records["m", "a"]["scores"]["x"] == 0
  for change in (
    {"protocol": "q"}, {"name": "n"}, {"prompt": "r"}, {"fields": ("prompt", "seed")},
  ):  # fmt: skip
    assert run(out, films, **change).scored == 2, change
  films[1].write_text("another film")
  assert run(out, films).scored == 1
  copy = tmp_path / "c.mp4"
  copy.write_text("a")
  assert run(out, [copy]).records["m", "c"]["id"] == "c"  # found by its bytes
  lines = (out / "records.jsonl").read_text().splitlines()
  assert len(lines) == 2 + 4 * 2 + 1
  first = json.loads(lines[0])
  assert first["video"] == hashlib.sha256(b"a").hexdigest()
  assert first["protocol"] == digest({"a": "p"})


def test_what_cannot_be_scored_is_kept_and_accidents_are_not(tmp_path, capsys):
  films = [tmp_path / f"{n}.mp4" for n in "abc"]
  for path in films:
    path.write_text(path.stem)
  asked, heard = [], []

  def load():
    def score(clip):
      asked.append(clip.name)
      if clip.name == "b":
        raise Unscorable("too short")
      if clip.name == "c":
        raise ZeroDivisionError("none")
      return {"x": 1}

    return score

  def unusable():
    heard.append("loaded")
    raise Unscorable("no network")

  metrics = [Metric(n, {}, f, needs=()) for n, f in (("m", load), ("n", unusable))]
  items = [Item(p.stem, p, {}) for p in films]
  done = []
  got = evaluate(items, metrics, Records(tmp_path / "out"), done.append)
  assert done == ["a", "b", "c"] and heard == ["loaded"]
  assert got.broken == {"n": "no network"} and got.scored == 2
  assert got.accidents == ["m of c: ZeroDivisionError: none"]
  assert got.records["m", "b"]["reason"] == "too short"
  assert set(got.records) == {("m", "a"), ("m", "b")}
  evaluate(items, metrics[:1], Records(tmp_path / "out"))
  assert asked == ["a", "b", "c", "c"]
