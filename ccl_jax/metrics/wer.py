"""Word error rate: how much of what was to be said is heard.

  WER = (S + D + I) / N

substitutions, deletions and insertions that turn the N words of the reference into what
was recognised, fewest in all. Both are normalised first:

  NFKC; curly quotes made straight, or "we’ve" would be two words; labels "Speaker1:"
  dropped; Whisper's normaliser, the English one for English; words without a letter or
  a digit dropped

Chinese, Cantonese, Japanese, Thai, Lao and Burmese do not part words: there a word is a
character, and the rate is called CER. Whisper's normaliser drops the marks above and
below letters that Thai writes its vowels with, on both sides.

What is said can be written in several ways: traditional Chinese is made simplified
(OpenCC), and Chinese and Japanese numbers digits (metrics/numerals.py). Languages go by
any name or code (metrics/languages.py).

A clip that was to be silent has no rate; whether it speaks is counted by itself. Of a
set, all errors over all words stand beside the mean over clips (metrics/columns.py).
"""

import functools
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ccl_jax.metrics.base import Unscorable
from ccl_jax.metrics.languages import language_code
from ccl_jax.metrics.numerals import with_digits
from ccl_jax.metrics.packages import need

BY_CHARACTER = ("zh", "yue", "ja", "th", "lo", "my")
CHINESE = ("zh", "yue")
_STRAIGHT = str.maketrans(dict.fromkeys("‘’‚‛ʼ", "'") | dict.fromkeys("“”„‟", '"'))
_LABEL = re.compile(r"\bspeaker\s*\d+\s*:", re.IGNORECASE)


class Errors(NamedTuple):
  """The edits of one clip by kind, and the number of words of its reference."""

  substitutions: int
  deletions: int
  insertions: int
  words: int

  @property
  def total(self) -> int:
    """All edits: substitutions, deletions and insertions."""
    return self.substitutions + self.deletions + self.insertions


def rate_name(language: str) -> str:
  """The name of a language's rate: "cer" where words are not parted, or "wer"."""
  return "cer" if language_code(language) in BY_CHARACTER else "wer"


@functools.cache
def _normaliser(language: str) -> Callable[[str], str]:
  package = "whisper-normalizer"
  if language == "en":
    return need("whisper_normalizer.english", package).EnglishTextNormalizer()
  return need("whisper_normalizer.basic", package).BasicTextNormalizer()


@functools.cache
def _simplifier():
  """OpenCC's conversion of traditional characters to simplified ones."""
  return need("opencc", "opencc").OpenCC("t2s")


def words(text: str, language: str = "en") -> list[str]:
  """The words of a text that count, normalised; characters where there are no words.

  Raises:
    Unscorable: whisper-normalizer or, for Chinese, OpenCC is not installed.
    UsageError: there is no such language.
  """
  text = unicodedata.normalize("NFKC", text).translate(_STRAIGHT)
  code = language_code(language)
  text = _LABEL.sub(" ", text)
  if code in CHINESE:
    text = _simplifier().convert(text)
  if code in (*CHINESE, "ja"):
    text = with_digits(text, japanese=code == "ja")
  text = _normaliser(code)(text)
  parts = list(text) if rate_name(language) == "cer" else text.split()
  return [part for part in parts if any(map(str.isalnum, part))]


def edits(reference: Sequence[str], heard: Sequence[str]) -> Errors:
  """The fewest edits from `reference` to `heard`.

  Of equally few, those with the fewest substitutions.
  """
  row = [(j, 0, 0, j) for j in range(len(heard) + 1)]  # total, S, D, I
  for i, word in enumerate(reference, 1):
    diagonal, row[0] = row[0], (i, 0, i, 0)
    for j, other in enumerate(heard, 1):
      # A substitution, or a word that is right, comes from the diagonal; a deletion
      # from above, an insertion from the left.
      (n, s, d, k), wrong = diagonal, word != other
      above, left, diagonal = row[j], row[j - 1], row[j]
      row[j] = min(
        (n + wrong, s + wrong, d, k),
        (above[0] + 1, above[1], above[2] + 1, above[3]),
        (left[0] + 1, left[1], left[2], left[3] + 1),
      )
  return Errors(*row[-1][1:], len(reference))


def speech_errors(wanted: str, heard: str, language: str = "en") -> Errors:
  """The edits between what was to be said and what was recognised, normalised."""
  return edits(words(wanted, language), words(heard, language))


def rate(errors: Errors) -> float:
  """The rate of one clip; over 1 where much is inserted.

  Raises:
    Unscorable: nothing was to be said.
  """
  if not errors.words:
    raise Unscorable("nothing was to be said")
  return errors.total / errors.words
