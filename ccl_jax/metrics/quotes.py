"""Finds the speech that a prompt asks for: the text between its quotation marks.

  "..."  “...”  «...»  「...」  『...』      in their order, joined by a space

A prompt with speech tags, <S> ... <E>, has its speech there and nowhere else. Single
quotes are apostrophes. What is written on a sign is quoted too, and cannot be told from
speech: a set that states its transcripts is better off.
"""

import re

STRAIGHT = str.maketrans(dict.fromkeys("“”„‟", '"'))
_TAGGED = re.compile(r"<S>(.*?)<E>", re.DOTALL)
QUOTED = re.compile(r'"([^"]*)"|«([^»]*)»|「([^」]*)」|『([^』]*)』')


def quoted(prompt: str) -> str:
  """The speech that a prompt asks for; empty if it asks for none."""
  texts = _TAGGED.findall(prompt) or [
    "".join(m.groups("")) for m in QUOTED.finditer(prompt.translate(STRAIGHT))
  ]
  return " ".join(text.strip() for text in texts if text.strip())
