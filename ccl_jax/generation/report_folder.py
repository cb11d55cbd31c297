"""The folder of a report: settings.json says what it was made with, so that no report
takes the place of another, and one that was stopped is known again.
"""

import itertools
from typing import Any

from ccl_jax import documents
from ccl_jax.errors import UsageError
from ccl_jax.files import write_json
from ccl_jax.places import LOCK
from ccl_jax.remote.paths import Place


def free_folder(workdir: Place, about: dict[str, Any]) -> Place:
  """The first of WORKDIR/report, report_2, ... that has this report, or none yet.

  Args:
    about: what the report is made with, as JSON.
  """
  names = itertools.chain(["report"], (f"report_{n}" for n in itertools.count(2)))
  return next(f for f in (workdir / name for name in names) if not _other(f, about))


def claim(out: Place, about: dict[str, Any]) -> None:
  """Makes the folder, and says in it what the report is made with.

  Raises:
    UsageError: it is another's.
  """
  if other := _other(out, about):
    raise UsageError(f"{out} has another report ({other}): name another folder")
  out.mkdir(parents=True, exist_ok=True)
  write_json(out / "settings.json", about, indent=2)


def _other(folder: Place, about: dict[str, Any]) -> str:
  """How a folder's report differs from this one; "" if it is this, or none."""
  if not folder.exists() or (
    folder.is_dir() and not any(p.name != LOCK for p in folder.iterdir())
  ):
    return ""
  try:
    found = read_json(folder / "settings.json")
  except UsageError:
    found = None
  if not isinstance(found, dict):
    return "without settings.json"
  differ = [k for k in about if found.get(k) != about[k]]
  return ", ".join(f"{k}: {found.get(k)} there, {about[k]} here" for k in differ)


def read_json(path: Place) -> Any:
  """A JSON file; None if there is none."""
  return documents.read_json(path) if path.is_file() else None
