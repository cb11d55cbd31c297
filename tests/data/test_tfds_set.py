"""Built TFDS data sets that are damaged, or name what is not theirs."""

import json
import pathlib
import shutil
import sys

import numpy as np
import pytest

from ccl_jax.data.builders.folder import Folder
from ccl_jax.data.sources import media_set, tfds_set
from ccl_jax.data.sources.open import open_source
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.viz.media import write_wav

SPEC = ClipSpec(17, 32, 48, 25)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  """A data set of three sounds, one of which has a name that is no UTF-8."""
  root = tmp_path_factory.mktemp("media")
  for name in ("a.wav", "b.wav", "caf\udce9.wav"):
    write_wav(root / name, np.full(16000, 0.1, np.float32))
  lines = [{"file": "a.wav", "text": "half \ud83d a"}, {"file": "b.wav", "text": "b"}]
  (root / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
  return pathlib.Path(media_set.prepare(Folder, root, test_share=0).data_dir)


@pytest.fixture
def copy(built, tmp_path):
  return pathlib.Path(shutil.copytree(built, tmp_path / "set"))


def edit(path, change):
  value = json.loads(path.read_text())
  change(value)
  path.write_text(json.dumps(value))


def refused(root, match):
  with pytest.raises(UsageError, match=match) as e:
    open_source("tfds", SPEC, root)
  assert "\n" not in str(e.value)


def test_texts_and_names_of_any_encoding(built):
  (rows,) = media_set.splits(built).values()
  assert {name: row.text for name, (row,) in rows.items()} == {
    "a.wav": "half \ufffd a",
    "b.wav": "b",
    "caf\udce9.wav": "",
  }
  (records,) = tfds_set.open_set(built).values()
  ids = {records[i]["id"] for i in range(len(records))}
  assert ids == {b"a.wav", b"b.wav", rb"caf\udce9.wav"}


@pytest.mark.parametrize("key", ["pythonClassName", "python_class_name", "type"])
@pytest.mark.parametrize("nested", [False, True])
def test_no_module_of_a_feature_is_imported(copy, tmp_path, monkeypatch, key, nested):
  (tmp_path / "evil_feature.py").write_text("raise SystemExit('it ran')")
  monkeypatch.syspath_prepend(tmp_path)

  def change(value):
    place = value
    if nested:
      place = next(iter(value["featuresDict"]["features"].values()))
    place.pop("pythonClassName")
    place[key] = "evil_feature.Feature"

  edit(copy / "features.json", change)
  refused(copy, "evil_feature.Feature.*no feature of TFDS")
  assert "evil_feature" not in sys.modules


def test_features_in_a_string_are_looked_at(copy):
  inner = json.dumps({"x": {"type": "evil_feature.Feature"}})
  edit(copy / "features.json", lambda v: v.update(jsonFeature={"json": inner}))
  refused(copy, "evil_feature.Feature.*no feature of TFDS")


@pytest.mark.parametrize(
  "name", ["tensorflow_datasets.core.features.os.path.join", "os.path", 3, "", "Text"]
)
def test_names_that_are_no_feature(copy, name):
  edit(copy / "features.json", lambda v: v.update(pythonClassName=name))
  refused(copy, "no feature of TFDS")


@pytest.mark.parametrize(
  "name", ["image_feature.Image", "labeled_image.LabeledImage", "video_feature.Video"]
)
def test_no_picture_is_handed_to_a_library(copy, name):
  """Without OpenCV, TFDS opens pictures by Pillow, which runs Ghostscript on an EPS."""
  inner = {"pythonClassName": f"tensorflow_datasets.core.features.{name}"}
  edit(
    copy / "features.json",
    lambda v: v["featuresDict"]["features"].update(video={"sequence": {"x": inner}}),
  )
  refused(copy, f"features.json names {name.partition('.')[2]}: .*expected features of")


def test_a_class_that_tfds_does_not_have(copy):
  name = "tensorflow_datasets.core.features.nothing.Tensor"
  edit(copy / "features.json", lambda v: v.update(pythonClassName=name))
  refused(copy, "cannot be read .*Unrecognized")


@pytest.mark.parametrize(
  "place",
  ["http://127.0.0.1:1", "file:///tmp", "http:127.0.0.1", "media", "../media", "", 3],
)
def test_media_are_local(copy, place):
  edit(copy / "metadata.json", lambda v: v.update(media_root=place))
  refused(copy, "metadata.json: media_root: got")


RECORD = {
  "text": b"a", "path": b"a.wav", "audio": b"", "crop": np.zeros(4, np.int32),
  "start": np.float64(0), "end": np.float64(1), "gain": np.float64(0),
}  # fmt: skip


def records_of(change):
  return tfds_set.Records([RECORD | change], pathlib.Path("set"), "train")


@pytest.mark.parametrize("field", ["path", "audio"])
@pytest.mark.parametrize(
  "name", [b"../a.wav", b"/etc/passwd", b"x/../../a.wav", b"http://127.0.0.1:1/x"]
)
def test_records_name_files_below_their_folder(field, name):
  assert list(media_set._rows(records_of({}), "set")) == ["a.wav"]
  with pytest.raises(UsageError, match="set: record 0.*: got the path .*stays below"):
    media_set._rows(records_of({field: name}), "set")


@pytest.mark.parametrize(
  "change",
  [
    {"gain": np.float64(800)}, {"end": np.float64("nan")}, {"start": b"x"},
    {"crop": np.array([0, 0, 8, 0])}, {"text": 3}, {"path": None}, {"crop": None},
  ],
)  # fmt: skip
def test_records_of_other_values(change):
  with pytest.raises(UsageError, match="set: record 0"):
    media_set._rows(records_of(change), "set")


def test_shards_are_below_the_set(copy):
  change = lambda v: v["splits"][0].update(filepathTemplate="/etc/{DATASET}")
  edit(copy / "dataset_info.json", change)
  refused(copy, "outside of the data set")


def shard(copy):
  return next(copy.glob("*.array_record*"))


def test_a_missing_shard_is_named(copy):
  name = shard(copy).name
  shard(copy).unlink()
  refused(copy, f"lacks {name} of the split train")


def test_a_flipped_bit_is_an_error_in_one_line(copy):
  """Wherever it is; or it is in a part of the file that nothing reads."""
  whole, found = shard(copy).read_bytes(), 0
  data = [at for at, byte in enumerate(whole) if byte]  # the rest is padding
  for at in data[:: len(data) // 30]:
    shard(copy).write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
    try:
      (records,) = tfds_set.open_set(copy).values()
      for i in range(len(records)):
        records[i]
    except UsageError as e:
      found += 1
      assert f"{copy}" in str(e) and "cannot be read" in str(e) and "\n" not in str(e)
  assert found > 0


def test_a_shard_that_is_cut_short(copy):
  whole = shard(copy).read_bytes()
  for size in (0, 10, len(whole) // 2, len(whole) - 1):
    shard(copy).write_bytes(whole[:size])
    refused(copy, "cannot be read")


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize(
  "text",
  ["", "{", "[]", "null", "\x00", "[" * 100_000, '{"splits": 3}', '{"name": []}'],
)
def test_damaged_descriptions(copy, name, text):
  (copy / name).write_text(text)
  refused(copy, "set")


def test_a_folder_in_place_of_a_description(copy):
  (copy / "features.json").unlink()
  (copy / "features.json").mkdir()
  refused(copy, "features.json is a folder")
