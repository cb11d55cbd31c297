"""Languages by name and code, and numbers in Chinese, by hand."""

import pytest

from ccl_jax.errors import UsageError
from ccl_jax.metrics.languages import WHISPER, language_code
from ccl_jax.metrics.numerals import value, with_digits


@pytest.mark.parametrize(
  ("code", "names"),
  [
    (
      "zh",
      "zh zh-CN zh_TW zh-Hans cmn zho chi cmn-Hans Chinese MANDARIN 中文 普通话",
    ),
    ("yue", "yue zh-yue Cantonese 粤语"),
    ("en", "en EN en_US en-GB eng English"),
    ("ja", "ja jpn Japanese 日本語"),
    ("de", "de deu ger German Deutsch"),
    ("pt", "pt pt-BR por Portuguese"),
    ("no", "no nb nob Norwegian"),
    ("he", "he iw heb Hebrew"),
    ("jw", "jw jv jav Javanese"),
    ("tl", "tl fil tgl Tagalog Filipino"),
    ("my", "my mya bur Burmese Myanmar"),
    ("eo", "eo epo Esperanto"),  # which Whisper does not know
  ],
)
def test_one_language_under_many_names(code, names):
  names = names.split()
  assert {name: language_code(name) for name in names} == dict.fromkeys(names, code)


@pytest.mark.parametrize(
  ("name", "code"),
  [
    ("Chinese (Simplified)", "zh"),
    ("Traditional Chinese", "zh"),
    ("Mandarin Chinese", "zh"),
    ("American English", "en"),
    ("English, British", "en"),
    ("Brazilian Portuguese", "pt"),
    (" Haitian  Creole ", "ht"),
    ("Norwegian Bokmål", "no"),
  ],
)
def test_names_of_several_words(name, code):
  assert language_code(name) == code


@pytest.mark.parametrize("name", ["", "xx", "Klingonese", "12", "e n", "zzz-US"])
def test_no_language(name):
  with pytest.raises(UsageError, match="no language is called"):
    language_code(name)


def test_whisper_knows_a_hundred():
  assert len(WHISPER) == 100


@pytest.mark.parametrize(
  ("run", "number"),
  [
    ("十", 10), ("十一", 11), ("二十", 20), ("九十九", 99), ("一百二十三", 123),
    ("一百零五", 105), ("三百五", 350), ("两千零二十六", 2026), ("三千二百五", 3250),
    ("一万三", 13_000), ("一万零三", 10_003), ("三万五千六百七十八", 35_678),
    ("十二万", 120_000), ("一亿三千万", 130_000_000), ("三億", 300_000_000),
    ("壹佰贰拾", 120), ("千万", None), ("万一", None), ("二三十", None), ("百", None),
    ("一百二千", None),
  ],
)  # fmt: skip
def test_the_value_of_a_number(run, number):
  assert value(run) == number


@pytest.mark.parametrize(
  ("text", "right"),
  [
    ("二零二六年", "2026年"), ("二〇二六", "2026"), ("一九九八", "1998"),
    ("三分之一", "1/3"), ("二十分之一", "1/20"), ("负五度", "负5度"),
    ("气温-5度", "气温负5度"), ("−3.5", "负3.5"), ("3-5页", "3-5页"),
    ("COVID-19", "COVID-19"), ("2026-05-01", "2026-05-01"),
    ("百分之五十", "50%"), ("百分之三点五", "3.5%"), ("三点五米", "3.5米"),
    ("三点五分", "3点5分"), ("三点半", "3点半"), ("十分高兴", "十分高兴"),
    ("十分钟", "10分钟"), ("2万", "20000"), ("1.5亿", "150000000"),
    ("千万别动", "千万别动"), ("1,234,567", "1234567"), ("没有数字", "没有数字"),
    ("๒๐๒๖", "2026"), ("٢٣", "23"),
  ],
)  # fmt: skip
def test_numbers_in_a_text(text, right):
  assert with_digits(text) == right


def test_japanese_numbers_may_begin_with_a_power():
  assert with_digits("千九百九十八年", japanese=True) == "1998年"
  assert with_digits("二千二十六年", japanese=True) == "2026年"
