"""What a stored result holds, of a run whose samples are known clips."""

import json
import types

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from ccl_jax.ablation import score as module
from ccl_jax.ablation.__main__ import main
from ccl_jax.ablation.results import check, code_version, read
from ccl_jax.ablation.score import Run, difference_std, losses, worth
from ccl_jax.ablation.variants import (
  BEST,
  FULL,
  MAIN,
  QUESTIONS,
  ROWS,
  TASKS,
  VARIANTS,
  chosen,
  forms,
)
from ccl_jax.data.scenes.bench import draw_bench
from ccl_jax.data.spec import ClipSpec
from ccl_jax.diffusion.guidance import GUIDANCE, get_guidance
from ccl_jax.errors import UsageError
from ccl_jax.models.presets import build_model, init_params

SPEC = ClipSpec(frames=33, height=32, width=32, fps=25.0)
ROWS_OF_LOG = [
  {"step": 0, "loss": 3.0, "loss/joint/video": 1.5, "step_seconds": 2.0},
  {"step": 10, "loss": 2.0, "step_seconds": 0.5, "loss/joint/video": 1.0},
  {"step": 11, "held_out/joint/video": 9.0},
  {"step": 20, "loss": 1.5, "step_seconds": 0.5},
  {"step": 30, "loss": 1.75, "loss/joint/video": 0.75, "step_seconds": 0.5},
  {"step": 40, "loss": 1.5, "loss/joint/video": 0.5, "step_seconds": 0.5},
]


@pytest.fixture(scope="module")
def clips():
  options = {"kinds": ("plain", "two_faces"), "jitter": 0.0, "shapes": 0.0}
  return [draw_bench(i, SPEC, "test", **options) for i in range(6)]


@pytest.fixture
def run(clips, monkeypatch):
  """A run that samples the right clips with scales of 2, and others' sounds else."""
  config = ConfigDict(
    {
      "seed": 7, "steps": 41, "report": {"clips": 4, "steps": 2},
      "model": {"variant": "gate", "preset": "tiny", "window": None},
    }
  )  # fmt: skip
  pipeline = types.SimpleNamespace(
    params={"a": np.zeros((2, 3)), "b": np.zeros(4)}, spec=SPEC, model=None
  )
  run = Run("gate-7", config, pipeline, clips, clips[:3], ROWS_OF_LOG)
  asked = []

  def sample(run, form, scales, task, clips):
    asked.append((form, task, len(clips)))
    if set(scales["video"].values()) == {2.0}:
      return clips
    sounds = [c["audio"] for c in (*clips[1:], clips[0])]
    return [{**c, "audio": a} for c, a in zip(clips, sounds)]

  monkeypatch.setattr(module, "open_run", lambda workdir: run)
  monkeypatch.setattr(module, "sample", sample)
  monkeypatch.setattr(module, "encoded", lambda run: ({}, None))
  monkeypatch.setattr(module, "_cosines", lambda *_: {"blocks joint/joint": 0.5})
  monkeypatch.setattr(module, "_attention", lambda *_: None)
  monkeypatch.setattr(module, "network_velocity", lambda model, task: task)
  told = lambda velocity, *_: {"video": {0.3: {"share": 0.012345678, "n": 6}}}
  monkeypatch.setattr(module, "information", told)
  run.pipeline.asked = asked
  return run


def scored(what, tmp_path, name="gate-7"):
  with pytest.raises(SystemExit) as e:
    main([
      "score", "--what", what, "--workdir", str(tmp_path / name), "--results",
      str(tmp_path / "results"), "--size", "runlocal",
    ])  # fmt: skip
  return e.value.code


