"""Published sets of prompts as manifests, by the command that writes them."""

import json

import pytest

from ccl_jax import eval as command
from ccl_jax.data.manifest import read_manifest
from ccl_jax.errors import UsageError
from ccl_jax.metrics.prompts import read_prompts

OVI = """text_prompt,image_path
"A man says, <S>Hello there.<E> <AUDCAP>Wind<ENDAUDCAP>",images/a.png
"Rain falls, ""softly"".",
"""
VERSEBENCH = [
  {"video_prompt": "a girl", "audio_prompt": ["rain"], "prompt": 'a girl: "hi"',
   "speech_prompt": {"speaker": "girl", "text": "你好"}},
  {"video_prompt": 'a sign "EXIT"', "audio_prompt": ["hum"], "speech_prompt": None},
  {"video_prompt": "two", "prompt": "two talk", "speech_prompt": [
    {"speaker": "a", "text": "one"}, {"speaker": "b", "text": "two"}]},
]  # fmt: skip
MOVA = {
  "solo": [{"id": "m 1", "prompt": "she says “yes”", "image": "/abs/x.png"}],
  "duo": [
    {"id": "m2", "prompt": 'they sing under "BAR"', "transcript": "", "language": "en"}
  ],
}


def test_a_csv_of_ovi(tmp_path, capsys):
  (tmp_path / "in").mkdir()
  (tmp_path / "in/set.csv").write_text(OVI)
  out = tmp_path / "m.jsonl"
  flags = ["make-manifest", "--prompts", str(tmp_path / "in/set.csv"), "--out"]
  assert command.main([*flags, str(out)]) == 0
  printed = capsys.readouterr().out
  assert "2 prompts, 2 with speech, 2 transcripts taken from quotation" in printed
  one, two = read_manifest(out)
  assert (one.id, one.transcript, one.image) == (
    "set_0001",
    "Hello there.",
    "in/images/a.png",
  )
  assert two.transcript == "softly" and two.image is None


def test_json_of_verse_bench(tmp_path):
  path = tmp_path / "set.json"
  path.write_text(json.dumps(VERSEBENCH))
  lines, taken = read_prompts(path)
  assert [x.transcript for x in lines] == ["你好", "EXIT", "one two"] and taken == 1
  assert [x.language for x in lines] == ["zh", "en", "en"]
  assert lines[0].prompt == 'a girl: "hi"' and lines[1].prompt.endswith("hum")


def test_json_by_topic(tmp_path):
  path = tmp_path / "set.json"
  path.write_text(json.dumps(MOVA))
  lines, taken = read_prompts(path, "mova")
  assert [(x.id, x.subset, x.transcript) for x in lines] == [
    ("m_1", "solo", "yes"),
    ("m2", "duo", ""),
  ]
  assert taken == 1 and lines[0].image == "/abs/x.png"


def lines_of(tmp_path, *rows, form="auto"):
  path = tmp_path / "set.json"
  path.write_text("\ufeff" + json.dumps(rows), "utf-8")
  return read_prompts(path, form)[0]


def test_names_of_columns_in_their_order(tmp_path):
  """The first that is there and not empty; numbers are names too."""
  (line,) = lines_of(
    tmp_path,
    {"prompt": "", "caption": "a b", "id": "", "name": None, "index": 0,
     "video_id": "v", "image": "", "img_path": "i.png", "category": "hard",
     "topic": "t", "lang": "fr"},
  )  # fmt: skip
  assert (line.id, line.prompt, line.image) == ("0", "a b", "i.png")
  assert (line.subset, line.language, line.transcript) == ("hard", "fr", "")


def test_numbers_stand_for_names(tmp_path):
  one, two = lines_of(tmp_path, {"text": "x"}, {"text": "他说“好”", "id": "a/b  c"})
  assert (one.id, two.id) == ("set_0001", "a_b_c")
  assert (one.language, two.language, two.transcript) == ("en", "zh", "好")


def test_parts_of_a_prompt_are_joined_where_there_is_no_whole(tmp_path):
  one, two, three = lines_of(
    tmp_path,
    {"video_prompt": "a girl", "audio_prompt": "rain", "speech_prompt": None},
    {"audio_prompt": ["rain", "", "wind"], "speech_prompt": {"text": " hi "}},
    {"video_prompt": "two", "speech_prompt": [{"text": "a"}, {"speaker": "b"}, "c"]},
  )
  assert [x.prompt for x in (one, two, three)] == ["a girl rain", "rain wind", "two"]
  assert [x.transcript for x in (one, two, three)] == ["", "hi", "a"]


@pytest.mark.parametrize(
  "text,form,message",
  [
    ("[1]", "auto", "expected a list of objects"),
    ("{", "auto", "cannot be read as CSV or JSON"),
    ("[]", "auto", "has no prompts"),
    ('[{"prompt": "x"}]', "ovi", "prompt 1: none in prompt; is its format ovi"),
    ('[{"id": 1, "prompt": "x"}, {"id": 1, "prompt": "y"}]', "mova", "is there twice"),
  ],
)
def test_mistakes(tmp_path, text, form, message):
  path = tmp_path / "set.json"
  path.write_text(text)
  with pytest.raises(UsageError, match=message):
    read_prompts(path, form)


def test_languages_become_whispers_codes(tmp_path):
  rows = [
    {"prompt": "a", "language": name}
    for name in ("Mandarin", "pt-BR", "English", "jpn")
  ]
  (tmp_path / "p.json").write_text(json.dumps(rows))
  lines, _ = read_prompts(tmp_path / "p.json", "mova")
  assert [line.language for line in lines] == ["zh", "pt", "en", "ja"]
  (tmp_path / "p.json").write_text(json.dumps([rows[0], {"prompt": "a", "lang": "xx"}]))
  with pytest.raises(UsageError, match="p.json, prompt 2: no language is called 'xx'"):
    read_prompts(tmp_path / "p.json", "mova")


def test_ids_become_names_of_files_no_two_alike(tmp_path):
  ids = ["a b", "a_b", "x/../y", "n" * 300, "half \ud83d"]
  (tmp_path / "p.json").write_text(json.dumps([{"prompt": "a", "id": i} for i in ids]))
  lines, _ = read_prompts(tmp_path / "p.json", "mova")
  found = [line.id for line in lines]
  assert found[:3] == ["a_b", "a_b_2", "x_.._y"] and found[4] == "half_"
  assert len(found[3]) == 200
