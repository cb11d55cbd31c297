"""The command from end to end: all metrics, resuming, bad inputs, comparisons."""

import functools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse

import numpy as np
import pytest

from ccl_jax import eval as command
from ccl_jax.data.scenes.talking import draw_clip
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.metrics import clip as clips
from ccl_jax.metrics import runner, whisper
from ccl_jax.metrics.columns import ABOUT, COLUMNS
from ccl_jax.metrics.registry import Folders
from ccl_jax.viz.media import write_mp4
from tests.data.films import film, truncated
from tests.metrics.tiny_weights import write_clip, write_weights
from tests.metrics.whisper_files import write_whisper

ALL = "sync,desync,ib,aesthetics,wer,av_align,fad,fvd"
OUTPUTS = ("per_clip.jsonl", "summary.json", "report.md", "report.html")
LINES = [
  {"id": "a", "subset": "easy", "pair": "p", "prompt": 'says "good morning"'},
  {
    "id": "b",
    "subset": "hard",
    "pair": "p",
    "prompt": "",
    "transcript": "good morning",
  },
  {"id": "c", "subset": "hard", "prompt": "a stream"},
]


@pytest.fixture(scope="module", autouse=True)
def read_once():
  """Each network is read by the first run that wants it: there are many runs."""
  read, held = Folders.load, {}

  def load(self, network):
    key = network, self.find(network).resolve()
    if key not in held:
      held[key] = read(self, network)
    return held[key]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(Folders, "load", load)
    patch.setattr(whisper, "Transformers", functools.cache(whisper.Transformers))
    yield


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  """Three clips, their manifest, and weights of all networks."""
  path = tmp_path_factory.mktemp("eval")
  write_weights(path / "weights")
  (path / "videos").mkdir()
  for i, line in enumerate(LINES):
    # The least that DeSync and Sync-C are measured of.
    write_clip(path / "videos" / f"{line['id']}.mp4", i, 4.8, seen=2.2)
  write_lines(path / "set.jsonl", LINES)
  write_lines(path / "heard.jsonl", [{"id": x, "text": "good mourning"} for x in "abc"])
  return path


@pytest.fixture(scope="module")
def whole(home):
  """The folder of a run that nothing stopped."""
  write_whisper(home / "weights" / "whisper")
  assert run(home, "whole", "--metrics", ALL) == 0
  return home / "whole"


