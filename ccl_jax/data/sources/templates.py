"""Captions from a template over the fields of a row: '{caption} She says "{speech}"'.

What stands in double quotes is what is spoken, so double quotes within a field become
single ones; those of a caption stay.
"""

import string
from collections.abc import Iterable, Mapping
from typing import Any

from ccl_jax.data.sources.captions import TEXTS
from ccl_jax.errors import UsageError


def fields_of(template: str) -> list[str]:
  """The names of a template's fields, in order.

  Raises:
    UsageError: it is no template of names in braces.
  """
  try:
    names = [name for _, name, _, _ in string.Formatter().parse(template)]
  except ValueError as e:
    raise UsageError(f"template {template!r}: {e}; {{{{ stands for a brace") from e
  names = [name for name in names if name is not None]
  if not names or not all(name.isidentifier() for name in names):
    raise UsageError(
      f"template {template!r}: expected names of fields in braces, such as {{caption}}"
    )
  return names


def check(template: str, rows: Iterable[Mapping[str, Any]]) -> None:
  """Checks that each field of a template is in one of the rows at least.

  Raises:
    UsageError: a field is in none.
  """
  known = set().union(*rows)
  if absent := sorted(set(fields_of(template)) - known):
    raise UsageError(
      f"template {template!r}: no row has {', '.join(absent)}; the fields are "
      f"{', '.join(sorted(known)) or 'none'}"
    )


def fill(template: str, row: Mapping[str, Any]) -> str | None:
  """The caption that a template makes of a row; None where the row lacks a field."""
  names = fields_of(template)
  if not all(name in row for name in names):
    return None
  quoted = {k: str(row[k]).replace('"', "'") for k in names}
  return template.format(**quoted | {k: row[k] for k in names if k in TEXTS})
