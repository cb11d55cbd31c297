"""The steps of a folder of checkpoints: which are there, and how a damaged one goes."""

import itertools
import os
import pathlib

import orbax.checkpoint as ocp

from ccl_jax.errors import UsageError
from ccl_jax.places import refuse_schemes, require_plain
from ccl_jax.remote.paths import BucketPath, Place, is_remote, place

_PART = ".orbax-checkpoint-tmp"  # in the names of folders that Orbax will rename
_WHOLE = "commit_success.txt"  # Orbax's last object of a step in a bucket


def folder_of(directory: str | os.PathLike) -> Place:
  """The absolute path of a folder of checkpoints, on this machine or in gs://.

  Raises:
    UsageError: it is elsewhere.
  """
  if is_remote(directory):
    require_plain(directory, arrays=True)
    return place(directory)
  refuse_schemes({"a folder of checkpoints": directory})
  return pathlib.Path(os.path.abspath(os.path.expanduser(os.fspath(directory))))


def stored_steps(folder: Place) -> list[int]:
  """The numbers of the steps in a folder that were saved to their end; none without it.

  Raises:
    Unreachable: it is in a bucket, which does not say.
  """
  if not isinstance(folder, BucketPath):
    return ocp.utils.checkpoint_steps(folder) if folder.is_dir() else []
  steps = [p for p in folder.glob("*") if p.name.isdecimal()]
  return [int(p.name) for p in steps if (p / _WHOLE).is_file()]


def sweep_unfinished(folder: BucketPath) -> None:
  """Removes what a killed save left in a folder. On a disk Orbax does so, in a thread;
  in a bucket, where a folder is renamed file by file, it would take what is being
  renamed for such a rest.

  Raises:
    Unreachable: the store does not let it go.
  """
  whole = set(stored_steps(folder))
  for path in folder.glob("*"):
    step = int(path.name) if path.name.isdecimal() else None
    if (step is not None and step not in whole) or _PART in path.name:
      path.remove_all()


def require_steps(folder: Place, step: int | None) -> list[int]:
  """The steps of a folder, or the one that is asked for.

  Raises:
    UsageError: it is not there.
  """
  steps = stored_steps(folder)
  if not steps or step not in (None, *steps):
    raise UsageError(
      f"{folder} holds no checkpoint"
      + ("" if step is None else f" of step {step}")
      + (f", only of steps {sorted(steps)}" if steps else "")
    )
  return steps if step is None else [step]


def set_aside(directory: Place, steps: list[int]) -> OSError | None:
  """Renames steps, each to a name that is free; the error that stopped it, if any."""
  try:
    for step in steps:
      names = itertools.chain([""], (f".{i}" for i in itertools.count(1)))
      targets = (directory / f"{step}.damaged{name}" for name in names)
      (directory / str(step)).rename(next(t for t in targets if not t.exists()))
  except OSError as e:
    return e
  return None
