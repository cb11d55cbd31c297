"""The TFDS data sets of media: metadata as published, media made here."""

import json
import pathlib
import sys

import numpy as np
import pytest

from ccl_jax.data.__main__ import main
from ccl_jax.data.builders.folder import Folder
from ccl_jax.data.builders.openhumanvid import Openhumanvid
from ccl_jax.data.builders.vggsound import Vggsound
from ccl_jax.data.builders.wavcaps import Wavcaps
from ccl_jax.data.sets.buckets import parse_spec
from ccl_jax.data.sources import media_set, tfds_set
from ccl_jax.data.sources.items import open_items
from ccl_jax.data.sources.open import open_source
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.viz.media import write_png, write_wav
from configs.encode import get_config
from tests.data.films import film, flash, truncated

SPEC = ClipSpec(17, 32, 48, 25)
SHAPE = parse_spec("17x32x48@25")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """Media to copy from, made once."""
  root = tmp_path_factory.mktemp("made")
  film(root / "clip.mp4", seconds=2.0)
  film(root / "long.mp4", seconds=14.0, event=3.2, fps=10)
  film(root / "short.mp4", seconds=1.0, event=0.4)
  truncated(film(root / "cut.mp4", options={"movflags": "faststart"}), root / "cut.mp4")
  write_wav(root / "two.wav", np.full(32000, 0.1, np.float32))
  write_wav(root / "half.wav", np.full(8000, 0.1, np.float32))
  write_png(root / "still.png", np.zeros((40, 60, 3), np.uint8))
  return {path.name: path.read_bytes() for path in root.iterdir()}


def place(root, name, data):
  path = root / name
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(data if isinstance(data, bytes) else data.encode())
  return root


@pytest.fixture
def vgg(tmp_path, made):
  place(
    tmp_path,
    "vggsound.csv",
    '-a,30,"people marching, running",test\nb_b,3,dog barking,train\n'
    "gone,0,rain,train\ncut,7,sea,train\nlate,100,wind,train\n",
  )
  place(tmp_path, "video/-a_000030.mp4", made["clip.mp4"])
  place(tmp_path, "video/b_b.mp4", made["long.mp4"])
  place(tmp_path, "video/late.mp4", made["long.mp4"])
  place(tmp_path, "video/cut.mp4", made["cut.mp4"])
  return tmp_path


def rows_of(kind, root, **options):
  return media_set.splits(media_set.prepare(kind, root, **options).data_dir)


def test_vggsound_joins_its_table_with_its_files(vgg):
  built = media_set.prepare(Vggsound, vgg)
  splits = media_set.splits(built.data_dir)
  assert {k: list(rows) for k, rows in splits.items()} == {
    "train": ["video/b_b.mp4"],
    "test": ["video/-a_000030.mp4"],
  }
  (long,) = splits["train"]["video/b_b.mp4"]
  assert (long.text, long.start, long.end) == ("dog barking", 3.0, 13.0)
  (cut,) = splits["test"]["video/-a_000030.mp4"]
  assert (cut.text, cut.start, cut.end) == ("people marching, running", 0.0, np.inf)
  path = pathlib.Path(built.data_dir)
  assert (path / "missing.txt").read_text() == "gone_000000\tgone_000000 or gone\n"
  skipped = map(json.loads, (path / "skipped.jsonl").read_text().splitlines())
  reasons = {row["id"]: row["reason"] for row in skipped}
  assert reasons.keys() == {"cut_000007", "late_000100"}
  assert "truncated" in reasons["cut_000007"]
  assert "outside of the file" in reasons["late_000100"]
  record = built.as_data_source("test")[0]
  assert (record["kind"], record["height"], record["width"]) == (b"film", 48, 64)
  assert record["seconds"] == pytest.approx(2.0, abs=0.1)
  assert sum(p.stat().st_size for p in path.iterdir()) < 300_000
  assert "tensorflow" not in sys.modules


def test_vggsound_as_a_source_of_training_and_of_encode(vgg):
  source = open_source("vggsound", SPEC, vgg)
  assert len(source) == 14  # the ten seconds of a film of fourteen
  clip = source[0]
  assert clip["id"] == "video/b_b.mp4@3.000" and clip["text"] == "dog barking"
  assert flash(clip["video"]) == [5, 6]  # at 3.2 s, ten frames a second
  assert len(open_source("vggsound", SPEC, vgg, "test")) == 3
  options = {"min_seconds": 5.0, "hop": 5.0, "kinds": ("film",)}
  source = open_items("vggsound", vgg, "train", options, [SHAPE])
  ((bucket, items),) = source.scan().buckets.items()
  assert [i.start for i in items] == [3.0, 8.0]
  fresh = open_items("vggsound", vgg, "train", options, [SHAPE])
  assert flash(fresh.read(bucket, items[0])["video"]) == [5, 6]


