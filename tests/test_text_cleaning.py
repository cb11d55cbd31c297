"""Prompts to ids: Wan2.1's cleaning, ends and padding, users' mistakes."""

import copy
import html
import json
import re
import sys

import numpy as np
import pytest

from ccl_jax.errors import UsageError
from ccl_jax.models.tokenizer import Tokenizer, clean

WORDS = ["▁a", "▁cat", "▁dog", "▁runs", "s", "▁", "c", "a", "t", "&", "é"]


def tokenizer_file(
  *, pad: str = "<pad>", end: str = "</s>", template: bool = False, limits: bool = False
) -> bytes:
  """A tokenizer.json of UMT5's sort: unigram, words marked by a leading bar."""
  tokenizers = pytest.importorskip("tokenizers", reason="needs the extra [convert]")
  vocabulary = [(pad, 0.0), (end, 0.0), ("<unk>", -9.0)]
  vocabulary += [(word, -1.0 / len(word)) for word in WORDS]
  made = tokenizers.Tokenizer(tokenizers.models.Unigram(vocabulary, unk_id=2))
  made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
  made.add_special_tokens([pad, end, "<unk>"])
  if template:
    made.post_processor = tokenizers.processors.TemplateProcessing(
      single=f"$A {end}", special_tokens=[(end, 1)]
    )
  if limits:
    made.enable_truncation(3)
    made.enable_padding(length=5)
  return made.to_str().encode()


def test_cleaning_repairs_unescapes_twice_and_joins_white_space():
  pytest.importorskip("ftfy", reason="needs the extra [convert]")
  assert clean("  a\n\tcat \u3000 runs\u00a0") == "a cat runs"
  assert clean("cats &amp;amp; dogs &lt;3") == "cats & dogs <3"
  # Twice and no more, where ftfy does not unescape too, for it sees a tag.
  assert clean("<b> &amp;amp;amp;") == "<b> &amp;"
  assert clean("the caf\u00c3\u00a9") == "the caf\u00e9"  # UTF-8 read as Latin-1
  assert clean("\u201ca\u201d \ufb01t") == '"a" fit'  # curled quotes, ligatures
  assert clean("&nbsp; &#32;") == ""
  assert clean("猫が走る") == "猫が走る"


def test_cleaning_is_the_rule_written_with_regular_expressions():
  ftfy = pytest.importorskip("ftfy", reason="needs the extra [convert]")
  rng = np.random.default_rng(0)
  parts = ["cat", "&amp;", "&amp;lt;", " ", "\u2028", "\x1f", "\u00c3\u00a9", "\u2019"]
  parts += ["\x85", "\u200b", "é", "\r\n", "&#x3000;"]
  for _ in range(200):
    text = "".join(rng.choice(parts, rng.integers(0, 12)))
    plain = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    assert clean(text) == re.sub(r"\s+", " ", plain).strip()


def test_ids_end_and_are_padded_or_cut():
  tokenizer = Tokenizer(tokenizer_file())
  ids, mask = tokenizer(["a cat", "", "a dog runs", " a \n cat&amp;amp;"], 4)
  assert ids.dtype == np.int32 and mask.dtype == bool
  a, cat, dog, ampersand = (3 + WORDS.index(w) for w in ("▁a", "▁cat", "▁dog", "&"))
  np.testing.assert_array_equal(ids[0], [a, cat, 1, 0])
  np.testing.assert_array_equal(ids[1], [1, 0, 0, 0])
  np.testing.assert_array_equal(ids[2], [a, dog, 3 + WORDS.index("▁runs"), 1])
  np.testing.assert_array_equal(ids[3], [a, cat, ampersand, 1])
  np.testing.assert_array_equal(mask.sum(1), [3, 1, 4, 4])
  cut, full = tokenizer(["a dog runs"], 3)
  np.testing.assert_array_equal(cut[0], [a, dog, 1])  # the end token is never cut
  assert full.all()


def test_ids_are_those_of_the_files_own_template():
  """Where the file itself adds the end, cuts and pads, the result is the same."""
  text = "a dog runs cats"
  file = tokenizer_file(template=True, limits=True)
  parsed = pytest.importorskip("tokenizers").Tokenizer.from_buffer(file)
  for length in (3, 9):
    parsed.enable_truncation(length)
    parsed.enable_padding(length=length, pad_id=0)
    row = parsed.encode(text)
    ids, mask = Tokenizer(file)([text], length)
    np.testing.assert_array_equal(ids[0], row.ids)
    np.testing.assert_array_equal(mask[0], row.attention_mask)


def test_a_tokenizer_is_its_file():
  file = tokenizer_file()
  a, b = Tokenizer(file), Tokenizer(bytes(bytearray(file)))
  assert a == b and hash(a) == hash(b) and len(repr(a)) < 100
  a(["a cat"], 4)  # what was parsed is not part of it
  assert a == b and copy.deepcopy(a) == b
  assert a != Tokenizer(tokenizer_file(template=True))


def test_mistakes_are_one_line(monkeypatch):
  broken = Tokenizer(b"{}"), Tokenizer(tokenizer_file()[:100]), Tokenizer(b"\xff\xfe")
  for tokenizer in broken:
    with pytest.raises(UsageError, match="expected the tokenizer"):
      tokenizer(["a"], 4)
  with pytest.raises(UsageError, match=r"has no </s> token"):
    Tokenizer(tokenizer_file(end="<eos>"))(["a"], 4)
  with pytest.raises(UsageError, match=r"has no <pad> token"):
    Tokenizer(tokenizer_file(pad="<none>"))(["a"], 4)
  good = Tokenizer(tokenizer_file())
  assert json.loads(good.file)["model"]["type"] == "Unigram"
  for absent in ("ftfy", "tokenizers"):
    with monkeypatch.context() as m, pytest.raises(UsageError) as e:
      m.setitem(sys.modules, absent, None)
      Tokenizer(good.file)(["a"], 4)
    assert f"package {absent}" in str(e.value) and "ccl_jax[convert]" in str(e.value)
    assert "\n" not in str(e.value)
