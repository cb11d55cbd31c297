import errno
import logging
import resource

import ml_dtypes
import numpy as np
import pytest

from ccl_jax.data.sets import plan, records
from ccl_jax.data.sets.record_set import RecordSet, allow_open_files
from ccl_jax.data.sets.records import DamagedRecord, new_shard, pack, unpack, write_json
from ccl_jax.data.sources.catalogue import Catalogue, Item
from ccl_jax.errors import UsageError
from tests.data.latent_sets import (
  ENCODERS,
  FILM,
  IMAGE,
  SILENT,
  SOUND,
  arrays,
  damage,
  make_set,
)


def some_arrays(seed=0):
  rng = np.random.default_rng(seed)
  shapes = {
    "video": (3, 2, 2, 16),
    "video_std": (3, 2, 2, 16),
    "audio": (11, 20),
    "text": (4, 6),
  }
  return {k: rng.standard_normal(s, np.float32) for k, s in shapes.items()}


def test_a_record_comes_back_in_the_memory_it_was_read_into():
  made = some_arrays()
  data = pack(made, {"id": "a", "text": "naïve ✓", "fps": 25})
  record = unpack(data)
  assert record.pop("about") == {"id": "a", "text": "naïve ✓", "fps": 25}
  assert record.keys() == made.keys()
  for name, array in made.items():
    dtype = np.float32 if name == "audio" else ml_dtypes.bfloat16
    assert record[name].dtype == dtype
    np.testing.assert_array_equal(record[name], array.astype(dtype))
    whole = np.frombuffer(data, np.uint8)
    assert np.shares_memory(record[name].view(np.uint8), whole)


@pytest.mark.parametrize("kept", [["video"], ["audio"], ["video", "audio"], []])
def test_every_modality_is_optional(kept):
  made = {k: some_arrays()[k] for k in (*kept, "text")}
  assert set(unpack(pack(made, {}))) == {*kept, "text", "about"}


def test_a_text_may_be_empty():
  record = unpack(pack({"text": np.zeros((0, 6))}, {"text": ""}))
  assert record["text"].shape == (0, 6)


def test_the_same_clip_has_the_same_bytes():
  about = {"id": "a", "text": "b"}
  turned = dict(reversed(about.items()))
  assert len({pack(some_arrays(), a) for a in (about, turned) for _ in range(10)}) == 1


def test_other_bytes_are_no_record():
  data = pack(some_arrays(), {"id": "a"})
  for bad in (b"", data[:5], data[:-9], b"\xff" * 100, data[8:]):
    with pytest.raises(DamagedRecord):
      unpack(bad)


def shard_files(folder):
  return sorted(p.name for p in folder.iterdir())


def test_a_shard_is_whole_or_not_there(tmp_path):
  path = tmp_path / "s.array_record"
  with pytest.raises(KeyError), new_shard(path) as write:
    write(b"x" * 1000)
    raise KeyError
  assert shard_files(tmp_path) == []
  with new_shard(path) as write:
    write(b"x" * 1000)
    assert not path.exists()
  assert shard_files(tmp_path) == [path.name]


@pytest.mark.parametrize("room", [50_000, 500_000, 1_150_000])
def test_a_file_that_may_not_grow_leaves_nothing(tmp_path, room):
  """A real failure of the writer: the system lets no file grow beyond `room`."""
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
  try:
    with pytest.raises(OSError) as e, new_shard(tmp_path / "s.array_record") as write:
      for _ in range(4):
        write(np.random.default_rng(0).bytes(300_000))
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert e.value.errno == errno.EFBIG
  assert shard_files(tmp_path) == []


@pytest.mark.parametrize("written", [1, 3])
def test_a_shard_of_fewer_or_more_records_is_not_there(tmp_path, monkeypatch, written):
  monkeypatch.setattr(records, "count_records", lambda path: written)
  with pytest.raises(OSError, match=f"{written} of 2 records were written"):  # noqa: SIM117
    with new_shard(tmp_path / "s.array_record") as write:
      write(b"x")
      write(b"y")
  assert shard_files(tmp_path) == []