def test_relative_paths_and_a_folder_for_sets(vgg, monkeypatch):
  monkeypatch.chdir(vgg.parent)
  first = media_set.prepare(Vggsound, vgg.name, data_dir=str(vgg / "sets"))
  again = media_set.prepare(Vggsound, vgg.name, data_dir=f"{vgg.name}/sets")
  assert pathlib.Path(again.data_dir).name == pathlib.Path(first.data_dir).name
  assert len(list((vgg / "sets" / "vggsound").iterdir())) == 1
  assert not (vgg / "tfds").exists()
  assert tfds_set.media_root(first.data_dir) == str(vgg)
  (vgg / "file").touch()
  (vgg / "broken.mp4").symlink_to("nowhere")
  with pytest.raises(UsageError, match=r"file is a file; expected a folder"):
    media_set.prepare(Vggsound, vgg, data_dir=str(vgg / "file"))


def test_the_command_tells_of_mistakes(vgg, capsys):
  for argv, match in (
    (["nothing", str(vgg)], "no data source 'nothing'"),
    (["talking_scene", str(vgg)], "is no data set of media"),
    (["vggsound", str(vgg / "absent")], "no folder at"),
    (["vggsound", str(vgg), "seconds=1"], "expected NAME=VALUE of data_dir, min_sec"),
    (["vggsound", str(vgg), "min_seconds=one"], "'min_seconds=one': could not"),
  ):
    with pytest.raises(SystemExit) as e:
      main(["build", *argv])
    error = capsys.readouterr().err.strip()
    assert e.value.code == 2 and match in error and "\n" not in error


def test_a_set_is_built_once_until_files_come(vgg, made):
  first = media_set.prepare(Vggsound, vgg)
  record = next(pathlib.Path(first.data_dir).glob("*.array_record*"))
  before = record.stat().st_mtime_ns
  again = media_set.prepare(Vggsound, vgg)
  assert again.data_dir == first.data_dir and record.stat().st_mtime_ns == before
  place(vgg, "video/gone.mp4", made["clip.mp4"])
  later = media_set.prepare(Vggsound, vgg)
  assert later.data_dir != first.data_dir
  assert "video/gone.mp4" in media_set.splits(later.data_dir)["train"]


def test_a_built_set_is_a_source_by_its_folder(vgg, capsys):
  main(["build", "vggsound", str(vgg), "min_seconds=1"])
  told = capsys.readouterr().out.strip()
  path, counts = told.split(": ")
  assert counts == "1 train, 1 test; 1 in missing.txt, 2 in skipped.jsonl"
  assert len(open_source("tfds", SPEC, path, "train")) == 14
  source = open_items("tfds", path, "test", {"hop": 1.0}, [SHAPE])
  ((bucket, items),) = source.scan().buckets.items()
  assert source.read(bucket, items[0])["video"].shape == (17, 32, 48, 3)


def wavcaps(root, made):
  rows = {
    "json_files/FreeSound/fsd_final.json": ["7", "8", "9"],
    "json_files/SoundBible/sb_final.json": ["7"],
  }
  for name, ids in rows.items():
    data = [{"id": i, "caption": f"sound {i} {name[11]}", "duration": 2} for i in ids]
    place(root, name, json.dumps({"num_captions_per_audio": 1, "data": data}))
  place(root, "FreeSound_flac/7.wav", made["two.wav"])
  place(root, "FreeSound_flac/8.wav", made["half.wav"])
  place(root, "SoundBible_flac/7.wav", made["two.wav"])
  return root


def test_wavcaps_tells_sources_apart_and_serves_the_audio_stage(tmp_path, made):
  root = wavcaps(tmp_path, made)
  splits = rows_of(Wavcaps, root, min_seconds=1.0, test_share=0.0)
  assert {k: v[0].text for k, v in splits["train"].items()} == {
    "FreeSound_flac/7.wav": "sound 7 F",
    "SoundBible_flac/7.wav": "sound 7 S",
  }
  source = open_items("wavcaps", root, "train", {"test_share": 0.0}, [SHAPE])
  found = source.scan()
  ((bucket, items),) = found.buckets.items()
  assert bucket.kind == "sound"
  assert source.read(bucket, items[0])["audio"].shape == (bucket.samples,)
  assert [name for name, _ in found.skipped] == ["FreeSound_flac/8.wav"]
  with pytest.raises(UsageError, match="no video track .sounds, stills and silent"):
    open_source("wavcaps", SPEC, root, test_share=0.0)


