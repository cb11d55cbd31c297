"""Reads published sets of prompts as lines of a manifest.

  ovi         CSV with text_prompt and image_path; speech <S>...<E>
  versebench  JSON items with video_prompt, audio_prompt, speech_prompt {speaker, text}
              or a list of them, prompt
  mova        JSON items with prompt, and image, category or id where they have them

A transcript that the set states is kept; else it is what the prompt quotes. A set that
says which language it is in is believed; else Chinese is told by its characters.
"""

import csv
import dataclasses
import pathlib
import re
from collections.abc import Callable
from typing import Any

from ccl_jax.data.manifest import Line
from ccl_jax.documents import parse, read_text
from ccl_jax.errors import UsageError
from ccl_jax.metrics.languages import language_code
from ccl_jax.metrics.quotes import quoted
from ccl_jax.names import safe_names

Row = dict[str, Any]
_IMAGE = ("image", "image_path", "img_path", "first_frame")
_ID = ("id", "name", "key", "index", "video_id")


def _first(row: Row, names: tuple[str, ...]) -> str | None:
  values = (row[n] for n in names if row.get(n) not in (None, ""))
  value = next(values, None)
  return None if value is None else str(value)


def _ovi(row: Row) -> tuple[str | None, str | None]:
  return _first(row, ("text_prompt",)), None


def _versebench(row: Row) -> tuple[str | None, str | None]:
  """The whole prompt, or what its parts say."""
  parts = row.get("audio_prompt") or []
  parts = [parts] if isinstance(parts, str) else parts
  speech = row.get("speech_prompt")
  said = None
  if speech is not None:
    speeches = speech if isinstance(speech, list) else [speech]
    texts = [str(x.get("text") or "") for x in speeches if isinstance(x, dict)]
    said = " ".join(text.strip() for text in texts if text.strip())
  whole = _first(row, ("prompt",))
  joined = " ".join(str(x) for x in [row.get("video_prompt") or "", *parts] if x)
  return whole or joined or None, said


def _mova(row: Row) -> tuple[str | None, str | None]:
  said = row.get("transcript")
  return _first(row, ("prompt", "caption", "text")), said


# Format -> a row's prompt and transcript, None where it has none.
FORMATS: dict[str, Callable[[Row], tuple[str | None, str | None]]] = {
  "ovi": _ovi,
  "versebench": _versebench,
  "mova": _mova,
}


def read_prompts(
  path: str | pathlib.Path, form: str = "auto"
) -> tuple[list[Line], int]:
  """The lines of a set, and how many transcripts were taken from quotation marks.

  Args:
    path: of the set.
    form: of `FORMATS`, or "auto": by the fields of its first row.

  Raises:
    UsageError: the file cannot be read, or a row has no prompt.
  """
  path = pathlib.Path(path)
  rows = _rows(path)
  if not rows:
    raise UsageError(f"{path} has no prompts")
  if form == "auto":
    form = _form_of(rows[0])
  lines, ids, taken, seen = [], [], 0, set()
  for number, row in enumerate(rows, 1):
    prompt, said = FORMATS[form](row)
    if not prompt:
      raise UsageError(
        f"{path}, prompt {number}: none in {', '.join(row)}; is its format {form}?"
      )
    if said is None:
      # The convention of these sets: spoken words stand in quotation marks.
      said = quoted(prompt)
      taken += bool(said)
    own = _first(row, _ID)
    if own in seen:
      raise UsageError(f"{path}, prompt {number}: id {own} is there twice")
    seen |= {own} if own is not None else set()
    ids.append(own or f"{path.stem}_{number:04d}")
    lines.append(
      Line(
        id="",
        prompt=prompt,
        subset=_first(row, ("subset", "category", "topic")),
        image=_first(row, _IMAGE),
        transcript=said,
        language=_code(row, f"{path}, prompt {number}") or language_of(said),
      )
    )
  # Ids become names of files; two that would have one name have two.
  named = zip(lines, safe_names(ids))
  return [dataclasses.replace(line, id=name) for line, name in named], taken


def _code(row: Row, where: str) -> str | None:
  """The code of the language that a row states, if it does."""
  stated = _first(row, ("language", "lang"))
  try:
    return stated and language_code(stated)
  except UsageError as e:
    raise UsageError(f"{where}: {e}") from e


def language_of(text: str) -> str:
  """The code of the language of a text that does not say which: Chinese is told by its
  characters, and all else is taken for English.
  """
  return "zh" if re.search("[\u4e00-\u9fff]", text) else "en"


def _form_of(row: Row) -> str:
  if "text_prompt" in row:
    return "ovi"
  return "versebench" if {"video_prompt", "speech_prompt"} & row.keys() else "mova"


def _rows(path: pathlib.Path) -> list[Row]:
  try:
    text = read_text(path)
    if path.suffix.lower() == ".csv":
      rows = csv.DictReader(text.splitlines(keepends=True))
      # A row with more fields than the header has them under None.
      return [{k: v for k, v in row.items() if k is not None} for row in rows]
    rows = parse(text, path)
  except (UsageError, csv.Error) as e:
    raise UsageError(f"{path}: cannot be read as CSV or JSON: {e}") from e
  if isinstance(rows, dict):  # items by topic, or one list under some name
    groups = [(k, v) for k, v in rows.items() if isinstance(v, list)]
    rows = [{"topic": k, **x} for k, v in groups for x in v if isinstance(x, dict)]
  if not isinstance(rows, list) or not all(isinstance(x, dict) for x in rows):
    raise UsageError(f"{path}: expected a list of objects, one per prompt")
  return rows
