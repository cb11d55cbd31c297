"""Sums, moments, plans and indices, by hand."""

import fractions
import hashlib
import json
import os

import numpy as np
import pytest

from ccl_jax.data.sets import plan, records
from ccl_jax.data.sets.buckets import Bucket
from ccl_jax.data.sets.record_set import RecordSet
from ccl_jax.data.sets.summary import Summary, total
from ccl_jax.data.sets.writer import finish, is_done, new_shard
from ccl_jax.data.sources.catalogue import Catalogue, Item
from ccl_jax.errors import UsageError
from tests.data.latent_sets import ENCODERS, FILM, IMAGE, SOUND, arrays, item


def test_a_summary_is_sums():
  """Two channels: 1, 3, 5 and 2, 2, 2 over two records, the second of one row."""
  made = Summary()
  text = lambda rows: np.zeros((rows, 4))
  first = {"audio": np.array([[1.0, 2.0], [3.0, 2.0]]), "text": text(3)}
  second = {"audio": np.array([[5.0, 2.0]]), "text": text(3)}
  made.add(first, {"seconds": 1.5, "text": "two  words"}, b"abc")
  made.add(second, {"seconds": 0.25, "text": ""}, b"de")
  assert made.to_json() == {
    "records": 2,
    "bytes": 5,
    "seconds": 1.75,
    "sha256": hashlib.sha256(b"abcde").hexdigest(),
    "moments": {"audio": [3, [9.0, 6.0], [35.0, 12.0]]},
    "text_rows": {"3": 2},
    "caption_words": {"0": 1, "2": 1},
  }


def test_summaries_add_up_to_mean_and_deviation():
  one, two = (Summary(), Summary())
  text = {"text": np.zeros((9, 4))}
  one.add({"audio": np.array([[1.0], [2.0]])} | text, {"seconds": 1, "text": "a"}, b"x")
  two.add({"audio": np.array([[6.0]])} | text, {"seconds": 2, "text": "a b"}, b"y")
  two.add(
    {"video": np.full((1, 1, 1, 2), 4.0), "text": np.zeros((11, 4))},
    {"seconds": 4, "text": "c"},
    b"z",
  )
  got = total([one.to_json(), two.to_json()])
  assert (got["records"], got["bytes"], got["seconds"]) == (3, 3, 7)
  assert got["caption_words"] == {"1": 2, "2": 1}
  # By number, not as strings: 9 comes before 11.
  assert list(got["text_rows"].items()) == [("9", 2), ("11", 1)]
  # Mean of 1, 2, 6; their variance is (4 + 1 + 9) / 3.
  assert got["latents"]["audio"]["mean"] == pytest.approx([3.0])
  assert got["latents"]["audio"]["std"] == pytest.approx([(14 / 3) ** 0.5])
  assert got["latents"]["video"] == {"mean": [4.0, 4.0], "std": [0.0, 0.0]}
  parts = one.to_json()["sha256"] + two.to_json()["sha256"]
  assert got["sha256"] == hashlib.sha256(parts.encode()).hexdigest()
  assert "video_std" not in got["latents"]


def test_every_bucket_is_cut_into_shards_with_a_rest():
  clips = {FILM: [item(f"f{j}") for j in range(5)], SOUND: [item("s0"), item("s1")]}
  made = plan.make({"a": 1}, ENCODERS, Catalogue(clips, [("x", "bad")]), 2)
  assert [(s.name, s.bucket, [i.id for i in s.items]) for s in made.shards] == [
    ("shard-00000-of-00004", FILM, ["f0", "f1"]),
    ("shard-00001-of-00004", FILM, ["f2", "f3"]),
    ("shard-00002-of-00004", FILM, ["f4"]),
    ("shard-00003-of-00004", SOUND, ["s0", "s1"]),
  ]
  assert made.buckets == sorted([FILM, SOUND])
  assert made.skipped == [("x", "bad")]
  with pytest.raises(UsageError, match="two clips are called 'f1'"):
    both = {FILM: clips[FILM], SOUND: [item("f1")]}
    plan.make({}, ENCODERS, Catalogue(both, []), 9)


def test_a_plan_is_read_as_it_was_written(tmp_path):
  film = Item("a@0.500", "a.mp4", 0.5, "b.wav", "é", (1, 2, 3, 4), -6.5)
  ntsc = Bucket(33, 32, 48, 29.97002997, 34)
  made = plan.make({"k": [1]}, ENCODERS, Catalogue({ntsc: [film]}, [("x", "y")]), 3)
  plan.write(made, tmp_path)
  assert plan.read(tmp_path / "none") is None
  got = plan.read(tmp_path)
  assert got.shards[0].bucket.spec().rate == fractions.Fraction(30000, 1001)
  (back,) = got.shards[0].items
  assert back == film._replace(crop=[1, 2, 3, 4])
  assert got._replace(shards=0) == made._replace(shards=0)
  plan.check_same(got, {"k": (1,)}, tmp_path)
  for settings in ({"k": [2]}, {"k": [1], "more": 3}):
    with pytest.raises(
      UsageError, match=r"was begun with (k = \[1\]|more = None), now"
    ):
      plan.check_same(got, settings, tmp_path)
  for text in ("{", "{}", '{"settings": 1, "encoders": 2, "skipped": 3, "shards": 4}'):
    (tmp_path / plan.FILE).write_text(text)
    with pytest.raises(UsageError, match="is damaged"):
      plan.read(tmp_path)


