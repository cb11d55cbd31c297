"""Texts that are longer than a text codec's rows, and lengths that fit."""

import pytest

from ccl_jax.codecs.texts import fitting_length, note_cut
from ccl_jax.models.byte_text import ByteText
from configs import quickstart


@pytest.mark.parametrize(
  ("longest", "rows"),
  [(0, 80), (80, 80), (81, 96), (96, 96), (97, 112), (512, 512), (9000, 512)],
)
def test_an_embedder_fits_its_captions(longest, rows):
  assert fitting_length(["a", "b" * longest]) == rows
  assert fitting_length([]) == 80 and fitting_length(None) == 512
  assert fitting_length(["é" * 48]) == 96  # bytes, not letters


def test_texts_that_are_cut_are_counted(caplog):
  codec = ByteText(8, 16)
  note_cut(codec, ["12345678", "é234567"], "prompts")
  assert not caplog.records
  note_cut(codec, ["a", "123456789", "é2345678", "x" * 30, "x" * 30], "prompts", "!")
  note = caplog.messages[0]
  assert "3 of 4 prompts are longer than the 8 rows" in note
  assert "the longest has 30" in note and note.endswith("are cut!")


def test_halves_of_surrogate_pairs_are_embedded():
  ids, mask = ByteText(8, 16).tokenize(["a\ud83db", "\udce9"])
  # U+FFFD is EF BF BD in UTF-8; ids are bytes + 1.
  assert ids[0, :5].tolist() == [98, 0xF0, 0xC0, 0xBE, 99] and mask.sum() == 8
  assert ByteText(8, 16).rows_of("a\ud83db") == 5


def test_own_films_have_the_length_of_their_captions():
  assert quickstart.get_config("data=films").codec.text_length is None
  assert quickstart.get_config("").codec.text_length == 80
