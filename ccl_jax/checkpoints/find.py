"""Finds the parameters of a transformer: which kinds of folders hold them, and where.

  a training run           config.json with the run's config; the EMA. What it is, its
                           checkpoint says: a config may have changed since
  a joined model           config.json of kind "joint"         (weights/join.py)
  a converted transformer  config.json of kind "wan-dit" or "ovi-dit"
                                                               (ccl_jax/convert.py)
  a converted release      config.json of kind "wan" or "ovi", the transformer in dit/

all with checkpoints/STEP beside config.json.
"""

import json
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

from ccl_jax.checkpoints.checkpointer import read_metadata
from ccl_jax.checkpoints.damage import not_read
from ccl_jax.errors import UsageError, bind

RELEASES, TRANSFORMERS = ("wan", "ovi"), ("wan-dit", "ovi-dit")
DIT = "dit"  # the folder of the transformer in a converted release


class Parameters(NamedTuple):
  """Parameters on disk.

  Attributes:
    folder: with config.json and checkpoints.
    name: of the subtree of the checkpoint.
    description: the config.json; of a run, the metadata of its checkpoint.
    codecs: the bundle that belongs to them, if there is one.
  """

  folder: pathlib.Path
  name: str
  description: dict[str, Any]
  codecs: pathlib.Path | None

  def build(self, section: str, function: Callable[..., Any]) -> Any:
    """The result of a function whose keywords are a section of the description.

    Args:
      section: of the description.
      function: such as `build_model`.

    Raises:
      UsageError: another version of the program wrote it, with other keys or values.
    """
    try:
      return bind(section, self.description[section], function)
    except UsageError as e:
      raise UsageError(
        f"the parameters in {self.folder} are not of this version: use the one that "
        f"wrote them ({e})"
      ) from e


def find_parameters(folder: str | os.PathLike, step: int | None = None) -> Parameters:
  """The parameters that a folder stands for.

  Args:
    folder: of a run, a joined model, or converted weights.
    step: of the checkpoint; None: the newest.

  Raises:
    UsageError: the folder is of none of these kinds.
  """
  place, description = pathlib.Path(folder), read_config(folder)
  if description.get("kind") in RELEASES:
    place = place / DIT
    description = read_config(place)
  bundle = pathlib.Path(description.get("codecs") or pathlib.Path(folder) / "codecs")
  codecs = bundle if bundle.is_dir() else None
  if description.get("kind") in (*TRANSFORMERS, "joint"):
    return Parameters(place, "params", description, codecs)
  if (
    "model" not in description or "kind" in description
  ):  # a kind: a run of train_audio
    raise UsageError(
      f"{folder} holds no model: expected config.json and checkpoints, as a training "
      "run (--workdir), 'convert wan', 'convert ovi', 'convert wan-dit' or 'convert "
      "join' leave them"
    )
  return Parameters(place, "ema", read_metadata(place / "checkpoints", step), codecs)


def read_config(folder: str | os.PathLike) -> dict[str, Any]:
  """The config.json of a folder; empty if there is none, or it is no JSON.

  Raises:
    UsageError: it is there, and the system does not let it be read.
  """
  try:
    description = json.loads((pathlib.Path(folder) / "config.json").read_text())
  except (FileNotFoundError, NotADirectoryError, ValueError):
    return {}
  except OSError as e:
    raise not_read(f"{folder}/config.json", e) from e
  return description if isinstance(description, dict) else {}
