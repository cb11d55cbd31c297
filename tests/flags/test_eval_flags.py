"""What `eval` does with each of its flags; no metric is computed here."""

import json
from types import SimpleNamespace

import pytest

from ccl_jax.errors import UsageError
from ccl_jax.metrics import outputs, prompts, records, runner
from ccl_jax.metrics import registry as scoring
from tests.flags.command import module_of
from tests.flags.recording import Recorder

LINES = [
  {"id": "a", "prompt": "one", "subset": "easy", "seed": 3},
  {"id": "b", "prompt": "two", "clip": "other.mp4", "transcript": "hello"},
  {"id": "c", "prompt": "three"},
]


@pytest.fixture
def told(monkeypatch, tmp_path):
  """What scoring is told; `main(*flags)` scores the films of `tmp_path/videos`."""
  r, command = Recorder(monkeypatch), module_of("eval")
  (tmp_path / "videos").mkdir()
  for name in ("a", "other", "c", "stray"):
    (tmp_path / f"videos/{name}.mp4").touch()
  text = "".join(json.dumps(line) + "\n" for line in LINES)
  (tmp_path / "set.jsonl").write_text(text)
  r.results = SimpleNamespace(scored=5, decoded=2, broken={}, accidents=[])
  r.skipped = {}
  r.replace(command, "build_metrics", lambda *_: ("metrics", r.skipped))
  r.replace(runner, "evaluate", lambda *_: r.results)
  r.replace(records, "Records", lambda folder: f"records of {folder}")
  r.replace(outputs, "read_reference", "reference")
  r.replace(outputs, "write_outputs", "summary")
  monkeypatch.setattr("ccl_jax.metrics.tables.all_table", lambda _: "TABLE")
  monkeypatch.setattr("ccl_jax.metrics.tables.notes", lambda _: [])
  places = ["--videos", str(tmp_path / "videos"), "--out", str(tmp_path / "out")]
  r.main = lambda *argv: command.main([*places, *map(str, argv)])
  return r


def items(told):
  """{name: item} of what is scored."""
  return {item.name: item for item in told.told("evaluate", 0)}


def test_without_a_manifest_every_film_of_the_folder(told, tmp_path):
  """--videos and --out; all metrics, by the defaults of the paper's protocols."""
  assert told.main() == 0
  assert list(items(told)) == ["a", "c", "other", "stray"]
  assert items(told)["a"].path == tmp_path / "videos/a.mp4"
  assert told.told("evaluate", 2) == f"records of {tmp_path / 'out'}"
  names, weights, options = told.last("build_metrics").args
  assert names == list(scoring.BUILDERS) and weights == []
  assert options == scoring.Options(0.25, 50, 100, "transformers", None, None)
  written = told.last("write_outputs").args
  assert written[0] == tmp_path / "out" and written[2] == []
  assert written[3:] == ("metrics", {}, told.results, "reference", "videos")
  assert told.last("read_reference").args == (None, ["fad", "fvd"])


def test_without_a_manifest_a_film_has_the_prompt_of_its_settings(told, tmp_path):
  """Those that `generate` writes beside it; what is none of these says nothing."""
  for name, text in (
    ("a", json.dumps({"task": "joint", "prompt": 'a dog says "I see"', "seed": 3})),
    ("c", json.dumps({"prompt": "他说“你好”"})),
    ("other", '{"prompt": ["one", "two"]}'),
    ("stray", '["no settings'),
  ):
    (tmp_path / f"videos/{name}.json").write_text(text, "utf-8")
  assert told.main() == 0
  found = {name: item.fields for name, item in items(told).items()}
  found = {
    n: (f["prompt"], f["language"], f.get("transcript")) for n, f in found.items()
  }
  assert found == {
    "a": ('a dog says "I see"', "en", None),
    "c": ("他说“你好”", "zh", None),
    "other": ("", "en", None),
    "stray": ("", "en", None),
  }


