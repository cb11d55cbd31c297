"""Captions of a folder's files: rows of JSON or CSV, or NAME.txt beside a file.

A row of any *.jsonl (one object a line) or *.csv (a header, then rows) in the folder:

  file | id                  a file below the folder, with or without its suffix
  prompt | caption | text    the caption
  audio                      the sound, where it is a file of its own
  start, end                 seconds on the file's clock: the row's part of the file
  crop                       top, left, height, width: pixels of the decoded frames
  loudness_gain              dB by which the sound is to be raised

A file may have several rows, each with a part of its own. Other fields are kept for
whoever asks (`read_rows`).
"""

import csv
import io
import logging
import math
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ccl_jax import documents
from ccl_jax.data.media.tracks import MediaError
from ccl_jax.errors import UsageError
from ccl_jax.names import inside
from ccl_jax.remote.paths import Place, is_remote, place

KEYS, TEXTS = ("file", "id"), ("prompt", "caption", "text")
# Fields that name files, and so may hold what is no Unicode.
_PATHS = (*KEYS, "audio")
MOST_GAIN = 100  # dB: louder is no sound, and its samples no numbers
_WHOLE = 0.0, math.inf  # the part of a row that names none
_SIDECAR = 2**20  # bytes of one caption
_log = logging.getLogger(__name__)


class Caption(NamedTuple):
  """A text for a part of a file.

  Attributes:
    text: the caption.
    audio: the file with the sound below the folder; None: the file itself.
    start, end: of the part, in seconds.
    crop: () or (top, left, height, width), in pixels of decoded frames.
    gain: of the sound, in dB.
  """

  text: str = ""
  audio: str | None = None
  start: float | int = 0.0
  end: float | int = math.inf
  crop: tuple[int, ...] = ()
  gain: float | int = 0.0

  def sound(self, root: Place) -> Place | None:
    """The path of the file with the sound, below `root`; None: it is the same file."""
    return root / self.audio if self.audio else None


class Row(NamedTuple):
  """A row of a table: its caption, all of its fields, and where it stands."""

  caption: Caption
  fields: dict[str, Any]
  where: str


def read_captions(
  root: Place, names: Iterable[str], table: str = ""
) -> tuple[dict[str, list[Caption]], list[str]]:
  """The captions of files.

  Args:
    root: folder of the files and tables.
    names: of the files.
    table: the one table to read; "": all of the folder.

  Returns:
    Captions by file, and the entries whose file is not among `names`.

  Raises:
    UsageError: a table cannot be read, or a row is wrong.
  """
  rows, unmatched = read_rows(root, names, table)
  return {
    k: [row.caption for row in file_rows] for k, file_rows in rows.items()
  }, unmatched


def read_rows(
  root: Place, names: Iterable[str], table: str = ""
) -> tuple[dict[str, list[Row]], list[str]]:
  """As `read_captions`, with all fields of the rows.

  A name without its suffix means the last of the files that share it.
  """
  names = {name: name for name in names}
  # Later names win: `media_names` puts films last, so a bare name means the film.
  names |= {str(pathlib.PurePosixPath(name).with_suffix("")): name for name in names}
  by_file, unmatched = {}, []
  for path in _tables(root, table):
    for where, fields in read_table(path, KEYS):
      key, caption = parse_row(fields, where)
      name = names.get(key)
      if name is None:
        unmatched.append(key)
        _log.warning("%s: no file %s in the folder", where, key)
        continue
      rows = by_file.setdefault(name, [])
      for other in rows:
        parts = caption[2:4], other.caption[2:4]
        # Parts may overlap, as captions of a film do; the same part twice is a mistake.
        if _WHOLE in parts or parts[0] == parts[1]:
          raise UsageError(
            f"{where}: a second caption for {name}, the first is at {other.where}: "
            "leave one, or give each its start and end"
          )
      rows.append(Row(caption, fields, where))
  return by_file, unmatched


def read_table(
  path: Place, required: Sequence[str] = (), columns: Sequence[str] = ()
) -> Iterator[tuple[str, dict[str, Any]]]:
  """(place, fields) of every row of a .jsonl or .csv file; empty fields are left out.

  Args:
    path: of the file.
    required: names of which every row has one, and the header of a CSV.
    columns: of a CSV without a header, the names of its columns.

  Raises:
    UsageError: the file cannot be read, or a row is wrong.
  """
  text = documents.read_text(path)
  read = _read_jsonl if path.suffix.lower() == ".jsonl" else _read_csv
  for where, row in read(path, text, required, columns):
    if required and not any(key in row for key in required):
      raise UsageError(
        f"{where}: expected an object or row with {' or '.join(required)}, got "
        f"{', '.join(row) or 'nothing'}"
      )
    yield where, row


