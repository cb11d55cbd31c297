"""The records of scored clips: a file that grows by whole lines, and survives a kill.

  {"key", "id", "metric", "protocol", "video": sha256,
   "scores": {...} or "reason": "..."}

It keeps what earlier runs with other settings have made: the records of one run are
what per_clip.jsonl has of it (metrics/outputs.py).

The key is a hash of the clip's bytes, the metric, its protocol and what it reads of the
manifest: a record counts for as long as none of these changes. Scores that are arrays
lie beside the file as features/METRIC/KEY.npy, and are there before their record.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NotRequired

import numpy as np
from typing_extensions import TypedDict

from ccl_jax.documents import Malformed, check, parse, read_bytes
from ccl_jax.errors import UsageError
from ccl_jax.files import append_line, new_file
from ccl_jax.names import inside
from ccl_jax.remote.copies import local
from ccl_jax.remote.paths import place

Record = dict[str, Any]
FILE = "records.jsonl"


class Row(TypedDict):
  """The fields of a record that are read."""

  key: str
  id: NotRequired[str]
  metric: NotRequired[str]
  scores: NotRequired[dict[str, Any]]
  reason: NotRequired[str]


def digest(*parts: Any) -> str:
  """A short hash of JSON values: 32 hexadecimal digits."""
  text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
  return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]


def sha256(path: str | os.PathLike) -> str:
  """The SHA-256 of a file; of a folder, of the names and hashes of its files."""
  path = place(path)
  if path.is_dir():
    files = sorted(p for p in path.rglob("*") if p.is_file())
    names = [p.relative_to(path) for p in files]
    shown = [(n, p) for n, p in zip(names, files) if n.parts[0][0] != "."]
    lines = [f"{n.as_posix()} {sha256(p)}\n" for n, p in shown]
    return hashlib.sha256(os.fsencode("".join(lines))).hexdigest()
  with local(path) as file, open(file, "rb") as f:
    return hashlib.file_digest(f, "sha256").hexdigest()


class Records:
  """The records of an output folder, by key.

  A line that a kill has cut off is dropped when the folder is opened.

  Raises:
    UsageError: the folder cannot be one, or its file is damaged.
  """

  def __init__(self, folder: str | os.PathLike):
    """Reads what is there; a line that a kill has cut off is dropped.

    Raises:
      UsageError: the folder cannot be one, or its file is damaged.
    """
    self._folder = pathlib.Path(folder)
    try:
      self._folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as e:
      raise UsageError(f"{folder} is a file; expected a folder for the results") from e
    self._path = self._folder / FILE
    self._by_key: dict[str, Record] = {}
    if self._path.exists():
      data = read_bytes(self._path)
      whole = data[: data.rfind(b"\n") + 1]
      if len(whole) < len(data):
        os.truncate(self._path, len(whole))
      for number, line in enumerate(whole.split(b"\n")[:-1], 1):
        where = f"{self._path}, line {number}"
        try:
          row = check(parse(line, where), Row, where, "delete this line")
        except Malformed as e:
          raise UsageError(f"{where}: no record ({e}); delete this line") from e
        self._by_key[row["key"]] = row

  def find(self, key: str, name: str) -> Record | None:
    """The record of a key, under a clip's id.

    None if there is none, or one of its arrays is missing.
    """
    row = self._by_key.get(key)
    if row is None or any(not (self._folder / f).is_file() for f in _files(row)):
      return None
    return row | {"id": name}

  def add(self, row: Mapping[str, Any]) -> Record:
    """Writes a record, its arrays first, and returns it as it is stored."""
    row = dict(row)
    if "scores" in row:
      row["scores"] = {
        k: self._kept(row, v) if isinstance(v, np.ndarray) else v
        for k, v in row["scores"].items()
      }
    self._append(row)
    return row

  def _append(self, row: Record) -> None:
    append_line(self._path, json.dumps(row, ensure_ascii=False))
    self._by_key[row["key"]] = row

  def _kept(self, row: Record, array: np.ndarray) -> dict[str, str]:
    name = pathlib.Path("features") / row["metric"] / f"{row['key']}.npy"
    with new_file(self._folder / name) as part, part.open("wb") as f:
      np.save(f, array)
    return {"file": name.as_posix()}


def _files(row: Record) -> list[str]:
  held = row.get("scores", {}).values()
  files = [v["file"] for v in held if isinstance(v, dict) and "file" in v]
  return [inside(file, f"the record {row['key']}") for file in files]