def test_a_json_file_is_whole_or_not_there(tmp_path, monkeypatch):
  path = tmp_path / "a.json"
  write_json(path, {"a": 1})

  def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr("os.fsync", full)
  with pytest.raises(OSError):
    write_json(path, {"a": 2})
  assert path.read_text() == '{"a": 1}\n'
  assert shard_files(tmp_path) == ["a.json"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  counts = {FILM: 7, SILENT: 2, IMAGE: 4, SOUND: 5}
  return make_set(tmp_path_factory.mktemp("sets") / "a", counts)


def test_a_set_is_read_by_bucket_and_as_a_whole(root):
  found = RecordSet(root)
  assert {b: len(r) for b, r in found.buckets.items()} == {
    SOUND: 5,
    IMAGE: 4,
    FILM: 7,
    SILENT: 2,
  }
  assert len(found) == 18
  ids = [found[i]["about"]["id"] for i in range(18)]
  assert len(set(ids)) == 18
  for j in range(7):
    record = found.buckets[FILM][j]
    assert record["about"]["text"] == f"clip {j}"
    for name, array in arrays(FILM, j).items():
      np.testing.assert_array_equal(record[name].astype(np.float32), array)
  for index in (-1, 18):
    with pytest.raises(IndexError):
      found[index]
  with pytest.raises(IndexError):
    found.buckets[FILM][7]


def test_the_index_tells_counts_lengths_and_moments(root):
  index = RecordSet(root).index
  assert index["records"] == 18
  assert index["buckets"][FILM.name]["records"] == 7
  assert index["text_rows"] == {"0": 5, "1": 5, "2": 3, "3": 3, "4": 2}
  assert index["buckets"][SILENT.name]["text_rows"] == 1
  assert index["caption_words"] == {"2": 18}
  rows = [
    (j, b) for b in (FILM, SILENT, IMAGE) for j in range({FILM: 7, SILENT: 2}.get(b, 4))
  ]
  values = np.concatenate([arrays(b, j)["video"].ravel() for j, b in rows])
  video = index["latents"]["video"]
  np.testing.assert_allclose(video["mean"], values.mean(), rtol=1e-6)
  np.testing.assert_allclose(video["std"], values.std(), rtol=1e-6)
  assert len(index["latents"]["audio"]["mean"]) == 20
  assert "video_std" not in index["latents"]


def test_the_index_tells_the_deviations_mean(tmp_path):
  root = make_set(tmp_path / "a", {FILM: 4, SOUND: 2}, video_std=True)
  latents = RecordSet(root).index["latents"]
  assert latents["video"]["mean"] == [1.5] * 16
  assert latents["video_std"]["mean"] == [2.0] * 16


def test_a_damaged_record_gives_way_to_the_next_and_is_counted(tmp_path, caplog):
  root = make_set(tmp_path / "a", {FILM: 7})
  for j in (2, 3, 6):
    damage(root, FILM, j)
  records = RecordSet(root).buckets[FILM]
  with caplog.at_level(logging.WARNING):
    for _ in range(2):
      ids = [int(records[i]["about"]["id"].split()[1]) for i in range(7)]
      assert ids == [0, 1, 4, 4, 4, 5, 0]
  assert set(records.damaged) == {2, 3, 6}
  assert len(caplog.records) == 3
  assert "hash mismatch" in caplog.text
  assert [records[i]["about"]["id"] for i in (6, 2)] == ["film 0", "film 4"]


def test_a_truncated_shard_costs_its_own_records_only(tmp_path):
  root = make_set(tmp_path / "a", {FILM: 7})  # shards of 3, 3 and 1
  path = sorted(root.glob("*.array_record"))[1]
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  records = RecordSet(root).buckets[FILM]
  ids = [int(records[i]["about"]["id"].split()[1]) for i in range(7)]
  assert ids == [0, 1, 2, 6, 6, 6, 6]
  assert set(records.damaged) == {3, 4, 5}


def test_nothing_readable_is_one_line(tmp_path):
  root = make_set(tmp_path / "a", {FILM: 2})
  for path in root.glob("*.array_record"):
    path.write_bytes(b"x" * 2**17)
  with pytest.raises(UsageError, match="no record of .* can be read"):
    RecordSet(root).buckets[FILM][0]


def test_a_failing_disk_is_no_damage(tmp_path):
  root = make_set(tmp_path / "a", {FILM: 2})
  records = RecordSet(root).buckets[FILM]
  for path in root.glob("*.array_record"):
    path.unlink()
  with pytest.raises(OSError, match="No such file"):
    records[0]
  assert not records.damaged


def test_two_clips_of_one_name_are_told():
  items = [Item("a", "a.mp4", 0.0, None, "")] * 2
  with pytest.raises(UsageError, match="two clips are called 'a'"):
    plan.make({}, ENCODERS, Catalogue({FILM: items}, []), 1)


def test_a_set_of_many_shards_may_open_them_all():
  limits = resource.getrlimit(resource.RLIMIT_NOFILE)
  try:
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, limits[1]))
    allow_open_files(40)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 100
    allow_open_files(50)  # half of them
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 100
    allow_open_files(51)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(151, limits[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, limits[1]))
    allow_open_files(300)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(400, limits[1])
  finally:
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_mistakes_are_one_line(tmp_path):
  with pytest.raises(UsageError, match="no set of latents at"):
    RecordSet(tmp_path)
  root = make_set(tmp_path / "a", {FILM: 4})
  index = (root / "index.json").read_text()
  (root / "index.json").unlink()
  with pytest.raises(UsageError, match="not finished, 2 shards are"):
    RecordSet(root)
  (root / "index.json").write_text(index.replace("latents 1", "latents 0"))
  with pytest.raises(UsageError, match="of format 'ccl_jax latents 0'"):
    RecordSet(root)
  (root / "index.json").write_text(index[:50])
  with pytest.raises(UsageError, match="damaged"):
    RecordSet(root)
  (root / "index.json").write_text(index)
  next(root.glob("*.array_record")).unlink()
  with pytest.raises(UsageError, match="lacks shard-"):
    RecordSet(root)