def test_films_by_any_spelling_and_what_is_no_mp4(told, tmp_path, capsys):
  """What is not scored is named; the others of the folder are no media."""
  videos = tmp_path / "videos"
  for name in ("B.MP4", "d.mov", "e.wav", "a.json", ".hidden.mp4"):
    (videos / name).touch()
  (videos / "below").mkdir()
  (videos / "below/f.mp4").touch()
  assert told.main() == 0
  assert list(items(told)) == ["B", "a", "c", "other", "stray"]
  assert items(told)["B"].path == videos / "B.MP4"
  note = "has 2 media files that are no mp4, such as d.mov, which are not scored"
  assert note in capsys.readouterr().err
  (videos / "a.MP4").touch()
  with pytest.raises(UsageError, match="a.MP4 and .*a.mp4 are both a: rename one"):
    told.main()


def test_options_of_the_metrics(told, tmp_path):
  """Each of its own: none is another's."""
  (tmp_path / "heard.jsonl").write_text('{"id": "a", "text": "so"}\n')
  told.main(
    "--metrics", "fvd, wer,fvd", "--weights", "W", "whisper=X", "--sync-scale", "0.5",
    "--min-track", "7", "--min-face-size", "33", "--recogniser", "faster-whisper",
    "--fvd-frames", "9", "--transcripts", tmp_path / "heard.jsonl", "--name", "mine",
    "--reference", tmp_path / "videos",
  )  # fmt: skip
  names, weights, options = told.last("build_metrics").args
  assert (names, weights) == (["fvd", "wer"], ["W", "whisper=X"])
  expected = scoring.Options(0.5, 7, 33, "faster-whisper", {"a": "so"}, 9)
  assert options == expected
  assert told.last("read_reference").args == (str(tmp_path / "videos"), ["fvd"])
  assert told.last("write_outputs").args[-1] == "mine"
  assert items(told)["a"].fields["hypothesis"] == "so"
  assert items(told)["c"].fields["hypothesis"] is None


def test_each_option_is_part_of_its_metrics_protocol(tmp_path, monkeypatch):
  """--sync-scale, --min-track, --min-face-size of sync; --fvd-frames of fvd."""
  monkeypatch.setattr(scoring.Folders, "protocol", lambda *_: {})
  monkeypatch.setattr(scoring, "need", lambda *_: None)
  options = scoring.Options(0.5, 7, 33, "transformers", None, 9)
  about = lambda name, options: (
    scoring.BUILDERS[name](scoring.Folders([tmp_path]), options).protocol
  )
  sync = about("sync", options)
  assert (sync["scale"], sync["min_track"], sync["min_face_size"]) == (0.5, 7, 33)
  assert about("fvd", options)["frames"] == 9
  assert about("fvd", scoring.Options())["frames"] == "all"


def test_a_manifest_names_the_clips(told, tmp_path, capsys):
  """--manifest: only its lines, with their fields; a file may have another name."""
  assert told.main("--manifest", tmp_path / "set.jsonl") == 0
  found = items(told)
  assert list(found) == ["a", "b", "c"]
  assert found["b"].path == tmp_path / "videos/other.mp4"
  assert found["b"].fields["transcript"] == "hello"
  assert found["a"].fields["subset"] == "easy" and "transcript" not in found["a"].fields
  assert "hypothesis" not in found["a"].fields
  assert "scored 5 (clip, metric) pairs, decoded 2" in capsys.readouterr().out


def test_what_is_missing_or_fails_is_exit_1(told, tmp_path, capsys):
  """--allow-missing takes missing clips, and nothing else."""
  (tmp_path / "videos/other.mp4").unlink()
  manifest = ("--manifest", tmp_path / "set.jsonl")
  assert told.main(*manifest) == 1
  assert list(items(told)) == ["a", "c"]
  assert told.last("write_outputs").args[2] == ["b"]
  assert "exit code 1: 1 videos are missing" in capsys.readouterr().err
  assert told.main(*manifest, "--allow-missing") == 0
  told.skipped = {"ib": "no weights"}
  assert told.main(*manifest, "--allow-missing") == 1
  told.skipped, told.results.broken = {}, {"wer": "no memory"}
  assert told.main() == 1
  told.results.broken, told.results.accidents = {}, ["fad of a"]
  assert told.main() == 1
  assert "1 scores failed by accident" in capsys.readouterr().err


