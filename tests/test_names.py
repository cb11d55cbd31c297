"""Names and paths that come from outside, by hand."""

import pytest

from ccl_jax import names
from ccl_jax.errors import UsageError


@pytest.mark.parametrize(
  ("text", "name"),
  [
    ("a.mp4@0.500", "a.mp4@0.500"),
    ("x/y z", "x_y_z"),
    ("../../etc/passwd", "__.._etc_passwd"),
    ("..", "_"),
    (".hidden", "_hidden"),
    ("", "_"),
    ("a\0b\nc", "a_b_c"),
    ("你好 é", "你好_é"),
    ("half \ud83d", "half_"),
    ("C:\\x", "C_x"),
  ],
)
def test_the_name_of_a_file(text, name):
  assert names.safe_name(text) == name


def test_long_names_are_cut_and_stay_different():
  one, other = (names.safe_name("é" * 300 + end) for end in "ab")
  assert one != other and one[:90] == "é" * 90
  assert len(one.encode()) <= names.MOST and one == names.safe_name("é" * 300 + "a")
  assert names.safe_name("a" * 200) == "a" * 200


def test_names_that_come_out_alike_get_numbers():
  made = names.safe_names(["a b", "a_b", "A?b", "a_b_2", "c"])
  assert made == ["a_b", "a_b_2", "A_b_3", "a_b_2_2", "c"]


@pytest.mark.parametrize(
  ("name", "flaw"),
  [
    ("a b.é", ""),
    ("x" * 200, ""),
    ("x" * 201, "201 bytes"),
    ("é" * 101, "202 bytes"),
    ("", "empty"),
    (".", "folder"),
    ("..", "folder"),
    ("a/b", "separator"),
    ("a\\b", "separator"),
    ("a\0", "control"),
    ("a\n", "control"),
    ("\ud83d", "Unicode"),
  ],
)
def test_what_keeps_a_name_from_being_one(name, flaw):
  assert flaw in names.flaw(name) and bool(flaw) == bool(names.flaw(name))


@pytest.mark.parametrize("path", ["a", "a/b.wav", "a..b", "./a", "http:x", "caf\udce9"])
def test_paths_below_a_folder(path):
  assert names.inside(path, "x") == path


@pytest.mark.parametrize(
  "path",
  [
    "",
    "/a",
    "..",
    "../a",
    "a/../../b",
    "a/..",
    "http://h/a",
    "file:///a",
    "a\0b",
    "//h/a",
  ],
)
def test_paths_that_leave_it(path):
  with pytest.raises(UsageError, match="^t line 3: audio: got the path .* below its"):
    names.inside(path, "t line 3: audio")


def test_names_that_are_no_utf8_are_printed_with_escapes():
  assert names.printable("caf\udce9.mp4") == r"caf\udce9.mp4"
  assert names.printable("café") == "café"
