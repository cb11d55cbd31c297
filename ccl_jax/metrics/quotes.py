"""Finds the speech that a prompt asks for: the text between its quotation marks.

  "..."  “...”  «...»  「...」  『...』      in their order, joined by a space

A prompt with speech tags, <S> ... <E>, has its speech there and nowhere else. Single
quotes are apostrophes. What is written on a sign is quoted too, and cannot be told from
speech: a set that states its transcripts is better off.
"""

import re
from collections.abc import Iterator

STRAIGHT = str.maketrans(dict.fromkeys("“”„‟", '"'))
_ENDS = {'"': '"', "«": "»", "「": "」", "『": "』"}
_BEGIN = re.compile(f"[{''.join(_ENDS)}]")


def quotations(text: str) -> Iterator[tuple[int, int]]:
  """(begin, end) of each quotation in a text with straight quotes, its marks included.

  A mark that is not closed begins none. Every character is looked at a few times,
  however many marks there are.
  """
  at, lost = 0, set()
  while found := _BEGIN.search(text, at):
    mark = _ENDS[found[0]]
    last = -1 if mark in lost else text.find(mark, found.end())
    if last < 0:
      lost.add(mark)  # there are no more of these
    else:
      yield found.start(), last + 1
    at = max(found.end(), last + 1)


def tagged(text: str, first: str = "<S>", last: str = "<E>") -> Iterator[str]:
  """The pieces of a text that stand between two tags."""
  at = 0
  while (begin := text.find(first, at)) >= 0:
    end = text.find(last, begin + len(first))
    if end < 0:
      return
    yield text[begin + len(first) : end]
    at = end + len(last)


def quoted(prompt: str) -> str:
  """The speech that a prompt asks for; empty if it asks for none."""
  straight = prompt.translate(STRAIGHT)
  texts = list(tagged(prompt)) or [
    straight[begin + 1 : end - 1] for begin, end in quotations(straight)
  ]
  return " ".join(text.strip() for text in texts if text.strip())
