"""PQ, CU, CE and PC of a sound: AudioBox Aesthetics over windows of 10 s.

A sound is cut every 10 s, the last window padded with zeros that a mask hides. Each
window's scores leave the network normalised,

  score  = y std + mean              of the release, by axis
  clip   = sum_i n_i score_i / sum_i n_i        n_i the samples in window i

The four are on a scale of about 1 to 10. The sound is mono at 16 kHz, in [-1, 1].
"""

import jax
import numpy as np
from jaxtyping import Float, Int

from ccl_jax.metrics.base import Unscorable
from ccl_jax.models.scorers.aesthetics import AXES, Aesthetics

RATE = 16000
WINDOW = 10 * RATE


_scores = jax.jit(lambda model, wave, valid: model(wave, valid))


def windows(
  wave: Float[np.ndarray, " n"],
) -> tuple[Float[np.ndarray, "w m"], Int[np.ndarray, " w"]]:
  """Windows of a sound, 10 s each, and the samples of each that are not padding."""
  starts = np.arange(0, len(wave), WINDOW)
  padded = np.pad(wave, (0, -len(wave) % WINDOW))
  return padded.reshape(-1, WINDOW), np.minimum(len(wave) - starts, WINDOW)


def score(wave: Float[np.ndarray, " n"], model: Aesthetics) -> dict[str, float]:
  """CE, CU, PC and PQ of a sound.

  Raises:
    Unscorable: there is no sound, or it is not all finite.
  """
  if not len(wave):
    raise Unscorable("the sound is empty")
  if not np.isfinite(wave).all():
    raise Unscorable("the sound has samples that are not numbers")
  cut, lengths = windows(wave.astype(np.float32))
  # One at a time: any length of sound runs the same program.
  rows = [
    _scores(model, x[None], np.arange(WINDOW)[None] < n)[:, 0]
    for x, n in zip(cut, lengths)
  ]
  # clip = sum_i n_i score_i / sum_i n_i
  means = np.average(np.asarray(rows, np.float64), axis=0, weights=lengths)
  return dict(zip(AXES, means.tolist()))