def test_a_result(run, tmp_path, monkeypatch):
  scales = {form: {"scales": tuned(form, 2.0)} for form in ROWS["gate"]}
  (tmp_path / "results").mkdir()
  (tmp_path / "results" / "scales.json").write_text(json.dumps({"gate": scales}))
  assert scored("run", tmp_path) == 0
  (got,) = read(tmp_path / "results")
  assert got == check(got, "it")
  assert (got["variant"], got["seed"], got["size"]) == ("gate", 7, "runlocal")
  assert got["version"] == code_version() and got["parameters"] == 10
  assert got["model"] == {"variant": "gate", "preset": "tiny"} and got["steps"] == 41
  assert got["seconds"]["train"] == 1 * 2.0 + 10 * 0.5 + 9 * 0.5 + 10 * 0.5 + 10 * 0.5
  assert got["guidance"].keys() == set(ROWS["gate"])
  for form, by_task in got["guidance"].items():
    assert list(by_task) == list(TASKS if form in BEST["gate"] else TASKS[:1])
    assert by_task["joint"]["scales"] == tuned(form, 2.0)
  entry = got["guidance"]["text"]["joint"]
  assert entry["scores"]["sync_r0"]["mean"] > 0.7 > entry["chance"]["sync_r0"]["mean"]
  assert entry["scores"]["ser"]["mean"] < 0.3 and entry["scores"]["sync_r0"]["n"] == 4
  assert entry["kinds"].keys() == {"plain", "two_faces"}
  assert "ser" not in got["guidance"]["text"]["a2v"]["scores"]  # the sound was given
  assert got["information"]["a2v"] == {"video": {"0.3": {"share": 0.012346, "n": 6}}}
  assert got["attention"] is None
  # Four clips each, all tasks with two forms, and joint with the others.
  assert {n for _, _, n in run.pipeline.asked} == {4}
  assert len(run.pipeline.asked) == 2 * 3 + 4


def tuned(form, value):
  names = GUIDANCE[form].scales
  return {s: dict.fromkeys(names, value) for s in ("video", "audio")}


def test_scales_are_those_that_are_best_on_the_validation_clips(run, tmp_path):
  assert scored("scales", tmp_path) == 0
  kinds = json.loads((tmp_path / "results" / "scales.json").read_text())
  assert kinds.keys() == {"gate"} and kinds["gate"]["run"] == "gate-7"
  for form in ROWS["gate"]:
    assert kinds["gate"][form]["scales"] == tuned(form, 2.0)
    grid = kinds["gate"][form]["grid"]
    assert len(grid) == (5 if len(GUIDANCE[form].scales) == 1 else 9)
    assert (
      max(grid, key=lambda row: row["worth"])["scales"] == tuned(form, 2.0)["video"]
    )
  assert {(task, n) for _, task, n in run.pipeline.asked} == {("joint", 3)}
  # What was found before a stop is not looked for again.
  kept = tmp_path / "gate-7" / "scales.json"
  found = json.loads(kept.read_text())
  del found["text"]
  kept.write_text(json.dumps(found))
  run.pipeline.asked.clear()
  assert scored("scales", tmp_path) == 0
  assert run.pipeline.asked == [("text", "joint", 3)] * 5


def test_real_clips_are_the_ceiling(run, tmp_path, monkeypatch):
  silent = lambda pipeline, clips: [{**c, "audio": 0 * c["audio"]} for c in clips]
  monkeypatch.setattr(module, "through_codecs", silent)
  assert scored("ceiling", tmp_path) == 0
  got = json.loads((tmp_path / "results" / "ceiling.json").read_text())
  mean = lambda name: got[name]["sync_r0"]["mean"]
  assert mean("real") > 0.7 > 0.5 > abs(mean("real, with other sounds"))
  assert mean("real, through the codecs") == 0


def test_what_is_lacking(run, tmp_path, capsys):
  assert scored("run", tmp_path) == 2
  assert "has no scales for the exchange gate" in capsys.readouterr().err
  assert scored("run", tmp_path, "none-1") == 2
  assert "got a folder none-1; expected VARIANT-SEED" in capsys.readouterr().err


