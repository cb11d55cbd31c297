"""A tiny Whisper in a folder as published."""

import string

import pytest

from ccl_jax.benchmarks.eval_weights import SPECIAL, write_processor

NEW = 8  # tokens after the prompt


def unspoken(vocab):
  """Tokens that are neither a letter nor the end."""
  spoken = [*string.ascii_letters, "<|endoftext|>"]
  return [i for symbol, i in vocab.items() if symbol not in spoken]


def write_whisper(path):
  """A multilingual Whisper with random weights whose words are letters."""
  torch = pytest.importorskip("torch")
  package = pytest.importorskip("transformers")
  from transformers.convert_slow_tokenizer import bytes_to_unicode

  symbols = [*bytes_to_unicode().values(), *SPECIAL]
  vocab = write_processor(path, symbols)
  ids = {name: vocab[name] for name in SPECIAL}
  end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
  config = package.WhisperConfig(
    vocab_size=len(symbols), d_model=32, encoder_layers=2, decoder_layers=2,
    encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
    decoder_ffn_dim=32, num_mel_bins=128, max_target_positions=24,
    bos_token_id=end, eos_token_id=end, pad_token_id=end,
    decoder_start_token_id=start, suppress_tokens=[], begin_suppress_tokens=[],
  )  # fmt: skip
  torch.manual_seed(1)
  model = package.WhisperForConditionalGeneration(config)
  with torch.no_grad():  # as large as trained ones, so that the sound matters
    for parameter in model.parameters():
      if parameter.ndim > 1:
        parameter.mul_(8)
  model.generation_config = package.GenerationConfig(
    bos_token_id=end, eos_token_id=end, pad_token_id=end,
    decoder_start_token_id=start, is_multilingual=True, max_length=NEW,
    lang_to_id={"<|en|>": ids["<|en|>"], "<|zh|>": ids["<|zh|>"]},
    task_to_id={"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]},
    no_timestamps_token_id=ids["<|notimestamps|>"], suppress_tokens=unspoken(vocab),
    _from_model_config=False,
  )  # fmt: skip
  model.save_pretrained(path)
  return path
