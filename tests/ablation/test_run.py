"""What is run, in which order, and what is left of it when it is stopped."""

import json
import os
import pathlib
import signal
import sys
import threading
import time

import pytest

from ccl_jax.ablation import run as run_module
from ccl_jax.ablation.__main__ import main
from ccl_jax.ablation.run import Ablation, run
from ccl_jax.ablation.variants import VARIANTS
from ccl_jax.errors import UsageError
from tests.ablation import command


@pytest.fixture
def place(tmp_path, monkeypatch):
  """An ablation whose commands only make what they would make."""
  python = (sys.executable, "-S", "-E")  # alone, it starts at once
  monkeypatch.setattr(run_module, "PYTHON", (*python, command.__file__))
  monkeypatch.setattr(run_module, "code_version", lambda: "1")
  monkeypatch.setenv("TOLD", str(tmp_path / "told"))
  return tmp_path


def of(place, size="runlocal"):
  return Ablation(place / "root", place / "results", size)


def told(place):
  """The commands that were started, in order."""
  text = (place / "told").read_text() if (place / "told").exists() else ""
  return [json.loads(line) for line in text.splitlines()]


def names(place):
  """MODULE of PLACE, of every command."""
  return [f"{x['module'].split('.')[-1]} {x['place']}" for x in told(place)]


STREAMS = ["train video", "train audio", "ablation video"]


def test_seeds_come_one_after_the_other_each_with_all_variants(place):
  assert run(of(place), ["gate", "ccl_paper"], [0, 1]) == 0
  first = ["convert gate-0", "train gate-0", "convert ccl-0", "train ccl-0"]
  tuning = ["ablation gate-0", "ablation ccl-0"]
  chain = lambda name: [f"{x} {name}" for x in ("convert", "train", "ablation")]
  assert names(place) == [
    *STREAMS,
    *first,  # that scales are tuned on, also of a variant that is not asked for
    *tuning,
    "ablation gate-0",
    *chain("ccl_paper-0"),
    *chain("gate-1"),
    *chain("ccl_paper-1"),
  ]
  made = {p.name for p in (place / "results").iterdir()}
  runs = {f"{v}-{s}.json" for v in ("gate", "ccl_paper") for s in (0, 1)}
  assert made == runs | {"scales.json", "ceiling.json"}


def test_what_is_there_is_not_made_again(place):
  run(of(place), ["gate"], [0])
  before = len(told(place))
  assert run(of(place), ["gate"], [0]) == 0
  assert len(told(place)) == before
  (place / "results" / "gate-0.json").unlink()
  assert run(of(place), ["gate"], [0]) == 0
  assert names(place)[before:] == ["ablation gate-0"]


