"""The word error rate of one clip: its line of the manifest against what is heard."""

from collections.abc import Mapping
from typing import Any

from ccl_jax.metrics import wer
from ccl_jax.metrics.base import Scorer, Unscorable
from ccl_jax.metrics.clip import Clip
from ccl_jax.metrics.quotes import quoted
from ccl_jax.metrics.whisper import RATE, Recogniser


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


def sound_scorer(recognise: Recogniser) -> Scorer:
  """A scorer of clips by what a recogniser hears in their sound."""

  def score(clip: Clip) -> dict[str, Any]:
    reference = reference_text(clip.fields)
    language = clip.fields.get("language") or "en"
    heard = recognise(clip.sound(RATE), wer.code(language))
    return scores_of(reference, heard, language)

  return score


def transcript_scorer(texts: Mapping[str, str]) -> Scorer:
  """A scorer of clips by transcripts that were made elsewhere, by id."""

  def score(clip: Clip) -> dict[str, Any]:
    if clip.name not in texts:
      raise Unscorable(f"no transcript of {clip.name} is given")
    language = clip.fields.get("language") or "en"
    return scores_of(reference_text(clip.fields), texts[clip.name], language)

  return score
