"""Prompts to token ids: Wan2.1's cleaning, then the vocabulary of a tokenizer.json.

  " the \\n&amp;amp; caf\\u00c3\\u00a9" -> "the & caf\\u00e9" -> ids, </s>, <pad> ...

Cleaning: repair of text decoded with the wrong encoding, HTML entities unescaped twice,
runs of white space to one space. Its two packages come with the extra [convert].
"""

import dataclasses
import functools
import html
import importlib
from types import ModuleType

import numpy as np
from jaxtyping import Bool, Int

from ccl_jax.documents import valid
from ccl_jax.errors import UsageError

END, PAD = "</s>", "<pad>"


def clean(text: str) -> str:
  """The text as Wan2.1's text encoder saw it in training ("whitespace" cleaning).

  Raises:
    UsageError: the package ftfy is not installed.
  """
  text = _optional("ftfy").fix_text(valid(text))
  return " ".join(html.unescape(html.unescape(text)).split())


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """A tokenizer.json, by its bytes: equal files are equal tokenizers.

  Attributes:
    file: the whole file.
  """

  file: bytes = dataclasses.field(repr=False)

  def __call__(
    self, texts: list[str], length: int
  ) -> tuple[Int[np.ndarray, "b l"], Bool[np.ndarray, "b l"]]:
    """Ids of cleaned texts, cut to `length` with the end token, and where they are."""
    end, pad = self._special(END), self._special(PAD)
    ids = np.full((len(texts), length), pad, np.int32)
    mask = np.zeros(ids.shape, bool)
    for row, seen, text in zip(ids, mask, texts):
      pieces = self._parsed.encode(clean(text), add_special_tokens=False).ids
      pieces = [*pieces[: length - 1], end]
      row[: len(pieces)] = pieces
      seen[: len(pieces)] = True
    return ids, mask

  def count(self, text: str) -> int:
    """The tokens of a cleaned text, the end token among them."""
    return len(self._parsed.encode(clean(text), add_special_tokens=False).ids) + 1

  @functools.cached_property
  def _parsed(self):
    """The reader of the file, without settings of length that it may hold."""
    tokenizers = _optional("tokenizers")
    try:
      parsed = tokenizers.Tokenizer.from_buffer(self.file)
    except ValueError as e:
      raise UsageError(
        f"the tokenizer cannot be read ({e}): expected the tokenizer.json of UMT5"
      ) from e
    parsed.no_truncation()
    parsed.no_padding()
    return parsed

  def _special(self, token: str) -> int:
    number = self._parsed.token_to_id(token)
    if number is None:
      raise UsageError(
        f"the tokenizer has no {token} token: expected the tokenizer.json of UMT5"
      )
    return number


def _optional(name: str) -> ModuleType:
  try:
    return importlib.import_module(name)
  except ImportError as e:
    raise UsageError(
      f"prompts of a UMT5 model need the package {name}, which is not installed: "
      "pip install 'ccl_jax[convert]'"
    ) from e
