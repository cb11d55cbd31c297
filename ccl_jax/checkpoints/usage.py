"""How parameters are sampled where nobody says otherwise, kept from start to start.

A release brings these settings (weights/ovi_release.py, weights/wan.py). They stand at
the top of the config.json of converted and joined parameters, and of the metadata of a
run's checkpoints: whoever samples a run reads nothing but its checkpoint.

  clip        sizes of a clip; of a run those it was trained on
  objective   {"shift"} of the schedule, and {"last_image_probability"} of a run: where
              it is above 0, clips may be given their last frame
  guidance    {"form", "scales"}, perhaps with the "skip_block" of the negative
              evaluation
  negative    texts of the negative evaluation, by stream
  sound       the form of prompts (generation/prompts.py)
  tasks       that the parameters were trained for
  area, area_rule, fit
              of clips that follow a first frame (generation/sizes.py, inputs.py)
  edition     which of several files of a release the parameters come from
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from typing_extensions import TypedDict

from ccl_jax.documents import Count, Number

FITS = ("cover", "squeeze")  # of a picture to a clip: cut to its aspect ratio, or not


class Guidance(TypedDict, total=False):
  """Guidance as it stands in metadata; the scales are in the form's order."""

  form: str
  scales: dict[str, list[Number]]
  skip_block: Count


class Usage(TypedDict, total=False):
  """The settings, as JSON; see the module."""

  clip: dict[str, Any]
  objective: dict[str, Any]
  guidance: Guidance
  negative: dict[str, str]
  sound: Literal["tags", "sentence"]
  # Of a run's config.json: the section of that name.
  tasks: list[str] | dict[str, Any]
  area: Count
  area_rule: Literal["within", "nearest", "each"]
  fit: Literal["cover", "squeeze"]
  edition: str


def stated(about: Mapping[str, Any]) -> dict[str, Any]:
  """The settings that a description of parameters states.

  Args:
    about: see `checkpoints.find.Parameters`.
  """
  out = {name: about[name] for name in Usage.__annotations__ if name in about}
  if "objective" in out:  # of a run: all of its training's
    kept = ("shift", "last_image_probability")
    out["objective"] = {k: v for k, v in out["objective"].items() if k in kept}
  return out


def inherited(
  start: Mapping[str, Any],
  clip: Mapping[str, Any],
  guidance: Mapping[str, Any],
  tasks: Sequence[str],
) -> dict[str, Any]:
  """The settings of a run that starts from parameters, as part of its metadata.

  Args:
    start: settings of the parameters; {} of random ones, the run's own where it goes
      on.
    clip: that the run is trained on.
    guidance: of the run's report, or {}.
    tasks: that the run teaches, names of `tasks.GENERATIONS`.
  """
  own = {k: v for k, v in start.items() if k not in ("clip", "objective")}
  own["clip"] = dict(clip)
  own["negative"] = dict(start.get("negative", {}))
  # A report chooses form and scales; the block to skip is the network's.
  own["guidance"] = {**start.get("guidance", {}), **guidance}
  if "tasks" in start:
    known = start["tasks"]
    own["tasks"] = [*known, *(t for t in tasks if t not in known)]
  size = lambda c: (c.get("height"), c.get("width"))
  if "area" in start and size(clip) != size(start.get("clip", {})):
    own["area"] = clip["height"] * clip["width"]
  return own
