"""Ovi's releases: which there are, and what each was tuned with and for.

  edition      file                             area    frames   the sound in a prompt
  720x720_5s   model.safetensors, model_fp8_*   720^2   121      <AUDCAP>..<ENDAUDCAP>
  960x960_5s   model_960x960.safetensors        960^2   121      Audio: ..
  960x960_10s  model_960x960_10s.safetensors    960^2   241      Audio: ..

The defaults go with the parameters, in their config.json, under the names that a run's
metadata have for its own.
"""

import dataclasses
from typing import Any

FPS, STRIDE = 24, 16  # frames a second; pixels of a latent's side
NEGATIVE = {
  "video": "jitter, bad hands, blur, distortion",
  "audio": "robotic, muffled, echo, distorted",
}
SHIFT, SCALES = 5.0, {"video": [4.0], "audio": [3.0]}
SKIP_BLOCK = 11
# What the release was trained for. It has seen no clean stream beside a noisy one.
TASKS = ("joint", "ti2av", "t2v", "i2v", "t2a")


@dataclasses.dataclass(frozen=True)
class Edition:
  """One of the files that were released.

  Attributes:
    part: of its name, by which it is told.
    side: of a square with the area of its pictures.
    size: height and width of a picture that nobody sizes.
    frames: of its clips.
    sound: how a prompt describes the sound: "tags" or "sentence".
  """

  part: str
  side: int
  size: tuple[int, int]
  frames: int
  sound: str


# The first whose part is in the name: what is called otherwise is the first release.
EDITIONS = {
  "960x960_10s": Edition("960x960_10s", 960, (704, 1344), 241, "sentence"),
  "960x960_5s": Edition("960x960", 960, (704, 1344), 121, "sentence"),
  "720x720_5s": Edition("", 720, (512, 992), 121, "tags"),
}


def edition_of(name: str) -> str:
  """The edition of a file, by its name."""
  return next(e for e, edition in EDITIONS.items() if edition.part in name)


def defaults_of(edition: str, depth: int) -> dict[str, Any]:
  """What an edition generates and is sampled with where nobody says otherwise, as JSON.

  Args:
    edition: of `EDITIONS`.
    depth: blocks of the network; a smaller one than the release's has no block to skip.

  Returns:
    As a run's metadata have them `clip`, `objective` (the schedule's shift), `guidance`
    (with the block to be skipped) and `negative` (texts by stream); and `area` in
    pixels of clips that take their aspect ratio from an image, `area_rule` by which,
    `tasks` that the release was trained for, and `sound`: see `Edition`.
  """
  e = EDITIONS[edition]
  height, width = e.size
  clip = {"frames": e.frames, "height": height, "width": width, "fps": FPS}
  skip = {"skip_block": SKIP_BLOCK} if depth > SKIP_BLOCK else {}
  return {
    "clip": clip | {"stride": STRIDE},
    "objective": {"shift": SHIFT},
    "guidance": {"form": "text", "scales": SCALES} | skip,
    "negative": NEGATIVE,
    "area": e.side**2,
    "area_rule": "nearest",
    "tasks": list(TASKS),
    "sound": e.sound,
  }
