"""Reads text and JSON that others wrote: limits first, then values.

Every such file (config.json, the index of a set, manifests, tables of captions, logs of
runs) goes through here, so that all keep the same promises:

* only regular files are opened, as a pipe could wait for ever, and none of more bytes
  than the reader asks for
* text is UTF-8, with or without a byte order mark
* JSON is no more than `DEPTH` levels deep, so that nothing that walks it overflows, and
  no object has a key twice, of which one would be lost
* its strings are valid Unicode: half of a surrogate pair, which JSON can spell, becomes
  U+FFFD; only file names that are no UTF-8 are kept as Python spells them
* types and ranges are those of a schema (`check`), a type that pydantic understands
* what is wrong is one line: `Unreadable` of a file, `Malformed` of its content
"""

import collections
import functools
import json
import os
import re
import stat
from collections.abc import Sequence
from typing import Annotated, Any

import pydantic

from ccl_jax.errors import UsageError
from ccl_jax.remote.paths import BucketPath, place

Path = str | os.PathLike
DEPTH = 64  # levels of lists and objects; our own files have seven
DOCUMENT, TABLE = 2**26, 2**32  # bytes of a description, and of a list of clips
_HALVES = re.compile("[\ud800-\udfff]")
_ESCAPED = re.compile(r"\\u[dD][89a-fA-F]")

# What schemas are written with.
Count = Annotated[int, pydantic.Field(ge=0, le=2**48)]
Seed = Annotated[int, pydantic.Field(ge=0, lt=2**64)]
Size = Annotated[int, pydantic.Field(ge=0, le=2**24)]  # of an axis of an array
Number = Annotated[float, pydantic.Field(allow_inf_nan=False)]
Sha256 = Annotated[str, pydantic.Field(pattern=r"^[0-9a-f]{64}$")]


class Unreadable(UsageError):
  """A file that cannot be read at all: it is not there, no file, or too large."""


class Malformed(UsageError):
  """A file's content is not what it should be; the message says where."""


def read_bytes(path: Path, most: int = TABLE) -> bytes:
  """The bytes of a regular file.

  Args:
    path: of the file.
    most: bytes that it may have.

  Raises:
    Unreadable: it is not there, no regular file, or larger.
  """
  try:
    found = place(path)
    status = found.stat()
    if stat.S_ISDIR(status.st_mode):
      raise Unreadable(f"{path} is a folder; expected a file")
    if not stat.S_ISREG(status.st_mode):
      raise Unreadable(f"{path} is a pipe or a device; expected a file on disk")
    if status.st_size > most:
      raise Unreadable(f"{path} has {status.st_size} bytes; expected at most {most}")
    # A file may grow after it was looked at.
    if isinstance(found, BucketPath):
      return found.read_bytes()
    with open(found, "rb") as f:
      return f.read(most)
  except OSError as e:
    raise Unreadable(f"{path}: cannot be read: {e.strerror or e}") from e
  except ValueError as e:  # a NUL in the name
    raise Unreadable(f"{str(path)!r} is no name of a file: {e}") from e


def decode(data: bytes, where: Path) -> str:
  """Text in UTF-8, without a byte order mark.

  Raises:
    Malformed: it is no UTF-8; the message names the line.
  """
  try:
    return data.decode("utf-8-sig")
  except UnicodeDecodeError as e:
    line = data[: e.start].count(b"\n") + 1
    raise Malformed(f"{where} line {line} is not UTF-8 ({e}): save it as UTF-8") from e


def read_text(path: Path, most: int = TABLE) -> str:
  """The text of a file in UTF-8.

  Raises:
    Unreadable: see `read_bytes`.
    Malformed: it is no UTF-8.
  """
  return decode(read_bytes(path, most), path)


