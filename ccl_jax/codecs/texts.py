"""How long texts are for a text codec, which cuts what is longer than its rows."""

import logging
from collections.abc import Iterable
from typing import Any

from ccl_jax.documents import valid
from ccl_jax.models.byte_text import LENGTHS

_log = logging.getLogger(__name__)


def fitting_length(texts: Iterable[str] | None) -> int:
  """Rows of an embedder that no text is too long for, in steps of 16, within `LENGTHS`.

  Args:
    texts: to embed; None: they are not known, so the most.
  """
  least, most = LENGTHS
  if texts is None:
    return most
  longest = max((len(valid(text).encode()) for text in texts), default=0)
  return min(max(-(-longest // 16) * 16, least), most)


def note_cut(codec: Any, texts: Iterable[str], what: str, advice: str = "") -> None:
  """Warns of how many of the texts a text codec cuts; nothing if none.

  Args:
    codec: of texts; `rows_of` says how many rows a text would take.
    texts: each counts once.
    what: they are, such as "prompts".
    advice: what the user can do.
  """
  if not hasattr(codec, "rows_of"):  # one that does not say takes all texts
    return
  texts = list(dict.fromkeys(texts))
  long = [text for text in texts if codec.rows_of(text) > codec.length]
  if not long:
    return
  rows = max(map(codec.rows_of, long))
  _log.warning(
    "%d of %d %s are longer than the %d rows of the text codec (the longest has %d): "
    "their ends are cut%s",
    *(len(long), len(texts), what, codec.length, rows, advice),
  )
