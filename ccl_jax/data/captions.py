"""Captions of a folder's files: JSON lines, or NAME.txt beside a file.

A line of any *.jsonl in the folder is one object: `file` or `id` (a name with or
without its suffix), `prompt` or `caption` or `text`, and `audio` for sound in a file of
its own.
"""

import json
import logging
import pathlib
from collections.abc import Iterable
from typing import NamedTuple

from ccl_jax.data.tracks import MediaError
from ccl_jax.errors import UsageError

_log = logging.getLogger(__name__)


class Caption(NamedTuple):
  """A text, None if there is none, and the file with the sound, if it is another."""

  text: str | None = None
  audio: str | None = None


def read_captions(
  root: pathlib.Path, names: Iterable[str]
) -> tuple[dict[str, Caption], list[str]]:
  """({file: its caption}, the entries whose file is not among `names`).

  A name without its suffix means the last of the files that share it.
  """
  names = {name: name for name in names}
  names |= {str(pathlib.PurePosixPath(name).with_suffix("")): name for name in names}
  entries, places, unmatched = {}, {}, []
  for table in sorted(root.glob("*.jsonl")):
    for number, line in enumerate(table.read_bytes().splitlines(), 1):
      if not line.strip():
        continue
      where = f"{table} line {number}"
      key, caption = _parse(line, where)
      name = names.get(key)
      if name is None:
        unmatched.append(key)
        _log.warning("%s: no file %s in the folder", where, key)
      elif name in entries:
        raise UsageError(
          f"{where}: a second caption for {name}, the first is at {places[name]}: "
          "leave one"
        )
      else:
        entries[name], places[name] = caption, where
  return entries, unmatched


def sidecar(path: pathlib.Path) -> str:
  """The text beside a file, "" where there is none."""
  text = path.with_suffix(".txt")
  try:
    return text.read_text("utf-8-sig").strip() if text.is_file() else ""
  except UnicodeDecodeError as e:
    raise MediaError(f"{path}: its caption {text.name} is not UTF-8 ({e})") from e


def _parse(line: bytes, where: str) -> tuple[str, Caption]:
  try:
    row = json.loads(line.decode("utf-8-sig"))
  except UnicodeDecodeError as e:
    raise UsageError(f"{where} is not UTF-8 ({e}): save the file as UTF-8") from e
  except ValueError as e:
    raise UsageError(f"{where} is not JSON ({e}): expected one object") from e
  key = (row.get("file") or row.get("id")) if isinstance(row, dict) else None
  text = _first_of(row, "prompt", "caption", "text") if key else None
  audio = row.get("audio") if key else None
  if not all(isinstance(value, str) for value in (key, text or "", audio or "")):
    raise UsageError(
      f"{where}: expected an object with a string `file` or `id`, and strings "
      f"`prompt` (or `caption`, `text`) and `audio` if any, got {str(row)[:80]}"
    )
  return key, Caption(text, audio)


def _first_of(row: dict, *keys: str):
  return next((row[key] for key in keys if row.get(key)), None)
