"""The weight-free text embedder: what its rows tell apart, and that they are fixed."""

import jax
import numpy as np
import pytest

from ccl_jax.errors import UsageError
from ccl_jax.models.byte_text import ByteText

TEXT = ByteText(length=48, dim=256)


def embed(texts, text=TEXT):
  return np.asarray(jax.jit(text.encode)(*text.tokenize(texts)))


def test_tokens_are_utf8_bytes_cut_and_padded():
  ids, mask = ByteText(length=6, dim=16).tokenize(["ab", "é", "abcdefgh", ""])
  assert ids.dtype == np.int32 and mask.dtype == bool
  np.testing.assert_array_equal(ids[0], [98, 99, 0, 0, 0, 0])
  np.testing.assert_array_equal(ids[1, :2] - 1, list("é".encode()))
  np.testing.assert_array_equal(mask.sum(1), [2, 2, 6, 0])


def test_rows_past_the_text_are_zero_and_the_rest_have_unit_mean_square():
  rows = embed(['a red face says "ba do"', ""])
  assert rows.shape == (2, 48, 256)
  assert not rows[0, 23:].any() and not rows[1].any()
  for part in (np.s_[:192], np.s_[192:224], np.s_[224:]):
    assert 0.8 < (rows[0, :23, part] ** 2).mean() < 1.25


def test_order_of_the_words_said_can_be_read():
  """The waves of `say "ba do mi"` number the words from the quotation mark, whatever
  comes before it.
  """
  said, later = embed(['a face says "ba do mi"', 'a violet face says "ba do mi"'])
  shift = len("violet ")
  words = [said[i, 224:] for i in (13, 16, 19)]
  for i in (13, 16, 19):
    np.testing.assert_array_equal(said[i, 224:], later[i + shift, 224:])
  for i in range(3):
    for j in range(i):
      assert np.abs(words[i] - words[j]).max() > 0.3
  assert np.abs(said[13, 192:224] - later[20, 192:224]).max() > 0.3  # place in the text


def test_words_and_quotation_are_features_of_each_byte():
  def likeness(a, b):
    return (a[:192] * b[:192]).mean()

  rows = embed(["do mad do", 'do "do mad"'])
  same_word = likeness(rows[0, 7], rows[1, 0])  # d of do: the byte, the word, no quote
  other_word = likeness(rows[0, 5], rows[1, 0])  # d of mad
  quoted = likeness(rows[1, 4], rows[1, 0])  # d of do, inside quotation marks
  assert same_word > other_word + 0.1
  assert same_word > quoted + 0.1
  np.testing.assert_array_equal(rows[0, 0], rows[1, 0])  # equal around and before


def mix(x):
  """The hash of an integer."""
  x &= 0xFFFFFFFF
  x = (x ^ (x >> 16)) * 0x7FEB352D & 0xFFFFFFFF
  x = (x ^ (x >> 15)) * 0x846CA68B & 0xFFFFFFFF
  return x ^ (x >> 16)


def rows_of(text, dim):
  """By the formula, byte by byte in plain integers."""
  data = list(text.encode())
  ids = [b + 1 for b in data]
  letter = [chr(b).isalnum() if b < 128 else True for b in data]
  rows = []
  for i in range(len(data)):
    codes = [mix(ids[i])]
    for n in (1, 2, 3):
      codes.append(mix(codes[-1] * 257 + (ids[i - n] if i >= n else 0)))
    start = i
    while start and letter[start - 1] == letter[i]:
      start -= 1
    end = i
    while end + 1 < len(data) and letter[end + 1] == letter[i]:
      end += 1
    run = range(start, end + 1)
    codes.append(mix(sum(mix(ids[j] + 257 * (j - start + 1)) for j in run)))
    quotes = [j for j in range(i + 1) if data[j] == ord('"')]
    codes.append(mix(len(quotes) % 2 + (7 << 20)))
    begins = range(quotes[-1] if quotes else 0, i + 1)
    said = sum(letter[j] and (j == 0 or not letter[j - 1]) for j in begins)
    eighth, half = dim // 8, dim // 16
    signs = [
      [1 - 2 * (mix(c + 0x9E3779B9 * k) >> 31) for k in range(dim - 2 * eighth)]
      for c in codes
    ]
    row = [np.sum(signs, 0) / 6**0.5]
    for place, span in ((i, 512), (said, 32)):
      angle = place * float(span) ** (-np.arange(half) / half)
      row += [2**0.5 * np.sin(angle), 2**0.5 * np.cos(angle)]
    rows.append(np.concatenate(row))
  return np.array(rows)


def test_rows_equal_the_formula_in_plain_integers():
  """Whatever the machine and the version of a library: words of all sorts of letters,
  quotation marks that open and close, and all that lies beside the letters.
  """
  text = 'A zAp, 09 "do \u00e9Z/x9" and "b a9:A@Z[a`z{b'
  expected = rows_of(text, TEXT.dim)
  got = embed([text])[0, : len(expected)]
  # The waves' rates are float32.
  np.testing.assert_allclose(got, expected, atol=1e-5)
  assert len(np.unique(np.round(expected[:, 0], 3))) > 4


def test_a_text_does_not_depend_on_its_batch():
  np.testing.assert_array_equal(embed(["ba do"])[0], embed(["xyz", "ba do", ""])[1])


def test_sizes_that_cannot_be_are_refused():
  with pytest.raises(UsageError, match="multiple of 16, got length 8 and width 40"):
    ByteText(length=8, dim=40)