def test_variants_of_a_seed_differ_in_their_settings_alone(place):
  """Same streams, new parameters, clips, order and noise: those are by the seed."""
  run(of(place), list(VARIANTS), [3])
  trained = {
    x["place"]: x["argv"] for x in told(place)
    if x["module"] == "ccl_jax.train" and x["place"].endswith("-3")
  }  # fmt: skip
  assert len(trained) == len(VARIANTS)
  for name, v in VARIANTS.items():
    own = f"{name}-3"
    settings = {f"--config.{k}={x}" for k, x in v.settings.items()}
    root, longer = place / "root", ",longer=4" * (v.longer == 4)
    assert set(trained[own]) - settings == {
      f"--config=configs/ablation.py:stage=joint{longer},size=runlocal",
      f"--workdir={root / 'joint' / own}",
      f"--config.data.root={root / 'data'}",
      f"--config.init={root / 'joined' / own}",
      "--config.seed=3",
    }
    assert settings <= set(trained[own])
  joined = {x["place"]: x["argv"] for x in told(place) if x["module"].endswith("rt")}
  parts = [f"--video={root / 'video'}", f"--audio={root / 'audio'}", "--size=tiny"]
  for own, argv in joined.items():
    assert [*argv[:4], argv[-2]] == ["join", *parts, f"--seed={own[-1]}"]
  assert "--video_tokens=32" in joined["context32-3"]
  assert "--audio_tokens=32" in joined["context32-3"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_reaches_the_children_and_the_same_command_goes_on(
  place, monkeypatch, number, capsys
):
  monkeypatch.setenv("SLOW", "gate-0")
  handler = signal.getsignal(number)  # a job in the background ignores Ctrl-C
  workdir = place / "root" / "joint" / "gate-0"

  def stop():
    while not (workdir / "ready").exists():
      time.sleep(0.01)
    os.kill(os.getpid(), number)

  threading.Thread(target=stop).start()
  assert run(of(place), ["gate"], [0]) == 128 + number
  assert "the same command goes on" in capsys.readouterr().err
  assert (workdir / "checkpoints" / "1").exists()  # it could save
  assert not (place / "results" / "gate-0.json").exists()
  assert signal.getsignal(number) == handler
  before = len(told(place))
  monkeypatch.setenv("SLOW", "?")
  assert run(of(place), ["gate"], [0]) == 0
  expected = ["train gate-0", "ablation gate-0", "ablation gate-0"]
  assert names(place)[before:] == expected


def test_a_run_that_fails_does_not_hinder_the_others(place, monkeypatch, capsys):
  run(of(place), ["gate"], [0])
  monkeypatch.setenv("BROKEN", "gate-1")
  assert run(of(place), ["gate"], [1, 2]) == 1
  error = capsys.readouterr().err
  assert "gate-1.join (exit code 1" in error and "as was asked for" in error
  assert (place / "results" / "gate-2.json").exists()
  log = place / "root" / "logs" / "gate-1.join.log"
  assert "first words" in log.read_text() and str(log) in error


def test_without_a_stream_there_is_no_run(place, monkeypatch):
  monkeypatch.setenv("BROKEN", "audio")
  with pytest.raises(UsageError, match="failed: audio .*as was asked for"):
    run(of(place), ["gate"], [0])
  assert names(place) == STREAMS[:2]


def test_runs_beside_each_other_share_the_cores(place):
  cores = sorted(os.sched_getaffinity(0))
  try:
    assert run(of(place), ["gate", "ccl"], [0], parallel=2, cores=cores) == 0
  finally:
    os.sched_setaffinity(0, cores)
  assert {p.stem for p in (place / "results").iterdir()} >= {"gate-0", "ccl-0"}
  held = {tuple(x["cores"]) for x in told(place)}
  assert held <= {tuple(cores[i::2]) or tuple(cores) for i in range(2)}


def test_one_process_a_root(place):
  busy = pytest.raises(UsageError, match="another process runs in .*root")
  with run_module._claimed(of(place)), busy:
    run(of(place), ["gate"], [0])
  run(of(place), ["gate"], [0])


@pytest.mark.parametrize(
  ("what", "words"), [("size", "runlocal, not cpu"), ("version", "1, not 2")]
)
def test_a_root_is_of_one_size_and_version(place, monkeypatch, what, words):
  run(of(place), ["gate"], [0])
  if what == "version":
    monkeypatch.setattr(run_module, "code_version", lambda: "2")
  with pytest.raises(UsageError, match=f"begun with {what} {words}: go on"):
    run(of(place, "cpu" if what == "size" else "runlocal"), ["ccl"], [0])


def flags(place, *more):
  return [
    "run", "--root", str(place / "root"), "--results", str(place / "results"),
    "--size", "runlocal", *more,
  ]  # fmt: skip


def test_the_command_line(place):
  more = ["--only", "gate,ccl", "--seeds", "1,2", "--parallel", "2", "--cores", "0"]
  with pytest.raises(SystemExit) as e:
    main(flags(place, *more))
  assert e.value.code == 0
  made = {p.stem for p in (place / "results").iterdir()}
  assert made == {"gate-1", "gate-2", "ccl-1", "ccl-2", "scales", "ceiling"}
  assert all(x["cores"] == [0] for x in told(place))
  assert "size=runlocal" in told(place)[0]["argv"][0]


def test_a_dry_run_prints_what_is_missing_and_does_nothing(place, capsys):
  with pytest.raises(SystemExit) as e:
    main(flags(place, "--only", "gate", "--seeds", "0", "--dry_run"))
  assert e.value.code == 0
  out = capsys.readouterr().out
  titles = [line[2:] for line in out.splitlines() if line.startswith("# ")]
  assert titles == [
    "video", "audio", "ceiling", "gate-0.join", "gate-0.train",
    "gate.scales", "gate-0.score",
  ]  # fmt: skip
  assert list(place.iterdir()) == []


@pytest.mark.parametrize(
  ("argv", "words"),
  [
    (["run", "--only", "gate,none"], "--only: got 'none'; expected some of gate, "),
    (["run", "--seeds", "1,x"], "--seeds: got '1,x'; expected whole numbers"),
    (["run", "--cores", "a"], "--cores: got 'a'"),
    (["run", "--parallel", "0"], "--parallel: got 0; expected 1 or more"),
    (["run", "--size", "huge"], "--size: got 'huge'; expected one of cpu, pilot, gpu"),
    (["score", "--workdir", "w", "--size", "cpu,longer=2"], "got 'cpu,longer=2'"),
    (["run", "--sizes", "cpu"], "unrecognized arguments: --sizes"),
    (["score"], "--workdir"),
    (["score", "--workdir", "none-0", "--results", "R"], "no scales|no known|expected"),
    ([], "COMMAND"),
  ],
)
def test_a_mistake_is_one_line(capsys, argv, words, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(SystemExit) as e:
    main(argv)
  error = capsys.readouterr().err
  assert e.value.code == 2 and error.count("\n") == 1
  assert any(w in error for w in words.split("|")), error
  assert list(pathlib.Path().iterdir()) == []
