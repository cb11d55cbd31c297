"""Manifests: types, defaults, names, and a file that is whole or as it was."""

import errno
import json
import pathlib

import pytest

from ccl_jax.data.manifest import Line, read_manifest, write_manifest
from ccl_jax.documents import numbered_lines
from ccl_jax.errors import UsageError

GOOD = {"id": "a", "prompt": "x"}
TEXTS = (
  "id", "prompt", "subset", "pair", "image", "audio", "video", "transcript",
  "language", "clip", "negative_prompt", "negative_prompt_video",
  "negative_prompt_audio",
)  # fmt: skip


def written(path, *rows):
  lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
  path.write_text("\n".join(lines), "utf-8")
  return path


def test_what_is_not_said_has_a_default(tmp_path):
  (line,) = read_manifest(written(tmp_path / "m", GOOD))
  assert line == Line(
    "a", "x", subset=None, pair=None, image=None, audio=None, video=None,
    transcript=None, language="en", seed=0, clip=None,
    negative_prompt=None, negative_prompt_video=None, negative_prompt_audio=None,
  )  # fmt: skip
  full = GOOD | {
    "subset": "s", "pair": "p", "image": "i.png", "transcript": "", "language": "zh",
    "seed": 7, "audio": "a.wav", "video": "v.mp4", "clip": "c.mp4",
  }  # fmt: skip
  (line,) = read_manifest(written(tmp_path / "m", full))
  assert line == Line(
    "a", "x", subset="s", pair="p", image="i.png", audio="a.wav", video="v.mp4",
    transcript="", language="zh", seed=7, clip="c.mp4",
  )  # fmt: skip
  unset = GOOD | dict.fromkeys(full.keys() - GOOD.keys(), None)
  assert read_manifest(written(tmp_path / "m", unset)) == [Line("a", "x")]


@pytest.mark.parametrize(
  ("field", "value", "kind"),
  [
    *(("seed", value, "int") for value in (True, False, 1.0, "1", [1])),
    *((field, value, "str") for field in TEXTS for value in (3, True, ["x"])),
  ],
)
def test_every_field_has_its_type(tmp_path, field, value, kind):
  path = written(tmp_path / "m", GOOD | {field: value})
  with pytest.raises(UsageError, match=f"line 1: {field} is .*; expected {kind}$"):
    read_manifest(path)


@pytest.mark.parametrize("name", ["", "a/b", "/a", "../a", "a\\b", "a/"])
def test_an_id_is_the_name_of_a_file(tmp_path, name):
  with pytest.raises(UsageError, match="line 1: id .* is no name of a file"):
    read_manifest(written(tmp_path / "m", GOOD | {"id": name}))


@pytest.mark.parametrize("name", ["a\0b", "a\nb", "..", ".", "x" * 250, "é" * 120])
def test_an_id_is_a_name_that_file_systems_take(tmp_path, name):
  with pytest.raises(UsageError, match="line 1: id .* is no name of a file: it") as e:
    read_manifest(written(tmp_path / "m", GOOD | {"id": name}))
  assert "\n" not in str(e.value) and len(str(e.value)) < 400


def test_ids_that_come_out_alike_are_one(tmp_path):
  """Halves of a surrogate pair are no text: both are U+FFFD."""
  path = written(tmp_path / "m", GOOD | {"id": "a\ud83d"}, GOOD | {"id": "a\ud83e"})
  with pytest.raises(UsageError, match="line 2: id 'a\ufffd' is that of line 1 too"):
    read_manifest(path)


@pytest.mark.parametrize("clip", ["/etc/passwd", "../a.mp4", "x/../../a", "http://h/a"])
def test_the_clip_lies_in_the_folder_of_clips(tmp_path, clip):
  with pytest.raises(UsageError, match="line 1: clip: got the path"):
    read_manifest(written(tmp_path / "m", GOOD | {"clip": clip}))


def test_an_id_may_have_dots_and_spaces(tmp_path):
  names = ["a.1", "a b", ".a", "é"]
  path = written(tmp_path / "m", *(GOOD | {"id": name} for name in names))
  assert [line.id for line in read_manifest(path)] == names


def test_lines_count_from_one_and_blank_ones_too(tmp_path):
  path = written(tmp_path / "m", "", json.dumps(GOOD), "  ", '{"id": "\u2028"}', "")
  assert [number for number, _ in numbered_lines(path)] == [2, 4]
  path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode())  # with a mark
  assert read_manifest(path) == [Line("a", "x")]


@pytest.mark.parametrize(
  ("rows", "match"),
  [
    ([GOOD, "", GOOD], "m, line 3: id 'a' is that of line 1 too"),
    ([GOOD, "{"], "m, line 2 is not JSON"),
    (["[1]"], "m, line 1: expected an object"),
    ([{"id": "a"}], "m, line 1: no 'prompt'; expected at least id and prompt"),
    ([{"prompt": "a"}], "m, line 1: no 'id'"),
    ([GOOD | {"prompt": None}], "m, line 1: prompt is null"),
    ([GOOD | {"id": None}], "m, line 1: id '' is no name"),
    ([""], "m has no lines"),
  ],
)
def test_mistakes_name_their_line(tmp_path, rows, match):
  with pytest.raises(UsageError, match=match) as e:
    read_manifest(written(tmp_path / "m", *rows))
  assert "\n" not in str(e.value)


def test_files_that_cannot_be_read(tmp_path):
  with pytest.raises(UsageError, match="none: cannot be read: No such file"):
    read_manifest(tmp_path / "none")
  (tmp_path / "m").write_bytes('{"id": "é"}'.encode("latin-1"))
  with pytest.raises(UsageError, match="m line 1 is not UTF-8"):
    read_manifest(tmp_path / "m")


def test_what_is_written_is_read_and_has_no_defaults(tmp_path):
  path = tmp_path / "deep" / "m.jsonl"
  lines = [Line("a", "é\u2028", seed=3, transcript=""), Line("b", "y", language="de")]
  write_manifest(path, lines)
  assert read_manifest(path) == lines
  rows = [json.loads(text) for _, text in numbered_lines(path)]
  assert rows == [
    {"id": "a", "prompt": "é\u2028", "transcript": "", "seed": 3},
    {"id": "b", "prompt": "y", "language": "de"},
  ]
  assert "é" in path.read_text("utf-8")
  assert [p.name for p in path.parent.iterdir()] == ["m.jsonl"]


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / "m.jsonl"
  write_manifest(path, [Line("a", "x")])

  def full(self, text, *args):
    with self.open("w") as file:
      file.write(text[: len(text) // 2])
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(pathlib.Path, "write_text", full)
  with pytest.raises(OSError):
    write_manifest(path, [Line("b", "y"), Line("c", "z")])
  assert read_manifest(path) == [Line("a", "x")]
