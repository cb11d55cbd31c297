import json
import logging

import numpy as np
import pytest

from ccl_jax.data.sources.folder import FolderSource
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from tests.data.films import film, flash, onset, truncated

SPEC = ClipSpec(33, 32, 48, 25)


def _rows(path, *rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """Films to copy from, made once."""
  root = tmp_path_factory.mktemp("made")
  film(root / "a.mp4", seconds=3.0)
  film(root / "b.mp4", seconds=1.4, event=0.4)
  film(root / "mute.mp4", sound=None)
  film(root / "short.mp4", seconds=0.8, event=0.2)
  return {path.name: path.read_bytes() for path in root.iterdir()}


def _folder(root, made, *names):
  for name in names:
    target = root / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(made[target.name])
  return root


def test_windows_captions_and_clips(tmp_path, made):
  _folder(tmp_path, made, "a.mp4", "more/b.mp4")
  film(tmp_path / "c.webm", codecs=("libvpx-vp9", "libopus"), options={"live": "1"})
  _rows(tmp_path / "captions.jsonl", {"id": "a", "prompt": "a grey room"})
  (tmp_path / "more" / "b.txt").write_text("a lamp\n")
  source = FolderSource(tmp_path, SPEC)
  found = [(w.name, round(w.start, 2), w.text) for w in source.windows]
  assert found == [
    ("a.mp4", 0.0, "a grey room"),
    ("a.mp4", 1.32, "a grey room"),
    ("c.webm", 0.0, ""),
    ("more/b.mp4", 0.0, "a lamp"),
  ]
  assert len(source) == 4
  assert source.skipped == []
  clip = source[0]
  assert clip["id"] == "a.mp4@0.000"
  assert flash(clip["video"]) == [25]
  assert abs(onset(clip["audio"]) - 1.0) < 0.002
  assert clip["video"].shape == (33, 32, 48, 3)
  assert clip["audio"].shape == (SPEC.samples,)
  np.testing.assert_array_equal(source[0]["video"], clip["video"])
  assert flash(source[1]["video"]) == []
  with pytest.raises(IndexError):
    source[4]


def test_the_last_frame_of_a_film_is_held(tmp_path):
  """32 frames are a clip of 33, 31 are none."""
  for frames in (32, 31):
    film(tmp_path / f"{frames}.mp4", seconds=frames / 25, event=0.4)
  source = FolderSource(tmp_path, SPEC)
  assert [(w.name, w.start) for w in source.windows] == [("32.mp4", 0.0)]
  video = source[0]["video"]
  np.testing.assert_array_equal(video[32], video[31])


def test_hop(tmp_path, made):
  _folder(tmp_path, made, "a.mp4")
  source = FolderSource(tmp_path, SPEC, hop=0.5)
  assert [w.start for w in source.windows] == [0.0, 0.5, 1.0, 1.5]
  assert [flash(clip["video"]) for clip in source] == [[25], [12], [0], []]
  with pytest.raises(UsageError, match="hop"):
    FolderSource(tmp_path, SPEC, hop=0)


def test_useless_files_are_skipped_and_named(tmp_path, made, caplog):
  _folder(tmp_path, made, "a.mp4", "mute.mp4", "short.mp4")
  truncated(tmp_path / "a.mp4", tmp_path / "cut.mp4")
  (tmp_path / "empty.mp4").touch()
  (tmp_path / "notes.mp4").write_text("notes\n" * 100)
  (tmp_path / ".hidden.mp4").touch()
  (tmp_path / "readme.md").touch()
  with caplog.at_level(logging.INFO):
    source = FolderSource(tmp_path, SPEC)
  assert {w.name for w in source.windows} == {"a.mp4"}
  reasons = dict(source.skipped)
  assert sorted(reasons) == [
    "cut.mp4",
    "empty.mp4",
    "mute.mp4",
    "notes.mp4",
    "short.mp4",
  ]
  assert "no audio track" in reasons["mute.mp4"]
  assert "too short, 0.80 s of the 1.32 s" in reasons["short.mp4"]
  assert all(str(tmp_path) not in reason for reason in reasons.values())
  warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
  assert len(warned) == 5
  assert "2 clips from 1 of 6 films" in caplog.text


def test_a_file_that_breaks_later_is_replaced(tmp_path, made, caplog):
  _folder(tmp_path, made, "a.mp4", "b.mp4")
  source = FolderSource(tmp_path, SPEC)
  assert len(source) == 3
  (tmp_path / "a.mp4").write_bytes(b"x" * 500)
  assert [source[i]["id"] for i in range(3)] == ["b.mp4@0.000"] * 3
  assert list(source.failed) == ["a.mp4"]
  assert caplog.text.count("unreadable") == 1
  (tmp_path / "b.mp4").unlink()
  with pytest.raises(UsageError, match="can be read any more"):
    source[1]


def test_the_next_film_takes_the_place_of_one_that_breaks(tmp_path, made):
  for name in ("a.mp4", "c.mp4", "d.mp4"):
    (tmp_path / name).write_bytes(made["b.mp4"])
  source = FolderSource(tmp_path, SPEC)
  (tmp_path / "c.mp4").write_bytes(b"x" * 500)
  assert [source[i]["id"][:5] for i in range(3)] == ["a.mp4", "d.mp4", "d.mp4"]


def test_sound_in_a_file_of_its_own(tmp_path, made):
  _folder(tmp_path, made, "mute.mp4", "b.mp4")
  row = {"file": "mute.mp4", "caption": "dub", "audio": "b.mp4"}
  _rows(tmp_path / "a.jsonl", row)
  source = FolderSource(tmp_path, SPEC)
  dubbed = {w.name: i for i, w in enumerate(source.windows)}["mute.mp4"]
  assert abs(onset(source[dubbed]["audio"]) - 0.4) < 0.002
  assert source[dubbed]["text"] == "dub"
  _rows(tmp_path / "a.jsonl", row | {"audio": "absent.wav"})
  reasons = dict(FolderSource(tmp_path, SPEC).skipped)
  assert "absent.wav" in reasons["mute.mp4"]


def test_captions_without_a_film_are_counted(tmp_path, made, caplog):
  _folder(tmp_path, made, "b.mp4")
  _rows(tmp_path / "a.jsonl", {"id": "gone", "text": "x"}, {"id": "b", "text": "y"})
  source = FolderSource(tmp_path, SPEC)
  assert source.unmatched == ["gone"]
  assert source[0]["text"] == "y"
  assert "line 1: no file gone" in caplog.text


def test_captions_of_a_csv_and_several_parts_of_a_film(tmp_path, made):
  _folder(tmp_path, made, "a.mp4", "b.mp4")
  (tmp_path / "c.csv").write_bytes(
    "\ufefffile,mood,caption,start,end\r\n"
    'a,calm,"a room, ""grey""",,1.4\r\n'
    "a,,étage,1.4,2.8\r\nb.mp4,,a lamp,,\r\n".encode()
  )
  source = FolderSource(tmp_path, SPEC)
  found = [(w.name, round(w.start, 2), w.text) for w in source.windows]
  assert found == [
    ("a.mp4", 0.0, 'a room, "grey"'),
    ("a.mp4", 1.4, "étage"),
    ("b.mp4", 0.0, "a lamp"),
  ]
  assert flash(source[0]["video"]) == [25] and flash(source[1]["video"]) == []
  _rows(tmp_path / "other.jsonl", {"id": "b", "text": "other"})
  with pytest.raises(UsageError, match=r"other\.jsonl line 1: a second caption"):
    FolderSource(tmp_path, SPEC)
  for table in ("other.jsonl", str(tmp_path / "other.jsonl")):
    texts = {
      w.name: w.text for w in FolderSource(tmp_path, SPEC, captions=table).windows
    }
    assert texts == {"a.mp4": "", "b.mp4": "other"}
  with pytest.raises(UsageError, match=r"no table of captions gone\.csv"):
    FolderSource(tmp_path, SPEC, captions="gone.csv")


def test_crop_and_gain_of_a_row(tmp_path, made):
  _folder(tmp_path, made, "b.mp4")
  pixels = np.zeros((64, 96, 3), np.uint8)
  pixels[16:48, 24:72] = 200
  film(tmp_path / "c.mp4", seconds=1.4, event=0.4, size=(96, 64), pixels=pixels)
  plain = FolderSource(tmp_path, SPEC)
  row = {"file": "c", "crop": [16, 24, 32, 48], "loudness_gain": -20}
  _rows(tmp_path / "a.jsonl", row)
  source = FolderSource(tmp_path, SPEC)
  assert plain[1]["video"].min() < 10
  assert source[1]["video"][:, 1:-1, 1:-1].min() > 150
  np.testing.assert_allclose(source[1]["audio"], plain[1]["audio"] / 10, atol=1e-6)
  (tmp_path / "a.jsonl").unlink()
  (tmp_path / "a.csv").write_text('file,crop\nc.mp4,"[16, 24, 32, 48]"\n')
  np.testing.assert_array_equal(
    FolderSource(tmp_path, SPEC)[1]["video"], source[1]["video"]
  )
  _rows(tmp_path / "b.jsonl", {"file": "b", "crop": [16, 24, 64, 48]})
  broken = FolderSource(tmp_path, SPEC)
  assert broken[0]["id"] == "c.mp4@0.000"
  assert "crop (16, 24, 64, 48) is not within its 48 x 64" in broken.failed["b.mp4"]


@pytest.mark.parametrize(
  ("text", "match"),
  [
    ("name,caption\nb,x\n", "line 1: the columns are name, caption, expected one of"),
    ("id,caption\nb,x,y\n", "line 2: 3 fields, expected 2: id, caption .a text with"),
    ("id,caption\n,x\n", "line 2: expected an object or row with file or id"),
    ("id,start\nb,soon\n", "line 2: expected numbers as start, end"),
    ("id,start,end\nb,2,1\n", "line 2: expected 0 <= start < end, got 2 and 1"),
    ("id,crop\nb,1 2 3\n", "line 2: crop is top, left, height, width"),
    ("id,crop\nb,0 0 0 8\n", "line 2: crop is top, left, height, width"),
    ("id,caption\nb,x\nb,y\n", "line 3: a second caption for b.mp4, .* line 2"),
    ("id,start\nb,0.1\nb,0.1\n", "line 3: a second caption"),
    ("id,start\nb,0.1\nb,\n", "line 3: a second caption"),
    ('id,caption\nb,"x\n', "is not CSV"),
    ("id,caption\nb,é\n", "line 2 is not UTF-8"),
  ],
)
def test_broken_csv_is_one_line(tmp_path, made, text, match):
  _folder(tmp_path, made, "b.mp4")
  (tmp_path / "a.csv").write_bytes(text.encode("latin-1"))
  with pytest.raises(UsageError, match=match) as e:
    FolderSource(tmp_path, SPEC)
  assert "\n" not in str(e.value)


def test_a_part_outside_of_the_film_is_skipped(tmp_path, made):
  _folder(tmp_path, made, "a.mp4")
  _rows(
    tmp_path / "a.jsonl",
    {"file": "a", "start": 0, "end": 1.5},
    {"file": "a", "start": 7, "end": 9},
  )
  source = FolderSource(tmp_path, SPEC)
  assert len(source) == 1
  ((name, reason),) = source.skipped
  assert name == "a.mp4@7.000" and "7 to 9 s is outside of the file" in reason


@pytest.mark.parametrize(
  "line", ['{"id": "b", "text": ', '["b"]', '{"text": "x"}', '{"id": "b", "text": 3}']
)
def test_broken_lines_are_named(tmp_path, made, line):
  _folder(tmp_path, made, "b.mp4")
  (tmp_path / "a.jsonl").write_text('{"id": "b", "text": "x"}\n\n' + line + "\n")
  with pytest.raises(UsageError, match=r"a\.jsonl line 3"):
    FolderSource(tmp_path, SPEC)


def test_films_that_are_all_too_short(tmp_path, made):
  _folder(tmp_path, made, "short.mp4")
  with pytest.raises(UsageError, match=r"give longer ones, or fewer config\.clip\.fra"):
    FolderSource(tmp_path, SPEC)


def test_empty_and_absent_folders(tmp_path, made):
  with pytest.raises(UsageError, match="no films in"):
    FolderSource(tmp_path, SPEC)
  with pytest.raises(UsageError, match="no folder at"):
    FolderSource(tmp_path / "absent", SPEC)
  _folder(tmp_path, made, "mute.mp4")
  with pytest.raises(UsageError, match=r"no usable film among 1 .* no audio track"):
    FolderSource(tmp_path, SPEC)


def test_shared_clips(shared):
  source = FolderSource(shared / "clips", SPEC)
  assert source.skipped == []
  assert source.unmatched == ["jfk"]
  assert len({w.name for w in source.windows}) == 8
  assert all(w.text for w in source.windows)
