"""What a clip was made with: written beside it as NAME.json, and read to make it again.

Keys that are flags of `generate` are named like them; paths are absolute. A LoRA is
FILE:STRENGTH and a cache FILE:THRESHOLD, their files among the fingerprints. What is
not asked for of `schedule` and the other ways to leave steps out is not there.
Clips that were made together are made together again, as the order of float32 sums is a
batch's: `batch` has the prompts, seeds and files of all, and which of them this one is.
`fingerprints` are of the parameters, the codecs and the files that went in.
"""

import dataclasses
import hashlib
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from ccl_jax.axes import STREAMS
from ccl_jax.data.spec import ClipSpec
from ccl_jax.documents import read_json
from ccl_jax.errors import UsageError
from ccl_jax.generation.inputs import Files
from ccl_jax.generation.sampling import Sampling
from ccl_jax.generation.step_cache import parse_cache
from ccl_jax.remote.copies import local
from ccl_jax.remote.paths import Place
from ccl_jax.tasks import INPUTS

_log = logging.getLogger(__name__)

ARRAY = "array"  # begins the name of an input that was no file
OWN_OF_SCHEDULE = ("steps", "shift", "solver", "guidance")
_NEEDED = {"task", "prompt", "seed", "scales", "batched", "fingerprints"}
# What makes a clip: other flags, such as who is to be connected to, are nobody else's.
_SETTINGS = {
  *("task", "prompt", "seed", "negative_prompt", "sequential", *INPUTS),
  *("ckpt", "step", "weights", "codecs", "lora", "vae_tile", "quantize"),
  *(f"{name}_{s}" for name in ("negative_prompt", "scale") for s in STREAMS),
  *(f.name for kind in (Sampling, ClipSpec) for f in dataclasses.fields(kind)),
}


class Settings(NamedTuple):
  """Settings that were read.

  Attributes:
    values: by name of a flag.
    index: which clip of the batch is wanted; None: all there are.
    fingerprints: by "params", "codecs" and path of a file.
    given: flags that override what the settings say.
  """

  values: dict[str, Any]
  index: int | None
  fingerprints: dict[str, str]
  given: frozenset[str]

  def check_origin(self, origin: Mapping[str, Any]) -> None:
    """Whether parameters and codecs are those of the clip; see `LoadedModel.origin`.
    Where others were asked for, a difference is but a note on stderr.

    Raises:
      UsageError: they are not.
    """
    # Of files that go in, `check_files` speaks.
    own = {n: x for n, x in origin["fingerprints"].items() if n in ("params", "codecs")}
    for name, found in own.items():
      wanted = self.fingerprints.get(name)
      if found == wanted:
        continue
      text = (
        f"the {name} of {origin['ckpt']}, step {origin['step']}, are not those of the "
        f"settings (got {found[:8]}, expected {str(wanted)[:8]})"
      )
      if not self.given & {"ckpt", "step", "weights", "codecs"}:
        raise UsageError(
          f"{text}: put them back, or name what to use with --ckpt, --step, --weights "
          "or --codecs"
        )
      _log.warning(text)

  def check_files(self, files: Files) -> None:
    """Whether files are those the clip was made from, where no others were asked for.

    Raises:
      UsageError: one of them is not.
    """
    for name in files.keys() - self.given:
      for path in dict.fromkeys(files[name]):
        if file_digest(path) != self.fingerprints.get(str(path)):
          raise UsageError(
            f"{path} is not the file that the settings were made with: put it back, or "
            f"name what to use with --{name}"
          )


def describe(
  task: str,
  prompts: Sequence[str],
  seeds: Sequence[int],
  files: Files,
  *,
  negative: Mapping[str, Sequence[str]],
  sampling: Sampling,
  spec: ClipSpec,
  origin: Mapping[str, Any],
  made: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
  """The settings of every clip of a batch, as JSON.

  Args:
    seeds: one of all clips, or one for each.
    negative: by stream, one text of all clips, or one for each.
    origin: where parameters and codecs come from; see `LoadedModel.origin`.
    made: what was found out when the clips were made; see `LoadedModel.made`.
  """
  paths = {name: [str(p.absolute()) for p in given] for name, given in files.items()}
  digests = {path: file_digest(path) for given in paths.values() for path in given}
  if sampling.cache is not None:
    path, _ = parse_cache(sampling.cache)
    digests[path] = file_digest(path)
  how = dataclasses.asdict(sampling)
  shared = {
    **{name: value for name, value in how.items() if value is not None},
    **dataclasses.asdict(spec),
    **origin,
    **(made or {}),
    "fingerprints": origin["fingerprints"] | digests,
  }
  texts = {f"negative_prompt_{s}": list(negative[s]) for s in STREAMS}
  batch = {"prompt": list(prompts), "seed": list(seeds), **texts, **paths}
  out = []
  for i in range(len(prompts)):
    own = {k: v[i if len(v) > 1 else 0] for k, v in batch.items()}
    together = {"batch": {"index": i, **batch}} if len(prompts) > 1 else {}
    out.append({"task": task} | own | shared | together)
  return out


def read_settings(path: str | os.PathLike, given: Collection[str]) -> Settings:
  """The settings in a NAME.json, but for those that are `given` anew.

  Raises:
    UsageError: it cannot be read, or has not all that makes a clip.
  """
  try:
    about = read_json(path)
  except UsageError as e:
    raise UsageError(f"--settings {path}: cannot be read as JSON: {e}") from e
  lacking = _NEEDED - (about.keys() if isinstance(about, dict) else set())
  if lacking:
    raise UsageError(
      f"--settings {path}: no {', '.join(sorted(lacking))}; expected the NAME.json "
      "that generate wrote beside a clip"
    )
  try:
    return _settings(about, frozenset(given))
  except (AttributeError, KeyError, TypeError, ValueError) as e:
    raise UsageError(f"--settings {path}: not as generate wrote it: {e}") from e


def _settings(about: Mapping[str, Any], given: frozenset[str]) -> Settings:
  values, index = dict(about), None
  batch = values.pop("batch", {})
  if batch and not given & {"prompt", "seed", *INPUTS}:  # else a clip of its own
    values |= batch
    index = values.pop("index")
  values["sequential"] = not values["batched"]
  # Of the first versions, which left none out.
  skip = values.pop("skip_block", -1)
  if "schedule" in given:  # which has all of these itself
    values = {k: v for k, v in values.items() if k not in OWN_OF_SCHEDULE}
  elif "guidance" not in given:  # another form has other scales
    scales = {f"scale_{s}": list(x.values()) for s, x in about["scales"].items()}
    values |= scales | {"skip_block": skip}
  if "negative_prompt" in given:  # of both streams
    values = {k: v for k, v in values.items() if not k.startswith("negative_prompt")}
  known = {k: v for k, v in values.items() if k in _SETTINGS}
  values = {k: v for k, v in known.items() if k not in given and v is not None}
  for name in INPUTS:
    named = values.get(name, [])
    if any(
      x.startswith(f"{ARRAY} ") for x in [named] * isinstance(named, str) or named
    ):
      raise UsageError(
        f"--settings: the {name} of this clip was an array of a program: name a file "
        f"with --{name}"
      )
  return Settings(values, index, dict(about["fingerprints"]), given)


def read_about(path: Place) -> dict[str, Any] | None:
  """The settings beside a clip; None if there are none that can be read."""
  try:
    about = read_json(path)
  except UsageError:
    return None
  return about if isinstance(about, dict) else None


def file_digest(path: str | os.PathLike) -> str:
  """The SHA-256 of a file's bytes, in hexadecimal."""
  with local(path) as copy, open(copy, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()