def numbered_lines(path: Path) -> list[tuple[int, str]]:
  """The lines of a text file that are not blank, with their numbers, from 1.

  Raises:
    Unreadable, Malformed: see `read_text`.
  """
  lines = read_text(path).split("\n")  # splitlines parts at U+2028 too
  return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def parse(text: str | bytes, where: Path, *, names: bool = False) -> Any:
  """The value of a JSON text.

  Args:
    text: the JSON.
    where: it stands, for the message.
    names: keep halves of surrogate pairs, which file names that are no UTF-8 have.

  Raises:
    Malformed: it is no JSON, deeper than `DEPTH`, or has a key twice.
  """
  if isinstance(text, bytes):
    text = decode(text, where)
  try:
    value = json.loads(text, object_pairs_hook=_object)
  except RecursionError as e:
    raise Malformed(_too_deep(where)) from e
  except ValueError as e:
    raise Malformed(f"{where} is not JSON ({e}): {text[:60]!r}") from e
  if _deeper(value):
    raise Malformed(_too_deep(where))
  # Only escapes can spell a half: UTF-8 has none.
  return valid(value) if not names and _ESCAPED.search(text) else value


def read_json(path: Path, most: int = DOCUMENT, *, names: bool = False) -> Any:
  """The value of a JSON file; see `parse`.

  Raises:
    Unreadable, Malformed: it cannot be read, or is no JSON.
  """
  return parse(read_text(path, most), path, names=names)


def metric_rows(path: Path) -> list[dict[str, Any]]:
  """The rows of a run's metrics.jsonl: numbers by name, the step among them. Lines that
  are none, as a kill or a bad disk leaves them, are left out. [] without a file.

  Raises:
    Unreadable: it is there and cannot be read.
  """
  if not place(path).exists():
    return []
  out = []
  for line in read_bytes(path).split(b"\n"):
    try:
      row = check(parse(line, path), dict[str, float | None], path, "")
    except Malformed:
      continue
    if row.get("step") is not None:
      out.append(row)
  return out


def valid(value: Any) -> Any:
  """A JSON value whose strings are valid Unicode: U+FFFD for halves of a pair."""
  if isinstance(value, str):
    return _HALVES.sub("\ufffd", value)
  if isinstance(value, dict):
    return {valid(k): valid(v) for k, v in value.items()}
  if isinstance(value, list):
    return [valid(v) for v in value]
  return value


def check(value: Any, schema: Any, where: Path, advice: str) -> Any:
  """The value, if it is of a schema; keys that a schema does not name are allowed.

  Args:
    value: as `parse` gives it.
    schema: a type such as list[Count], or a TypedDict of them.
    where: it stands, for the message.
    advice: what the user is to do.

  Raises:
    Malformed: its type or a number is another; the message names the place.
  """
  try:
    _adapter(schema).validate_python(value, strict=True)
  except pydantic.ValidationError as e:
    first = e.errors(include_url=False, include_context=False)[0]
    place = ".".join(map(str, first["loc"]))
    got = "" if first["type"] == "missing" else f"got {_short(first['input'])}; "
    raise Malformed(
      f"{where}: {place or 'the whole'}: {got}{_lower(first['msg'])}: {advice}"
    ) from e
  return value


@functools.cache
def _adapter(schema: Any) -> pydantic.TypeAdapter:
  return pydantic.TypeAdapter(schema)


def _lower(text: str) -> str:
  return text[:1].lower() + text[1:]


def refuse_twice(columns: Sequence[str], where: Path) -> None:
  """Checks that no two columns of a table have one name; several may have none.

  Raises:
    Malformed: two have, and one of them would be lost.
  """
  if twice := [name for name in columns if name and columns.count(name) > 1]:
    raise Malformed(f"{where}: two columns are called {twice[0]!r}: leave one")


def _short(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 60 else f"{text[:57]}..."


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  out = dict(pairs)
  if len(out) < len(pairs):
    counts = collections.Counter(name for name, _ in pairs)
    raise ValueError(f"the key {counts.most_common(1)[0][0][:60]!r} is there twice")
  return out


def _too_deep(where: Path) -> str:
  return f"{where} is nested too deep; expected JSON of at most {DEPTH} levels"


def _deeper(value: Any) -> bool:
  """Whether lists and objects lie in one another more than `DEPTH` deep."""
  level = [value]
  # By levels, not by recursion, which is what deep values overflow.
  for _ in range(DEPTH):
    level = [x for x in level if isinstance(x, (dict, list))]
    level = [y for x in level for y in (x.values() if isinstance(x, dict) else x)]
  return any(isinstance(x, (dict, list)) for x in level)
