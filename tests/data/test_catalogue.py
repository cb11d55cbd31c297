import fractions
import json
import logging
import struct
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ccl_jax.data.builders.folder import Folder
from ccl_jax.data.media.decode import MediaError, image_size, picture_size
from ccl_jax.data.sets.buckets import Bucket, parse_spec
from ccl_jax.data.sources import catalogue
from ccl_jax.data.sources.catalogue import scan
from ccl_jax.data.sources.folder import FolderSource
from ccl_jax.errors import UsageError
from ccl_jax.viz.media import write_png, write_wav
from tests.data.films import film, flash, onset, truncated

WIDE, TALL, LONG = map(parse_spec, ("33x32x48@25", "33x48x32@25", "65x32x48@25"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """Media to copy from, made once."""
  root = tmp_path_factory.mktemp("made")
  film(root / "a.mp4", seconds=3.0)
  film(root / "tall.mp4", seconds=1.4, event=0.4, size=(48, 64))
  film(root / "mute.mp4", seconds=1.4, event=0.4, sound=None)
  film(root / "short.mp4", seconds=0.8, event=0.2)
  wave = np.zeros(32000, np.float32)
  wave[8000:8016] = 0.5
  write_wav(root / "voice.wav", wave)
  grey = np.full((60, 90, 3), 120, np.uint8)
  write_png(root / "still.png", grey)
  film(root / "cut.mp4", options={"movflags": "faststart"})
  truncated(root / "cut.mp4", root / "cut.mp4")
  return {path.name: path.read_bytes() for path in root.iterdir()}


def folder(root, made, *names):
  for name in names:
    target = root / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(made[target.name])
  return root


def ids(found):
  return {b.name: [item.id for item in items] for b, items in found.buckets.items()}


def test_every_file_finds_its_bucket(tmp_path, made):
  names = ("a.mp4", "tall.mp4", "mute.mp4", "voice.wav", "more/still.png")
  root = folder(tmp_path, made, *names)
  (root / "a.txt").write_text("a flash")
  (root / "c.jsonl").write_text('{"id": "voice", "text": "a click"}\n')
  found = scan(root, [WIDE, TALL])
  assert ids(found) == {
    "+41": ["voice.wav@0.000"],
    "1x32x48": ["more/still.png"],
    "33x32x48@25": ["mute.mp4@0.000"],
    "33x32x48@25+41": ["a.mp4@0.000", "a.mp4@1.320"],
    "33x48x32@25+41": ["tall.mp4@0.000"],
  }
  assert found.skipped == []
  clips = {
    item.id: catalogue.read(root, bucket, item)
    for bucket, items in found.buckets.items()
    for item in items
  }
  texts = {clip["id"]: clip["text"] for clip in clips.values()}
  assert texts["a.mp4@1.320"] == "a flash" and texts["voice.wav@0.000"] == "a click"
  first = clips["a.mp4@0.000"]
  assert flash(first["video"]) == [25]
  assert abs(onset(first["audio"]) - 1.0) < 0.002
  assert clips["tall.mp4@0.000"]["video"].shape == (33, 48, 32, 3)
  assert flash(clips["mute.mp4@0.000"]["video"]) == [10]
  assert "audio" not in clips["mute.mp4@0.000"]
  assert onset(clips["voice.wav@0.000"]["audio"]) == 0.5
  assert clips["voice.wav@0.000"]["audio"].shape == (41 * 512,)
  still = clips["more/still.png"]["video"]
  assert still.shape == (1, 32, 48, 3) and (abs(still.astype(int) - 120) < 2).all()


def test_the_longest_shape_that_fits(tmp_path, made):
  root = folder(tmp_path, made, "a.mp4", "tall.mp4", "voice.wav", "short.mp4")
  found = scan(root, [WIDE, LONG])
  assert ids(found) == {
    "+41": ["voice.wav@0.000"],
    "33x32x48@25+41": ["tall.mp4@0.000"],
    "65x32x48@25+81": ["a.mp4@0.000"],
  }
  assert found.skipped == [("short.mp4", "too short, 0.80 s of the 1.32 s of a clip")]
  found = scan(root, [LONG], hop=0.2)
  assert ids(found) == {"65x32x48@25+81": ["a.mp4@0.000", "a.mp4@0.200", "a.mp4@0.400"]}
  assert dict(found.skipped)["voice.wav"].startswith("too short, 2.00 s of the 2.59")


def test_only_the_kinds_asked_for(tmp_path, made):
  root = folder(tmp_path, made, "a.mp4", "mute.mp4", "voice.wav", "still.png")
  found = scan(root, [WIDE], kinds=("film", "image"))
  assert {b.kind for b in found.buckets} == {"film", "image"}
  assert {name for name, _ in found.skipped} == {"mute.mp4", "voice.wav"}


def test_a_films_own_sound_is_no_clip_of_its_own(tmp_path, made):
  root = folder(tmp_path, made, "mute.mp4", "voice.wav")
  row = {"file": "mute.mp4", "audio": "voice.wav", "text": "dubbed"}
  (root / "c.jsonl").write_text(json.dumps(row))
  found = scan(root, [WIDE])
  ((bucket, (item,)),) = found.buckets.items()
  assert (bucket.kind, item.text) == ("film", "dubbed")
  clip = catalogue.read(root, bucket, item)
  assert onset(clip["audio"]) == 0.5 and flash(clip["video"]) == [10]


def test_a_caption_by_its_stem_is_the_films(tmp_path, made):
  root = folder(tmp_path, made, "a.mp4")
  (root / "a.png").write_bytes(made["still.png"])
  (root / "c.jsonl").write_text('{"id": "a", "text": "a flash"}\n')
  texts = {i[0].path: i[0].text for i in scan(root, [WIDE]).buckets.values()}
  assert texts == {"a.png": "", "a.mp4": "a flash"}


def test_bad_files_are_skipped_with_a_reason(tmp_path, made, caplog):
  root = folder(tmp_path, made, "a.mp4", "cut.mp4")
  for name in ("empty.mp4", "empty.wav", "empty.png"):
    (root / name).touch()
  (root / "notes.png").write_text("no image")
  (root / "notes.mp3").write_text("no sound")
  (root / "b.mp4").write_bytes(made["tall.mp4"])
  (root / "b.txt").write_bytes("café".encode("latin-1"))
  (root / ".hidden.mp4").touch()
  with caplog.at_level(logging.WARNING):
    found = scan(root, [WIDE])
  assert ids(found) == {"33x32x48@25+41": ["a.mp4@0.000", "a.mp4@1.320"]}
  reasons = dict(found.skipped)
  assert len(reasons) == 7 and len(caplog.records) == 7
  assert "truncated" in reasons["cut.mp4"]
  assert "not a readable image" in reasons["empty.png"]
  assert "b.txt is not UTF-8" in reasons["b.mp4"]
  assert not any(reason.startswith(str(tmp_path)) for reason in reasons.values())


def test_captions_for_missing_files_are_told(tmp_path, made, caplog):
  root = folder(tmp_path, made, "a.mp4")
  (root / "c.jsonl").write_text('{"id": "gone", "text": "x"}\n')
  scan(root, [WIDE])
  assert "c.jsonl line 1: no file gone in the folder" in caplog.text


@pytest.mark.parametrize(
  ("lines", "message"),
  [
    (
      b'{"id": "a", "text": "x"}\n{"file": "a.mp4"}',
      "line 2: a second caption for a.mp4",
    ),
    ('{"id": "a", "text": "café"}'.encode("latin-1"), "line 1 is not UTF-8"),
    (b'{"id": "a", "text": ', "line 1 is not JSON"),
  ],
)
def test_broken_captions_are_one_line(tmp_path, made, lines, message):
  root = folder(tmp_path, made, "a.mp4")
  (root / "c.jsonl").write_bytes(lines)
  with pytest.raises(UsageError, match=message):
    scan(root, [WIDE])


def test_a_byte_order_mark_is_no_part_of_a_caption(tmp_path, made):
  root = folder(tmp_path, made, "a.mp4", "voice.wav")
  (root / "c.jsonl").write_bytes(b'\xef\xbb\xbf{"id": "a", "text": "x"}\n')
  (root / "voice.txt").write_bytes(b"\xef\xbb\xbfclick")
  texts = {items[0].text for items in scan(root, [WIDE]).buckets.values()}
  assert texts == {"x", "click"}


def test_mistakes_are_one_line(tmp_path, made):
  with pytest.raises(UsageError, match="no media in"):
    scan(tmp_path, [WIDE])
  with pytest.raises(UsageError, match="no folder at"):
    scan(tmp_path / "absent", [WIDE])
  root = folder(tmp_path, made, "cut.mp4")
  with pytest.raises(UsageError, match="no usable file among 1 in .*truncated"):
    scan(root, [WIDE])
  short = folder(tmp_path / "short", made, "short.mp4")
  with pytest.raises(UsageError, match="a clip; give longer ones, or shorter clips="):
    scan(short, [WIDE])
  with pytest.raises(UsageError, match="hop"):
    scan(root, [WIDE], hop=0)
  with pytest.raises(UsageError, match="unknown kind 'films': expected film"):
    scan(root, [WIDE], kinds=("films",))
  with pytest.raises(UsageError, match="no two alike"):
    scan(root, [WIDE, WIDE])


def test_an_unreadable_item_says_why(tmp_path, made):
  root = folder(tmp_path, made, "a.mp4", "voice.wav", "still.png", "mute.mp4")
  found = scan(root, [WIDE])
  for bucket, items in found.buckets.items():
    (root / items[0].path).write_bytes(b"spoilt")
    with pytest.raises(MediaError, match=items[0].path):
      catalogue.read(root, bucket, items[0])


def test_sizes_are_as_shown(tmp_path):
  from PIL import Image

  image = Image.new("RGB", (90, 60))
  exif = image.getexif()
  exif[274] = 6  # turned by a quarter
  image.save(tmp_path / "turned.jpg", exif=exif)
  image.save(tmp_path / "plain.jpg")
  assert image_size(tmp_path / "turned.jpg") == (90, 60)
  assert image_size(tmp_path / "plain.jpg") == (60, 90)
  film(tmp_path / "wide.mp4", seconds=0.5, event=0.2, aspect=fractions.Fraction(2))
  assert picture_size(tmp_path / "wide.mp4") == (48, 128)


@pytest.mark.shared
def test_the_shared_clips(shared):
  found = scan(shared / "clips", [WIDE, TALL])
  assert found.skipped == []
  files = {item.path for items in found.buckets.values() for item in items}
  assert len(files) == 9
  assert Bucket.of(WIDE, "sound") in found.buckets
  assert all(item.text for items in found.buckets.values() for item in items)


@pytest.mark.parametrize("suffix", ["m4v", "ts", "flv", "3gp", "MOV", "m2ts"])
def test_films_of_the_usual_suffixes_are_read(tmp_path, suffix):
  film(tmp_path / f"a.{suffix}")
  found = scan(tmp_path, [WIDE])
  (bucket,) = found.buckets
  assert bucket.kind == "film" and not found.skipped
  clip = catalogue.read(tmp_path, bucket, found.buckets[bucket][0])
  (white,) = flash(clip["video"])
  assert white / 25 == pytest.approx(onset(clip["audio"]), abs=0.022)


def test_a_gif_is_a_silent_film(tmp_path):
  film(tmp_path / "a.mp4", sound=None)
  frames = [Image.new("RGB", (64, 48), (5 * k, 90, 90)) for k in range(40)]
  more = {"append_images": frames[1:], "duration": 40}
  frames[0].save(tmp_path / "b.gif", save_all=True, **more)
  found = scan(tmp_path, [WIDE])
  (bucket,) = found.buckets
  assert bucket.kind == "silent" and not found.skipped
  assert {item.path for item in found.buckets[bucket]} == {"a.mp4", "b.gif"}


def test_media_that_are_not_read_are_named(tmp_path, caplog):
  film(tmp_path / "a.mp4")
  (tmp_path / "below").mkdir()
  # Some that Python's table of types has, and more that it has not.
  others = ["b.rm", "c.heic", "below/d.RMVB", "e.jfif", "f.Y4M", "g.m4b", "h.cr2"]
  others += ["i.h264", "j.ogm", "k.jp2", "l.ape", "m.qt", "n.m1v", "o.ra", "p.ico"]
  for name in (*others, "notes.txt", "table.json", "z.zip", ".hidden.rm", "README"):
    (tmp_path / name).write_bytes(b"x")
  # By their first bytes, whatever they are called: a download that was stopped, too.
  whole = (tmp_path / "a.mp4").read_bytes()
  more = ["q.mp4.part", "r", "s.mp4 ", "t.gifv", "u.bin"]
  for name in (*more, "page.html", ".v"):
    (tmp_path / name).write_bytes(whole)
  others += more
  found = scan(tmp_path, [WIDE])
  assert sorted(name for name, _ in found.skipped) == sorted(others)
  assert dict(found.skipped)["r"].startswith("files without an ending are not read")
  assert "files that end in .rmvb are not read" in dict(found.skipped)["below/d.RMVB"]
  assert "skipped b.rm: files that end in .rm are not read" in caplog.text
  caplog.clear()
  FolderSource(tmp_path, WIDE)
  assert "skipped c.heic: files that end in .heic" in caplog.text
  caplog.clear()
  builder = SimpleNamespace(builder_config=SimpleNamespace(captions=""))
  (entry,) = Folder.entries(builder, SimpleNamespace(root=tmp_path))
  assert entry.names == ("a.mp4",)
  assert "skipped c.heic: files that end in .heic" in caplog.text


def test_pixels_of_no_width_are_damage(tmp_path):
  """1:1000 of a 64 x 48 film once gave a width of 0, which nothing divides by."""
  film(tmp_path / "a.mp4")
  wide = film(tmp_path / "c.mp4", aspect=fractions.Fraction(1, 4))
  raw = bytearray(wide.read_bytes())
  at = raw.index(b"pasp") + 4
  raw[at : at + 8] = struct.pack(">II", 1, 1000)
  (tmp_path / "b.mp4").write_bytes(raw)
  found = scan(tmp_path, [WIDE, TALL])
  ((name, why),) = found.skipped
  assert name == "b.mp4" and "a header says that its pixels are 1/1000 times" in why
