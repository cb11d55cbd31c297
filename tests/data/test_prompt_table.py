"""Tables of prompts and images, as manifests."""

import os

import pytest

from ccl_jax.data.manifest import Line, read_manifest
from ccl_jax.errors import UsageError


def table(path, text):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text, "utf-8")
  return path


def test_rows_are_lines(tmp_path):
  """Quoted commas, quotes and line breaks; images from the folder, or one above."""
  (tmp_path / "repo" / "examples" / "png").mkdir(parents=True)
  for name in ("examples/png/1.png", "examples/2.png"):
    (tmp_path / "repo" / name).write_bytes(b"")
  path = table(
    tmp_path / "repo" / "examples" / "my set.csv",
    "\ufefftext_prompt, image_path\r\n"
    '"He says, <S>""No"", never.<E>\nA dog.",examples/png/1.png\r\n'
    "A cat,2.png\r\n"
    "A bird,\r\n"
    "A fish,gone.png\r\n",
  )
  root = tmp_path / "repo"
  assert read_manifest(path) == [
    Line("my_set_0001", 'He says, <S>"No", never.<E>\nA dog.',
         image=str(root / "examples/png/1.png")),
    Line("my_set_0002", "A cat", image=str(root / "examples/2.png")),
    Line("my_set_0003", "A bird"),
    Line("my_set_0004", "A fish", image=str(root / "examples/gone.png")),
  ]  # fmt: skip
  only = table(tmp_path / "only.CSV", "text_prompt\nA cat\n")
  assert read_manifest(only) == [Line("only_0001", "A cat")]


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("prompt,image\nA cat,x\n", "columns prompt, image; expected text_prompt"),
    ("", "columns none; expected text_prompt"),
    ("text_prompt\n", "has no rows"),
    ("text_prompt, text_prompt\nA cat,B\n", "two columns are called 'text_prompt'"),
    ("text_prompt,image_path\n,x.png\n", "row 1: no prompt"),
    ("text_prompt\nA cat\nA dog, a bird\n", "row 2: more columns than the header"),
    ('text_prompt\n"A cat\n', "row 1: no CSV"),
  ],
)
def test_what_is_no_table(tmp_path, text, words):
  with pytest.raises(UsageError, match=words):
    read_manifest(table(tmp_path / "t.csv", text))


def test_a_table_that_cannot_be_read(tmp_path):
  with pytest.raises(UsageError, match="cannot be read"):
    read_manifest(tmp_path / "none.csv")
  os.mkfifo(tmp_path / "pipe.csv")
  with pytest.raises(UsageError, match="pipe.csv is a pipe"):
    read_manifest(tmp_path / "pipe.csv")
  (tmp_path / "t.csv").write_bytes(b"text_prompt\n\xff\xfe\n")
  with pytest.raises(UsageError, match="t.csv line 2 is not UTF-8"):
    read_manifest(tmp_path / "t.csv")
