"""Which settings a run may change when it goes on.

The config that a run was trained with is in the metadata of its checkpoints. A setting
that says how long, how often or on which machine is free: FREE. Any other makes another
experiment of it, half trained one way and half the other: the differences are shown,
and refused unless they are allowed (`--allow_changes`).
"""

import json
import sys
from collections.abc import Mapping
from typing import Any

from ccl_jax.checkpoints.checkpointer import latest_metadata
from ccl_jax.checkpoints.find import read_config
from ccl_jax.errors import UsageError
from ccl_jax.files import is_whole_folder
from ccl_jax.remote.paths import Place

# How long and how often; what is shown; the machine and how it is used. A name stands
# for all keys below it too.
FREE = (
  "steps", "log", "log_every", "checkpoint", "profile", "evaluate", "report", "score",
  "mesh", "slices", "accumulate", "batch.threads", "data.cache_gb", "model.attention",
  "model.blocks", "model.remat",
)  # fmt: skip
# Settings that came later and are set: the value that is as if they were not there.
LATER = {"objective.last_image_probability": 0.0}
_ABSENT = "(none)"
_SHOWN = 12  # differences in a line of error

Settings = Mapping[str, Any]


def plain(config: Any) -> dict[str, Any]:
  """A config as JSON gives it back: dicts, lists, numbers, texts."""
  return json.loads(config.to_json_best_effort())


def require_same_run(config: Any, workdir: Place, allow_changes: bool = False) -> None:
  """Checks that a run which was begun goes on as it is, or as it may.

  Nothing is written. The codecs, which are files, are compared where they are loaded.

  Args:
    config: of the run now.
    workdir: of the run; one that holds none passes.
    allow_changes: show the differences on stderr and go on.

  Raises:
    UsageError: settings differ that are not free; fewer steps are asked for than are
      done; or the run's codecs are gone.
  """
  found = latest_metadata(workdir / "checkpoints")
  if found is None:
    # Before its first checkpoint a run has its codecs, which are of its config.
    before = read_config(workdir) if is_whole_folder(workdir / "codecs") else {}
  else:
    done, metadata = found
    before = metadata.get("config") or read_config(workdir)  # of an earlier version
    if config.steps < done:
      raise UsageError(
        f"config.steps: got {config.steps}; {workdir} has done {done}: give as many at "
        "least, or name a new workdir"
      )
    if "codecs" in metadata and not is_whole_folder(workdir / "codecs"):
      raise UsageError(
        f"{workdir} has checkpoints and no folder codecs: put back the one it was "
        "trained with, for others would make other latents, or name a new workdir"
      )
  if not before:
    return
  changes = differences(before, plain(config))
  if changes and not allow_changes:
    more = len(changes) - _SHOWN
    shown = "; ".join(changes[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
    raise UsageError(
      f"{workdir} was begun with another config: {shown}. Go on with the settings it "
      "has, name a new workdir, or add --allow_changes"
    )
  for line in changes:
    print(f"changed: {line}", file=sys.stderr, flush=True)


def differences(before: Settings, now: Settings) -> list[str]:
  """The settings that differ and are not free, each as "config.KEY: OLD -> NEW"."""
  old, new = dict(_flat(before)), dict(_flat(now))
  return [
    f"config.{key}: {_shown(old, key)} -> {_shown(new, key)}"
    for key in sorted(old.keys() | new.keys())
    # A setting that an earlier version did not have is unset, or as if it were.
    if not _free(key) and old.get(key, LATER.get(key)) != new.get(key)
  ]


def _free(key: str) -> bool:
  return any(key == name or key.startswith(f"{name}.") for name in FREE)


def _shown(settings: Settings, key: str) -> str:
  text = json.dumps(settings[key]) if key in settings else _ABSENT
  return text if len(text) <= 200 else f"{text[:200]}..."


def _flat(settings: Settings, before: str = ""):
  """(dotted name, value) of every setting that is no section."""
  for key, value in settings.items():
    if isinstance(value, Mapping):
      yield from _flat(value, f"{before}{key}.")
    else:
      yield before + key, value