def test_a_set_is_whole_when_its_last_shard_is(tmp_path):
  clips = {FILM: [item("film 0"), item("film 1")], IMAGE: [item("image 5", "a b c")]}
  made = plan.make({}, ENCODERS, Catalogue(clips, [("z.mp4", "bad")]), 1)
  plan.write(made, tmp_path)
  for n, shard in enumerate(made.shards):
    assert finish(tmp_path, made) is None and not is_done(tmp_path, shard)
    with new_shard(tmp_path, shard, ENCODERS) as out:
      (clip,) = shard.items
      if n == 1:
        out.skip(clip.id, "gone")
      else:
        j = int(clip.id.split()[1])
        out.add(clip.id, clip.text, arrays(shard.bucket, j))
      assert not is_done(tmp_path, shard)
    assert is_done(tmp_path, shard)
  index = finish(tmp_path, made)
  assert index == json.loads((tmp_path / "index.json").read_text())
  assert (index["records"], index["skipped"]) == (2, 2)
  report = (tmp_path / "report.jsonl").read_text().splitlines()
  assert [tuple(json.loads(line).values()) for line in report] == [
    ("z.mp4", "bad"),
    ("film 1", "gone"),
  ]
  assert index["buckets"] == {
    # In the order of frames, then of size and rate; 5 frames at 25 a second.
    IMAGE.name: {
      "shape": {"frames": 1, "height": 16, "width": 16, "fps": 0, "tokens": 0},
      "records": 1, "seconds": 0, "text_rows": 0,
    },
    FILM.name: {
      "shape": {"frames": 5, "height": 16, "width": 16, "fps": 25.0, "tokens": 6},
      "records": 1, "seconds": 0.2, "text_rows": 0,
    },
  }  # fmt: skip
  assert [s["records"] for s in index["shards"]] == [1, 0, 1]
  assert sum(s["bytes"] for s in index["shards"]) == index["bytes"]
  found = RecordSet(tmp_path)
  assert list(found.buckets) == [IMAGE, FILM] and len(found) == 2
  bucket, record = found.locate(0)
  assert bucket == IMAGE and found.locate(1)[0] == FILM
  assert record["about"] == {
    "id": "image 5", "text": "a b c", "fps": 0, "seconds": 0,
    "encoders": {"video": ENCODERS["video"], "text": ENCODERS["text"]},
  }  # fmt: skip


def test_a_set_names_the_encoders_that_it_used(tmp_path):
  made = plan.make({}, ENCODERS, Catalogue({SOUND: [item("sound 0")]}, []), 1)
  plan.write(made, tmp_path)
  with new_shard(tmp_path, made.shards[0], ENCODERS) as out:
    out.add("sound 0", "", arrays(SOUND, 0))
  index = finish(tmp_path, made)
  assert index["encoders"] == {k: ENCODERS[k] for k in ("audio", "text")}


def test_a_shard_that_failed_is_not_done(tmp_path):
  made = plan.make({}, ENCODERS, Catalogue({SOUND: [item("sound 0")]}, []), 1)
  (shard,) = made.shards
  with pytest.raises(KeyError), new_shard(tmp_path, shard, ENCODERS) as out:
    out.add("sound 0", "", arrays(SOUND, 0))
    raise KeyError
  assert not is_done(tmp_path, shard) and not list(tmp_path.iterdir())
  (tmp_path / f".{shard.name}.array_record.99.part").touch()  # of a process killed
  (tmp_path / ".another.array_record.99.part").touch()
  with new_shard(tmp_path, shard, ENCODERS):
    left = {p.name for p in tmp_path.iterdir()}
  assert len(left) == 2 and ".another.array_record.99.part" in left


def test_a_shard_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
  """It is synced when it is whole, and renamed by `files.new_file`."""
  synced, sync = [], os.fsync

  def fsync(number):
    synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{number}")))
    sync(number)

  monkeypatch.setattr(os, "fsync", fsync)
  with records.new_shard(tmp_path / "b.array_record") as write:
    write(b"x")
    assert not synced
  assert synced == [f".b.array_record.{os.getpid()}.part", tmp_path.name]
