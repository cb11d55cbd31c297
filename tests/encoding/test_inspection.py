"""What is told of a set of latents, by numbers counted by hand."""

import json

import numpy as np
import pytest

from ccl_jax.codecs.bundle import Codecs
from ccl_jax.data.sets.buckets import Bucket
from ccl_jax.data.sets.record_set import RecordSet
from ccl_jax.encoding import inspect as inspect_data
from ccl_jax.encoding.inspect import _spread, describe, some_clips
from ccl_jax.errors import UsageError
from tests.data.latent_sets import ENCODERS, FILM, IMAGE, SOUND, make_set

SETTINGS = {"source": "folder", "root": "/media"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  """Five films, four stills and three sounds, in shards of 3."""
  root = tmp_path_factory.mktemp("sets") / "a"
  return make_set(root, {FILM: 5, IMAGE: 4, SOUND: 3}, settings=SETTINGS)


def test_a_description_counts(root):
  lines = describe(root)
  assert lines[0] == f"{root}: 5 of 5 shards"
  hours = (5 * 0.2 + 3 * 11 * 512 / 16000) / 3600
  index = json.loads((root / "index.json").read_text())
  assert lines[1].startswith(f"12 records, {hours:.3f} h, ")
  assert f"{index['bytes'] / 1e6:.1f} MB, sha256 {index['sha256'][:16]}" in lines[1]
  assert lines[2] == "made from folder /media"
  table = [line.split() for line in lines[5:8]]
  assert table == [
    ["+11", "sound", "3", "0.000", "0.35", "s"],
    ["1x16x16", "image", "4", "0.000", "0.00", "s"],
    ["5x16x16@25+6", "film", "5", "0.000", "0.20", "s"],
  ]
  # Captions are "clip j", texts have j % 5 rows: 0, 1, 2 three times, 3 twice, 4.
  assert "caption, words     mean 2.0, 2 to 2, median 2 " in "\n".join(lines)
  assert "text embedding rows mean 1.6, 0 to 4, median 2 " in "\n".join(lines)
  at = lines.index("video latents, by channel")
  values = np.array([0, 1, 2, 3, 4] * 8 + [0, 1, 2, 3] * 4)  # 8 and 4 places each
  assert lines[at + 1].split() == ["mean", *[f"{values.mean():.2f}"] * 16]
  assert lines[at + 2].split() == ["std", *[f"{values.std():.2f}"] * 16]
  assert f"  text {ENCODERS['text']}" in lines and lines[-1] == "skipped 0"


def test_hours_are_of_all_records(tmp_path):
  """Two films of 500 seconds."""
  slow = Bucket(5, 16, 16, 0.01)
  lines = describe(make_set(tmp_path / "a", {slow: 2}, settings=SETTINGS))
  assert "2 records, 0.278 h" in lines[1]
  assert lines[5].split() == ["5x16x16@0.01", "silent", "2", "0.278", "500.00", "s"]


def test_an_unfinished_set(root, tmp_path):
  for path in root.iterdir():
    if path.name != "index.json" and path.name != "shard-00001-of-00005.json":
      (tmp_path / path.name).write_bytes(path.read_bytes())
  assert describe(tmp_path)[0] == f"{tmp_path}: 4 of 5 shards, not finished"
  with pytest.raises(UsageError, match="no set of latents at"):
    describe(tmp_path / "none")


def test_a_histogram_in_a_line():
  assert _spread({}) == "none"
  text = _spread({"1": 3, "2": 1, "17": 7})
  assert text.startswith("mean 11.3, 1 to 17, median 17 |")
  bars = text.split("|")[1]
  # 16 bins of width 1: of 1, of 2 and of the last; eighths are rounded up.
  assert bars == "▄▂" + " " * 13 + "█"


@pytest.mark.parametrize(
  ("count", "expected"),
  [
    # Sounds are 0 to 2, stills 3 to 6, films 7 to 11; the first of each comes first.
    (1, ["sound 0"]),
    (3, ["sound 0", "image 0", "film 0"]),
    (5, ["sound 0", "sound 2", "image 0", "image 2", "film 0"]),
    (99, [*(f"sound {j}" for j in range(3)), *(f"image {j}" for j in range(4)),
          *(f"film {j}" for j in range(5))]),
  ],
)  # fmt: skip
def test_some_clips_of_every_bucket(root, monkeypatch, count, expected):
  monkeypatch.setattr(inspect_data, "load_codecs", lambda folder: Codecs())
  monkeypatch.setattr(inspect_data, "decode", lambda codecs, record: record["about"])
  got = [clip["id"] for _, clip in some_clips(root, count)]
  assert got == expected
  assert [b for b, _ in some_clips(root, 3)] == [SOUND, IMAGE, FILM]


def test_records_are_found_by_their_place(root):
  found = RecordSet(root)
  ids = [found.locate(i)[1]["about"]["id"] for i in (0, 2, 3, 6, 7, 11)]
  assert ids == ["sound 0", "sound 2", "image 0", "image 3", "film 0", "film 4"]
  for index in (-1, 12):
    with pytest.raises(IndexError):
      found.locate(index)
