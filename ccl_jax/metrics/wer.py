"""Word error rate: how much of what was to be said is heard.

  WER = (S + D + I) / N

substitutions, deletions and insertions that turn the N words of the reference into what
was recognised, fewest in all. Both are normalised first:

  NFKC; curly quotes made straight, or "we’ve" would be two words; labels "Speaker1:"
  dropped; Whisper's normaliser, the English one for English; words without a letter or
  a digit dropped

Chinese, Cantonese, Japanese, Thai, Lao and Burmese do not part words: there a word is a
character, and the rate is called CER.

Whisper's normaliser makes spaces of the marks that are written above and below letters,
and so parts of words: here they stay with their letters, as vowels of Hindi and Thai.

What is said can be written in several ways: traditional Chinese is made simplified
(OpenCC), Chinese and Japanese numbers digits (metrics/numerals.py), digits of all
scripts 0 to 9; vowels that Arabic and Hebrew may leave out are left out, and the dots
of a Russian ё. Languages go by any name or code (metrics/languages.py).

A clip that was to be silent has no rate; whether it speaks is counted by itself. Of a
set, all errors over all words stand beside the mean over clips (metrics/columns.py).
"""

import collections
import functools
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rapidfuzz.distance import Levenshtein

from ccl_jax.metrics.base import Unscorable
from ccl_jax.metrics.languages import language_code
from ccl_jax.metrics.numerals import plain_digits, with_digits
from ccl_jax.metrics.packages import need

BY_CHARACTER = ("zh", "yue", "ja", "th", "lo", "my")
CHINESE = ("zh", "yue")
LONGEST = 50_000  # characters of a text, some 50 minutes of speech
MOST = 3e7  # pairs of words that are compared
_STRAIGHT = str.maketrans(dict.fromkeys("‘’‚‛ʼ´`′ꞌ", "'") | dict.fromkeys("“”„‟", '"'))
# Vowels and other marks of Hebrew and Arabic, and the stroke that makes a word longer.
_OPTIONAL = re.compile(
  "[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u0640\u064b-\u065f"
  "\u0670\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed\ufe00-\ufe0f]"
)
# By language, letters that lower() or a writer does not tell apart.
_LETTERS = {
  "ru": str.maketrans("ёЁ", "еЕ"),
  "tr": str.maketrans("Iİ", "ıi"),
  "az": str.maketrans("Iİ", "ıi"),
}
_PRIVATE = 0xF0000  # code points of nobody's, in which marks are no marks
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
    Unscorable: whisper-normalizer or, for Chinese, OpenCC is not installed; or the text
      is too long, or none that the normaliser takes.
    UsageError: there is no such language.
  """
  if len(text) > LONGEST:  # expressions of the normaliser's grow by its square
    raise Unscorable(f"a text of {len(text)} characters: too long to be compared")
  code = language_code(language)
  # NFKC makes an accent of an apostrophe that leans the other way.
  text = unicodedata.normalize("NFKC", text.translate(_STRAIGHT)).translate(_STRAIGHT)
  text = _LABEL.sub(" ", text).translate(_LETTERS.get(code, {}))
  text = "".join(c for c in text if unicodedata.category(c) != "Cf")  # of direction
  text = plain_digits(_OPTIONAL.sub("", text))
  if code in CHINESE:
    text = _simplifier().convert(text)
  if code in (*CHINESE, "ja"):
    text = with_digits(text, japanese=code == "ja")
  normalise = _normaliser(code)
  try:
    if code == "en":
      text = normalise(text)
    else:
      text = _bare_marks(normalise(_kept_marks(text)))
  except (AssertionError, ArithmeticError, ValueError) as e:  # of numbers without end
    raise Unscorable(f"a text that cannot be normalised ({type(e).__name__})") from e
  parts = _characters(text) if rate_name(language) == "cer" else text.split()
  return [part for part in parts if any(map(str.isalnum, part))]


def _kept_marks(text: str) -> str:
  """The text with its marks as characters that a normaliser leaves alone."""
  return "".join(
    chr(_PRIVATE + ord(c)) if _is_mark(c) and ord(c) < 0xFFFE else c for c in text
  )


def _bare_marks(text: str) -> str:
  """What `_kept_marks` made, back."""
  most = _PRIVATE + 0xFFFE
  return "".join(
    chr(ord(c) - _PRIVATE) if _PRIVATE <= ord(c) < most else c for c in text
  )


def _characters(text: str) -> list[str]:
  """The characters of a text, each with the marks that belong to it."""
  out: list[str] = []
  for c in text:
    if out and _is_mark(c):
      out[-1] += c
    else:
      out.append(c)
  return out


def _is_mark(c: str) -> bool:
  return unicodedata.category(c)[0] == "M"


def edits(reference: Sequence[str], heard: Sequence[str]) -> Errors:
  """The fewest edits from `reference` to `heard`; of equally few, rapidfuzz's.

  Raises:
    Unscorable: the texts are so long that it would take minutes, or gigabytes.
  """
  if len(reference) * len(heard) > MOST:
    raise Unscorable(
      f"{len(reference)} words against {len(heard)}: too long to be compared"
    )
  found = Levenshtein.editops(list(reference), list(heard))
  kinds = collections.Counter(edit.tag for edit in found)
  counts = (kinds[tag] for tag in ("replace", "delete", "insert"))
  return Errors(*counts, len(reference))


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
