"""The door of JSON, captions and names: whatever is in a file, a value or one line."""

import json
import pathlib
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccl_jax import documents, names
from ccl_jax.checkpoints.find import find_parameters
from ccl_jax.codecs.bundle import Codecs, load_codecs, save_codecs
from ccl_jax.data.manifest import read_manifest
from ccl_jax.data.sets import plan, records
from ccl_jax.data.sets.record_set import RecordSet
from ccl_jax.data.sets.summary import read_summary, total
from ccl_jax.data.sources import tfds_set
from ccl_jax.data.sources.captions import read_captions, read_table
from ccl_jax.errors import UsageError
from ccl_jax.generation.settings import read_settings
from ccl_jax.metrics.outputs import read_run
from ccl_jax.metrics.prompts import read_prompts
from ccl_jax.metrics.records import Records
from ccl_jax.metrics.whisper import read_transcripts
from ccl_jax.models.byte_text import ByteText
from tests.data.latent_sets import FILM, make_set
from tests.fuzz.frame import HARD, JSON, changed, fuzz, opens_or_refuses, spoilt

SHARD = "shard-00000-of-00002.json"
LINE = {
  "id": "e001", "subset": "easy", "prompt": 'says, "ba"', "transcript": "ba",
  "image": "a.png", "language": "en", "seed": 3, "clip": "x/e001.mp4",
}  # fmt: skip
ROW = {
  "file": "a.mp4", "text": "a", "audio": "b.wav", "start": 0.5, "end": 2,
  "crop": [0, 0, 8, 8], "loudness_gain": -3.5,
}  # fmt: skip
CSV = b'file,caption,start,end,crop\na.mp4,"a, b",0.5,2,"0 0 8 8"\n'
PROMPTS = [
  {"id": 1, "prompt": 'a "b"', "language": "zh", "image": "a.png", "category": "c"}
]
SCORED = {"id": "a", "subset": "s", "metric": "wer", "scores": {"wer_errors": 1}}


def lines(*values) -> bytes:
  return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def captions(path):
  return read_captions(path.parent, ["a.mp4", "b.wav"])


def table(path):
  return list(read_table(path, ("file", "id")))


def scored(path):
  return read_run(path.parent)


LINES = {
  "manifest": (read_manifest, "m.jsonl", LINE),
  "captions": (captions, "t.jsonl", ROW),
  "transcripts": (read_transcripts, "t.jsonl", {"id": "a", "text": "b"}),
  "metrics": (documents.metric_rows, "metrics.jsonl", {"step": 3, "loss/a/video": 0.5}),
  "records": (
    lambda path: Records(path.parent).find("k", "a"),
    "records.jsonl",
    {"key": "k", "scores": {"x": {"file": "features/a.npy"}, "y": 1}},
  ),
}
FILES = {
  "prompts": (read_prompts, "p.json", PROMPTS),
  "settings": (
    lambda path: read_settings(path, set()),
    "a.json",
    {
      "task": "joint", "prompt": "x", "seed": 1, "batched": True, "fingerprints": {},
      "scales": {"video": {"s": 1.0}}, "batch": {"index": 0, "prompt": ["x"]},
    },
  ),
  "config": (
    lambda path: find_parameters(path.parent),
    "config.json",
    {"kind": "wan-dit", "sizes": {"width": 8}, "source": {"sha256": "0"}, "dtype": "x"},
  ),
  "metadata": (
    lambda path: tfds_set.media_root(path.parent), "metadata.json", {"media_root": "/x"}
  ),
}  # fmt: skip


@pytest.mark.parametrize("door", LINES)
@fuzz()
@given(data=st.data())
def test_lines_of_json(door, data):
  read, name, good = LINES[door]
  values = data.draw(st.lists(changed(good), min_size=1, max_size=3))
  text = lines(good, *values)
  opens_or_refuses(read, data.draw(st.just(text) | spoilt(text)), name)


@pytest.mark.parametrize("door", FILES)
@fuzz()
@given(data=st.data())
def test_files_of_json(door, data):
  read, name, good = FILES[door]
  text = json.dumps(data.draw(changed(good))).encode()
  opens_or_refuses(read, data.draw(st.just(text) | spoilt(text)), name)


@pytest.mark.parametrize("door", [*LINES, *FILES])
@pytest.mark.parametrize(
  "text",
  [b"[" * 100_000, b'{"a":' * 100_000, b"", b"\xff\xfe{", b"9" * 9999, b"\0" * 9],
)
def test_what_every_door_refuses(door, text):
  read, name, _ = (LINES | FILES)[door]
  # An empty table has no captions.
  assert opens_or_refuses(read, text, name) in (None, [], {}, ({}, []))


