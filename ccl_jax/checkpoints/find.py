"""Finds the parameters of a transformer: which kinds of folders hold them, and where.

  a training run           config.json with the run's config; the EMA. What it is, its
                           checkpoint says: a config may have changed since
  a joined model           config.json of kind "joint"         (weights/join.py)
  a converted transformer  config.json of kind "wan-dit" or "ovi-dit"
                                                               (ccl_jax/convert.py)
  a converted release      config.json of kind "wan" or "ovi", the transformer in dit/

all with checkpoints/STEP beside config.json.
"""

import math
import os
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import pydantic
from typing_extensions import TypedDict

from ccl_jax.checkpoints.checkpointer import read_metadata
from ccl_jax.checkpoints.damage import not_read
from ccl_jax.checkpoints.usage import Usage
from ccl_jax.documents import (
  Malformed,
  Seed,
  check,
  read_json,
)
from ccl_jax.errors import UsageError, bind
from ccl_jax.files import is_whole_folder, require_whole
from ccl_jax.remote.paths import BucketPath, Place, place, told
from ccl_jax.shipped import checkpoint, checkpoint_names

# What functions raise of values that are not what they were written for.
BAD_VALUES = AttributeError, KeyError, TypeError, ValueError, ArithmeticError
RELEASES, TRANSFORMERS = ("wan", "ovi"), ("wan-dit", "ovi-dit")
DIT = "dit"  # the folder of the transformer in a converted release


def _sizes(value: Any) -> Any:
  """The sizes of a network: numbers in their ranges, names, and lists of them."""
  inner = value.values() if isinstance(value, dict) else value
  if isinstance(value, (dict, list)):
    for x in inner:
      _sizes(x)
    return value
  whole = isinstance(value, int) and not isinstance(value, bool)
  if whole and not 0 <= value <= 2**24:
    raise ValueError(f"{value} is no size; expected a whole number from 0 to {2**24}")
  if isinstance(value, float) and not math.isfinite(value):
    raise ValueError(f"{value} is no finite number")
  return value


class Source(TypedDict, total=False):
  """Where converted weights come from: a hash of their source."""

  sha256: str


class Description(Usage, total=False):
  """What is read of a config.json of any kind; a run's has its config's sections."""

  kind: str
  name: str
  codecs: str
  dtype: str
  sizes: Annotated[dict[str, Any], pydantic.AfterValidator(_sizes)]
  source: Source
  model: dict[str, Any]
  data: dict[str, Any]
  report: dict[str, Any]
  seed: Seed


class Parameters(NamedTuple):
  """Parameters on disk.

  Attributes:
    folder: with config.json and checkpoints.
    name: of the subtree of the checkpoint.
    description: the config.json; of a run, the metadata of its checkpoint.
    codecs: the bundle that belongs to them, if there is one.
  """

  folder: Place
  name: str
  description: dict[str, Any]
  codecs: Place | None

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
    # Values of other types than a config's have errors of all kinds.
    except (UsageError, *BAD_VALUES) as e:
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
  top = found = checkpoint(folder)
  try:
    description = read_config(found)
  except Malformed as e:
    raise UsageError(f"{folder} holds no model: {e}") from e
  if description.get("kind") in RELEASES:
    found = found / DIT
    description = read_config(found)
  bundle = top / "codecs"
  if named := description.get("codecs"):
    bundle = told(named, found / "config.json")
  codecs = bundle if is_whole_folder(bundle) else None
  if description.get("kind") in (*TRANSFORMERS, "joint"):
    return Parameters(found, "params", description, codecs)
  if (
    "model" not in description or "kind" in description
  ):  # a kind: a run of train_audio
    raise UsageError(
      f"{folder} holds no model: expected config.json and checkpoints, as a training "
      "run (--workdir), 'convert wan', 'convert ovi', 'convert wan-dit' or 'convert "
      f"join' leave them, or a shipped model: {', '.join(checkpoint_names())}"
    )
  return Parameters(found, "ema", read_metadata(found / "checkpoints", step), codecs)


def read_config(folder: str | os.PathLike) -> dict[str, Any]:
  """The config.json of a folder; empty if there is none, or it holds no object.

  Raises:
    UsageError: it is there and cannot be read, or is not what a run or `convert` wrote;
      or the folder is in a bucket and half uploaded.
  """
  require_whole(folder)
  path = place(folder) / "config.json"
  try:
    if isinstance(path, BucketPath):
      there = path.exists()
    else:
      there = os.path.lexists(path)  # a link without an end is there
    if not there:
      return {}
  except OSError as e:
    raise not_read(str(path), e) from e
  except ValueError as e:  # a NUL in the name
    raise UsageError(f"{str(folder)!r} is no name of a folder: {e}") from e
  value = read_json(path)
  if not isinstance(value, dict):
    return {}
  return check(value, Description, path, "put back the one that was written")
