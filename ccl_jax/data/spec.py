"""The size of a clip, and everything that follows from it.

Picture: F frames of H x W pixels at `fps`; the video codec keeps frame 0 and then every
fourth, and every n-th pixel, n = 8 or, of Wan2.2's VAE, 16 (`stride`), so

  F = 4 k + 1,    t = (F - 1) / 4 + 1,    h, w = H / n, W / n,    2 n | H, W

(2 n because the network takes latents in 2 x 2 patches). Sound: mono at `sample_rate`
(Hz), one audio token per 512 samples, as many whole tokens as the picture lasts:

  a = floor(F / fps * sample_rate / 512) = floor(31.25 F / fps),    n = 512 a.

A model may have lengths of its own: Ovi has 157 tokens for 121 frames at 24 fps and 314
for 241, 31.4 a second from the first frame to the last (`audio_rate`):

  a = round(audio_rate (F - 1) / fps), at least 1.

Sample 0 and frame 0 share one instant.
"""

import dataclasses
import fractions
import math

from ccl_jax.errors import UsageError

SAMPLES_PER_TOKEN = 512
FRAMES, SIDE = 2**20, 2**15  # of a clip, at most: half a day, and four times 8K
RATES = 0.1, 1000  # frames per second


@dataclasses.dataclass(frozen=True)
class ClipSpec:
  """The sizes of a clip, from which all others follow.

  Attributes:
    frames: F = 4 k + 1.
    height, width: pixels, multiples of 2 `stride`.
    fps: frames per second.
    sample_rate: samples per second.
    stride: pixels of a latent's side.
    audio_rate: audio tokens a second from the first frame to the last, of a model that
      has lengths of its own; None: the whole tokens that the picture lasts.

  Raises:
    UsageError: a size that no clip can have.
  """

  frames: int
  height: int
  width: int
  fps: float | int
  sample_rate: int = 16000
  stride: int = 8
  audio_rate: float | None = None

  def __post_init__(self):
    if self.fps <= 0 or self.sample_rate <= 0:
      raise UsageError(
        f"a clip's rates are positive, got fps {self.fps} and sample_rate "
        f"{self.sample_rate}"
      )
    if not RATES[0] <= self.fps <= RATES[1]:
      raise UsageError(f"fps must be from {RATES[0]} to {RATES[1]}, got {self.fps}")
    if self.audio_rate is not None and not 0 < self.audio_rate < math.inf:
      raise UsageError(
        f"audio_rate must be tokens a second, got {self.audio_rate}: use 31.4 of Ovi, "
        "or none"
      )
    if self.frames < 1 or self.frames % 4 != 1:
      raise UsageError(
        f"frames must be 4 k + 1, got {self.frames}: use {_near(self.frames, 4, 1)}"
      )
    if self.frames > FRAMES:
      raise UsageError(f"frames must be at most {FRAMES}, got {self.frames}")
    if not isinstance(self.stride, int) or self.stride < 1:
      raise UsageError(
        f"stride must be the pixels of a latent's side, got {self.stride}: use 8, or "
        "16 with Wan2.2's VAE"
      )
    for side in ("height", "width"):
      pixels = getattr(self, side)
      if pixels < self.unit or pixels % self.unit:
        raise UsageError(
          f"{side} must be a multiple of {self.unit}, got {pixels}: use "
          f"{_near(pixels, self.unit, 0)}"
        )
      if pixels > SIDE:
        raise UsageError(f"{side} must be at most {SIDE}, got {pixels}")
    if self.audio_tokens < 1:
      raise UsageError(
        f"{self.frames} frames at {self.fps} fps last less than one audio token "
        f"({SAMPLES_PER_TOKEN / self.sample_rate:g} s): use more frames"
      )

  @property
  def unit(self) -> int:
    """Pixels of a video token's side, which divide height and width."""
    return 2 * self.stride

  @property
  def rate(self) -> fractions.Fraction:
    """The exact frame rate, in frames per second: 29.97002997 is 30000/1001."""
    return fractions.Fraction(self.fps).limit_denominator(1001)

  @property
  def seconds(self) -> float:
    """Duration of the picture in seconds: F / fps."""
    return float(self.frames / self.rate)

  @property
  def audio_tokens(self) -> int:
    """a, the tokens of the clip's sound."""
    if self.audio_rate is not None:
      lasts = (self.frames - 1) / self.rate  # seconds
      rate = fractions.Fraction(self.audio_rate).limit_denominator(10**6)
      return max(1, math.floor(rate * lasts + fractions.Fraction(1, 2)))
    # a = floor(F / fps * sample_rate / 512), in exact fractions.
    return math.floor(self.frames / self.rate * self.sample_rate / SAMPLES_PER_TOKEN)

  @property
  def samples(self) -> int:
    """Samples of the clip's sound: n = 512 a."""
    return self.audio_tokens * SAMPLES_PER_TOKEN

  @property
  def latent_frames(self) -> int:
    """Frames of the video latent: t = (F - 1) / 4 + 1."""
    return (self.frames - 1) // 4 + 1

  @property
  def latent_shape(self) -> tuple[int, int, int]:
    """(t, h, w) of the video latent: t frames of h x w."""
    return (self.latent_frames, self.height // self.stride, self.width // self.stride)


def with_tokens(spec: ClipSpec, tokens: int) -> ClipSpec:
  """The spec of clips whose sound has so many tokens.

  Raises:
    UsageError: it would begin or end more than a second from where the picture ends.
  """
  if tokens == spec.audio_tokens:
    return spec
  usual = dataclasses.replace(spec, audio_rate=None).audio_tokens
  if spec.frames == 1 or abs(tokens - usual) * SAMPLES_PER_TOKEN > spec.sample_rate:
    raise UsageError(
      f"{tokens} audio tokens for {spec.frames} frames at {spec.fps:g} fps: expected "
      f"about {usual}, as long as the picture"
    )
  rate = float(tokens * spec.rate / (spec.frames - 1))
  return dataclasses.replace(spec, audio_rate=rate)


def _near(value: int, step: int, offset: int) -> str:
  """The valid values on both sides of `value`, those of the form step * k + offset."""
  below = (max(value, 0) - offset) // step * step + offset
  smallest = offset or step
  return " or ".join(str(v) for v in (below, below + step) if v >= smallest)