@fuzz()
@given(spoilt(CSV))
def test_tables_in_csv(data):
  opens_or_refuses(captions, data, "t.csv")
  opens_or_refuses(read_prompts, data, "p.csv")


@fuzz()
@given(spoilt(lines(SCORED)), changed({"overall": {}, "subsets": {}, "metrics": {}}))
def test_results_of_a_run(rows, summary):
  summary = {"summary.json": json.dumps(summary).encode()}
  opens_or_refuses(scored, rows, "per_clip.jsonl", files=summary)


@fuzz(200)
@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode) | JSON.map(lines))
def test_any_bytes_are_json_or_not(data):
  value = opens_or_refuses(documents.read_json, data, "a.json")
  # What is read can be written as text of any encoding that holds Unicode.
  json.dumps(value, ensure_ascii=False).encode()


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
  root = make_set(tmp_path_factory.mktemp("sets") / "a", {FILM: 5})
  return {p.name: p.read_bytes() for p in root.iterdir()}


@pytest.mark.parametrize("name", ["index.json", "plan.json", SHARD])
def test_a_set_of_latents(latents, name):
  good = json.loads(latents[name])
  others = {k: v for k, v in latents.items() if k != name}
  doors = {
    "index.json": lambda path: len(RecordSet(path.parent)),
    "plan.json": lambda path: plan.read(path.parent),
    SHARD: lambda path: total([read_summary(path)]),
  }

  @fuzz(80)
  @given(data=st.data())
  def spoil(data):
    text = json.dumps(data.draw(changed(good))).encode()
    text = data.draw(st.just(text) | spoilt(text))
    found = opens_or_refuses(doors[name], text, name, files=others)
    if name == "index.json":
      assert found in (None, 5)  # never more than there are

  spoil()


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
  root = tmp_path_factory.mktemp("codecs") / "a"
  save_codecs(Codecs(text=ByteText(8, 16)), root)
  return {p.name: p.read_bytes() for p in root.iterdir()}


def test_codecs(codec):
  good = json.loads(codec["text.json"])
  others = {k: v for k, v in codec.items() if k != "text.json"}

  @fuzz()
  @given(data=st.data())
  def spoil(data):
    text = json.dumps(data.draw(changed(good))).encode()
    text = data.draw(st.just(text) | spoilt(text))
    found = opens_or_refuses(
      lambda p: load_codecs(p.parent), text, "text.json", (), others
    )
    assert found is None or (found.text.length, found.text.dim) == (8, 16)

  spoil()


@fuzz()
@given(data=st.data())
def test_records_of_latents(data):
  good = records.pack({"text": np.ones((2, 4))}, {"id": "a", "text": "b"})
  spoiled = data.draw(spoilt(good))
  opens_or_refuses(lambda path: records.unpack(path.read_bytes()), spoiled, "r", (
    records.DamagedRecord,
  ))  # fmt: skip


TEXTS = st.text(max_size=300) | HARD.filter(lambda x: isinstance(x, str))


@fuzz(200)
@given(st.lists(TEXTS | st.text("aA.-_ é/", max_size=4), max_size=8))
def test_any_texts_become_names_of_files(texts):
  made = names.safe_names(texts)
  assert len({name.casefold() for name in made}) == len(texts)
  for name in made:
    assert pathlib.PurePath(name).name == name and not name.startswith(".")
    assert len(name.encode()) <= 255 - len(".123456.part.mp4")
    assert re.fullmatch(r"[\w@.-]+", name)
  fresh = [name for name in dict.fromkeys(texts) if not names.flaw(name)]
  for name in fresh:
    assert pathlib.PurePath(name).name == name and len(name.encode()) <= names.MOST


@fuzz(200)
@given(TEXTS | st.lists(st.sampled_from(["..", "a", "", ".", "~"])).map("/".join))
def test_paths_stay_inside(text):
  try:
    found = names.inside(text, "here")
  except UsageError as e:
    assert "here: got the path" in str(e)
    return
  root = pathlib.Path("/root/folder")
  assert (root / found).parts[:3] == root.parts and ".." not in (root / found).parts


@fuzz(200)
@given(JSON)
def test_texts_are_valid_unicode(value):
  json.dumps(documents.valid(value), ensure_ascii=False).encode()
