"""DeSync: how far picture and sound are apart, in seconds, by Synchformer.

A clip is cut into segments of 16 frames (25 per second), 8 apart, and 10240 samples
(16 kHz), 5120 apart. The network sees windows of 14 segments, 4.8 s, and answers with
logits of the offsets -2, -1.8 ... 2; of the first window and the last one,

  DeSync = mean |offset[argmax logits]|

the protocol of av-benchmark (MMAudio). Lower is better; a network that guesses has
1.048, the mean size of an offset. The sign of an offset is that of the network's own
classes.

Frames: shorter side 224, bicubic, centre crop, to [-1, 1]. Sound of each segment:
`mels.htk_mel`, 65 frames, padded with a 0 to 66, (x + 4.27) / 9.14.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from ccl_jax.metrics.base import Unscorable
from ccl_jax.metrics.mels import htk_mel
from ccl_jax.metrics.pixels import centre, shrink
from ccl_jax.models.scorers.synchformer import SEGMENTS, Synchformer
from ccl_jax.models.scorers.synchformer_towers import MEL_FRAMES

FPS, SAMPLE_RATE = 25, 16000
FRAMES, FRAME_STEP = 16, 8
SAMPLES, SAMPLE_STEP = 10240, 5120
MEL_MEAN, MEL_STD = -4.2677393, 2 * 4.5689974
OFFSETS = np.arange(-10, 11) / 5  # linspace(-2, 2, 21), to the last bit


def segment_count(frames: int, samples: int) -> int:
  """The number of segments that both picture and sound have."""
  of_frames = (frames - FRAMES) // FRAME_STEP + 1
  of_samples = (samples - SAMPLES) // SAMPLE_STEP + 1
  return max(min(of_frames, of_samples), 0)


def windows(
  frames: UInt8[np.ndarray, "F H W 3"], wave: Float[np.ndarray, " n"]
) -> tuple[UInt8[np.ndarray, "w s f 224 224 3"], Float[np.ndarray, "w s bands m"]]:
  """Pixels and normalised mels of the first and the last window; once if they are one.

  Raises:
    Unscorable: the clip is shorter than a window.
  """
  count = segment_count(len(frames), len(wave))
  if count < SEGMENTS:
    raise Unscorable(
      f"{len(frames) / FPS:.2f} s of picture and {len(wave) / SAMPLE_RATE:.2f} s of "
      f"sound, expected at least {_seconds(SEGMENTS):.2f} s of both"
    )
  pixels, mels = [], []
  # A clip of exactly one window has it once.
  for first in sorted({0, count - SEGMENTS}):
    seen = frames[first * FRAME_STEP :][: FRAME_STEP * (SEGMENTS - 1) + FRAMES]
    heard = wave[first * SAMPLE_STEP :][: SAMPLE_STEP * (SEGMENTS - 1) + SAMPLES]
    pixels.append(_segments(centre(shrink(seen)), FRAMES, FRAME_STEP))
    mels.append(segment_mels(_segments(heard, SAMPLES, SAMPLE_STEP)))
  return np.stack(pixels), np.stack(mels)


def segment_mels(
  segments: Float[np.ndarray, "s n"],
) -> Float[np.ndarray, "s bands m"]:
  """Normalised mels of segments of sound, as the sound tower reads them."""
  mel = htk_mel(segments)
  mel = np.pad(mel, ((0, 0), (0, 0), (0, MEL_FRAMES - mel.shape[-1])))
  return ((mel - MEL_MEAN) / MEL_STD).astype(np.float32)


@jax.jit
def window_logits(
  net: Synchformer,
  pixels: UInt8[Array, "s f 224 224 3"],
  mels: Float[Array, "s bands m"],
) -> Float[Array, " o"]:
  """Logits of a window; clips of one and of two windows run the same program."""
  frames = pixels.astype(jnp.float32) / 127.5 - 1
  return net.compare(net.video_rows(frames)[None], net.audio_rows(mels)[None])[0]


def from_logits(logits: Float[np.ndarray, "w o"]) -> dict[str, Any]:
  """The score of the first and the last of these windows, and what led to it.

  Returns:
    desync, and by window the class, its signed offset in seconds, the probabilities,
    and their mean offset.
  """
  ends = np.asarray(logits, np.float64)[[0, -1]]
  # The softmax over the 21 classes.
  odds = np.exp(ends - ends.max(-1, keepdims=True))
  probabilities = odds / odds.sum(-1, keepdims=True)
  classes = ends.argmax(-1)
  return {
    "desync": float(np.abs(OFFSETS[classes]).mean()),
    "classes": classes.tolist(),
    "offsets": OFFSETS[classes].tolist(),
    "expected_offsets": (probabilities @ OFFSETS).tolist(),
    "probabilities": probabilities.tolist(),
  }


def score(
  frames: UInt8[np.ndarray, "F H W 3"],
  wave: Float[np.ndarray, " n"],
  net: Synchformer,
) -> dict[str, Any]:
  """DeSync of one clip, as `from_logits` gives it.

  Args:
    frames: RGB at 25 frames per second, from time 0.
    wave: mono sound at 16 kHz in [-1, 1], from time 0.

  Raises:
    Unscorable: the clip is shorter than 4.8 s, or has no sound.
  """
  if not len(wave):
    raise Unscorable("no sound")
  logits = [window_logits(net, *window) for window in zip(*windows(frames, wave))]
  return from_logits(np.stack(logits))


def _segments(x, size: int, step: int):
  view = np.lib.stride_tricks.sliding_window_view(x, size, 0)[::step]
  return np.moveaxis(view, -1, 1)


def _seconds(segments: int) -> float:
  return (FRAME_STEP * (segments - 1) + FRAMES) / FPS
