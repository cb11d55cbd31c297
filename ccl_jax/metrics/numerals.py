"""Chinese numbers as digits: 二零二六年 and 2026年 are one, 一百二十三 and 123.

  value = sum over groups of 10^4 of (digit 10^3 + digit 10^2 + digit 10 + digit)

A last digit that follows a hundred or more without 零 is of the next lower power:
三百五 is 350, 一万三 is 13000. What is no number by these rules stays, as 二三十.
百分之五十 is 50 %, 三点五 is 3.5, 三分之一 is 1/3, and -5 is 负5. Characters of both
scripts and of banks are read.
"""

import re
import unicodedata
from fractions import Fraction

_ZERO = "零〇○"
_DIGITS = dict.fromkeys(_ZERO, 0) | {
  c: n
  for row in ("一二三四五六七八九", "壹贰叁肆伍陆柒捌玖", "壱弐参肆伍陸柒捌玖")
  for n, c in enumerate(row, 1)
} | {"两": 2, "兩": 2, "貳": 2, "參": 3}  # fmt: skip
_UNITS = {"十": 10, "拾": 10, "百": 100, "佰": 100, "千": 1000, "仟": 1000}
_GROUPS = {"万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8}
_NUMERAL = "".join([*_DIGITS, *_UNITS, *_GROUPS])
_RUN = re.compile(f"[{_NUMERAL}]+")
# 2万, 1.5亿: digits with a power in Chinese.
_MIXED = re.compile(rf"(\d+(?:\.\d+)?)([{''.join([*_UNITS, *_GROUPS])}]+)")
_VERY = re.compile(rf"(?<![{_NUMERAL}])十分(?!之|钟|鐘)")  # "very", no number
# 三点五 is a decimal, 三点五分 and 三点半 are times.
_POINT = re.compile(r"(?<=\d)[点點](\d+)(?!\d|分|刻)")
_PART = re.compile(r"(\d+)分之(\d+)")
_MINUS = re.compile(r"(?<![0-9A-Za-z])[-−](?=\d)")  # between numbers it is a dash
_PERCENT = re.compile(r"百分之(\d+(?:\.\d+)?)")


def with_digits(text: str, *, japanese: bool = False) -> str:
  """The text with its numbers in digits.

  Args:
    text: in any script.
    japanese: 百 and 千 may begin a number.
  """
  text = plain_digits(text).replace("廿", "二十").replace("卅", "三十")
  text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
  text = _MIXED.sub(_mixed, text)
  parts = re.split(_VERY, text)
  parts = [_percents(part, japanese) for part in parts]
  text = _PART.sub(r"\2/\1", "十分".join(parts))
  text = _PERCENT.sub(r"\1%", _POINT.sub(r".\1", text))
  return text if japanese else _MINUS.sub("负", text)


def _percents(text: str, japanese: bool) -> str:
  # The 百 of 百分之 begins no number.
  parts = text.split("百分之")
  return "百分之".join(
    _RUN.sub(lambda m: _digits(m[0], japanese), part) for part in parts
  )


def _digits(run: str, japanese: bool) -> str:
  if all(c in _DIGITS for c in run):
    return "".join(str(_DIGITS[c]) for c in run)
  found = value(run, japanese=japanese)
  return run if found is None else str(found)


def value(run: str, *, japanese: bool = False) -> int | None:
  """The number that a run of numerals says; None: it is none.

  Args:
    run: of digits, powers of ten and groups, such as 一万三千.
    japanese: 百 and 千 may stand without a digit.
  """
  total = section = 0
  digit, last, zero = None, 10, False
  for c in run:
    if c in _DIGITS:
      if digit is not None:
        return None
      if _DIGITS[c] == 0:
        last, zero = 10, True
      else:
        digit = _DIGITS[c]
    elif c in _UNITS:
      unit = _UNITS[c]
      alone = digit is None and (unit == 10 or japanese)
      if (digit is None and not alone) or section % (10 * unit):
        return None
      section += (1 if digit is None else digit) * unit
      digit, last, zero = None, unit, False
    else:
      section += digit or 0
      whole = total + section if _GROUPS[c] == 10**8 else section
      if not whole or (_GROUPS[c] == 10**4 and total % 10**8):
        return None
      total = whole * _GROUPS[c] if _GROUPS[c] == 10**8 else total + whole * 10**4
      section, digit, last, zero = 0, None, _GROUPS[c], False
  # 三百五 is 350; after 零, or a ten, the digit is one of ones.
  tail = 0 if digit is None else digit * (1 if zero else last // 10)
  return total + section + tail


def _mixed(match: re.Match) -> str:
  number = Fraction(match[1])
  for c in match[2]:
    number *= _UNITS.get(c) or _GROUPS[c]
  return str(number.numerator) if number.denominator == 1 else match[0]


def plain_digits(text: str) -> str:
  """The text with the digits of all scripts as 0 to 9."""
  return "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)
