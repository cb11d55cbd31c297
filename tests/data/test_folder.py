import json
import logging

import numpy as np
import pytest
from films import film, flash, onset, truncated

from ccl_jax.data.folder import FolderSource
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError

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


@pytest.mark.parametrize(
  "line", ['{"id": "b", "text": ', '["b"]', '{"text": "x"}', '{"id": "b", "text": 3}']
)
def test_broken_lines_are_named(tmp_path, made, line):
  _folder(tmp_path, made, "b.mp4")
  (tmp_path / "a.jsonl").write_text('{"id": "b", "text": "x"}\n\n' + line + "\n")
  with pytest.raises(UsageError, match=r"a\.jsonl line 3"):
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