def test_a_run_that_is_no_run(tmp_path, monkeypatch):
  with pytest.raises(UsageError, match="holds no training run"):
    module.open_run(tmp_path)
  (tmp_path / "config.json").write_text('{"steps": 5}')
  loaded = types.SimpleNamespace(origin={"step": 3})
  monkeypatch.setattr(module, "load_model", lambda workdir: loaded)
  with pytest.raises(UsageError, match="is at step 3 of 5"):
    module.open_run(tmp_path)


def test_numbers_of_a_log():
  """Of the second half 1.5, 1.75, 1.5: differences of 0.25 and -0.25."""
  assert losses(ROWS_OF_LOG) == {
    "step": [0, 10, 20, 30, 40],
    "loss": [3.0, 2.0, 1.5, 1.75, 1.5],
    "by_task": {"joint/video": [1.5, 1.0, None, 0.75, 0.5]},
  }
  assert difference_std(ROWS_OF_LOG) == pytest.approx(0.25 * 2**0.5)
  assert difference_std(ROWS_OF_LOG[:2]) is None


def test_worth():
  mean = lambda **scores: {k: {"mean": v} for k, v in scores.items()}
  assert worth(mean(sync_r0=0.8, face_missing=0.25, ser=0.5)) == pytest.approx(0.1)
  assert worth(mean(ser=0.25)) == -0.25 and worth({}) == -1


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({"seed": "7"}, "seed: got '7', expected int"),
    ({"loss": {"step": [1], "loss": [], "by_task": {}}}, "0 values of the loss loss"),
    (
      {"guidance": {"text": {"joint": {}}}},
      "guidance.text.joint.scales: it is missing",
    ),
    ({"attention": 3}, "attention: got 3, expected dict or NoneType"),
  ],
)
def test_a_file_that_is_no_result(tmp_path, change, words):
  good = {
    "version": "1", "variant": "ccl", "seed": 0, "size": "cpu", "model": {},
    "parameters": 1, "steps": 1, "seconds": {"train": 1, "score": 1}, "machine": "m",
    "loss": {"step": [], "loss": [], "by_task": {}},
    "stability": {"difference_std": None, "gradient_cosine": None}, "guidance": {},
    "information": {}, "attention": None,
  }  # fmt: skip
  file = tmp_path / "ccl-0.json"
  file.write_text(json.dumps(good))
  assert read(tmp_path) == [good]
  file.write_text(json.dumps(good | change))
  with pytest.raises(UsageError, match=f"{file}: {words}"):
    read(tmp_path)
  file.write_text("{")
  with pytest.raises(UsageError, match="cannot be read as JSON"):
    read(tmp_path)
  with pytest.raises(UsageError, match="no folder of results"):
    read(tmp_path / "none")


def test_variants_have_as_many_parameters():
  """Within 2 %, so that none is better for its size."""

  def count(variant):
    given = {k.removeprefix("model."): v for k, v in variant.settings.items()
             if k.startswith("model.")}  # fmt: skip
    init = lambda key: init_params(build_model("tiny", **given), key, (8, 128))
    shapes = jax.eval_shape(init, jax.random.key(0))
    return sum(x.size for x in jax.tree.leaves(shapes))

  # What else varies has no parameters.
  names = ("gate", "ccl", "context0", "context2", "context8", "context32")
  counts = {name: count(VARIANTS[name]) for name in names}
  assert max(counts.values()) < 1.02 * min(counts.values())


def test_variants_and_forms_fit_each_other():
  for kind, rows in ROWS.items():
    for form in rows:
      get_guidance(form, kind)
    assert set(BEST[kind]) <= set(rows)
  assert {v for names in QUESTIONS.values() for v in names} >= set(VARIANTS) - set(MAIN)
  assert {v for names in QUESTIONS.values() for v in names} <= set(VARIANTS)
  assert forms("ccl_paper") == BEST["context"] and forms("ccl") == ROWS["context"]
  assert set(FULL) <= set(MAIN)
  assert chosen("") == list(MAIN) and chosen("all") == list(VARIANTS)
  assert chosen("ccl,gate,ccl") == ["ccl", "gate"]
