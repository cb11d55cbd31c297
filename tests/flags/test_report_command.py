"""The command `report`: a run's own settings, and those of flags in their place."""

import json

import pytest

from ccl_jax.generation import report as module
from configs import quickstart
from tests.flags.command import command, module_of


@pytest.fixture
def told(monkeypatch, tmp_path):
  """`run(*flags, **changes)`: (config, workdir, out) that the report is asked for, of a
  run whose config has the changes.
  """
  calls = []
  monkeypatch.setattr(module, "report", lambda *args: calls.append(args))

  def run(*argv, **changes):
    config = quickstart.get_config("runlocal,seed=7")
    config.update_from_flattened_dict({f"report.{k}": v for k, v in changes.items()})
    text = config.to_json_best_effort(indent=2)
    (tmp_path / "config.json").write_text(text)
    command("report").run(f"--workdir={tmp_path}", *argv)
    return calls[-1]

  run.calls = calls
  return run


def test_a_run_is_shown_as_its_config_says(told, tmp_path):
  config, workdir, out = told(steps=9, show=3)
  assert (workdir, out, config.seed) == (str(tmp_path), None, 7)
  r = config.report
  assert (tuple(r.tasks), r.clips, r.steps, r.show) == (
    ("joint", "a2v", "v2a"),
    2,
    9,
    3,
  )
  assert r.guidance == "ucg2" and r.scales.to_dict() == {
    "video": (2.0,),
    "audio": (2.0,),
  }
  assert config.objective.shift == 2.0 and config.data.source == "talking_scene"
  assert config.data.options.n_test == 64


def test_the_checkpoint_says_what_was_trained(told, monkeypatch):
  """And config.json what is shown: one that was edited after the training does not make
  another model, seed or set of clips of the run.
  """
  config = quickstart.get_config("runlocal,seed=7")
  trained = json.loads(config.to_json_best_effort())
  trained["objective"]["shift"], trained["report"]["show"] = 3.0, 2
  trained["seed"] = 2**64 - 11
  asked = []
  monkeypatch.setattr(
    module_of("report"),
    "latest_metadata",
    lambda folder: asked.append(folder) or (40, {"config": trained}),
  )
  got, workdir, _ = told(show=3)
  assert [str(folder) for folder in asked] == [f"{workdir}/checkpoints"]
  assert (got.seed, got.objective.shift, got.report.show) == (2**64 - 11, 3.0, 3)


FLAGS = [
  ("--tasks=v2a,ti2av", "tasks", ["v2a", "ti2av"]),
  ("--clips=5", "clips", 5),
  ("--steps=11", "steps", 11),
  ("--show=1", "show", 1),
  ("--guidance=text", "guidance", "text"),
  ("--scale_video=3.5", "scales.video", (3.5,)),
  ("--scale-audio=0", "scales.audio", (0.0,)),
]


def test_each_flag_takes_the_place_of_a_setting(told, tmp_path):
  """And of no other: tasks, clips, steps, show, guidance, scale_video, scale_audio,
  seed, workdir and out.
  """
  plain = told()[0].report.to_dict()
  for flag, place, value in FLAGS:
    got = told(flag)[0].report.to_dict()
    if place == "guidance":
      plain_here = plain | {"scales": {"video": (), "audio": ()}}
    else:
      plain_here = {**plain, "scales": dict(plain["scales"])}
    section, _, key = place.rpartition(".")
    (plain_here[section] if section else plain_here)[key] = value
    assert got == plain_here, flag
  assert told("--seed=3")[0].seed == 3
  _, workdir, out = told(f"--out={tmp_path / 'mine'}")
  assert (workdir, out) == (str(tmp_path), str(tmp_path / "mine"))


def test_another_form_starts_from_its_own_scales(told):
  """Not from those that the config has for its form, unless --scale_video or
  --scale_audio say some.
  """
  scales = lambda *flags: told(*flags)[0].report.scales.to_dict()
  assert scales("--guidance=ucg2") == {"video": (2.0,), "audio": (2.0,)}
  assert scales("--guidance=ucg3") == {"video": (), "audio": ()}
  both = ("--guidance=ucg3", "--scale_video=2,4", "--scale_audio=1,3")
  assert scales(*both) == {"video": (2.0, 4.0), "audio": (1.0, 3.0)}


def test_a_config_from_before_streams_had_scales(told, tmp_path):
  told()
  about = json.loads((tmp_path / "config.json").read_text())
  about["report"] = {k: v for k, v in about["report"].items() if k != "scales"}
  about["report"]["scale"] = 2.0
  (tmp_path / "config.json").write_text(json.dumps(about))
  command("report").run(f"--workdir={tmp_path}")
  assert told.calls[-1][0].report.scales.to_dict() == {"video": (), "audio": ()}


@pytest.mark.parametrize(
  ("flags", "words"),
  [
    (["--guidance=multimodal"], "'multimodal' needs another model"),
    (["--guidance=ucg3", "--scale_video=2"], "scales.video: got 1 values; expected 2"),
    (["--scale_audio=loud"], "--scale_audio: got loud; expected numbers"),
    (["--scale_audio=-1"], "scales.audio: got (-1.0,); expected numbers from 0 on"),
    (["--tasks=t2v"], "'t2v'"),
    (["--tasks="], "--tasks is empty"),
    (["--clips=0"], "report.clips: got 0"),
    (["--guidance=ucg2_shuffled", "--clips=1"], "report.clips: got 1; expected 2"),
  ],
)
def test_mistakes_are_one_line(told, capsys, flags, words):
  with pytest.raises(SystemExit) as e:
    told(*flags)
  error = capsys.readouterr().err
  assert e.value.code == 2 and error.startswith("error: ") and words in error
  assert len(error.splitlines()) == 1 and not told.calls


@pytest.mark.parametrize(
  ("place", "value"),
  [
    ("model", None),
    ("model", []),
    ("model.preset", None),
    ("model.preset", ["tiny"]),
    ("model.window", "3"),
    ("model.more", 3),
    ("report", []),
    ("report.tasks", "joint"),
    ("report.tasks", [None]),
    ("report.clips", None),
    ("report.clips", -1),
    ("report.guidance", 3),
    ("report.scales", None),
    ("report.scales.video", [None]),
    ("report.scales.video", 2.0),
    ("data", None),
    ("data.options", None),
    ("data.root", 3),
    ("seed", None),
    ("seed", 2**70),
    ("objective", {}),
    ("objective.shift", None),
  ],
)
def test_a_config_that_was_changed_by_hand(told, tmp_path, capsys, place, value):
  told()
  about = json.loads((tmp_path / "config.json").read_text())
  *way, last = place.split(".")
  section = about
  for key in way:
    section = section[key]
  section[last] = value
  (tmp_path / "config.json").write_text(json.dumps(about))
  with pytest.raises(SystemExit) as e:
    command("report").run(f"--workdir={tmp_path}")
  error = capsys.readouterr().err
  assert e.value.code == 2 and error.startswith("error: ")
  assert len(error.splitlines()) == 1


@pytest.mark.parametrize("text", [None, "{", "[]", '{"kind": "vae"}'])
def test_what_is_no_run(tmp_path, capsys, text):
  if text is not None:
    (tmp_path / "config.json").write_text(text)
  with pytest.raises(SystemExit) as e:
    command("report").run(f"--workdir={tmp_path}")
  error = capsys.readouterr().err
  assert e.value.code == 2 and "holds no training run" in error
  assert len(error.splitlines()) == 1
