"""The index of a set of latents, where a disk or a hand has changed it."""

import json
import shutil

import pytest

from ccl_jax.data.sets.record_set import RecordSet
from ccl_jax.errors import UsageError
from tests.data.latent_sets import FILM, SILENT, make_set


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  return make_set(tmp_path_factory.mktemp("sets") / "a", {FILM: 5, SILENT: 2})


@pytest.fixture
def copy(made, tmp_path):
  return shutil.copytree(made, tmp_path / "set")


def put(index, path, value):
  """Changes what lies at a dotted path; `str` keys and `int` places."""
  *way, last = path
  for key in way:
    index = index[key]
  index[last] = value(index[last]) if callable(value) else value


@pytest.mark.parametrize(
  ("path", "value"),
  [
    (["records"], 10**9),
    (["records"], 6),
    (["records"], None),
    (["shards", 0, "records"], 10**9),
    (["shards", 0, "records"], 2),
    (["shards", 0, "records"], 3.0),
    (["shards", 0, "records"], -1),
    (["shards", 0, "bytes"], lambda n: n + 2**30),
    (["shards", 0, "file"], "../a/shard-00000-of-00003.array_record"),
    (["shards", 0, "file"], "/etc/passwd"),
    (["shards", 0, "file"], ["a"]),
    (["shards", 0, "file"], "plan.json\0"),
    (["shards", 0, "bucket"], "5x16x16@24+6"),
    (["shards", 0], None),
    (["shards"], {}),
    (["shards"], lambda shards: [*shards, shards[0]]),
    (["buckets"], []),
    (["buckets", FILM.name, "records"], 4),
    (["buckets", FILM.name, "text_rows"], 4 + 2**20),
    (["buckets", FILM.name, "shape", "frames"], 13),
    (["buckets", FILM.name, "shape", "fps"], float("nan")),
    (["buckets", FILM.name, "shape", "height"], "16"),
    (["latents", "video"], None),
    (["latents", "video", "std"], [None]),
    (["encoders"], ["video"]),
    (["encoders", "video"], 3),
    (["sha256"], "no hash"),
  ],
)
def test_what_cannot_be_is_damage(copy, path, value):
  index = json.loads((copy / "index.json").read_text())
  put(index, path, value)
  (copy / "index.json").write_text(json.dumps(index))
  with pytest.raises(UsageError, match=r"index\.json.*copy or encode the set again"):
    RecordSet(copy)


@pytest.mark.parametrize("text", ["", "null", "[]", "3", "[" * 100_000, "{", "\0"])
def test_what_is_no_index(copy, text):
  (copy / "index.json").write_text(text)
  with pytest.raises(UsageError, match=r"index\.json is damaged"):
    RecordSet(copy)


def test_a_shard_that_was_cut_short(copy):
  shard = next(copy.glob("shard-00000-*.array_record"))
  shard.write_bytes(shard.read_bytes()[:500])
  with pytest.raises(UsageError, match="of 500 bytes cannot hold 3 records"):
    RecordSet(copy)


def test_keys_of_later_versions_are_no_mistake(copy):
  index = json.loads((copy / "index.json").read_text())
  (copy / "index.json").write_text(json.dumps(index | {"more": {"x": None}}))
  assert len(RecordSet(copy)) == 7
