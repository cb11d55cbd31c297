"""Prompts in the words that a model was trained on: where speech and sound stand.

A prompt may give speech in tags or in quotation marks, and describe the sound in tags
or as a last sentence:

  A man smiles and says, <S>Hello there.<E> <AUDCAP>Calm voice, birds.<ENDAUDCAP>
  A man smiles and says, "Hello there." Audio: Calm voice, birds.

Ovi wants speech in tags, and of the sound the form of its edition. A prompt whose
speech is in tags keeps its quotation marks: they are of something else. Models that
state no form get prompts as they are.
"""

import itertools
import re
from collections.abc import Collection, Mapping, Sequence

from ccl_jax.axes import STREAMS
from ccl_jax.errors import UsageError
from ccl_jax.metrics.quotes import STRAIGHT, quotations
from ccl_jax.tasks import Generation

FORMS = ("tags", "sentence")  # of the sound
SPEECH, SOUND = ("<S>", "<E>"), ("<AUDCAP>", "<ENDAUDCAP>")
# Begun at no space but the first, or long runs of them would be walked again and again.
_TAGGED = re.compile(r"(?:(?<!\s)\s+)?<AUDCAP>(.*?)<ENDAUDCAP>\s*", re.DOTALL)
# A last sentence of its own, or all of the prompt.
_SENTENCE = re.compile(r"(?:^|(?<=[\s.!?>]))Audio:((?:(?!\bAudio:).)*)\Z", re.DOTALL)


def in_form(prompt: str, form: str | None) -> str:
  """The prompt as a model of a form wants it.

  Args:
    prompt: as a user wrote it.
    form: of `FORMS`; None: no change.

  Raises:
    UsageError: a tag without the one that ends it, or that it ends.
  """
  if form is None:
    return prompt
  for first, last in (SPEECH, SOUND):
    _check_pairs(prompt, first, last)
  if SPEECH[0] not in prompt:
    prompt = _speech_in_tags(prompt)
  return _sound_in(prompt, form)


def _check_pairs(prompt: str, first: str, last: str) -> None:
  """Whether every tag is closed before the next one opens."""
  found = re.findall(f"{first}|{last}", prompt)
  if found != [first, last] * (len(found) // 2):
    raise UsageError(
      f"prompt {prompt[:60]!r}: expected every {first} to be followed by a {last}"
    )


def _speech_in_tags(prompt: str) -> str:
  straight = prompt.translate(STRAIGHT)  # of the same length
  out, end = [], 0
  for first, last in quotations(straight):
    words = prompt[first + 1 : last - 1].strip()
    if words:
      out += [prompt[end:first], SPEECH[0], words, SPEECH[1]]
      end = last
  return "".join([*out, prompt[end:]])


def _sound_in(prompt: str, form: str) -> str:
  if form == "tags":
    sentence = _SENTENCE.search(prompt)
    if sentence is None or SOUND[0] in prompt or not sentence[1].strip():
      return prompt
    before = prompt[: sentence.start()].rstrip()
    return f"{before} {SOUND[0]}{sentence[1].strip()}{SOUND[1]}".strip()
  sounds = [text.strip() for text in _TAGGED.findall(prompt)]
  if not any(sounds):
    return prompt
  before = _TAGGED.sub(" ", prompt).strip()
  return f"{before} Audio: {' '.join(sounds)}".strip()


def as_texts(prompts: str | Sequence[str]) -> list[str]:
  """The prompts as a list.

  Raises:
    UsageError: there are none, or one is no text.
  """
  texts = [prompts] if isinstance(prompts, str) else list(prompts)
  if not texts or not all(isinstance(text, str) for text in texts):
    raise UsageError(f"prompts: got {prompts!r}; expected a text, or a list of texts")
  return texts


def texts_of(
  prompts: Sequence[str],
  negative: str | Mapping[str, str | Sequence[str]],
  kind: Generation,
  form: str | None,
) -> list[str]:
  """The texts that clips are made with: the prompts in a model's form, then all clips'
  negative prompts, of both streams or of the video and then the audio.

  Args:
    prompts: of b clips.
    negative: of both streams, or by stream one text or b of them.
    kind: the task.
    form: of `in_form`.

  Raises:
    UsageError: see `in_form`; or a stream has neither one negative prompt nor b.
  """
  asked = [in_form(prompt, form) for prompt in prompts]
  streams = kind.generated + kind.given
  return [*asked, *itertools.chain(*_negative_texts(negative, streams, len(asked)))]


def _negative_texts(
  negative: str | Mapping[str, str | Sequence[str]], streams: Collection[str], b: int
) -> list[list[str]]:
  """The negative prompts of b clips: of both streams, or of the video and the audio
  where the streams have others.

  Raises:
    UsageError: a stream has neither one nor b of them.
  """
  if isinstance(negative, str):
    negative = dict.fromkeys(STREAMS, negative)
  out = []
  for s in (s for s in STREAMS if s in streams):
    texts = negative.get(s, "")
    texts = [texts] if isinstance(texts, str) else list(texts)
    if len(texts) not in (1, b):
      raise UsageError(
        f"{len(texts)} negative prompts of the {s} for {b} prompts; expected one, or "
        "as many"
      )
    out.append(texts * (b // len(texts)))
  return out[:1] if out[0] == out[-1] else out
