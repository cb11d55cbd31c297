"""Rows of captions, and templates, by the text of their tables."""

import math

import pytest

from ccl_jax.data.media.tracks import MediaError
from ccl_jax.data.sources.captions import (
  Caption,
  read_captions,
  read_rows,
  read_table,
  sidecar,
)
from ccl_jax.data.sources.templates import check, fields_of, fill
from ccl_jax.errors import UsageError

NAMES = ["a.wav", "a.mp4", "x/b.mp4"]


def read(root, text, suffix=".jsonl", names=NAMES):
  (root / f"t{suffix}").write_text(text, "utf-8")
  return read_captions(root, names)


def test_a_row_says_all_there_is(tmp_path):
  found, unmatched = read(
    tmp_path,
    '{"file": "x/b", "prompt": "p", "caption": "c", "text": "t", "audio": "a.wav",'
    ' "start": "0.5", "end": 2, "crop": [1, 2, 3, 4], "loudness_gain": -6.5}',
  )
  caption = Caption("p", "a.wav", 0.5, 2.0, (1, 2, 3, 4), -6.5)
  assert found == {"x/b.mp4": [caption]} and unmatched == []
  assert caption.sound(tmp_path) == tmp_path / "a.wav"
  assert Caption().sound(tmp_path) is None


@pytest.mark.parametrize(
  ("row", "text"),
  [
    ('"caption": "c", "text": "t"', "c"),
    ('"text": "t", "prompt": ""', "t"),
    ('"start": 1', ""),
  ],
)
def test_the_first_text_there_is(tmp_path, row, text):
  found, _ = read(tmp_path, f'{{"id": "b", {row}}}', names=["b.mp4"])
  assert found["b.mp4"][0].text == text


def test_what_is_not_said(tmp_path):
  found, _ = read(tmp_path, '{"id": "a.wav"}')
  assert found == {"a.wav": [Caption("", None, 0.0, math.inf, (), 0.0)]}


def test_a_name_without_a_suffix_is_the_last_that_shares_it(tmp_path):
  found, unmatched = read(tmp_path, '{"id": "a", "text": "x"}\n{"id": "b"}')
  assert list(found) == ["a.mp4"] and unmatched == ["b"]  # b is in a folder


@pytest.mark.parametrize(
  ("change", "good"),
  [
    ('"start": 0, "end": 0.001', True),
    ('"start": 1, "end": 1', False),
    ('"start": -0.001', False),
    ('"start": "nan"', False),
    ('"end": "nan"', False),
    ('"loudness_gain": "inf"', False),
    ('"loudness_gain": -99', True),
    ('"crop": [0, 0, 1, 1]', True),
    ('"crop": [0, 0, 1, 0]', False),
    ('"crop": [0, 0, 0, 1]', False),
    ('"crop": [0, -1, 1, 1]', False),
    ('"crop": [-1, 0, 1, 1]', False),
    ('"crop": [0, 0, 1]', False),
    ('"crop": [0, 0, 1, 1, 1]', False),
    ('"crop": "[0, 0, 1, 1]"', True),
    ('"crop": "(0 0 1 1)"', True),
    ('"crop": 3', False),
    ('"audio": 3', False),
    ('"text": ["x"]', False),
  ],
)
def test_numbers_at_their_borders(tmp_path, change, good):
  row = f'{{"id": "a.wav", {change}}}'
  if good:
    assert len(read(tmp_path, row)[0]["a.wav"]) == 1
  else:
    with pytest.raises(UsageError, match=r"t\.jsonl line 1: (expected|crop is)"):
      read(tmp_path, row)


@pytest.mark.parametrize(
  ("first", "second", "good"),
  [
    ('"start": 0, "end": 1', '"start": 1, "end": 2', True),
    ('"start": 0, "end": 1', '"start": 0, "end": 2', True),
    ('"start": 0, "end": 1', '"start": 0, "end": 1', False),
    ('"start": 1, "end": 2', '"text": "all"', False),
    ('"text": "all"', '"start": 1', False),
    ('"text": "x"', '"text": "y"', False),
  ],
)
def test_several_rows_have_parts_of_their_own(tmp_path, first, second, good):
  text = "".join(f'{{"id": "a.wav", {row}}}\n' for row in (first, second))
  if good:
    assert len(read(tmp_path, text)[0]["a.wav"]) == 2
  else:
    with pytest.raises(UsageError, match="line 2: a second caption for a.wav, the fir"):
      read(tmp_path, text)


def test_no_column_is_lost(tmp_path):
  path = tmp_path / "t.csv"
  path.write_text("file,text, text\na.wav,x,y\n")
  with pytest.raises(UsageError, match="t.csv line 1: two columns are called 'text'"):
    list(read_table(path))
  path.write_text("file,text,,\na.wav,x,,\n")  # as of a spreadsheet
  assert [row for _, row in read_table(path)] == [{"file": "a.wav", "text": "x"}]


