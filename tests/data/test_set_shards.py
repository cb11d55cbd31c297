"""A set's shards are those that its index tells of, each once."""

import json
import os
import shutil

import pytest

from ccl_jax.data.sets import shards
from ccl_jax.data.sets.mixture import open_mixture
from ccl_jax.data.sets.record_set import RecordSet
from ccl_jax.errors import UsageError
from tests.data.latent_sets import FILM, damage, make_set


@pytest.fixture
def root(tmp_path):
  return make_set(tmp_path / "set", {FILM: 9})  # three shards


def files(root):
  return sorted(root.glob("*.array_record"))


def test_a_whole_set_is_read_once(root, monkeypatch):
  RecordSet(root).require_whole()
  read = []
  own = shards._is_its_own
  monkeypatch.setattr(
    shards, "_is_its_own", lambda r, e: read.append(e["file"]) or own(r, e)
  )
  RecordSet(root).require_whole()
  assert not read
  os.utime(files(root)[1], ns=(0, 0))  # as a copy would
  RecordSet(root).require_whole()
  assert read == [files(root)[1].name]


@pytest.mark.parametrize(
  "text", ["[" * 100_000, "", "null", '{"a": 3}', "\0", "9" * 9999]
)
def test_a_note_of_what_was_read_that_is_none(root, text):
  """It is made again: nothing hangs on it."""
  (root / shards.CHECKED).write_text(text)
  RecordSet(root).require_whole()
  noted = json.loads((root / shards.CHECKED).read_text())
  assert set(noted) == {p.name for p in files(root)}


def test_a_large_set_is_read_over_several_starts(root, monkeypatch):
  """As much as fits, but one shard at least: 1, 1 and 1 of three."""
  monkeypatch.setattr(shards, "MOST", files(root)[0].stat().st_size + 1)
  read = []
  own = shards._is_its_own
  monkeypatch.setattr(
    shards, "_is_its_own", lambda r, e: read.append(e["file"]) or own(r, e)
  )
  for start in range(1, 5):
    RecordSet(root).require_whole()
    assert read == [p.name for p in files(root)][:start]


@pytest.mark.parametrize("noted", [False, True])
def test_a_shard_of_another_set_is_refused(root, tmp_path, noted):
  """Its records are whole, its name and its size are right."""
  if noted:
    RecordSet(root).require_whole()
  other = make_set(tmp_path / "other", {FILM: 9}, video_std=True)
  shutil.copy(files(other)[1], files(root)[1])
  with pytest.raises(UsageError, match=f"{files(root)[1].name} is not the shard"):
    RecordSet(root).require_whole()
  shutil.copy(files(root)[0], files(root)[1])
  with pytest.raises(UsageError, match="is not the shard"):
    RecordSet(root).require_whole()


def test_a_shard_with_fewer_records_is_refused(root, tmp_path):
  other = make_set(tmp_path / "other", {FILM: 2})
  shutil.copy(files(other)[0], files(root)[0])
  with pytest.raises(UsageError, match="is not the shard"):
    RecordSet(root).require_whole()


def test_damaged_records_are_the_readers_business(root):
  damage(root, FILM, 4)
  RecordSet(root).require_whole()


def test_a_set_that_cannot_be_written_is_checked_too(root, monkeypatch):
  def refused(path, value):
    raise shards.WriteError(30, "Read-only file system", str(path))

  monkeypatch.setattr(shards, "write_json", refused)
  RecordSet(root).require_whole()


def test_a_shard_listed_twice_is_refused(root):
  path = root / "index.json"
  index = json.loads(path.read_text())
  path.write_text(
    json.dumps(index | {"shards": [*index["shards"], index["shards"][0]]})
  )
  with pytest.raises(UsageError, match="one shard twice"):
    RecordSet(root)
  # The same under another name.
  copy = root / "shard-copy.array_record"
  shutil.copy(files(root)[0], copy)
  entry = index["shards"][0] | {"file": copy.name}
  path.write_text(json.dumps(index | {"shards": [*index["shards"], entry]}))
  with pytest.raises(UsageError, match=f"{files(root)[0].name} and {copy.name}"):
    RecordSet(root)


def test_a_set_named_twice_is_refused(root, tmp_path):
  (tmp_path / "link").symlink_to(root)
  for twice in (f"{root}:0.5+{root}:0.5", f"{root}+{tmp_path / 'link'}"):
    with pytest.raises(UsageError, match="named twice"):
      open_mixture(twice, seed=0, batch_size=2)
