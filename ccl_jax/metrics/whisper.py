"""Recognises speech in a clip, by Whisper or from transcripts made elsewhere.

A recogniser is a function (sound, language) -> text; sound is mono, 16 kHz, in [-1, 1].
Both kinds decode greedily, without timestamps and without regard to what was said
before, in windows of 30 s. The language is given, for guessing it is one more error;
None leaves it to Whisper. Whisper makes up text where there is no speech: keep what it
heard beside the rate.

Their packages, torch among them, are imported when a recogniser is made.
"""

import os
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from ccl_jax.documents import Malformed, numbered_lines, parse
from ccl_jax.errors import UsageError
from ccl_jax.metrics.base import Unscorable
from ccl_jax.metrics.packages import need

RATE, WINDOW = 16000, 30 * 16000


@runtime_checkable
class Recogniser(Protocol):
  """A function from mono sound at 16 kHz and a language, or None, to a text."""

  def __call__(self, wave: Float[np.ndarray, " n"], language: str | None) -> str: ...


class Transformers:
  """A recogniser that runs Whisper by transformers, in float32."""

  def __init__(self, path: str | os.PathLike, device: str = "cpu"):
    """Reads a folder as published (or a name that transformers knows).

    Raises:
      Unscorable: transformers or the weights are not there.
    """
    package = need("transformers", "transformers with torch")
    package.logging.set_verbosity_error()  # it warns of what its own generate passes on
    package.logging.disable_progress_bar()
    try:
      self._processor = package.WhisperProcessor.from_pretrained(path)
      model = package.WhisperForConditionalGeneration.from_pretrained(
        path, dtype="float32"
      )
    except (ImportError, OSError, ValueError) as e:
      reason = str(e).strip().splitlines()[0]
      raise Unscorable(f"no Whisper at {path}: {reason}") from e
    self._model, self._device = model.eval().to(device), device

  def __call__(self, wave: Float[np.ndarray, " n"], language: str | None) -> str:
    # Fine-tuned releases may know fewer languages.
    known = self._model.generation_config.lang_to_id
    if language is not None and f"<|{language}|>" not in known:
      raise Unscorable(f"this Whisper does not know the language {language!r}")
    texts = []
    for part in _windows(wave):
      inputs = self._processor(
        part, sampling_rate=RATE, return_tensors="pt", return_attention_mask=True
      ).to(self._device)
      ids = self._model.generate(
        **inputs,
        language=language,
        task="transcribe",
        num_beams=1,
        do_sample=False,
        return_timestamps=False,
      )
      texts += self._processor.batch_decode(ids, skip_special_tokens=True)
    return _joined(texts)


class FasterWhisper:
  """A recogniser that runs Whisper by faster-whisper: CTranslate2, without torch."""

  def __init__(self, path: str | os.PathLike, device: str = "cpu"):
    """Reads a folder in CTranslate2's format (or a name that faster-whisper knows).

    Raises:
      Unscorable: faster-whisper or the weights are not there.
    """
    package = need("faster_whisper", "faster-whisper")
    try:
      self._model = package.WhisperModel(
        str(path), device=device, compute_type="float32"
      )
    except (OSError, RuntimeError, ValueError) as e:
      raise Unscorable(f"no Whisper at {path}: {e}") from e

  def __call__(self, wave: Float[np.ndarray, " n"], language: str | None) -> str:
    texts = []
    for part in _windows(wave):
      try:
        # No fallback to higher temperatures, no voice detection: as the other
        # recogniser.
        segments, _ = self._model.transcribe(
          part,
          language=language,
          task="transcribe",
          beam_size=1,
          temperature=0.0,
          without_timestamps=True,
          condition_on_previous_text=False,
          no_speech_threshold=None,
          vad_filter=False,
        )
        texts += [segment.text for segment in segments]  # decoded as they are asked for
      except ValueError as e:
        raise Unscorable(f"faster-whisper refuses the clip: {e}") from e
    return _joined(texts)


def read_transcripts(path: str | os.PathLike) -> dict[str, str]:
  """Reads the texts of another recogniser, by clip: lines {"id": ..., "text": ...}.

  Raises:
    UsageError: there is no such file, or a line is not such an object.
  """
  texts: dict[str, str] = {}
  for i, line in numbered_lines(path):
    try:
      row = parse(line, path)
      name, text = row["id"], row["text"]
    except (Malformed, KeyError, TypeError):
      name = text = None
    if not isinstance(name, str) or not isinstance(text, str):
      raise UsageError(
        f'{path}, line {i}: expected {{"id": "clip", "text": "what is said"}}, got '
        f"{line[:80]!r}"
      )
    if name in texts:
      raise UsageError(f"{path}, line {i}: {name} is there twice")
    texts[name] = text
  if not texts:
    raise UsageError(f"{path} has no lines; expected an object for each clip")
  return texts


def _windows(wave: Float[np.ndarray, " n"]) -> Iterator[Float[np.ndarray, " m"]]:
  if not len(wave) or not np.isfinite(wave).all():
    raise Unscorable("the sound is empty, or not all numbers")
  for first in range(0, len(wave), WINDOW):
    yield np.ascontiguousarray(wave[first : first + WINDOW], np.float32)


def _joined(texts: list[str]) -> str:
  return " ".join(text.strip() for text in texts if text.strip())
