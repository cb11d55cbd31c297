"""The word error rate of one clip: its line of the manifest against what is heard.

A recogniser hears "thank you" in silence. A clip of which no 0.4 s is as loud as
`SILENCE` says nothing, whatever a recogniser makes of it.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from ccl_jax.metrics import wer
from ccl_jax.metrics.base import Scorer, Unscorable
from ccl_jax.metrics.clip import Clip
from ccl_jax.metrics.languages import language_code
from ccl_jax.metrics.quotes import quoted
from ccl_jax.metrics.whisper import RATE, Recogniser

SILENCE = -60.0  # dBFS, of the root mean square
BLOCK = 2 * RATE // 5  # samples: 0.4 s, the blocks in which loudness is measured


def loudest(wave: Float[np.ndarray, " n"]) -> float:
  """The level of the loudest 0.4 s of mono sound at 16 kHz, in dBFS: 0 of a square wave
  at full scale, -inf of no sound. Blocks begin every 0.1 s.
  """
  power = np.concatenate([[0.0], np.cumsum(np.square(wave, dtype=np.float64))])
  first = np.arange(0, max(len(wave) - BLOCK, 0) + 1, BLOCK // 4)
  last = np.minimum(first + BLOCK, len(wave))
  mean = (power[last] - power[first]).max(initial=0.0) / max(min(BLOCK, len(wave)), 1)
  return 10 * math.log10(mean) if mean > 0 else -math.inf


def is_silent(clip: Clip) -> bool:
  """Whether a clip has no sound track, or one that is below `SILENCE` all along.

  Raises:
    Unscorable: the clip cannot be decoded.
  """
  return not clip.has("sound") or loudest(clip.sound(RATE)) < SILENCE


def reference_text(fields: Mapping[str, Any]) -> str:
  """The text that a clip is to say: its transcript, or what its prompt quotes.

  Raises:
    Unscorable: there is neither.
  """
  if fields.get("transcript") is not None:
    return fields["transcript"]
  if fields.get("prompt"):
    return quoted(fields["prompt"])
  raise Unscorable("neither a transcript nor a prompt: give a --manifest")


def scores_of(reference: str, heard: str, language: str) -> dict[str, Any]:
  """The scores of a clip: its edits by kind and its rate.

  The rate is named after the language's unit, wer or cer. Where nothing was to be said
  there is none, but `unrequested`: whether something was.
  """
  errors = wer.speech_errors(reference, heard, language)
  out = {"reference": reference, "hypothesis": heard, "language": language}
  # A rate over no words is not defined.
  if not errors.words:
    return out | {
      "note": "nothing was to be said",
      "unrequested": int(errors.insertions > 0),
    }
  name = wer.rate_name(language)
  counts = {k: v for k, v in errors._asdict().items() if k != "words"}
  return out | counts | {
    name: wer.rate(errors),
    f"{name}_errors": errors.total,
    f"{name}_words": errors.words,
  }  # fmt: skip


def _is_silent_for_sure(clip: Clip) -> bool:
  """Whether a clip is silent; False of one that cannot be decoded: texts are enough."""
  try:
    return is_silent(clip)
  except Unscorable:
    return False


def sound_scorer(recognise: Recogniser) -> Scorer:
  """A scorer of clips by what a recogniser hears in their sound."""

  def score(clip: Clip) -> dict[str, Any]:
    reference = reference_text(clip.fields)
    language = clip.fields.get("language") or "en"
    code, wave = language_code(language), clip.sound(RATE)
    if loudest(wave) < SILENCE:
      return scores_of(reference, "", language) | {"silent": 1}
    return scores_of(reference, recognise(wave, code), language)

  return score


def transcript_scorer(texts: Mapping[str, str]) -> Scorer:
  """A scorer of clips by transcripts that were made elsewhere, by id."""

  def score(clip: Clip) -> dict[str, Any]:
    if clip.name not in texts:
      raise Unscorable(f"no transcript of {clip.name} is given")
    language = clip.fields.get("language") or "en"
    reference, heard = reference_text(clip.fields), texts[clip.name]
    if heard.strip() and _is_silent_for_sure(clip):
      return scores_of(reference, "", language) | {"silent": 1}
    return scores_of(reference, heard, language)

  return score
