"""JSON and text from outside: limits, Unicode, and schemas, by hand."""

import json
import os
import pathlib
from typing import NotRequired

import pytest
from typing_extensions import TypedDict

from ccl_jax import documents
from ccl_jax.documents import Count, Malformed, Number, Sha256, Unreadable
from ccl_jax.errors import UsageError
from tests.trees import calls


def nested(depth, opening="[", closing="]"):
  return opening * depth + "1" + closing * depth


def test_depth_has_a_limit():
  most = documents.DEPTH
  assert documents.parse(nested(most), "x")
  assert documents.parse(nested(most, '{"a":', "}"), "x")
  for text in (nested(most + 1), nested(most + 1, '{"a":', "}"), nested(100_000)):
    with pytest.raises(Malformed, match=r"^x is nested too deep; expected JSON of at"):
      documents.parse(text, "x")
  with pytest.raises(Malformed, match="nested too deep|not JSON"):
    documents.parse("[" * 100_000, "x")


@pytest.mark.parametrize(
  ("text", "value"),
  [
    (r'"hello \ud83d"', "hello \ufffd"),
    (r'"\ud83d\ude00"', "\U0001f600"),  # a pair is a letter
    (r'["\udce9", {"\ud800": "a"}]', ["\ufffd", {"\ufffd": "a"}]),
    (r'"\\ud83d"', r"\ud83d"),  # a backslash
    ('"\U0001f600"', "\U0001f600"),
  ],
)
def test_strings_are_valid_unicode(text, value):
  assert documents.parse(text, "x") == value
  assert documents.parse(text.encode(), "x") == value


def test_names_of_files_stay_as_they_are():
  assert documents.parse(r'"caf\udce9"', "x", names=True) == "caf\udce9"


def test_no_key_is_lost():
  """Of a key that is there twice Python keeps the last."""
  for text in ('{"a": 1, "b": 2, "a": 1}', '[{"x": {"a": null, "\\u0061": {}}}]'):
    with pytest.raises(Malformed, match="here is not JSON .*key 'a' is there twice"):
      documents.parse(text, "here")
  assert documents.parse('[{"a": 1}, {"a": 2, "A": {"a": 3}}]', "here")[1]["A"] == {
    "a": 3
  }
  large = "{" + ", ".join(f'"{i}": 0' for i in range(200_000)) + ', "9": 0}'
  with pytest.raises(Malformed, match="key '9' is there twice"):
    documents.parse(large, "here")


@pytest.mark.parametrize("text", ["", "{", "[1,]", "nul", "9" * 5000, "\ufeff\ufeff1"])
def test_what_is_no_json(text):
  with pytest.raises(Malformed, match="^x is not JSON") as e:
    documents.parse(text, "x")
  assert "\n" not in str(e.value) and len(str(e.value)) < 300


def test_only_regular_files_are_opened(tmp_path):
  os.mkfifo(tmp_path / "pipe")
  (tmp_path / "file").write_bytes(b"\xef\xbb\xbfabc")
  assert documents.read_text(tmp_path / "file") == "abc"
  assert documents.read_bytes(tmp_path / "file", 6) == b"\xef\xbb\xbfabc"
  for path, match in {
    "pipe": "is a pipe or a device; expected a file on disk",
    "": "is a folder; expected a file",
    "none": "none: cannot be read: No such file",
    "a\0b": "is no name of a file",
    "file/x": "Not a directory",
    "x" * 300: "File name too long",
  }.items():
    with pytest.raises(Unreadable, match=match):
      documents.read_bytes(tmp_path / path)
  with pytest.raises(Unreadable, match="has 6 bytes; expected at most 5"):
    documents.read_bytes(tmp_path / "file", 5)
  # Sparse: it would take 4 GB to read.
  with open(tmp_path / "large", "wb") as f:
    f.truncate(documents.DOCUMENT + 1)
  with pytest.raises(Unreadable, match="expected at most"):
    documents.read_json(tmp_path / "large")


def test_text_that_is_no_utf8_names_its_line(tmp_path):
  (tmp_path / "a").write_bytes(b"one\ntwo\ncaf\xe9\n")
  with pytest.raises(Malformed, match="a line 3 is not UTF-8"):
    documents.read_text(tmp_path / "a")


