"""Texts of users as texts of figures: what matplotlib would take for mathematics."""

import re

from ccl_jax.documents import valid

MOST = 160  # characters of a title


def literal(text: str) -> str:
  """A text that a figure shows as it is, in one line, cut after `MOST` characters.

  Between two "$" matplotlib reads TeX, and what is none ends the figure.
  """
  text = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", valid(text))
  text = text if len(text) <= MOST else f"{text[: MOST - 3]}..."
  return text.replace("$", r"\$")
