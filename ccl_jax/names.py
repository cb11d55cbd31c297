"""Names that come from outside: as names of files, and as paths below a folder."""

import hashlib
import math
import os
import pathlib
import re
from collections.abc import Iterable

from ccl_jax.errors import UsageError

# Bytes of a name: file systems take 255, and a file that is being written has an ending
# and the number of its process beside it.
MOST = 200


def flaw(name: str) -> str:
  """What keeps a string from being the name of a file; "" if nothing does."""
  if not name or name in (".", ".."):
    return "is empty or a folder"
  if any(c in "/\\" or ord(c) < 32 or ord(c) == 127 for c in name):
    return "holds a separator or a control character"
  try:
    size = len(name.encode())
  except UnicodeEncodeError:
    return "is no valid Unicode"
  return f"has {size} bytes, over {MOST}" if size > MOST else ""


def safe_name(text: str) -> str:
  """The name of a file for any text: letters of all scripts, digits and "-_@." stay,
  each run of others becomes "_". A long one is cut, and ends in a hash of all of it.
  """
  name = re.sub(r"[^\w@.-]+", "_", text)
  name = re.sub(r"^\.+", "_", name) or "_"
  data = name.encode("utf-8", "replace")  # \w takes no surrogates: nothing to replace
  if len(data) <= MOST:
    return name
  digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
  return f"{data[: MOST - 13].decode('utf-8', 'ignore')}_{digest}"


def safe_names(texts: Iterable[str]) -> list[str]:
  """A safe name for each text, no two alike even where letters do not differ in case;
  a second one has "_2" at its end.
  """
  out, seen = [], set()
  for text in texts:
    name, count = safe_name(text), 1
    first = name
    while name.casefold() in seen:
      count += 1
      name = f"{first}_{count}"
    seen.add(name.casefold())
    out.append(name)
  return out


def printable(name: str) -> str:
  """A file's name as text: bytes that are no UTF-8 as escapes, "caf\\udce9.mp4"."""
  return name.encode("utf-8", "backslashreplace").decode()


def inside(name: str, where: str) -> str:
  """A path that stays below its folder, as it is.

  Args:
    name: the path, with "/".
    where: it stands, for the message.

  Raises:
    UsageError: it is absolute, leaves the folder, is a URL, or no path.
  """
  path = pathlib.PurePosixPath(name)
  scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", name)
  if not name or path.is_absolute() or ".." in path.parts or scheme or "\0" in name:
    raise UsageError(
      f"{where}: got the path {name!r}; expected one that stays below its folder"
    )
  return name


def file_url(path: str | os.PathLike) -> str:
  """How FFmpeg is told of a file: of a bare name, "a:b", the "a" is a protocol."""
  return f"file:{os.path.abspath(path)}"


def with_number(text: str, default: float) -> tuple[str, float]:
  """(file, number) of "FILE:NUMBER", or of "FILE" with the default; the number is NaN
  where it is none. A file whose own name has a colon is one.
  """
  file, colon, number = text.rpartition(":")
  if not colon or os.path.exists(text):
    return text, default
  try:
    return file, float(number)
  except ValueError:
    return file, math.nan
