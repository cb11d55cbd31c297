"""What the section `report` of a config shows of a finished run, and how it is made."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from ccl_jax.data.spec import ClipSpec
from ccl_jax.generation import report as module
from ccl_jax.models.presets import build_model
from configs import common
from tests.flags.recording import Recorder

SPEC = ClipSpec(5, 16, 32, 25.0)


def clip(i):
  """Clip i is of value i."""
  video = np.full((5, 16, 32, 3), i, np.uint8)
  audio = np.full((SPEC.samples,), i, np.float32)
  return {"video": video, "audio": audio, "text": f"clip {i}".encode()}


@pytest.fixture
def told(monkeypatch, tmp_path):
  """`run(**changes)`: a report of a run with stand-ins for model, data and drawing."""
  r = Recorder(monkeypatch)
  (tmp_path / "metrics.jsonl").write_text('{"step": 0, "loss": 1.0}\n')

  def generate(task, texts, **given):
    r.calls["generate"].append({"task": task, "texts": texts, **given})
    made = {
      "video": np.full((len(texts), 5, 16, 32, 3), 200, np.uint8),
      "audio": np.full((len(texts), SPEC.samples), 0.5, np.float32),
    }
    return {s: made[s] for s in module.GENERATIONS[task].generated}

  model = build_model("tiny")
  r.pipeline = SimpleNamespace(
    spec=SPEC, model=model, generate=generate, takes_channels=False,
    negative={"video": "dim", "audio": ""},
    origin={"step": 40, "fingerprints": {"params": "Pa"}},
  )  # fmt: skip
  r.loaded = []
  load = lambda folder: r.loaded.append(folder) or r.pipeline
  monkeypatch.setattr(module, "load_model", load)
  r.replace(module, "open_source", [clip(i) for i in range(5)])
  r.replace(module, "through_codecs", lambda pipeline, clips: clips)
  r.replace(module, "write_mp4")
  r.replace(module, "score", {"score": 1})
  r.replace(module, "attention", {"video": 0.5})
  r.replace(module, "table", "TABLE")
  for name in ("loss_curves", "contact_sheet"):
    r.replace(module.panels, name)

  def run(**changes):
    config = common.base()
    config.data.root = "FILMS"
    config.update_from_flattened_dict(
      {k.replace("__", "."): v for k, v in changes.items()}
    )
    r.calls.clear()
    shutil.rmtree(r.out, ignore_errors=True)
    return module.report(config, tmp_path)

  r.run, r.out = run, tmp_path / "report"
  return r


def test_keys_of_the_report(told):
  """tasks, clips, steps, guidance, scales and show; the seed and shift of training."""
  told.run(
    report__tasks=("joint", "a2v"), report__clips=3, report__steps=7,
    report__guidance="ucg3", report__scales__video=(1.5, 3.5),
    report__scales__audio=(2.0, 4.0), report__show=2, seed=9, objective__shift=2.5,
  )  # fmt: skip
  made = told.calls["generate"]
  assert [m["task"] for m in made] == ["joint", "a2v"]
  for m in made:
    assert m["texts"] == ["clip 0", "clip 1", "clip 2"] and m["seed"] == 9
    s = m["sampling"]
    assert (s.steps, s.guidance, s.shift) == (7, "ucg3", 2.5)
    video, audio = {"s_m": 1.5, "s_t": 3.5}, {"s_m": 2.0, "s_t": 4.0}
    assert s.scales == {"video": video, "audio": audio}
    assert m["negative"] == {"video": "dim", "audio": ""}  # the model's own
  assert "audio" not in made[0] and made[1]["audio"].shape == (3, SPEC.samples)
  assert [a[0] for a in made[1]["audio"]] == [0, 1, 2]
  films = [c.args[0].name for c in told.calls["write_mp4"]]
  assert films == ["joint_0.mp4", "joint_1.mp4", "a2v_0.mp4", "a2v_1.mp4"]
  # What is made, beside the sound that was given.
  assert told.last("write_mp4").args[1].mean() == 200
  assert told.last("write_mp4").args[3].mean() == 1
  sheets = [c.args for c in told.calls["contact_sheet"]]
  assert [a[0].name for a in sheets] == [
    "real.png", "real_through_the_codecs.png", "joint.png", "a2v.png",
  ]  # fmt: skip
  assert all(len(a[1]) == len(a[2]) == len(a[3]) == 2 for a in sheets)


def test_clips_are_held_out_where_there_is_a_split(told):
  told.run(report__clips=99, data__source="talking_scene", data__options={"n_test": 5})
  call = told.last("open_source")
  assert call.args == ("talking_scene", SPEC, "FILMS", "test")
  assert call.kwargs == {"n_test": 5}
  assert len(told.calls["score"][0].args[0]) == 5  # all there are
  told.run()
  assert told.last("open_source").args == ("folder", SPEC, "FILMS", "train")
  told.run(data__root="")
  assert told.last("open_source").args[2] == told.out.parent / "data"


def test_shares_inside_and_outside_of_a_mask():
  """Of attention on context tokens: the foreground's first."""
  share = np.array([[0.1, 0.5], [0.3, 0.9]])
  mask = np.array([[True, False], [True, False]])
  assert module._contrast(share, mask) == pytest.approx((0.2, 0.7))


def test_the_table_has_every_score_beside_its_chance():
  cell = lambda mean: {"mean": mean, "sem": mean / 10}
  sync = {"sync_r0": cell(0.5), "sync_lag_ms": cell(4.0)}
  scores = {
    "real": {"given": sync, "chance": {"sync_r0": cell(0.1)}},
    "attention": {"video": 0.5},
  }
  head, row, foot = module.table(scores).splitlines()
  assert head.split() == ["sync_r0", "sync_lag_ms", "event_f1", "ser"]
  cells = ["0.500", "+-", "0.050", "(0.100)", "4.000", "+-", "0.400", "(nan)", "-", "-"]
  assert row.split() == ["real", *cells]
  assert foot == "mean +- standard error (chance)"


def test_scores_of_every_set_and_of_attention(told, capsys):
  """Attention where the model has context tokens."""
  scores = told.run(report__tasks=("v2a",))
  expected = {
    name: {"score": 1} for name in ("real", "real, through the codecs", "v2a")
  } | {"attention": {"video": 0.5}}
  assert scores == expected == json.loads((told.out / "scores.json").read_text())
  assert told.loaded == [told.out.parent] and "TABLE" in capsys.readouterr().out
  assert told.last("loss_curves").args[1] == [{"step": 0, "loss": 1.0}]
  assert told.calls["generate"][0]["video"].shape == (5, 5, 16, 32, 3)
  told.pipeline.model = build_model("tiny", variant="gate")
  assert "attention" not in told.run(report__guidance="text")


def test_a_report_says_what_it_was_made_with(told):
  told.run(report__tasks=("joint",), report__guidance="ucg3", report__scales__video=(),
           report__scales__audio=(2, 4))  # fmt: skip
  about = json.loads((told.out / "settings.json").read_text())
  assert about == {
    "guidance": "ucg3", "tasks": ["joint"], "clips": 16, "steps": 20, "show": 4,
    "scales": {"video": {"s_m": 3, "s_t": 5}, "audio": {"s_m": 2, "s_t": 4}},
    "shift": 5.0, "seed": 0, "negative_prompts": {"video": "dim", "audio": ""},
    "data": {"source": "folder", "root": "FILMS"}, "options": {}, "step": 40,
    "fingerprints": {"params": "Pa"},
  }  # fmt: skip