def sidecar(path: Place) -> str:
  """The text of NAME.txt beside a file; "" where there is none.

  Raises:
    MediaError: it is not UTF-8, or too long.
  """
  text = path.with_suffix(".txt")
  try:
    return documents.read_text(text, _SIDECAR).strip() if text.is_file() else ""
  except documents.Malformed as e:
    raise MediaError(f"{path}: its caption {text.name} is not UTF-8") from e
  except UsageError as e:
    raise MediaError(f"{path}: its caption: {e}") from e


def _tables(root: Place, table: str) -> list[Place]:
  if not table:
    return sorted([*root.glob("*.jsonl"), *root.glob("*.csv")])
  for path in [place(table)] if is_remote(table) else [root / table, place(table)]:
    if path.is_file():
      return [path]
  raise UsageError(f"no table of captions {table}, in {root} or as a path: name a file")


def _read_jsonl(path, text: str, *_) -> Iterator[tuple[str, dict[str, Any]]]:
  # Not splitlines: a caption may hold U+2028, which is no end of a line in JSON.
  for number, line in enumerate(text.split("\n"), 1):
    if not line.strip():
      continue
    where = f"{path} line {number}"
    row = documents.parse(line, where, names=True)
    if not isinstance(row, dict):
      raise UsageError(f"{where}: expected an object, got {str(row)[:80]}")
    yield where, {
      documents.valid(k): v if k in _PATHS else documents.valid(v)
      for k, v in row.items() if v not in (None, "")
    }  # fmt: skip


def _read_csv(
  path, text: str, required: Sequence[str], columns: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
  # newline="": a quoted field may go over several lines.
  lines = csv.reader(io.StringIO(text, newline=""), strict=True)
  names = list(columns)
  try:
    for row in lines:
      where = f"{path} line {lines.line_num}"
      if not row:
        continue
      if not names:
        names = [name.strip() for name in row]
        documents.refuse_twice(names, where)
        if required and not any(key in names for key in required):
          raise UsageError(
            f"{where}: the columns are {', '.join(names)}, expected one of them to be "
            f"{' or '.join(required)}"
          )
        continue
      if len(row) != len(names):
        raise UsageError(
          f"{where}: {len(row)} fields, expected {len(names)}: {', '.join(names)} "
          "(a text with commas goes in double quotes)"
        )
      yield where, {k: v for k, v in zip(names, row) if v != ""}
  except csv.Error as e:
    raise UsageError(f"{path} line {lines.line_num} is not CSV ({e})") from e


def parse_row(row: dict[str, Any], where: str) -> tuple[str, Caption]:
  """(the file, its caption) of the fields of a row.

  Raises:
    UsageError: a field is of a wrong type or out of range.
  """
  key, text = _first_of(row, KEYS), _first_of(row, TEXTS)
  audio = row.get("audio")
  if not all(isinstance(value, str) for value in (key, text or "", audio or "")):
    raise UsageError(
      f"{where}: expected an object with a string `file` or `id`, and strings "
      f"`prompt` (or `caption`, `text`) and `audio` if any, got {str(row)[:80]}"
    )
  try:
    start, end = float(row.get("start", 0)), float(row.get("end", math.inf))
    gain, crop = float(row.get("loudness_gain", 0)), row.get("crop", ())
    # A CSV has no lists: "0, 12, 480, 832" or "[0 12 480 832]".
    if isinstance(crop, str):
      crop = crop.strip("[]()").replace(",", " ").split()
    crop = tuple(int(side) for side in crop)
  except (TypeError, ValueError, OverflowError) as e:
    raise UsageError(
      f"{where}: expected numbers as start, end (s) and loudness_gain (dB), and four "
      f"of them as crop, got {str(row)[:80]} ({e})"
    ) from e
  caption = Caption(text or "", audio, start, end, crop, gain)
  check_caption(caption, where)
  return key, caption


def check_caption(caption: Caption, where: str) -> None:
  """Checks the numbers of a caption, and that its sound stays below its folder.

  Args:
    caption: of a file.
    where: it stands, for the message.

  Raises:
    UsageError: one is out of range.
  """
  _, audio, start, end, crop, gain = caption
  if not 0 <= start < end:
    raise UsageError(f"{where}: expected 0 <= start < end, got {start:g} and {end:g}")
  if not abs(gain) <= MOST_GAIN:
    raise UsageError(
      f"{where}: expected a loudness_gain of {-MOST_GAIN} to {MOST_GAIN} dB, got "
      f"{gain:g}"
    )
  if crop and not (
    len(crop) == 4 and 0 <= min(crop) and min(crop[2:]) > 0 and max(crop) <= 2**16
  ):
    raise UsageError(
      f"{where}: crop is top, left, height, width in pixels, got {str(crop)[:80]}"
    )
  if audio:
    inside(audio, f"{where}: audio")


def _first_of(row: dict, keys: Sequence[str]):
  return next((row[key] for key in keys if row.get(key)), None)
