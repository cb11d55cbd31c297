"""Word error rates: normalisation, edits as jiwer counts them; quotations."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccl_jax.metrics import packages, wer
from ccl_jax.metrics.base import Unscorable
from ccl_jax.metrics.quotes import quoted
from ccl_jax.metrics.speech import scores_of
from ccl_jax.metrics.summary import columns_of
from ccl_jax.metrics.wer import edits, rate, rate_name, speech_errors, words


@pytest.fixture
def normaliser():
  pytest.importorskip("whisper_normalizer")


SAME = [
  ("It is a fine day.", "it is, a FINE day"),
  ("we’ve got “it”", 'we\'ve got "it"'),
  ("we've got it", "we have got it"),
  ("twenty-five dollars", "$25"),
  ("colour", "color"),
  ("won't", "will not"),
  ("um, I see", "I see"),
  ("[laughs] fine", "fine"),
  ("well ... fine", "well fine"),
  ("Speaker1: hello. Speaker 2: hi", "hello hi"),
  ("ﬁne", "fine"),
  ("I´m sure it`s fine", "I'm sure it's fine"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_in_english(normaliser, one, other):
  errors = speech_errors(one, other)
  assert errors.total == 0 and errors.words > 0


@pytest.mark.parametrize(
  ("language", "name", "text", "expected"),
  [
    ("zh", "cer", "你好，世界！", ["你", "好", "世", "界"]),
    ("zh-TW", "cer", "Ａ１ 你", ["a", "1", "你"]),
    ("yue", "cer", "早晨。", ["早", "晨"]),
    ("ja", "cer", "「はい」", ["は", "い"]),
    ("de", "wer", "Guten Tag, „Welt“ ...", ["guten", "tag", "welt"]),
    ("en_GB", "wer", "Colours!", ["colors"]),
    ("fr", "wer", "l’été", ["l", "été"]),
  ],
)
def test_words_of_languages(normaliser, language, name, text, expected):
  assert rate_name(language) == name
  assert words(text, language) == expected


@pytest.mark.parametrize(
  ("language", "wanted", "heard", "errors", "count"),
  [
    # Numbers in words and in digits are one; the words are those of the digits.
    ("en", "fifty turns", "50 turns", 0, 2),
    ("en", "thirty six", "36", 0, 1),
    ("en", "one hundred twenty three", "123", 0, 1),
    ("en", "two thousand and twenty six", "2026", 0, 1),
    ("en", "twenty dollars", "$20", 0, 1),
    ("en", "it's five o'clock", "it is 5 o'clock", 0, 4),
    # An ordinal is not the number: "3rd 1871" against "3 1871", and June.
    ("en", "June third eighteen seventy one", "June 3, 1871", 1, 3),
    # A possessive is "mario is" to Whisper's authors: "marios" lacks a word, too.
    ("en", "Mario's castle", "Mario's castle", 0, 3),
    ("en", "Mario's castle", "Marios castle", 2, 3),
    # Both scripts of Chinese are one, and its numbers.
    ("zh", "你到底有没有在听我讲", "你到底有沒有在聽我講", 0, 10),
    ("zh", "今天天气很好", "今天天氣很好", 0, 6),
    ("zh", "二零二六年", "2026年", 0, 5),
    ("zh", "一百二十三", "123", 0, 3),
    # Whatever the language is called; one character of six is another.
    *((name, "今天天气很好", "今天天气真好", 1, 6)
      for name in ("Chinese", "chinese", "zh-CN", "cmn", "zh-Hans", "Mandarin")),
    ("Japanese", "今日は良い天気です", "今日は悪い天気です", 1, 9),
    ("English", "fifty turns", "50 turns", 0, 2),
    ("eng", "fifty turns", "50 turns", 0, 2),
  ],
)  # fmt: skip
def test_what_was_said_against_what_was_heard(
  normaliser, language, wanted, heard, errors, count
):
  got = scores_of(wanted, heard, language)
  name = "wer" if language.lower().startswith("en") else "cer"
  assert (got[f"{name}_errors"], got[f"{name}_words"]) == (errors, count)


def test_thai_is_counted_by_character(normaliser):
  assert rate_name("th") == "cer"
  assert words("สวัสดี", "th") == ["ส", "วั", "ส", "ดี"]  # each with its marks
  assert speech_errors("สวัสดี", "สวัสด", "th")[:4] == (1, 0, 0, 4)


@pytest.mark.parametrize(
  ("language", "one", "other", "count"),
  [
    ("ar", "مَرْحَبًا بِكَ", "مرحبا بك", 2),  # vowels that may be left out
    ("ar", "عـــام ٢٠٢٦", "عام 2026", 2),  # a word made longer, digits
    ("he", "שָׁלוֹם עוֹלָם", "שלום עולם", 2),
    ("he", "\u200fשלום\u200e", "שלום", 1),  # marks of direction
    ("fa", "۱۲ نفر", "12 نفر", 2),
    ("hi", "हिन्दी में २०२६", "हिन्दी में 2026", 3),
    ("bn", "আমি বাংলা বলি", "আমি বাংলা বলি", 3),
    ("ta", "தமிழ் மொழி", "தமிழ் மொழி", 2),
    ("ru", "Ещё ёлка.", "еще елка", 2),
    ("tr", "İstanbul'da IŞIK", "istanbul'da ışık", 3),
    ("vi", "tie\u0302\u0301ng Vie\u0323\u0302t", "tiếng việt", 2),  # in parts
    ("fr", "l´été", "l'été", 2),
    ("yo", "ọ̀rẹ́ mi", "Ọ̀rẹ́ mi", 2),  # letters that have no code of their own
    ("zh", "廿三日，卅人", "23日30人", 6),
    ("ja", "がっこう", "か\u3099っこう", 4),
  ],
)
def test_one_text_in_several_ways_of_writing(normaliser, language, one, other, count):
  assert speech_errors(one, other, language) == (0, 0, 0, count)


@pytest.mark.parametrize(
  ("language", "one", "other", "errors"),
  [
    ("hi", "राम की किताब", "राम का किताब", (1, 0, 0, 3)),  # a vowel
    ("th", "ปา", "ป่า", (1, 0, 0, 2)),  # a tone
    ("el", "πότε", "ποτέ", (1, 0, 0, 1)),
    ("tr", "ısı", "isi", (1, 0, 0, 1)),
    ("de", "schon", "schön", (1, 0, 0, 1)),
    ("my", "ကာ", "ကိ", (1, 0, 0, 1)),
  ],
)
def test_marks_that_make_another_word_count(normaliser, language, one, other, errors):
  assert speech_errors(one, other, language)[:4] == errors


def test_rates(normaliser):
  of = lambda a, b, language="en": rate(speech_errors(a, b, language))
  assert of("one good day", "one good day") == 0
  assert of("good day to you", "") == 1
  assert of("good day", "a very good day to you my dear") == 3
  assert of("你好世界", "你好时界", "zh") == 1 / 4
  assert of("good day to you", "good days to you") == 1 / 4
  with pytest.raises(Unscorable, match="nothing was to be said"):
    of("...", "good day")


TEXT = st.lists(st.sampled_from("abcde"), max_size=12)


@settings(max_examples=300, deadline=None)
@given(TEXT, TEXT)
def test_edits_are_as_few_as_jiwer_s(reference, heard):
  errors = edits(reference, heard)
  assert errors.words == len(reference)
  assert errors.insertions - errors.deletions == len(heard) - len(reference)
  assert errors.substitutions + errors.deletions <= len(reference)
  if reference:
    jiwer = pytest.importorskip("jiwer")
    out = jiwer.process_words(" ".join(reference), " ".join(heard))
    assert errors.total == out.substitutions + out.deletions + out.insertions
    assert rate(errors) == pytest.approx(out.wer)


def test_edits_by_kind():
  of = lambda a, b: tuple(edits(a.split(), b.split()))
  assert of("a b c d", "a x c d") == (1, 0, 0, 4)
  assert of("a b c d", "a c d") == (0, 1, 0, 4)
  assert of("a b c d", "a b y c d") == (0, 0, 1, 4)
  assert of("a b c d", "x b d d d") == (2, 0, 1, 4)
  assert of("", "a b") == (0, 0, 2, 0)


def test_texts_without_end_are_not_compared(monkeypatch):
  monkeypatch.setattr(wer, "MOST", 6)
  assert edits("abc", "ab").total == 1
  with pytest.raises(Unscorable, match="4 words against 2: too long to be compared"):
    edits("abcd", "ab")


def test_texts_that_no_normaliser_takes(normaliser):
  with pytest.raises(Unscorable, match="a text of 50001 characters: too long to be"):
    words("[" * 50_001)
  with pytest.raises(Unscorable, match="cannot be normalised"):
    words("9" * 5000)  # more digits than Python makes a number of
  assert words("9" * 400) == ["9" * 400]


def test_marks_and_tags_without_end_cost_little():
  """Each once asked for a look at all that follows, and a file of them for hours."""
  began = time.process_time()
  for mark in ('"', "«", "「a", "『", "<S>", "<S>a <E", '«"'):
    quoted(mark * 200_000)
  assert quoted("«" * 200_000 + '"so"') == "so"
  assert time.process_time() - began < 20


def test_a_set_is_not_the_mean_of_its_clips(normaliser):
  """Nine words, all heard, and a single one that is not; two clips ask for none."""
  texts = [
    (9 * "day ", 9 * "day "),
    ("day", "night"),
    ("", "good day to you"),
    ("", ""),
  ]
  clips = {str(i): scores_of(*pair, "en") for i, pair in enumerate(texts)}
  got = columns_of({"wer": clips}, list(clips))
  mean = lambda key: (got[key]["mean"], got[key]["n_scored"], got[key]["n_total"])
  assert mean("wer") == (pytest.approx(1 / 10), 2, 4)
  assert mean("wer_mean") == (pytest.approx(1 / 2), 2, 4)
  assert mean("unrequested") == (1 / 2, 2, 4)
  silent = columns_of({"wer": clips}, ["2", "3"])
  assert silent["wer"] == {"n_scored": 0, "n_total": 2}


def test_without_the_normaliser(monkeypatch):
  monkeypatch.setattr(wer, "need", lambda _, p: packages.need("no_such", p))
  wer._normaliser.cache_clear()
  with pytest.raises(Unscorable, match=r"whisper-normalizer is not usable.*\[eval\]"):
    words("good day")
  wer._normaliser.cache_clear()


@pytest.mark.parametrize(
  ("prompt", "expected"),
  [
    ('A man says "Good day." and waves.', "Good day."),
    ('She asks, "Who?" He says: "Me."', "Who? Me."),
    ("他说：“你好，世界。”然后笑了", "你好，世界。"),
    ("Er sagt: „Guten Tag“", "Guten Tag"),
    ("Il dit «Bonjour» et part", "Bonjour"),
    ("彼は「はい『そうだ』」と言う", "はい『そうだ』"),
    ("標題『夜』", "夜"),
    ("It's the dog's 'bone'", ""),
    ('<S>We\'ve won<E> near a sign "EXIT" <AUDCAP>"boom"<ENDAUDCAP>', "We've won"),
    ("<S>One<E> then <S>two\nthree<E>", "One two\nthree"),
    ('An empty "" and " " one', ""),
    ('He left the quote "open', ""),
    ("", ""),
  ],
)
def test_quotations(prompt, expected):
  assert quoted(prompt) == expected
