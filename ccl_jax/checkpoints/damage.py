"""Tells damaged checkpoints from those that only could not be read.

A reader may set a stored step aside only where it is proven that the bytes are not
those that were written: a file is missing, cut short or cannot be parsed, a digest or a
fingerprint differs. A disk that does not answer, a lost network, missing rights or a
full memory say nothing of the bytes; nor does an error of a kind not known here.
"""

import json
import logging
import re

from ccl_jax.errors import UsageError, as_grave

# TensorStore's errors are ValueErrors that begin with a code of absl::Status; with
# INVALID_ARGUMENT they have none, and begin with what was done. These codes are of the
# bytes that were read, ...
_OF_BYTES = re.compile(
  "(NOT_FOUND|OUT_OF_RANGE|DATA_LOSS|FAILED_PRECONDITION): |Error (open|read|decod)ing "
)
# ... unless the system refused to read them.
_OF_SYSTEM = re.compile("os_error_code|Failed to read")


class Damaged(ValueError):
  """The stored bytes are not those that were written; the message says why."""


def proves_damage(error: BaseException) -> bool:
  """Whether an error in reading stored arrays or JSON proves them damaged."""
  error = _cause(error)
  if _is_of_bytes(error):
    return not _OF_SYSTEM.search(str(error))
  # The last: JSON that lacks a field.
  parsed = Damaged, json.JSONDecodeError, UnicodeDecodeError, KeyError
  missing = FileNotFoundError, NotADirectoryError, IsADirectoryError
  return isinstance(error, (*parsed, *missing))


def reason(error: BaseException) -> str:
  """The error in one line of at most 300 characters, without TensorStore's context."""
  error = _cause(error)
  lines = str(error).split(" [tensorstore", 1)[0].splitlines() or [""]
  name = "" if isinstance(error, Damaged) else f"{type(error).__name__}: "
  return f"{name}{lines[0]}"[:300]


def hush_echoes() -> None:
  """From now on only the first of the reads that fail together is told of.

  Orbax reads all arrays at once: each further task would print its traceback when the
  collector of garbage comes upon it, at any later moment.
  """
  logging.getLogger("asyncio").addFilter(_is_news)  # has no effect a second time


def _is_news(record: logging.LogRecord) -> bool:
  error = record.exc_info[1] if record.exc_info else None
  return error is None or not _is_of_bytes(_cause(error))


def _is_of_bytes(error: BaseException) -> bool:
  """Whether TensorStore says so of what it has read."""
  return isinstance(error, ValueError) and bool(_OF_BYTES.match(str(error)))


def not_read(what: str, error: BaseException) -> UsageError:
  """The error for something stored that could not be read, damaged or not.

  Args:
    what: the subject of the line, such as a file's path.
    error: which proves damage, or proves nothing (see `unknown`).
  """
  if proves_damage(error):
    return UsageError(f"{what} is damaged ({reason(error)}): put back a good copy")
  return unknown(what, error)


def unknown(what: str, error: BaseException) -> UsageError:
  """The error for something stored that could not be read, without proof of damage."""
  told = UsageError(
    f"{what} cannot be read ({reason(error)}): this does not prove it damaged, and "
    "nothing was changed; mend the cause and run the same command again, or move it "
    "away"
  )
  return as_grave(told, error)


def _cause(error: BaseException) -> BaseException:
  """The underlying error, where Orbax has wrapped it in a plain Exception."""
  while type(error) is Exception and (error.__cause__ or error.__context__):
    error = error.__cause__ or error.__context__
  return error