def test_wavcaps_of_one_source_and_ids_with_a_suffix(tmp_path, made):
  rows = [{"id": "Yx.y.wav", "caption": "rain"}]
  place(tmp_path, "as_final.json", json.dumps({"data": rows}))
  place(tmp_path, "anywhere/Yx.y.wav", made["two.wav"])
  assert list(rows_of(Wavcaps, tmp_path)["train"]) == ["anywhere/Yx.y.wav"]


def test_openhumanvid_chooses_captions_and_scores(tmp_path, made):
  place(
    tmp_path,
    "part1.csv",
    "video_id,url,long_caption,short_caption,aesthetic\n"
    'a,https://x.org/v/clip.mp4?s=1,"a man, who speaks",man,5.0\n'
    "b,,a woman who walks,woman,4.0\nc,,a child,child,3.0\nd,,a cat,cat,9\n",
  )
  for name in ("clip", "b", "c"):
    place(tmp_path, f"films/{name}.mp4", made["clip.mp4"])
  options = {"min_scores": (("aesthetic", 3.5),), "test_share": 0.0}
  built = media_set.prepare(Openhumanvid, tmp_path, **options)
  rows = media_set.splits(built.data_dir)["train"]
  texts = {name: row.text for name, (row,) in rows.items()}
  assert texts == {
    "films/b.mp4": "a woman who walks",
    "films/clip.mp4": "a man, who speaks",
  }
  skipped = (pathlib.Path(built.data_dir) / "skipped.jsonl").read_text()
  assert '"aesthetic is 3"' in skipped
  rows = rows_of(Openhumanvid, tmp_path, caption="short_caption", speech="", **options)
  assert {row.text for (row,) in rows["train"].values()} == {"man", "woman"}
  rows = rows_of(Openhumanvid, tmp_path, speech="with", **options)
  assert list(rows["train"]) == ["films/clip.mp4"]
  rows = rows_of(Openhumanvid, tmp_path, speech="without", **options)
  assert list(rows["train"]) == ["films/b.mp4"]
  for options, what in (
    ({"min_scores": (("flow", 1),)}, "flow"),
    ({"caption": "x"}, "x"),
  ):
    with pytest.raises(UsageError, match=rf"columns with a value are video_id.*{what}"):
      rows_of(Openhumanvid, tmp_path, **options)


def test_openhumanvid_of_parquet(tmp_path, made, monkeypatch):
  arrow = pytest.importorskip("pyarrow")
  from pyarrow import parquet

  table = {"path": ["films/a.mp4"], "caption": ["a man"], "start": [0.5], "end": [1.5]}
  parquet.write_table(arrow.table(table), tmp_path / "part.parquet")
  place(tmp_path, "films/a.mp4", made["clip.mp4"])
  ((row,),) = rows_of(Openhumanvid, tmp_path)["train"].values()
  assert (row.text, row.start, row.end) == ("a man", 0.5, 1.5)
  place(tmp_path, "bad.parquet", b"PAR1 not so")
  with pytest.raises(UsageError, match=r"bad\.parquet is no parquet file"):
    rows_of(Openhumanvid, tmp_path)
  monkeypatch.setitem(sys.modules, "pyarrow", None)
  with pytest.raises(UsageError, match="pip install pyarrow"):
    rows_of(Openhumanvid, tmp_path, min_side=1)