def test_a_csv_is_read_by_its_header_or_by_names_that_are_given(tmp_path):
  path = tmp_path / "t.csv"
  path.write_text('\n id ,text,more\na,"x, ""y""\nz",\nb,,1\n')
  rows = list(read_table(path, ("id",)))
  assert [row for _, row in rows] == [
    {"id": "a", "text": 'x, "y"\nz'},
    {"id": "b", "more": "1"},
  ]
  assert [where for where, _ in rows] == [f"{path} line {n}" for n in (4, 5)]
  path.write_text("a,1\nb,2\n")
  rows = [row for _, row in read_table(path, columns=("id", "n"))]
  assert rows == [{"id": "a", "n": "1"}, {"id": "b", "n": "2"}]
  for text, what in (("a\n", "1 fields, expected 2: id, n"), ("a,1,x\n", "3 fields")):
    path.write_text(text)
    with pytest.raises(UsageError, match=f"line 1: {what}"):
      list(read_table(path, columns=("id", "n")))


def test_all_tables_of_a_folder_or_the_one_that_is_named(tmp_path):
  (tmp_path / "1.csv").write_text("id,text\na.wav,x\n")
  (tmp_path / "2.jsonl").write_text('{"id": "a.mp4", "text": "y", "mood": 3}')
  rows, _ = read_rows(tmp_path, NAMES)
  assert {name: [r.caption.text for r in found] for name, found in rows.items()} == {
    "a.wav": ["x"],
    "a.mp4": ["y"],
  }
  (row,) = rows["a.mp4"]
  assert row.fields["mood"] == 3 and row.where == f"{tmp_path / '2.jsonl'} line 1"
  assert list(read_rows(tmp_path, NAMES, "1.csv")[0]) == ["a.wav"]


@pytest.mark.parametrize(
  ("field", "match"),
  [
    ('"audio": "http://127.0.0.1:1/x"', "audio: got the path"),
    ('"audio": "/etc/passwd"', "audio: got the path"),
    ('"audio": "../a.wav"', "audio: got the path"),
    ('"audio": "x/../../a.wav"', "audio: got the path"),
    ('"loudness_gain": 800', "expected a loudness_gain of -100 to 100 dB, got 800"),
    ('"loudness_gain": NaN', "expected a loudness_gain"),
    ('"start": NaN', "expected 0 <= start < end"),
    (f'"start": 1{"0" * 400}', "expected numbers as start"),
    ('"crop": [0, 0, 8, Infinity]', "expected numbers as start"),
    ('"crop": [0, 0, 8, 1000000000]', "crop is top, left, height, width"),
    ('"x": ' + "[" * 100_000, "nested too deep|not JSON"),
  ],
)
def test_what_no_caption_says(tmp_path, field, match):
  with pytest.raises(UsageError, match=rf"t\.jsonl line 1.*({match})") as e:
    read(tmp_path, f'{{"file": "a.wav", {field}}}')
  assert "\n" not in str(e.value)


def test_texts_are_valid_and_names_are_as_they_are(tmp_path):
  row = r'{"file": "caf\udce9.mp4", "audio": "n\udcff.wav", "text": "half \ud83d"}'
  found, unmatched = read(tmp_path, row, names=["caf\udce9.mp4"])
  assert found == {"caf\udce9.mp4": [Caption("half \ufffd", "n\udcff.wav")]}
  assert unmatched == []


def test_a_sidecar_is_text_beside_a_file(tmp_path):
  assert sidecar(tmp_path / "a.mp4") == ""
  (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf x y \n")
  assert sidecar(tmp_path / "a.mp4") == "x y"
  (tmp_path / "a.txt").write_bytes(b"\xff")
  with pytest.raises(MediaError, match="a.txt is not UTF-8"):
    sidecar(tmp_path / "a.mp4")


def test_templates():
  row = {"caption": 'he "nods"', "text": 'a "b"', "speech": 'so "it" is', "n": 3}
  assert fields_of("{caption} {{x}} {n}") == ["caption", "n"]
  assert fill('{caption}: "{speech}" {n}', row) == 'he "nods": "so \'it\' is" 3'
  assert fill("{text}", row) == 'a "b"'
  assert fill("{caption} {gone}", row) is None
  check("{caption} {n}", [{"caption": 1}, {"n": 2}])
  with pytest.raises(UsageError, match="no row has gone; the fields are caption, n"):
    check("{caption} {gone}", [{"caption": 1}, {"n": 2}])
  for template in ("", "x", "{}", "{0}", "{a.b}", "{a[0]}", "{a"):
    with pytest.raises(UsageError, match="template"):
      fields_of(template)