def test_a_log_with_lines_that_are_none(tmp_path):
  path = tmp_path / "metrics.jsonl"
  assert documents.metric_rows(path) == []
  good = {"step": 3, "loss/a/video": None, "x": 0.5}
  lines = [
    json.dumps(good).encode(), b"\xff\xfe", b'{"step": 4', b'{"step": "5"}', b"[1]",
    b"", b'{"loss": 1.0}', b'{"step": true}', b'{"step": 6, "x": "y"}', b"[" * 100_000,
    b'{"step": 7}',
  ]  # fmt: skip
  path.write_bytes(b"\n".join(lines))
  assert documents.metric_rows(path) == [good, {"step": 7}]


class Entry(TypedDict):
  """A schema."""

  count: Count
  share: NotRequired[Number]
  sha256: NotRequired[Sha256]


@pytest.mark.parametrize(
  ("change", "match"),
  [
    ({}, None),
    ({"other": 3}, None),
    ({"share": 1}, None),
    ({"sha256": "a" * 64}, None),
    ({"count": None}, "x: 0.count: got None; input should be a valid integer: mend it"),
    ({"count": True}, "0.count: got True"),
    ({"count": 1.0}, "0.count: got 1.0"),
    ({"count": "1"}, "0.count: got '1'"),
    ({"count": -1}, "0.count: got -1; input should be greater than or equal to 0"),
    ({"count": 10**18}, "0.count: got 1000000000000000000; input should be less"),
    ({"count": [0]}, r"0.count: got \[0\]"),
    ({"share": float("nan")}, "0.share: got nan"),
    ({"share": float("inf")}, "0.share: got inf"),
    ({"sha256": "A" * 64}, r"0.sha256: got 'A+\.\.\."),
  ],
)
def test_schemas(change, match):
  value = [{"count": 3} | change]
  if match is None:
    assert documents.check(value, list[Entry], "x", "mend it") is value
    return
  with pytest.raises(Malformed, match=match) as e:
    documents.check(value, list[Entry], "x", "mend it")
  assert "\n" not in str(e.value)


def test_a_missing_key_is_named():
  with pytest.raises(Malformed, match=r"^x: 0\.count: field required: mend it"):
    documents.check([{}], list[Entry], "x", "mend it")
  with pytest.raises(Malformed, match=r"^x: the whole: got None; "):
    documents.check(None, list[Entry], "x", "mend it")


def test_errors_are_one_line_whatever_they_quote():
  error = UsageError("a\nb\r\0c\u2028" + "d" * 10_000)
  assert str(error).startswith("a b c d") and len(str(error)) < 1500


# Who parses JSON or reads text beside the two doors, and whose it is.
OTHERS = {
  "__main__.py": "the package's own README",
  "ablation/run.py": "logs of its own children",
  "ablation/score.py": "the system's /proc, and what it made itself",
  "benchmarks/eval_rates.py": "the system's /proc",
  "benchmarks/kernels.py": "what its own compiler has written",
  "checkpoints/checkpointer.py": "Orbax's list of a step, of which all errors are told",
  "cli.py": "the system's /proc",
  "data/__main__.py": "reports that were written just now",
  "data/preparing/parts.py": "settings of its own",
  "data/sets/plan.py": "settings of its own",
  "documents.py": "the door",
  "generation/clips.py": "settings of its own",
  "generation/report.py": "settings of its own",
  "hub/repository.py": "a commit in the hub's cache, of hexadecimal digits or none",
  "models/mel_codec.py": "a field of a codec, under its hash",
  "places.py": "the line of a lock's holder",
  "planning/kernels.py": "programs of its own compiler",
  "planning/report.py": "a report of its own",
  "processes.py": "what processes of one run tell each other",
  "audio_codec/run.py": "sizes of its own",
  "remote/locks.py": "who holds a lock; what is none is somebody",
  "train_audio.py": "scores that were written just now",
  "training/changes.py": "a config of its own",
  "weights/strict_json.py": "the door of weights",
}


def test_nothing_else_reads_text_from_outside():
  root, found = pathlib.Path(documents.__file__).parent, set()
  for path in root.rglob("*.py"):
    for called, _ in calls(path):
      read = called.endswith(".read_text") and not called.startswith("documents.")
      if read or called in ("json.loads", "json.load", "tomllib.load", "yaml.load"):
        found.add(path.relative_to(root).as_posix())
  assert found == set(OTHERS)
