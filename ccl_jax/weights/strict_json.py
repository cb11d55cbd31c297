"""JSON as its standard has it, from a file that nobody vouches for."""

import json
import os
import pathlib
from typing import Any

from ccl_jax.errors import UsageError

BYTES = 100_000_000  # of a file, at most: the limit of safetensors for its header
_LFS = b"version https://git-lfs"


def parse(raw: bytes) -> Any:
  """The value of a text.

  Raises:
    ValueError: it is no JSON: other than UTF-8, NaN or Infinity, half a surrogate pair,
      nested too deep; or an object has a key twice.
  """
  try:
    text = raw.decode("utf-8")
    value = json.loads(text, object_pairs_hook=_once, parse_constant=_refuse)
    if "\\u" in text:  # the one way to a lone surrogate
      json.dumps(value, ensure_ascii=False).encode("utf-8")
  except RecursionError as e:
    raise ValueError("nested too deep") from e
  return value


def read_object(path: str | os.PathLike) -> dict:
  """The object that a JSON file holds.

  Raises:
    UsageError: it holds another value, or is no JSON, or is larger than `BYTES`.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise UsageError(f"{path} is no file: expected JSON")
  with open(path, "rb") as f:
    raw = f.read(BYTES + 1)
  if len(raw) > BYTES:
    raise UsageError(f"{path} has more than {BYTES} bytes: expected a small JSON file")
  try:
    value = parse(raw)
  except ValueError as e:
    hint = " (a Git LFS pointer?)" if raw.startswith(_LFS) else ""
    raise UsageError(f"{path} is not JSON{hint}: download it again") from e
  if not isinstance(value, dict):
    raise UsageError(f"{path} is not a JSON object")
  return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  found = dict(pairs)
  if len(found) < len(pairs):
    raise ValueError("a key twice")
  return found


def _refuse(constant: str) -> None:
  raise ValueError(f"{constant} is no JSON")
