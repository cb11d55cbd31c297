"""The stored result of a run: one JSON file, what it must hold, and where it lies.

RESULTS/VARIANT-SEED.json   what `check` says
RESULTS/scales.json         {kind of exchange: {form: {"scales", "grid"}}}: the scales
                            of every form of guidance, and what was tried for them
RESULTS/ceiling.json        {set of real clips: {score: {"mean", "sem", "n"}}}
RESULTS/heads.json          attention by block and head of one run: see `by_head`
"""

import hashlib
import pathlib
import subprocess
from collections.abc import Mapping
from typing import Any

from ccl_jax import documents
from ccl_jax.errors import UsageError

REPO = pathlib.Path(__file__).parents[2]
SCALES, CEILING, HEADS = "scales.json", "ceiling.json", "heads.json"
# Keys and types of a result; `None` beside a type where a run may have none.
KEYS = {
  "version": str,
  "variant": str,
  "seed": int,
  "size": str,
  "model": dict,
  "parameters": int,
  "steps": int,
  "seconds": dict,
  "machine": str,
  "loss": dict,
  "stability": dict,
  "guidance": dict,
  "information": dict,
  "attention": (dict, type(None)),
}
INNER = {
  "seconds": {"train": (int, float), "score": (int, float)},
  "loss": {"step": list, "loss": list, "by_task": dict},
  "stability": {
    "difference_std": (int, float, type(None)),
    "gradient_cosine": (dict, type(None)),
  },
}


def name_of(variant: str, seed: int) -> str:
  """What a run is called, in folders and files."""
  return f"{variant}-{seed}"


def check(result: Any, place: Any) -> dict:
  """The result, if it is one.

  Args:
    result: of JSON.
    place: its file, for the error.

  Raises:
    UsageError: a key is missing or has another type, or a column of the loss another
      length than its steps.
  """

  def keys(value, rules, inside):
    if not isinstance(value, Mapping):
      raise UsageError(f"{place}: {inside or 'it'} is no object; score the run again")
    for key, kind in rules.items():
      if key not in value or not isinstance(value[key], kind):
        got = f"got {value[key]!r:.40}" if key in value else "it is missing"
        kinds = kind if isinstance(kind, tuple) else (kind,)
        names = " or ".join(k.__name__ for k in kinds)
        raise UsageError(
          f"{place}: {inside}{key}: {got}, expected {names}; score the run again"
        )

  keys(result, KEYS, "")
  for key, rules in INNER.items():
    keys(result[key], rules, f"{key}.")
  for row, tasks in result["guidance"].items():
    for task, entry in tasks.items():
      inside = f"guidance.{row}.{task}."
      keys(entry, {"scales": dict, "scores": dict, "chance": dict}, inside)
      for score, cell in entry["scores"].items():
        number = (int, float, type(None))
        rules = {"mean": number, "sem": number, "n": int}
        keys(cell, rules, f"{inside}scores.{score}.")
  loss = result["loss"]
  for name, column in {"loss": loss["loss"], **loss["by_task"]}.items():
    if len(column) != len(loss["step"]):
      raise UsageError(
        f"{place}: {len(column)} values of the loss {name} for {len(loss['step'])} "
        "steps; score the run again"
      )
  return dict(result)


def read(folder: str | pathlib.Path) -> list[dict]:
  """The results of a folder, by name.

  Raises:
    UsageError: there is no such folder, or a file is no result.
  """
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    raise UsageError(f"no folder of results {folder}: run the ablation first")
  others = (SCALES, CEILING, HEADS)
  files = sorted(p for p in folder.glob("*.json") if p.name not in others)
  return [check(read_json(path), path) for path in files]


def read_json(path: pathlib.Path) -> Any:
  """What a file holds; an empty object if it is not there.

  Raises:
    UsageError: it is no JSON, or cannot be read.
  """
  if not path.exists():
    return {}
  try:
    return documents.read_json(path)
  except UsageError as e:
    raise UsageError(f"{path} cannot be read as JSON ({e}): remove it") from e


def code_version(repo: pathlib.Path = REPO) -> str:
  """A hash of the package's source and configs: what results of one table share."""
  digest = hashlib.sha256()
  files = [*(repo / "ccl_jax").rglob("*.py"), *(repo / "configs").glob("*.py")]
  for path in sorted(files):
    digest.update(f"{path.relative_to(repo)}\0".encode() + path.read_bytes() + b"\0")
  return digest.hexdigest()[:12]


def commit(repo: pathlib.Path = REPO) -> str | None:
  """The commit of the code, where git knows it."""
  argv = ["git", "-C", str(repo), "rev-parse", "HEAD"]
  try:
    found = subprocess.run(argv, capture_output=True, text=True, check=True)
  except (OSError, subprocess.CalledProcessError):
    return None
  return found.stdout.strip()
