"""Buckets: clips of one shape, which may stand in one batch.

Which streams a clip has is part of its shape, so that every batch holds the same kinds
of clips. A bucket's name says it all:

  33x32x48@25+41   33 frames of 32 x 48 pixels at 25 a second, 41 audio tokens   film
  33x32x48@25      the same without sound                                        silent
  1x32x48          a still                                                       image
  +41              sound alone                                                   sound
"""

import dataclasses
import math
import re
from collections.abc import Sequence

from ccl_jax.axes import STREAMS
from ccl_jax.data.spec import SAMPLES_PER_TOKEN, ClipSpec, with_tokens
from ccl_jax.errors import UsageError

KINDS = ("film", "silent", "image", "sound")


@dataclasses.dataclass(frozen=True, order=True)
class Bucket:
  """The shape of a clip; what a clip lacks is zero.

  Attributes:
    frames, height, width: of the picture; the last two in pixels.
    fps: frames per second; a still has none.
    tokens: of audio, 512 samples each.
  """

  frames: int = 0
  height: int = 0
  width: int = 0
  fps: float | int = 0
  tokens: int = 0

  @classmethod
  def of(cls, spec: ClipSpec, kind: str = "film") -> "Bucket":
    """The bucket of clips of `spec`, of one of `KINDS`."""
    picture = spec.frames, spec.height, spec.width, spec.fps
    return {
      "film": lambda: cls(*picture, spec.audio_tokens),
      "silent": lambda: cls(*picture),
      "image": lambda: cls(1, spec.height, spec.width),
      "sound": lambda: cls(tokens=spec.audio_tokens),
    }[kind]()

  @property
  def kind(self) -> str:
    """The kind of the clips: one of `KINDS`."""
    if not self.frames:
      return "sound"
    if self.tokens:
      return "film"
    return "silent" if self.fps else "image"

  @property
  def streams(self) -> tuple[str, ...]:
    """The names of the streams that its clips have."""
    there = {"video": self.frames, "audio": self.tokens}
    return tuple(s for s in STREAMS if there[s])

  @property
  def samples(self) -> int:
    """Samples of sound of a clip, at 16 kHz."""
    return self.tokens * SAMPLES_PER_TOKEN

  @property
  def seconds(self) -> float:
    """Duration of a clip at 16 kHz, in seconds; a still has none."""
    return self.frames / self.fps if self.fps else self.samples / 16000

  @property
  def name(self) -> str:
    """The bucket's name as the module describes it."""
    picture = f"{self.frames}x{self.height}x{self.width}" if self.frames else ""
    rate = f"@{self.fps:g}" if self.fps else ""
    return picture + rate + (f"+{self.tokens}" if self.tokens else "")

  def spec(self) -> ClipSpec:
    """The `ClipSpec` of a bucket that has moving pictures."""
    spec = ClipSpec(self.frames, self.height, self.width, self.fps)
    return with_tokens(spec, self.tokens) if self.tokens else spec


def parse_spec(text: str) -> ClipSpec:
  """The clip shape "FRAMESxHEIGHTxWIDTH@FPS", or with "+TOKENS" of sound at its end,
  where they are not as many as the picture lasts.

  Raises:
    UsageError: it is written another way, or is no valid shape.
  """
  shape = r"(\d+)x(\d+)x(\d+)@(\d+(?:\.\d+)?)(?:\+(\d+))?"
  match = re.fullmatch(shape, text.strip())
  if match is None:
    raise UsageError(
      f"clip shape {text!r}: expected FRAMESxHEIGHTxWIDTH@FPS, such as 81x480x832@16"
    )
  spec = ClipSpec(*map(int, match.groups()[:3]), float(match[4]))
  return with_tokens(spec, int(match[5])) if match[5] else spec


def check_specs(specs: Sequence[ClipSpec]) -> None:
  """Checks that there are clip shapes, and that each has a bucket of its own.

  Raises:
    UsageError: there is none, or two would share a bucket's name.
  """
  names = [Bucket.of(spec).name for spec in specs]
  if not specs or len(set(names)) < len(names):
    raise UsageError(f"expected one or more clip shapes, no two alike, got {names}")


def choose(
  specs: Sequence[ClipSpec], height: int, width: int, seconds: float
) -> ClipSpec | None:
  """The shape that a film of so many pixels and seconds is cut to.

  Among those it is long enough for (the last frame may be held for one period): the
  nearest aspect ratio, then the longest, then the largest that needs no enlarging.
  None where it is too short for all.
  """
  fits = [s for s in specs if seconds - s.seconds + 1 / s.fps + 1e-6 >= 0]
  if not fits:
    return None

  def key(spec):
    # A ratio, so that too wide and too high count alike.
    distance = abs(math.log(spec.width / spec.height * height / width))
    pixels = spec.height * spec.width
    enlarges = pixels > height * width
    return (
      round(distance, 6),
      -spec.frames / spec.fps,
      enlarges,
      pixels if enlarges else -pixels,
    )

  return min(fits, key=key)