def write_lines(path, rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(home, out, *more):
  return command.main(
    ["--videos", str(home / "videos"), "--manifest", str(home / "set.jsonl"),
     "--weights", str(home / "weights"), "--out", str(home / out),
     "--fvd-frames", "9", *more]
  )  # fmt: skip


def copied(whole, out, lines=None, cut=0):
  """The folder of a run, or, given a number of records, as a kill leaves it: the last
  one cut short by so many bytes, and nothing of what a run writes at its end.
  """
  shutil.copytree(whole, out)
  if lines is not None:
    path = out / "records.jsonl"
    kept = b"".join(path.read_bytes().splitlines(True)[:lines])
    path.write_bytes(kept[: len(kept) - cut])
    for name in OUTPUTS:
      (out / name).unlink()
    for path in (out / "features").glob("*.npz"):
      path.unlink()
  return out


def records(folder, file="per_clip.jsonl"):
  return [json.loads(x) for x in (folder / file).read_text().split("\n") if x]


def summary(folder):
  return json.loads((folder / "summary.json").read_text())


@pytest.fixture
def decoded(monkeypatch):
  """Paths of the clips that are decoded."""
  seen, decode = [], clips.decode

  def counted(path, needs):
    seen.append(pathlib.Path(path).name)
    return decode(path, needs)

  monkeypatch.setattr(clips, "decode", counted)
  return seen


def test_every_metric_scores_every_clip(whole):
  rows = records(whole)
  assert len(rows) == 8 * 3 and all("scores" in row for row in rows)
  assert {row["video"] for row in rows if row["id"] == "a"} == {rows[0]["video"]}
  got = summary(whole)
  assert list(got["subsets"]) == ["easy", "hard"] and got["missing"] == []
  for key in ("cu", "pq", "sync_c", "sync_d", "desync", "ib", "av_align"):
    cell = got["overall"][key]
    assert (cell["n_scored"], cell["n_total"]) == (3, 3)
    assert got["subsets"]["easy"][key]["n_scored"] == 1
  by_id = {row["id"]: row["scores"] for row in rows if row["metric"] == "ib"}
  mean = np.mean([scores["ib_score"] for scores in by_id.values()])
  assert got["overall"]["ib"]["mean"] == pytest.approx(mean)
  apart = got["paired_subsets"]["hard - easy"]["ib"]
  expected = by_id["b"]["ib_score"] - by_id["a"]["ib_score"]
  assert apart == {"n": 1, "difference": pytest.approx(expected)}
  wer = {row["id"]: row["scores"] for row in rows if row["metric"] == "wer"}
  assert wer["a"]["reference"] == wer["b"]["reference"] == "good morning"
  assert wer["c"]["note"] == "nothing was to be said" and "wer" not in wer["c"]
  assert got["overall"]["wer"]["n_scored"] == 2
  weights = got["metrics"]["sync"]["protocol"]["weights"]
  assert {len(sha) for sha in weights.values()} == {64} and len(weights) == 2
  assert got["overall"]["fad"]["reason"].startswith("no features of real clips")
  page = (whole / "report.html").read_text()
  assert "<svg" in page and 'src="worst/a.mp4"' in page and "http" not in page
  assert (whole / "worst/a.mp4").stat().st_size > 1000
  table = (whole / "report.md").read_text().splitlines()[2]
  heads = [x.strip() for x in table.split("|")[2:-1]]
  assert heads == [
    "CU ↑", "PQ ↑", "WER ↓", "Sync-C ↑ easy", "Sync-D ↓ easy", "Sync-C ↑ hard",
    "Sync-D ↓ hard", "DeSync ↓ easy", "IB ↑ easy", "DeSync ↓ hard", "IB ↑ hard",
  ]  # fmt: skip
  assert ABOUT.keys() == COLUMNS.keys()
  assert page.count("<h2>") == page.count("<svg") and ABOUT["ib"] in page


def test_a_stopped_run_goes_on_to_the_same_bytes(home, whole, decoded):
  """All metrics, stopped within the last clip while a record was being written."""
  out = copied(whole, home / "again", lines=18, cut=30)
  before = (out / "records.jsonl").read_bytes().splitlines()[:17]
  assert run(home, "again", "--metrics", ALL) == 0
  assert decoded == ["c.mp4"]
  for name in OUTPUTS:
    assert (out / name).read_bytes() == (whole / name).read_bytes(), name
  logs = [(x / "records.jsonl").read_bytes().splitlines() for x in (out, whole)]
  assert logs[0] == logs[1] and logs[0][:17] == before and len(logs[0]) == 24


def test_a_stop_at_any_record_goes_on_to_the_same_bytes(home, whole, monkeypatch):
  """By the keyboard, before each record in turn, until the run is through."""
  metrics = ("--metrics", "aesthetics,wer,fad")
  assert run(home, "unstopped", *metrics) == 0
  add = runner.Records.add
  for stop in range(9):
    made = []

    def stopping(self, row, made=made):
      if made:
        raise KeyboardInterrupt
      made.append(row["id"])
      return add(self, row)

    monkeypatch.setattr(runner.Records, "add", stopping)
    if stop < 8:
      with pytest.raises(KeyboardInterrupt):
        run(home, "stopped", *metrics)
      assert len(records(home / "stopped", "records.jsonl")) == stop + 1
    else:
      assert run(home, "stopped", *metrics) == 0
  for name in OUTPUTS:
    one, two = ((home / x / name).read_bytes() for x in ("stopped", "unstopped"))
    assert one == two, name


def test_one_decoding_a_clip_and_none_the_second_time(home, whole, decoded, capsys):
  before = [(whole / name).read_bytes() for name in OUTPUTS]
  assert run(home, "whole", "--metrics", ALL) == 0
  assert decoded == [] and "scored 0 (clip, metric) pairs" in capsys.readouterr().out
  assert [(whole / name).read_bytes() for name in OUTPUTS] == before
  assert run(home, "few", "--metrics", "aesthetics,fad") == 0
  assert decoded == ["a.mp4", "b.mp4", "c.mp4"]


def test_a_protocol_is_part_of_the_key(home, whole, tmp_path):
  """Another setting scores again; the first one's records are kept, but no part of
  what the run says.
  """
  shutil.copytree(whole, tmp_path / "out")
  again = ("--out", str(tmp_path / "out"), "--metrics", "fad,fvd")
  assert run(home, "x", *again, "--fvd-frames", "10") == 0
  assert len(records(tmp_path / "out", "records.jsonl")) == 24 + 3
  assert len(records(tmp_path / "out")) == 6
  assert run(home, "x", *again, "--fvd-frames", "9") == 0
  assert len(records(tmp_path / "out", "records.jsonl")) == 24 + 3
  assert len(records(tmp_path / "out")) == 6


def test_distances_from_a_reference_run(home, whole):
  """A set is at no distance from itself."""
  copied(whole, home / "near")
  more = ("--metrics", "fad,fvd", "--reference", str(whole))
  assert run(home, "near", *more) == 0
  got = summary(home / "near")["overall"]
  assert list(got) == ["fad", "fvd"]  # in any process: the bytes depend on it
  assert 0 <= got["fad"]["mean"] < 1e-6 and 0 <= got["fvd"]["mean"] < 1e-6
  assert "fewer than two per dimension" in got["fvd"]["warnings"][0]
  with pytest.raises(UsageError, match=r"no fad or fvd\.npz"):
    run(home, "near", "--metrics", "fad,fvd", "--reference", str(home / "videos"))


def test_a_kill_at_any_moment_loses_nothing(home):
  """SIGKILL as soon as two records are there; the rest by a second run."""
  flags = [
    "--videos", str(home / "videos"), "--manifest", str(home / "set.jsonl"),
    "--transcripts", str(home / "heard.jsonl"), "--metrics", "wer,fad",
    "--weights", str(home / "weights"),
  ]  # fmt: skip
  killed = home / "killed" / "records.jsonl"
  process = subprocess.Popen(
    [sys.executable, "-m", "ccl_jax.eval", *flags, "--out", str(killed.parent)],
    cwd=pathlib.Path(__file__).parents[2],
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  deadline = time.monotonic() + 60
  while not (killed.exists() and killed.read_bytes().count(b"\n") >= 2):
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert not (killed.parent / "summary.json").exists()
  assert command.main([*flags, "--out", str(killed.parent)]) == 0
  assert command.main([*flags, "--out", str(home / "unkilled")]) == 0
  for name in OUTPUTS:
    one, two = ((home / x / name).read_bytes() for x in ("killed", "unkilled"))
    assert one == two
  assert len(records(killed.parent)) == 6


def test_bad_clips_are_reasons_and_never_zeros(home, tmp_path, capsys):
  videos = tmp_path / "videos"
  videos.mkdir()
  (tmp_path / "weights").mkdir()
  (tmp_path / "weights/i3d.safetensors").write_bytes(b"no tensors")
  for name in ("aesthetics", *(f"{x}.safetensors" for x in ("s3fd", "syncnet",
               "imagebind"))):  # fmt: skip
    (tmp_path / "weights" / name).symlink_to(home / "weights" / name)
  film(videos / "dark.mp4", size=(160, 160), seconds=3.0, event=0.0)
  film(videos / "one.mp4", seconds=0.04, event=0.0)
  film(videos / "silent.mp4", sound=None)
  truncated(videos / "dark.mp4", videos / "torn.mp4")
  (videos / "text.mp4").write_text("no film")
  code = command.main(
    ["--videos", str(videos), "--weights", str(tmp_path / "weights"),
     "--out", str(tmp_path / "out"),
     "--metrics", "sync,desync,ib,aesthetics,av_align,fvd"]
  )  # fmt: skip
  assert code == 1
  reasons = {
    (row["metric"], row["id"]): row["reason"]
    for row in records(tmp_path / "out")
    if "reason" in row
  }
  expected = {
    ("sync", "dark"): "the longest track has 1",
    ("sync", "one"): "too short: 1 frames",
    ("ib", "one"): "expected at least 2 s",
    ("av_align", "one"): "1 frames have no motion",
    ("sync", "silent"): "no audio track",
    ("aesthetics", "silent"): "no audio track",
    ("ib", "torn"): "cannot be decoded",
    ("aesthetics", "text"): "cannot be decoded",
  }
  for key, reason in expected.items():
    assert reason in reasons[key], (key, reasons[key])
  got = summary(tmp_path / "out")
  assert got["metrics"]["desync"]["skipped"].startswith("missing weights of synchform")
  assert "i3d" in got["metrics"]["fvd"]["skipped"]
  assert got["overall"]["sync_c"] == {"n_scored": 0, "n_total": 5}
  assert got["overall"]["desync"] == {"n_scored": 0, "n_total": 5}
  assert got["overall"]["cu"]["n_scored"] == 2
  out = capsys.readouterr()
  assert str(tmp_path / "videos") not in out.err
  silent = [x for x in out.err.splitlines() if "no audio track" in x]
  expected = "sync, ib, aesthetics, av_align: 1 not scored, no audio track (silent)"
  assert silent == [expected]
  assert "–" in out.out and "desync: skipped, missing weights" in out.err
  assert "1.048" not in out.err and "fvd: no distance" not in out.err
  assert "exit code 1: desync, fvd could not run" in out.err


def test_weights_that_are_no_release(home, tmp_path, capsys):
  (tmp_path / "vggish/checkpoints").mkdir(parents=True)
  for name in ("i3d.pt", "i3d_pretrained_400.pt"):
    (tmp_path / name).touch()
  more = ("--metrics", "fad,fvd,ib", "--weights", str(tmp_path))
  assert run(home, "unreleased", *more) == 1
  said = capsys.readouterr().err
  assert "vggish is what ccl_jax.convert made of vggish; expected its release" in said
  assert "missing weights of imagebind: not in" in said


def test_a_defect_is_told_and_tried_again(home, monkeypatch, capsys):
  from ccl_jax.metrics import fad

  def broken(*args):
    raise MemoryError("no room")

  with monkeypatch.context() as m:
    m.setattr(fad, "features", broken)
    assert run(home, "defect", "--metrics", "fad") == 1
  said = capsys.readouterr().err
  assert "fad: 3 failed by accident, MemoryError: no room (a, b, c)" in said
  assert said.count("Traceback") == 1  # of the kind, not of every clip
  assert summary(home / "defect")["overall"]["fad"]["n_scored"] == 0
  assert run(home, "defect", "--metrics", "fad") == 0
  assert summary(home / "defect")["overall"]["fad"]["n_scored"] == 3


def test_missing_videos(home, tmp_path, capsys):
  write_lines(tmp_path / "set.jsonl", [*LINES, {"id": "gone", "prompt": "x"}])
  write_lines(
    tmp_path / "heard.jsonl",
    [{"id": x, "text": "good morning"} for x in ("a", "b", "c")],
  )
  flags = [
    "--videos", str(home / "videos"), "--manifest", str(tmp_path / "set.jsonl"),
    "--transcripts", str(tmp_path / "heard.jsonl"), "--metrics", "wer",
    "--out", str(tmp_path / "out"),
  ]  # fmt: skip
  assert command.main(flags) == 1
  said = capsys.readouterr().err
  assert "missing videos: 1 of 4 (gone)" in said
  assert "exit code 1: 1 videos are missing (--allow-missing takes that)" in said
  assert command.main([*flags, "--allow-missing"]) == 0
  got = summary(tmp_path / "out")
  assert got["missing"] == ["gone"] and got["n_total"] == 4
  assert got["overall"]["wer"]["mean"] == 0  # all words are right: a zero that is one
  assert got["overall"]["wer"]["n_scored"] == 2


def test_two_runs_side_by_side(home, whole, tmp_path, capsys):
  heard = ("--metrics", "wer", "--transcripts")
  for name, text in (("right", "good morning"), ("wrong", "good evening dear")):
    rows = [{"id": x, "text": text if x != "c" else ""} for x in "abc"]
    write_lines(tmp_path / f"{name}.jsonl", rows)
    out = ("--out", str(tmp_path / name))
    assert run(home, "x", *heard, str(tmp_path / f"{name}.jsonl"), *out) == 0
  capsys.readouterr()
  assert (
    command.main(["--compare", str(tmp_path / "right"), str(tmp_path / "wrong")]) == 0
  )
  out = capsys.readouterr().out
  row = next(x for x in out.splitlines() if x.startswith("| WER ↓"))
  cells = [x.strip() for x in row.split("|")[1:-1]]
  assert cells == ["WER ↓", "0.000", "1.000", "1.000", "[1.000, 1.000]", "2"]
  assert command.main(["--compare", str(whole), str(tmp_path / "wrong")]) == 0
  out = capsys.readouterr().out
  assert "wrong - whole" in out
  assert out.splitlines()[-1] == "Not comparable, for their protocols or weights " + (
    "differ: wer"
  )
  with pytest.raises(UsageError, match=r"no finished run of ccl_jax\.eval"):
    command.main(["--compare", str(whole), str(home / "videos")])


def test_a_folder_used_again_compares_by_its_last_run(home, tmp_path, capsys):
  """Neither clips that the manifest has no more nor what was heard before count."""
  for name, lines, texts in (
    ("good", LINES, ("good morning",) * 2),
    ("used", LINES, ("good morning",) * 2),
    ("used", LINES, ("good evening dear", "no")),
    ("used", LINES[:1], ("good morning", "no")),
  ):
    write_lines(tmp_path / "set.jsonl", lines)
    heard = [{"id": x, "text": text} for x, text in zip("abc", (*texts, ""))]
    write_lines(tmp_path / "heard.jsonl", heard)
    flags = [
      "--videos", str(home / "videos"), "--manifest", str(tmp_path / "set.jsonl"),
      "--transcripts", str(tmp_path / "heard.jsonl"), "--metrics", "wer",
      "--out", str(tmp_path / name),
    ]  # fmt: skip
    assert command.main(flags) == 0
  assert len(records(tmp_path / "used")) == 1
  capsys.readouterr()
  command.main(["--compare", str(tmp_path / "good"), str(tmp_path / "used")])
  row = next(x for x in capsys.readouterr().out.splitlines() if "WER ↓" in x)
  cells = [x.strip() for x in row.split("|")[1:-1]]
  assert cells == ["WER ↓", "0.000", "0.000", "0.000", "–", "1"]


def test_a_comparison_has_subsets_and_what_only_one_run_has(home, whole, capsys):
  copied(whole, home / "motion")
  assert run(home, "motion", "--metrics", "av_align") == 0
  capsys.readouterr()
  assert command.main(["--compare", str(whole), str(home / "motion")]) == 0
  lines = capsys.readouterr().out.splitlines()
  rows = [[x.strip() for x in line.split("|")[1:-1]] for line in lines[2:]]
  by_label = {row[0]: row for row in rows}
  assert by_label["AV-Align ↑"][3:] == ["0.000", "[0.000, 0.000]", "3"]
  assert by_label["AV-Align ↑ easy"][3:] == ["0.000", "–", "1"]
  assert by_label["AV-Align ↑ hard"][5] == "2"
  assert by_label["PQ ↑"][2:] == ["–", "–", "–", "0"] and by_label["PQ ↑"][1] != "–"
  assert "PQ ↑ easy" not in by_label


def test_clips_without_a_subset_are_in_the_table(home, whole, tmp_path, capsys):
  loose = [
    {k: v for k, v in x.items() if k != "subset" or x["id"] == "a"} for x in LINES
  ]
  write_lines(tmp_path / "set.jsonl", loose)
  copied(whole, home / "loose")
  more = ("--metrics", "av_align", "--manifest", str(tmp_path / "set.jsonl"))
  assert run(home, "loose", *more) == 0
  rows = [x for x in capsys.readouterr().out.splitlines() if x.startswith("|")]
  cells = [[x.strip() for x in row.split("|")[1:-1]] for row in rows]
  assert cells[0][1:] == ["all", "easy"] and cells[2][0] == "AV-Align ↑"
  assert cells[2][1].endswith("] (3/3)") and cells[2][2].endswith(" (1/1)")


def test_talking_scenes_and_films(tmp_path):
  """Two scenes as they are, one with the other's sound, and a film without any."""
  (tmp_path / "videos").mkdir()
  spec = ClipSpec(65, 64, 64, 25)
  scenes = [draw_clip(i, spec, talker=1.0, duet=0.0, impacts=0.0) for i in (2, 5)]
  pairs = {"own": (0, 0), "other": (0, 1), "alone": (1, None)}
  rows = []
  for name, (i, j) in pairs.items():
    sound = None if j is None else scenes[j]["audio"]
    write_mp4(tmp_path / f"videos/{name}.mp4", scenes[i]["video"], 25, sound)
    rows.append({"id": name, "prompt": scenes[i]["text"]})
  write_lines(tmp_path / "set.jsonl", [*rows, {"id": "own2", "prompt": "a cat",
    "clip": "own.mp4"}])  # fmt: skip
  flags = ["--videos", tmp_path / "videos", "--manifest", tmp_path / "set.jsonl",
           "--out", tmp_path / "out", "--metrics", "talking,film"]  # fmt: skip
  assert command.main([str(x) for x in flags]) == 0
  got = {(r["metric"], r["id"]): r for r in records(tmp_path / "out")}
  own, other = (got["talking", x]["scores"] for x in ("own", "other"))
  assert own["sync_r0"] > 0.7 > other["sync_r0"] and own["ser"] < 0.5 < other["ser"]
  assert own["place_error"] < 0.05 and own["hue_error"] == 0
  assert got["talking", "alone"]["reason"] == "no audio track"
  assert "no caption of a talking scene" in got["talking", "own2"]["reason"]
  film = {x: got["film", x]["scores"] for x in ("own", "own2", "other")}
  assert film["own"] == film["own2"] and film["own"]["sync_r0"] > 0.2
  cell = summary(tmp_path / "out")["overall"]["talking_r"]
  assert (cell["n_scored"], cell["n_total"]) == (2, 4)


def test_separators_and_marks_of_other_editors(home, tmp_path):
  """U+2028 and U+0085 part no lines of JSON, and a file may begin with a BOM."""
  line = {"id": "a", "prompt": 'says\u2028"good\x85morning"'}
  row = {"id": "a", "text": "good\u2028morning"}
  for name, x in (("set", line), ("heard", row)):
    text = json.dumps(x, ensure_ascii=False) + "\n"
    (tmp_path / f"{name}.jsonl").write_text(text, "utf-8-sig")
  flags = [
    "--videos", str(home / "videos"), "--manifest", str(tmp_path / "set.jsonl"),
    "--transcripts", str(tmp_path / "heard.jsonl"), "--metrics", "wer",
    "--out", str(tmp_path / "out"),
  ]  # fmt: skip
  for _ in range(2):
    assert command.main(flags) == 0
    assert summary(tmp_path / "out")["overall"]["wer"]["mean"] == 0
  assert command.main(["--compare", *2 * [str(tmp_path / "out")]]) == 0


def test_names_that_are_no_addresses(home, tmp_path):
  (tmp_path / "videos").mkdir()
  shutil.copy(home / "videos/a.mp4", tmp_path / "videos/a #1 50% | é.mp4")
  out = tmp_path / "out"
  flags = ["--videos", str(tmp_path / "videos"), "--out", str(out), "--name", "x | y"]
  assert command.main([*flags, "--metrics", "av_align"]) == 0
  source = (out / "report.html").read_text("utf-8").split('src="')[1].split('"')[0]
  assert (out / urllib.parse.unquote(source)).is_file()
  assert "#" not in source and "%20%231%2050%25" in source
  rows = (out / "report.md").read_text("utf-8").splitlines()[2:6]
  assert len({row.replace("\\|", "").count("|") for row in rows}) == 1


MISTAKES = [
  ('{"id": "a", "prompt": "x"}\nnot json', r"line 2 is not JSON"),
  ('{"id": "a"}', r"line 1: no 'prompt'"),
  (2 * '{"id": "a", "prompt": "x"}\n\n', r"line 3: id 'a' is that of line 1"),
  ('{"id": "../a", "prompt": "x"}', r"line 1: id '\.\./a' is no name of a file"),
  ('{"id": "a", "prompt": "x", "seed": "1"}', r"line 1: seed is '1'; expected int"),
  ('["a"]', r"line 1: expected an object"),
  ("", "has no lines"),
]  # fmt: skip


@pytest.mark.parametrize("text,message", MISTAKES)
def test_broken_manifests(home, tmp_path, text, message):
  (tmp_path / "set.jsonl").write_text(text)
  with pytest.raises(UsageError, match=message):
    run(home, "x", "--manifest", str(tmp_path / "set.jsonl"))


def test_a_mistake_exits_with_2(home, tmp_path):
  (tmp_path / "set.jsonl").write_text("{")
  done = subprocess.run(
    [sys.executable, "-m", "ccl_jax.eval", "--videos", str(home / "videos"),
     "--manifest", str(tmp_path / "set.jsonl"), "--out", str(tmp_path / "out")],
    cwd=pathlib.Path(__file__).parents[2], capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 2 and "set.jsonl, line 1" in done.stderr
  assert len(done.stderr.strip().splitlines()) == 1


def test_other_mistakes(home):
  with pytest.raises(UsageError, match="unknown metric 'dance'"):
    run(home, "x", "--metrics", "dance")
  with pytest.raises(UsageError, match="no folder"):
    run(home, "x", "--videos", str(home / "none"))
  with pytest.raises(UsageError, match="scale is 2"):
    run(home, "x", "--metrics", "sync", "--sync-scale", "2")
  with pytest.raises(UsageError, match=r"set\.jsonl is a file"):
    run(home, "set.jsonl", "--metrics", "av_align")


def test_a_damaged_record_is_named(home):
  heard = ("--metrics", " wer, wer", "--transcripts", str(home / "heard.jsonl"))
  assert run(home, "damaged", *heard) == 0
  path = home / "damaged/records.jsonl"
  lines = path.read_text().splitlines(True)
  path.write_text(lines[0] + lines[1][:20] + "\n" + lines[2])
  with pytest.raises(UsageError, match=r"records\.jsonl, line 2: no record"):
    run(home, "damaged", *heard)
  path.write_text(lines[0] + lines[2])
  assert run(home, "damaged", *heard) == 0
