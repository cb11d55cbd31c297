"""What a run may change when it goes on, and what it is told of."""

import json

import pytest

from ccl_jax.errors import UsageError
from ccl_jax.training import changes
from ccl_jax.training.changes import LATER, differences, plain, require_same_run
from configs import common


def config(**values):
  made = common.base()
  made.update_from_flattened_dict({k.replace("__", "."): v for k, v in values.items()})
  return made


@pytest.fixture
def begun(tmp_path, monkeypatch):
  """A function that makes `tmp_path` a run of a config with so many steps done."""

  def begin(done=10, codecs=True, stored=True, **values):
    settings = plain(config(**values))
    about = {"codecs": {"text": "x"}} | ({"config": settings} if stored else {})
    monkeypatch.setattr(changes, "latest_metadata", lambda _: (done, about))
    (tmp_path / "config.json").write_text(json.dumps(settings))
    if codecs:
      (tmp_path / "codecs").mkdir()
    return tmp_path

  return begin


FREE = [
  {"steps": 5000}, {"log_every": 3}, {"log__trackers": ("wandb",)},
  {"checkpoint__every": 7}, {"checkpoint__keep": 9},
  {"profile": (2, 3)}, {"evaluate__every": 5, "evaluate__root": "D"},
  {"report__tasks": ("a2v",)}, {"mesh": (2, 2, 1, 1)}, {"slices": (2, 1, 1, 1)},
  {"accumulate": 2}, {"batch__threads": 1}, {"data__cache_gb": float("inf")},
  {"model__attention": "chunked"}, {"model__blocks": {"block_q": 8}},
  {"model__remat": "full"},
]  # fmt: skip
OTHERS = {
  "clip__frames": (17, "config.clip.frames: 33 -> 17"),
  "batch__size": (4, "config.batch.size: 8 -> 4"),
  "seed": (1, "config.seed: 0 -> 1"),
  "model__tarp": (False, "config.model.tarp: true -> false"),
  "model__window": (3, "config.model.window: null -> 3"),
  "objective__shift": (3.0, "config.objective.shift: 5.0 -> 3.0"),
  "optim__b1": (0.8, "config.optim.b1: 0.9 -> 0.8"),
  "data__root": ("B", 'config.data.root: "" -> "B"'),
  "codec__path": ("C", 'config.codec.path: "" -> "C"'),
  "codec__text_length": (9, "config.codec.text_length: 64 -> 9"),
  "tasks__draw": ("step", 'config.tasks.draw: "sample" -> "step"'),
  "init": ("W", 'config.init: "" -> "W"'),
}


@pytest.mark.parametrize("values", FREE, ids=lambda v: next(iter(v)))
def test_how_long_how_often_and_where_is_free(begun, values, capsys):
  require_same_run(config(**values), begun())
  assert not capsys.readouterr().err


def test_a_setting_that_an_earlier_version_had_not_is_unset():
  before = plain(config())
  assert before["clip"].pop("audio_rate") is None
  assert not differences(before, plain(config()))
  (line,) = differences(before, plain(config(clip__audio_rate=31.4)))
  assert line == "config.clip.audio_rate: (none) -> 31.4"
  for key, value in LATER.items():  # each does nothing at this value
    section, name = key.split(".")
    before = plain(config())
    before[section].pop(name)
    assert not differences(before, plain(config(**{f"{section}__{name}": value})))
    assert differences(before, plain(config(**{f"{section}__{name}": 0.25})))


@pytest.mark.parametrize("key", OTHERS)
def test_what_makes_another_experiment_is_told_and_refused(begun, key, capsys):
  value, line = OTHERS[key]
  workdir = begun()
  with pytest.raises(UsageError) as e:
    require_same_run(config(**{key: value}), workdir)
  assert line in str(e.value) and "--allow_changes" in str(e.value)
  assert "\n" not in str(e.value)
  require_same_run(config(**{key: value}), workdir, allow_changes=True)
  assert capsys.readouterr().err == f"changed: {line}\n"


def test_all_differences_are_told(begun):
  now = config(clip__frames=17, optim__b2=0.5, steps=4000)
  with pytest.raises(UsageError) as e:
    require_same_run(now, begun())
  assert "frames: 33 -> 17; config.optim.b2: 0.99 -> 0.5. Go on" in str(e.value)


def test_the_checkpoint_is_the_truth_and_not_config_json(begun):
  workdir = begun(clip__fps=25.0)
  bent = plain(config(clip__fps=35.0))
  (workdir / "config.json").write_text(json.dumps(bent))
  require_same_run(config(clip__fps=25.0), workdir)
  with pytest.raises(UsageError, match=r"fps: 25.0 -> 35.0"):
    require_same_run(config(clip__fps=35.0), workdir)


def test_a_run_of_an_earlier_version_has_its_config_in_the_file(begun):
  workdir = begun(stored=False)
  require_same_run(config(), workdir)
  with pytest.raises(UsageError, match="frames: 33 -> 17"):
    require_same_run(config(clip__frames=17), workdir)


def test_keys_that_came_or_went_are_differences():
  found = changes.differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 1, "d": 3}})
  assert found == ["config.a.d: (none) -> 3", "config.c: 2 -> (none)"]


def test_steps_that_are_done_cannot_be_taken_back(begun):
  workdir = begun(done=10)
  with pytest.raises(UsageError, match="got 9; .* has done 10"):
    require_same_run(config(steps=9), workdir)
  require_same_run(config(steps=10), workdir)


def test_codecs_that_are_gone_are_not_made_anew(begun):
  workdir = begun(codecs=False)
  for allow in (False, True):
    with pytest.raises(UsageError, match="no folder codecs: put back"):
      require_same_run(config(), workdir, allow_changes=allow)


def test_before_the_first_checkpoint(tmp_path):
  """Codecs are of the config beside them; a folder without is no run yet."""
  require_same_run(config(), tmp_path)
  (tmp_path / "config.json").write_text(json.dumps(plain(config())))
  require_same_run(config(seed=3), tmp_path)
  (tmp_path / "codecs").mkdir()
  require_same_run(config(), tmp_path)
  with pytest.raises(UsageError, match="seed: 0 -> 3"):
    require_same_run(config(seed=3), tmp_path)