def test_a_folder_of_everything(tmp_path, made):
  for name in ("clip.mp4", "short.mp4", "two.wav", "still.png", "cut.mp4"):
    place(tmp_path, name, made[name])
  place(
    tmp_path, "t.csv", 'file,caption,start,end\nclip,"one, two",0.2,1\nclip,b,1,2\n'
  )
  place(tmp_path, "t.jsonl", '{"id": "two.wav", "text": "hum"}\n')
  place(tmp_path, "short.txt", "a flash")
  splits = rows_of(Folder, tmp_path, test_share=0.0)
  texts = {name: [r.text for r in rows] for name, rows in splits["train"].items()}
  assert texts == {
    "clip.mp4": ["one, two", "b"],
    "short.mp4": ["a flash"],
    "still.png": [""],
    "two.wav": ["hum"],
  }
  splits = rows_of(Folder, tmp_path, min_seconds=0.9, min_side=45)
  assert sorted({*splits["train"], *splits["test"]}) == [
    "clip.mp4",
    "short.mp4",
    "two.wav",
  ]
  assert len(splits["test"]) == 1  # the smallest hash, where none falls to it
  with pytest.raises(UsageError, match="expected folder, tfds, openhumanvid"):
    open_source("nothing", SPEC, tmp_path)


def test_all_parts_of_a_film_fall_to_one_split(tmp_path, made):
  lines = ["file,caption,start,end"]
  for i in range(12):
    place(tmp_path, f"f{i}.mp4", made["clip.mp4"])
    lines += [f"f{i},a,0,1", f"f{i},b,1,2"]
  place(tmp_path, "t.csv", "\n".join(lines))
  splits = rows_of(Folder, tmp_path, test_share=0.4)
  assert not set(splits["train"]) & set(splits["test"])
  assert all(len(rows) == 2 for split in splits.values() for rows in split.values())
  assert 1 < len(splits["test"]) < 10


@pytest.mark.parametrize("kind", [Vggsound, Wavcaps, Openhumanvid])
def test_the_configuration_of_encode_knows_every_option(kind):
  options = dict(get_config(f"source={kind.name}").data.options)
  options = {k: v for k, v in options.items() if k not in ("hop", "kinds", "data_dir")}
  assert {k: type(v) for k, v in options.items()} == media_set.option_types(kind)
  assert kind.CONFIG("x", **options) is not None


def test_mistakes_are_one_line_and_leave_nothing(tmp_path, made):
  def fails(kind, match, **options):
    with pytest.raises(UsageError, match=match) as e:
      rows_of(kind, tmp_path, **options)
    assert "\n" not in str(e.value)
    assert not [p for p in (tmp_path / "tfds").rglob("*") if p.is_file()]

  fails(Vggsound, r"no .*vggsound\.csv")
  fails(Wavcaps, "no metadata below .*fsd_final")
  fails(Openhumanvid, r"no \*\.csv and no \*\.parquet")
  fails(Folder, "no media in")
  fails(Vggsound, "unknown option 'min_second': expected min_seconds", min_second=1)
  fails(Vggsound, "speech: got 'yes', expected with", speech="yes")
  fails(Vggsound, "test_share: got 2", test_share=2)
  place(tmp_path, "vggsound.csv", "a,1,x,test\n")
  fails(Vggsound, "no clip of the 1 in the metadata .* a_000001 or a")
  place(tmp_path, "vggsound.csv", "a,1,x,test\na,1,y,test\n")
  fails(Vggsound, "line 2: the id a_000001 was at .* line 1 before")
  place(tmp_path, "vggsound.csv", "a,1,x\n")
  fails(Vggsound, "line 1: 3 fields, expected 4: id, start, label, split")
  place(tmp_path, "vggsound.csv", "id,start,label,split\n")
  fails(Vggsound, "line 1: expected a YouTube id")
  place(tmp_path, "vggsound.csv", "")
  fails(Vggsound, "the metadata has no rows")
  place(tmp_path, "vggsound.csv", "a,1,café,test\n".encode("latin-1"))
  fails(Vggsound, "line 1 is not UTF-8")
  (tmp_path / "vggsound.csv").unlink()
  place(tmp_path, "fsd_final.json", '{"data": [{"id": 1, "title": "x"}]}')
  fails(Wavcaps, "entry 0: expected id and caption, got id, title")
  place(tmp_path, "fsd_final.json", '{"rows": []}')
  fails(Wavcaps, "expected .*data")
  place(tmp_path, "t.csv", "name,caption\nx,y\n")
  fails(Openhumanvid, "line 1: the columns are name, caption, expected one of them")
  place(tmp_path, "a.wav", made["two.wav"])
  fails(Folder, "line 1: the columns are name, caption, .* file or id")
  place(tmp_path, "t.csv", "video_id,caption\na,y\n")
  place(tmp_path, "x/a.mp4", made["clip.mp4"])
  place(tmp_path, "y/a.mp4", made["clip.mp4"])
  fails(Openhumanvid, "two files below .* are called a: x/a.mp4, y/a.mp4")
