"""Ovi's releases: which there are, and what each was tuned with and for.

  edition      file                             area    frames   the sound in a prompt
  720x720_5s   model.safetensors, model_fp8_*   720^2   121      <AUDCAP>..<ENDAUDCAP>
  960x960_5s   model_960x960.safetensors        960^2   121      Audio: ..
  960x960_10s  model_960x960_10s.safetensors    960^2   241      Audio: ..

The defaults go with the parameters, in their config.json (`checkpoints.usage`).

References, in character-ai/Ovi:

  ovi/ovi_fusion_engine.py
      the editions' files, areas, lengths of latents and prompts; a clip without an
      image gets its edition's area (`snap_hw_to_multiple_of_32`)
  ovi/utils/processing_utils.py
      the size of a clip with an image, to which all of the picture is resized, bicubic
      (`preprocess_image_tensor`)
  ovi/configs/inference/inference_fusion.yaml
      negative texts, scales, shift, the skipped block; the first of the sizes that it
      recommends, 704 x 1280 of 960^2 and, in the first release, 512 x 992 of 720^2
"""

import dataclasses
from typing import Any

FPS, STRIDE = 24, 16  # frames a second; pixels of a latent's side
# Tokens of sound a second from the first frame to the last: 157 of 31 latent frames,
# 121 frames or 5 s later, and 314 of 61.
AUDIO_RATE = 31.4
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
  "960x960_10s": Edition("960x960_10s", 960, (704, 1280), 241, "sentence"),
  "960x960_5s": Edition("960x960", 960, (704, 1280), 121, "sentence"),
  "720x720_5s": Edition("", 720, (512, 992), 121, "tags"),
}
FIRST_EDITION = "720x720_5s"


def edition_of(name: str) -> str:
  """The edition of a file, by its name."""
  return next(e for e, edition in EDITIONS.items() if edition.part in name)


def stem_of(edition: str) -> str:
  """The name of the file of an edition, without its ending, by which it is told."""
  return "_".join(filter(None, ("model", EDITIONS[edition].part)))


def defaults_of(edition: str, depth: int) -> dict[str, Any]:
  """What an edition generates and is sampled with where nobody says otherwise, as JSON.

  Args:
    edition: of `EDITIONS`.
    depth: blocks of the network; a smaller one than the release's has no block to skip.

  Returns:
    As `checkpoints.usage` has them.
  """
  e = EDITIONS[edition]
  height, width = e.size
  clip = {"frames": e.frames, "height": height, "width": width, "fps": FPS}
  skip = {"skip_block": SKIP_BLOCK} if depth > SKIP_BLOCK else {}
  return {
    "clip": clip | {"stride": STRIDE, "audio_rate": AUDIO_RATE},
    "objective": {"shift": SHIFT},
    "guidance": {"form": "text", "scales": SCALES} | skip,
    "negative": NEGATIVE,
    "area": e.side**2,
    "area_rule": "nearest",
    "fit": "squeeze",
    "tasks": list(TASKS),
    "sound": e.sound,
    "edition": edition,
  }
