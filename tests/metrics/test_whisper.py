"""Recognition: a tiny Whisper through transformers, transcripts of others, mistakes."""

import sys
import types

import numpy as np
import pytest

from ccl_jax.errors import UsageError
from ccl_jax.metrics import whisper
from ccl_jax.metrics.base import Unscorable
from ccl_jax.metrics.whisper import (
  RATE,
  WINDOW,
  FasterWhisper,
  Transformers,
  read_transcripts,
)
from tests.metrics.whisper_files import NEW, unspoken, write_whisper


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return write_whisper(tmp_path_factory.mktemp("whisper"))


def tone(seconds, hertz=440.0):
  return np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)


@pytest.fixture(scope="module")
def recogniser(folder):
  return Transformers(folder)


def test_a_tiny_whisper_says_what_its_parts_say(folder, recogniser):
  """The tokens that greedy decoding by hand gives, for two sounds."""
  import torch
  import transformers

  model = transformers.WhisperForConditionalGeneration.from_pretrained(folder)
  processor = transformers.WhisperProcessor.from_pretrained(folder)
  token = processor.tokenizer.convert_tokens_to_ids
  banned = unspoken(processor.tokenizer.get_vocab())
  heard = []
  for wave in (tone(2.0), tone(2.0, 3000.0) ** 3):
    mel = processor(wave, sampling_rate=RATE, return_tensors="pt").input_features
    names = "startoftranscript", "en", "transcribe", "notimestamps"
    ids = [token(f"<|{name}|>") for name in names]
    states = model.model.encoder(mel)
    while len(ids) < 4 + NEW and ids[-1] != token("<|endoftext|>"):
      last = torch.tensor([ids])
      logits = model(encoder_outputs=states, decoder_input_ids=last).logits[0, -1]
      logits = logits.detach()
      logits[banned] = -torch.inf
      ids.append(int(logits.argmax()))
    heard.append(processor.decode(ids, skip_special_tokens=True).strip())
    assert recogniser(wave, "en") == heard[-1]
  assert heard[0] != heard[1] and all(heard)


def test_long_sounds_are_heard_in_windows(recogniser):
  first, second = tone(30.0), tone(3.0, 3000.0) ** 3
  whole = recogniser(np.concatenate([first, second]), "en")
  assert whole == f"{recogniser(first, 'en')} {recogniser(second, 'en')}"


def test_languages(recogniser):
  assert recogniser(tone(1.0), "zh") and recogniser(tone(1.0), None)
  with pytest.raises(Unscorable, match="does not know the language 'fr'"):
    recogniser(tone(1.0), "fr")


def test_what_cannot_be_heard(recogniser, tmp_path):
  for wave in (np.zeros(0), np.full(9, np.nan)):
    with pytest.raises(Unscorable, match="empty, or not all numbers"):
      recogniser(wave, "en")
  with pytest.raises(Unscorable, match=f"no Whisper at {tmp_path}"):
    Transformers(tmp_path)


def test_faster_whisper_is_asked_the_same(monkeypatch):
  """The seam only: the package is stood in for."""
  asked = []

  class WhisperModel:
    def __init__(self, path, device, compute_type):
      assert (path, device, compute_type) == ("folder", "cpu", "float32")

    def transcribe(self, wave, **options):
      if options["language"] == "xx":
        raise ValueError("'xx' is not a valid language code")
      asked.append((len(wave), wave.dtype, options))
      parts = [types.SimpleNamespace(text=text) for text in (" one", " two ")]
      return iter(parts), None

  fake = types.ModuleType("faster_whisper")
  fake.WhisperModel = WhisperModel
  monkeypatch.setitem(sys.modules, "faster_whisper", fake)
  hear = FasterWhisper("folder")
  assert hear(tone(31.0), "en") == "one two one two"
  assert [n for n, *_ in asked] == [WINDOW, RATE]
  assert all(dtype == np.float32 for _, dtype, _ in asked)
  wanted = {"language": "en", "task": "transcribe", "beam_size": 1, "temperature": 0.0}
  assert all(options.items() >= wanted.items() for *_, options in asked)
  with pytest.raises(Unscorable, match="not a valid language"):
    hear(tone(1.0), "xx")


def test_without_its_package(monkeypatch):
  monkeypatch.setitem(sys.modules, "faster_whisper", None)
  with pytest.raises(Unscorable, match="faster-whisper is not usable here"):
    FasterWhisper("folder")
  monkeypatch.setitem(sys.modules, "transformers", None)
  with pytest.raises(Unscorable, match="transformers with torch is not usable here"):
    Transformers("folder")


def test_transcripts_of_others(tmp_path):
  path = tmp_path / "heard.jsonl"
  path.write_text('{"id": "a", "text": "你好"}\n\n{"id": "b", "text": "", "x": 1}\n')
  assert read_transcripts(path) == {"a": "你好", "b": ""}
  for line, message in {
    "text": "line 1: expected",
    '{"id": "a"}': "line 1: expected",
    '{"id": 3, "text": "x"}': "line 1: expected",
    '["id", "text"]': "line 1: expected",
    '{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}': "line 2: a is there twice",
  }.items():
    path.write_text(line)
    with pytest.raises(UsageError, match=message):
      read_transcripts(path)
  with pytest.raises(UsageError, match="cannot be read"):
    read_transcripts(tmp_path / "absent")


def test_the_module_imports_nothing_heavy():
  assert not {"torch", "transformers"} & vars(whisper).keys()