def test_compare_is_of_two_runs_in_their_order(monkeypatch, capsys):
  r = Recorder(monkeypatch)
  r.replace(outputs, "compare", "both")
  r.replace(outputs, "comparison_text", "A against B")
  assert module_of("eval").main(["--compare", "A", "B"]) == 0
  assert r.last("compare").args == ("A", "B", [])
  assert r.last("comparison_text").args == ("both",)
  assert capsys.readouterr().out == "A against B\n"


def test_names_of_a_comparison_and_flags_that_do_nothing(monkeypatch):
  r = Recorder(monkeypatch)
  r.replace(outputs, "compare", "both")
  r.replace(outputs, "comparison_text", "")
  main = lambda *more: module_of("eval").main(["--compare", "A", "B", *more])
  assert main("--name", "ours,theirs") == 0
  assert r.last("compare").args == ("A", "B", ["ours", "theirs"])
  for argv, words in (
    (["--name", "ours"], "--name: got ours; expected two names"),
    (["--name", "a,a"], "expected two names"),
    (["--videos", "x"], "--videos does nothing with --compare"),
    (["--fvd-frames", "9"], "--fvd-frames does nothing with --compare"),
  ):
    with pytest.raises(UsageError, match=words):
      main(*argv)


def test_mistakes(told, tmp_path):
  (tmp_path / "none.jsonl").touch()
  for argv, words in (
    (["--fvd-frames", "0"], "--fvd-frames is 0"),
    (["--videos", tmp_path / "none"], "no folder"),
    (["--videos", tmp_path], "no mp4 in"),
    (["--sync-scale", "0"], "--sync-scale is 0.0; expected above 0, to 4"),
    (["--sync-scale", "1e300"], "--sync-scale is 1e.300"),
    (["--transcripts", tmp_path / "none.jsonl"], "none.jsonl has no lines"),
    (["--reference", tmp_path / "none"], "--reference: no folder .*none"),
  ):
    with pytest.raises(UsageError, match=words):
      told.main(*argv)
  assert told.main("--fvd-frames", "1") == 0
  for argv in (["--out", "x"], ["--videos", str(tmp_path)]):
    with pytest.raises(UsageError, match="is missing; see --help"):
      module_of("eval").main(argv)
  with pytest.raises(SystemExit):
    told.main("--recogniser", "siri")


def test_prompts_become_a_manifest(tmp_path, capsys):
  """--prompts, --format and --out: images are then relative to the manifest."""
  main = module_of("eval").main
  source, target = tmp_path / "in/prompts.csv", tmp_path / "set.jsonl"
  source.parent.mkdir()
  source.write_text('prompt,image\n"A man says, ""so it is""",p/a.png\na dog,\n')
  given = ["--prompts", str(source), "--out", str(target)]
  assert main(["make-manifest", *given]) == 0
  rows = [json.loads(line) for line in target.read_text().splitlines()]
  assert [row["prompt"] for row in rows] == ['A man says, "so it is"', "a dog"]
  assert rows[0]["image"] == "in/p/a.png" and not rows[1].get("image")
  assert "2 prompts, 1 with speech" in capsys.readouterr().out
  for argv in (given[:2], given[2:], [*given, "--format", "xml"]):
    with pytest.raises(SystemExit):
      main(["make-manifest", *argv])


def test_the_format_of_prompts_is_the_named_one(monkeypatch, tmp_path):
  r = Recorder(monkeypatch)
  r.replace(prompts, "read_prompts", ([], 0))
  r.replace(module_of("eval"), "write_manifest")
  given = ["make-manifest", "--prompts", "P", "--out", str(tmp_path / "o.jsonl")]
  for name in ("auto", *prompts.FORMATS):
    assert module_of("eval").main([*given, "--format", name]) == 0
    assert r.last("read_prompts").args == ("P", name)
  module_of("eval").main(given)
  assert r.last("read_prompts").args == ("P", "auto")
  assert r.last("write_manifest").args == (str(tmp_path / "o.jsonl"), [])
