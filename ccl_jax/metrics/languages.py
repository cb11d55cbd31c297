"""Languages by any usual name or code: "Chinese", "zh-CN", "cmn", "中文" are all "zh".

Codes are Whisper's, which are ISO 639-1 but for a few. Names are those of Unicode's
CLDR, in English and in the language itself, by Babel; codes of three letters and older
ones are told by its list of aliases.
"""

import functools
import re
import unicodedata

from ccl_jax.errors import UsageError
from ccl_jax.metrics.packages import need

# The languages that Whisper knows.
_CODES_OF_WHISPER = """
  af am ar as az ba be bg bn bo br bs ca cs cy da de el en es et eu fa fi fo fr gl gu ha
  haw he hi hr ht hu hy id is it ja jw ka kk km kn ko la lb ln lo lt lv mg mi mk ml mn
  mr ms mt my ne nl nn no oc pa pl ps pt ro ru sa sd si sk sl sn so sq sr su sv sw ta te
  tg th tk tl tr tt uk ur uz vi yi yo yue zh
"""
WHISPER = frozenset(_CODES_OF_WHISPER.split())
# Where CLDR has another code than Whisper, and names that CLDR does not list.
_CODES = {"jv": "jw", "fil": "tl", "nb": "no", "arb": "ar", "pes": "fa", "zsm": "ms"}
_NAMES = {
  "mandarin": "zh",
  "粤语": "yue", "粵語": "yue", "putonghua": "zh", "guoyu": "zh", "汉语": "zh",
  "漢語": "zh",
  "普通话": "zh", "普通話": "zh", "国语": "zh", "國語": "zh", "广东话": "yue",
  "廣東話": "yue", "castilian": "es", "farsi": "fa", "flemish": "nl", "haitian": "ht",
  "letzeburgesch": "lb", "moldavian": "ro", "moldovan": "ro", "myanmar": "my",
  "nynorsk": "nn", "panjabi": "pa", "pushto": "ps", "sinhalese": "si", "tagalog": "tl",
  "valencian": "ca",
}  # fmt: skip
_TAG = re.compile(r"[a-z]{2,3}([-_][a-z0-9]{1,8})*")


def language_code(language: str) -> str:
  """The code of a language, Whisper's where it knows it: "en" for "en-GB" or "English".

  Raises:
    UsageError: there is no such language, or Babel, which knows the names, is not
      installed.
  """
  code = _code(_folded(language))
  if code is None:
    raise UsageError(
      f"no language is called {language!r}: give its name in English or a code such as "
      "en, zh, cmn or pt-BR"
    )
  return code


@functools.cache
def _code(text: str) -> str | None:
  if _TAG.fullmatch(text):
    first, *rest = re.split("[-_]", text)
    # zh-yue is Cantonese: the older way to write what has its own code now.
    if rest and len(rest[0]) == 3 and rest[0] in WHISPER:
      first = rest[0]
    if first in WHISPER:
      return first
    if code := _of_cldr(first):
      return code
  whole = re.sub(r"\s+", " ", text)
  # "Chinese (Simplified)", "English, British", "Portuguese - Brazil"
  parts = [whole, *re.split(r"\s*[,(/;:]\s*|\s+-\s+", whole)]
  names = _names()
  found = next((names[p] for p in map(str.strip, parts) if p in names), None)
  if found is None:
    # "Mandarin Chinese": words that all say the same.
    said = {names[word] for word in re.findall(r"\w+", whole) if word in names}
    found = said.pop() if len(said) == 1 else None
  return found


def _of_cldr(code: str) -> str | None:
  """The language of a code that Whisper does not have; None: there is none."""
  core = _babel("core")
  known = core.get_global("language_aliases").get(code, code).split("_")[0]
  known = _CODES.get(code, _CODES.get(known, known))
  english = core.Locale("en").languages
  return known if known in WHISPER or known in english else None


@functools.cache
def _names() -> dict[str, str]:
  """Codes by folded name, in English and in the language itself."""
  core = _babel("core")
  names = {}
  for code, name in core.Locale("en").languages.items():
    code = code.split("_")[0]
    names[_folded(name)] = _CODES.get(code, code)
  for code in WHISPER:
    try:
      own = core.Locale(code).languages.get(code)
    except core.UnknownLocaleError:
      continue
    names |= {_folded(own): code} if own else {}
  return names | _NAMES


def _babel(module: str):
  from ccl_jax.metrics.base import Unscorable

  try:
    return need(f"babel.{module}", "babel")
  except Unscorable as e:
    raise UsageError(f"names of languages: {e}; give codes such as en or zh") from e


def _folded(text: str) -> str:
  return unicodedata.normalize("NFKC", text).strip().casefold()
