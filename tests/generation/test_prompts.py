"""Prompts in the form that weights were trained on."""

import time

import pytest

from ccl_jax.errors import UsageError
from ccl_jax.generation.prompts import in_form

TAGS = "A man says, <S>Hello there.<E> <AUDCAP>Calm voice, birds.<ENDAUDCAP>"
SENTENCE = "A man says, <S>Hello there.<E> Audio: Calm voice, birds."
PLAIN = 'A man says, "Hello there." Audio: Calm voice, birds.'
CASES = [
  (TAGS, TAGS, SENTENCE),
  (SENTENCE, TAGS, SENTENCE),
  (PLAIN, TAGS, SENTENCE),
  (PLAIN.replace('"H', "“H").replace('."', ".”"), TAGS, SENTENCE),
  (
    "«Oui» puis 「はい」, it's <AUDCAP>rain<ENDAUDCAP>",
    "<S>Oui<E> puis <S>はい<E>, it's <AUDCAP>rain<ENDAUDCAP>",
    "<S>Oui<E> puis <S>はい<E>, it's Audio: rain",
  ),
  # Speech is in tags: what is quoted beside it is written on something.
  ('A sign "Open". <S>Hi<E>', 'A sign "Open". <S>Hi<E>', 'A sign "Open". <S>Hi<E>'),
  # The sound need not come last in tags.
  (
    "<AUDCAP>rain<ENDAUDCAP> A dog runs.",
    "<AUDCAP>rain<ENDAUDCAP> A dog runs.",
    "A dog runs. Audio: rain",
  ),
  ("Audio: rain", "<AUDCAP>rain<ENDAUDCAP>", "Audio: rain"),
  ('A dog, "" and ".', 'A dog, "" and ".', 'A dog, "" and ".'),
  ("Stereo Audio equipment.", "Stereo Audio equipment.", "Stereo Audio equipment."),
]


@pytest.mark.parametrize(("prompt", "tags", "sentence"), CASES)
def test_a_prompt_in_the_form_that_is_wanted(prompt, tags, sentence):
  assert in_form(prompt, "tags") == tags
  assert in_form(prompt, "sentence") == sentence
  assert in_form(prompt, None) == prompt
  for form, text in (("tags", tags), ("sentence", sentence)):
    assert in_form(text, form) == text  # once is enough


@pytest.mark.parametrize(
  ("prompt", "words"),
  [
    ("He says <S>hello", "every <S> to be followed by a <E>"),
    ("hello<E> he says", "every <S> to be followed by a <E>"),
    ("<S>a<S>b<E><E>", "every <S> to be followed by a <E>"),
    ("<AUDCAP>rain", "every <AUDCAP> to be followed by a <ENDAUDCAP>"),
  ],
)
def test_a_tag_that_is_not_closed(prompt, words):
  with pytest.raises(UsageError, match=words):
    in_form(prompt, "tags")
  assert in_form(prompt, None) == prompt


def test_several_sounds_and_spaces_between_them():
  prompt = (
    "<AUDCAP>rain<ENDAUDCAP>  A dog  <AUDCAP>wind<ENDAUDCAP> <AUDCAP>a<ENDAUDCAP>"
  )
  assert in_form(prompt, "sentence") == "A dog Audio: rain wind a"


def test_spaces_and_sentences_without_end_cost_little():
  """Each once asked for a look at all that follows, and a file of them for hours."""
  began = time.process_time()
  many = 200_000
  for text in (
    " " * many,
    "Audio: " * many,
    f"Audio:{' ' * many}xAudio: y",
    "« " * many,
  ):
    for form in ("tags", "sentence"):
      in_form(text, form)
  assert time.process_time() - began < 20
