"""What the tools of `python -m ccl_jax.data` do with each of their flags."""

import pathlib
from types import SimpleNamespace

import pytest

from ccl_jax.data.builders import openhumanvid
from ccl_jax.data.preparing import report as prepare_report
from ccl_jax.data.preparing import run as prepare
from ccl_jax.data.preparing.rows import Options
from ccl_jax.data.sources import media_set
from ccl_jax.data.sources import open as sources
from ccl_jax.encoding import inspect as inspect_data
from tests.flags.command import module_of
from tests.flags.recording import Recorder


@pytest.fixture
def told(monkeypatch, tmp_path):
  r = Recorder(monkeypatch)
  r.replace(inspect_data, "show")
  r.replace(prepare, "prepare", "made")
  r.replace(prepare_report, "summary", ["SUMMARY"])
  for name in ("missing.txt", "skipped.jsonl"):
    (tmp_path / name).write_text("one\ntwo\n" if "miss" in name else "three\n")
  info = SimpleNamespace(splits={"train": SimpleNamespace(num_examples=7)})
  made = SimpleNamespace(data_dir=str(tmp_path), info=info)
  monkeypatch.setattr(media_set, "prepare", r.stub(made, "build"))
  r.main = lambda *argv: module_of("data").main([str(x) for x in argv])
  return r


def test_inspect(told):
  """A set, --clips of it on the sheet --out."""
  told.main("inspect", "SET")
  assert told.last("show").args == (pathlib.Path("SET"), 8, None)
  told.main("inspect", "SET", "--clips=3", "--out=S.png")
  expected = (pathlib.Path("SET"), 3, pathlib.Path("S.png"))
  assert told.last("show").args == expected
  with pytest.raises(SystemExit) as e:
    told.main("inspect", "SET", "--clips=-1")
  assert e.value.code == 2 and len(told.calls["show"]) == 2


def test_prepare(told, capsys):
  """dir, out and what is to be done: each option is its own."""
  folder, table = pathlib.Path("DIR"), pathlib.Path("O.jsonl")
  told.main("prepare", "DIR", "O.jsonl")
  assert told.last("prepare").args == (
    folder, table, Options(), 4, "DirectRunner", [],
  )  # fmt: skip
  assert told.last("summary").args == ("made", Options(), 100.0)
  told.main(
    "prepare", "DIR", "O.jsonl", "--no-shots", "--no-crop", "--loudness=-23",
    "--speech=m:f", "--template={caption}", "--captions=T.csv", "--max_offset_ms=40",
    "--threads=2",
  )  # fmt: skip
  options = Options(
    shots=False, crop=False, loudness=-23.0, speech="m:f", template="{caption}",
    captions="T.csv",
  )  # fmt: skip
  assert told.last("prepare").args[:4] == (folder, table, options, 2)
  assert told.last("summary").args == ("made", options, 40.0)
  told.main("prepare", "DIR", "O.jsonl", "--no-crop", "--threads=1024")
  assert told.last("prepare").args[2:4] == (Options(crop=False), 1024)
  told.main("prepare", "DIR", "O.jsonl", "--shots", "--no-crop", "--crop")
  assert told.last("prepare").args[2] == Options(shots=True, crop=True)
  told.main(
    "prepare", "DIR", "O.jsonl", "--runner=FlinkRunner", "--", "--parallelism=9"
  )
  assert told.last("prepare").args[4:] == ("FlinkRunner", ["--parallelism=9"])
  with pytest.raises(SystemExit) as e:
    told.main("inspect", "SET", "--", "--parallelism=9")
  assert e.value.code == 2
  out = capsys.readouterr().out
  assert "SUMMARY" in out and f"captions={table.absolute()}" in out


@pytest.mark.parametrize(
  ("flag", "words"),
  [
    ("--threads=0", "--threads is 0; expected 1 to 1024"),
    ("--threads=1025", "--threads is 1025; expected 1 to 1024"),
    ("--max_offset_ms=-1", "--max_offset_ms is -1; expected 0 at least"),
    ("--thread=2", "unrecognized arguments: --thread=2"),
    ("--no-shot", "unrecognized arguments: --no-shot"),
  ],
)
def test_what_prepare_does_not_take(told, capsys, flag, words):
  with pytest.raises(SystemExit) as e:
    told.main("prepare", "DIR", "O.jsonl", flag)
  error = capsys.readouterr().err
  assert e.value.code == 2 and words in error and error.count("\n") == 1
  assert "prepare" not in told.calls or not told.calls["prepare"]


def test_what_starts_apart_is_listed_from_max_offset_ms_on():
  """A file is told where its sound and picture are further apart than that."""
  row = lambda name, ms: {"file": name, "caption": "", "av_offset_ms": ms}
  rows = [row("a", 40.0), row("b", -41.0), row("c", 99.0), row("d", 0.0)]
  made = prepare.Prepared(rows, [])
  lines = prepare_report.summary(made, Options(), max_offset_ms=40.0)
  assert [line.split(":")[0].strip() for line in lines if "ms" in line][-2:] == [
    "b",
    "c",
  ]
  assert any("sound apart       2 (over 40 ms)" in line for line in lines)


def test_build(told, capsys, tmp_path, monkeypatch):
  """source, dir and options NAME=VALUE in the types of the builder's."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / "DIR").mkdir()
  told.main(
    "build", "openhumanvid", "DIR", "min_seconds=2.5", "min_side=480", "speech=with",
    "data_dir=SETS", "min_scores=aesthetic:4.5,motion:2",
  )  # fmt: skip
  call = told.last("build")
  assert call.args == (openhumanvid.BUILDER, pathlib.Path("DIR"))
  assert call.kwargs == {
    "min_seconds": 2.5, "min_side": 480, "speech": "with", "data_dir": "SETS",
    "min_scores": (("aesthetic", 4.5), ("motion", 2.0)), "runner": "", "flags": [],
  }  # fmt: skip
  out = capsys.readouterr().out
  assert out == f"{tmp_path}: 7 train; 2 in missing.txt, 1 in skipped.jsonl\n"
  for source, option, words in (
    ("openhumanvid", "min_side", "expected NAME=VALUE"),
    ("openhumanvid", "least=3", "expected NAME=VALUE"),
    ("openhumanvid", "min_side=big", "big"),
    ("talking_scene", "n_train=3", "is no data set of media"),
    ("nowhere", "a=1", "no data source"),
    ("folder", "min_seconds=nan", "option 'min_seconds=nan': expected a number"),
  ):
    with pytest.raises(SystemExit) as e:
      told.main("build", source, "DIR", option)
    assert e.value.code == 2 and words in capsys.readouterr().err
  assert len(told.calls["build"]) == 1
  told.main("build", "vggsound", "DIR", "--runner=R", "--", "--region=x", "data_dir")
  kwargs = told.last("build").kwargs
  assert (kwargs["runner"], kwargs["flags"]) == ("R", ["--region=x", "data_dir"])


def test_a_command_is_needed(told):
  for argv in ([], ["dance"], ["inspect"], ["prepare", "DIR"], ["build", "vggsound"]):
    with pytest.raises(SystemExit) as e:
      told.main(*argv)
    assert e.value.code == 2
  assert sources.builder("vggsound").BUILDER
