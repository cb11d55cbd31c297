"""IB-score: the cosine of a clip's picture and sound in ImageBind's space.

  score = cos(mean_k v_k, mean_k a_k)

Picture: one frame every two seconds; each frame with the next one, so that all but the
first and the last are in two pairs, and of each pair the three squares along the longer
side (shorter side 224, bicubic, CLIP's normalisation), is a unit vector v_k. A single
frame is its own neighbour. Sound: the 2 s at the beginning,
middle and end are vectors a_k, by `mels.kaldi_mel` of 198 frames, padded with 0 to 204,
(x + 4.268) / 9.138.

This is the protocol of av-benchmark (MMAudio), which prints 100 times the score; the
one of ImageBind's own loader gives other numbers. Higher is better.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from ccl_jax.metrics.base import Unscorable
from ccl_jax.metrics.mels import kaldi_mel
from ccl_jax.metrics.pixels import shrink, three_squares
from ccl_jax.models.scorers.imagebind import MEL_FRAMES, ImageBind

FPS, SAMPLE_RATE = 0.5, 16000
SECONDS = 2  # of a stretch of sound; a shorter clip has no score
MEAN = (0.48145466, 0.4578275, 0.40821073)  # of pixels in [0, 1], by colour
STD = (0.26862954, 0.26130258, 0.27577711)
MEL_MEAN, MEL_STD = -4.268, 9.138


def frame_pairs(
  frames: UInt8[np.ndarray, "F H W 3"],
) -> UInt8[np.ndarray, "k 2 224 224 3"]:
  """Three squares of every pair of neighbouring frames, k in all."""
  squares = three_squares(shrink(frames))
  if len(frames) == 1:
    # The network wants two frames: a still is its own neighbour.
    squares = np.repeat(squares, 2, 1)
  pairs = np.stack([squares[:, :-1], squares[:, 1:]], 2)
  return pairs.reshape(-1, *pairs.shape[2:])


def stretches(wave: Float[np.ndarray, " n"]) -> Float[np.ndarray, "3 bands m"]:
  """Normalised mels of the first, middle and last 2 s."""
  length = SECONDS * SAMPLE_RATE
  spare = len(wave) - length
  cut = np.stack([wave[i : i + length] for i in (0, spare // 2, spare)])
  mel = kaldi_mel(cut)
  mel = np.pad(mel, ((0, 0), (0, 0), (0, MEL_FRAMES - mel.shape[-1])))
  return ((mel - MEL_MEAN) / MEL_STD).astype(np.float32)


@jax.jit
def _picture_vectors(
  net: ImageBind, pairs: UInt8[Array, "k 2 224 224 3"]
) -> Float[Array, "k e"]:
  mean, std = (jnp.asarray(x, jnp.float32)[None, None, None, None] for x in (MEAN, STD))
  return net.vision((pairs.astype(jnp.float32) / 255 - mean) / std)


_sound_vectors = jax.jit(ImageBind.audio)


def vectors(
  net: ImageBind,
  pairs: UInt8[np.ndarray, "k 2 224 224 3"],
  mels: Float[np.ndarray, "m bands frames"],
) -> tuple[Float[np.ndarray, "k e"], Float[np.ndarray, "m e"]]:
  """The vectors of picture and sound in the common space.

  Pictures go three at a time, as many as the least clip has: longer ones run the same
  program.

  Args:
    net: ImageBind with its parameters.
    pairs: as of `frame_pairs`.
    mels: as of `stretches`.
  """
  parts = np.split(pairs, range(3, len(pairs), 3))
  pictures = np.concatenate([_picture_vectors(net, part) for part in parts])
  return pictures, np.asarray(_sound_vectors(net, mels))


def cosine(picture: Float[np.ndarray, "k e"], sound: Float[np.ndarray, "m e"]) -> float:
  """The cosine of the mean vectors."""
  # Means first, then one cosine: a cosine of means, not a mean of cosines.
  v, a = (np.asarray(x, np.float64).mean(0) for x in (picture, sound))
  return float(v @ a / (np.linalg.norm(v) * np.linalg.norm(a)))


def score(
  frames: UInt8[np.ndarray, "F H W 3"],
  wave: Float[np.ndarray, " n"],
  net: ImageBind,
  *,
  seconds: float | int,
) -> dict[str, float]:
  """The IB-score of one clip, {"ib_score": cosine}.

  Args:
    frames: RGB at 0.5 frames per second, from time 0; those after the first
      int(seconds / 2) are not looked at.
    wave: sound at 16 kHz in [-1, 1], from time 0: of stereo its first channel, not the
      mean of both.
    net: ImageBind with its parameters.
    seconds: the clip's length.

  Raises:
    Unscorable: the clip is shorter than 2 s, or has no sound.
  """
  if not len(wave):
    raise Unscorable("no sound")
  used = frames[: int(FPS * seconds)]
  if not len(used) or len(wave) < SECONDS * SAMPLE_RATE:
    raise Unscorable(
      f"{seconds:.2f} s long with {len(wave) / SAMPLE_RATE:.2f} s of sound, expected "
      f"at least {SECONDS} s"
    )
  picture, sound = vectors(net, frame_pairs(used), stretches(wave))
  return {"ib_score": cosine(picture, sound)}
