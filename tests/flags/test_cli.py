"""The command line that all commands of absl share, and networks of one's own."""

import json
import logging
import pathlib
import re

import jax
import numpy as np
import pytest

from ccl_jax import cli, convert
from ccl_jax import eval as evaluation
from ccl_jax.checkpoints.converted import read_description, restore_converted
from ccl_jax.data import __main__ as data
from ccl_jax.errors import UsageError
from ccl_jax.models import audio_vae
from ccl_jax.weights import own as own_weights
from configs import joint, quickstart
from tests.flags.command import command


def flags(*more, config="configs/joint.py:runlocal"):
  return [f"--config={config}", "--workdir=W", *more]


@pytest.mark.parametrize(
  ("argv", "code", "words"),
  [
    (["--no-such=1"], 2, "no_such"),
    (["--config.stepps=1"], 2, "stepps=1: the config has no key 'stepps': did you"),
    (["--config.model.depht=4"], 2, "--config.model.depht=4: the config has no key"),
    (["--config.steps=many"], 2, "steps"),
    (["more"], 2, "unexpected argument 'more'"),
    (["--meet_seconds=0"], 2, "meet_seconds"),
    (["--meet-seconds=x"], 2, "meet_seconds"),
    (["--workdir="], 2, "--workdir is empty"),  # of a variable that is not set
    (["--coordinator", ""], 2, "--coordinator is empty"),
    (["--config="], 2, "config"),
  ],
)
def test_a_mistake_is_one_line_and_exit_2(capsys, argv, code, words):
  with pytest.raises(SystemExit) as e:
    command("train").run(*flags(*argv))
  error = capsys.readouterr().err
  assert e.value.code == code and words in error and "Traceback" not in error
  assert re.match(r"error: [^\n]*\n$", error), error


@pytest.mark.parametrize(
  ("config", "words"),
  [
    ("configs/none.py", "none.py"),
    ("configs/joint.py:sise=14b", "'sise'"),
    ("configs/ablation.py:stage=full", "'full'"),
  ],
)
def test_a_mistake_in_a_config_is_its_last_line(capsys, config, words):
  with pytest.raises(SystemExit) as e:
    command("train").run(*flags(config=config))
  error = capsys.readouterr().err
  assert e.value.code == 2 and words in error and error.count("\n") == 1


# Configs of a command, and what it must be told beside.
CONFIGS = {
  "train": (["joint", "quickstart", "ablation:stage=video,size=cpu"], ["--workdir=W"]),
  "train_audio": (["audio_vae", "vocoder"], ["--workdir=W"]),
  "encode": (["encode"], []),
  "plan": (["joint", "quickstart"], []),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_of_another_command_is_none(name, tmp_path, capsys):
  own, more = CONFIGS[name]
  told = {file for files, _ in CONFIGS.values() for file in files} - set(own)
  texts = ["3", "{}", "ConfigDict()", "ConfigDict({'model': 3, 'data': {}})"]
  for i, text in enumerate(texts):
    told.add(f"{tmp_path}/c{i}.py")
    program = "from ml_collections import ConfigDict\ndef get_config():\n  return "
    (tmp_path / f"c{i}.py").write_text(program + text + "\n")
  for file in sorted(told - {"ablation:stage=video,size=cpu"}):
    with pytest.raises(SystemExit) as e:
      command(name).run(f"--config={file}", *more)
    error = capsys.readouterr().err
    assert e.value.code == 2 and error.count("\n") == 1, (file, error)
    assert "so it is none of this command; expected one such as configs/" in error


@pytest.mark.parametrize(
  ("module", "argv", "words"),
  [
    (data, ["prepare", "", "t.jsonl"], "got an empty argument"),
    (data, ["prepare", "films", ""], "got an empty argument"),
    (data, ["prepare", "films", "t.jsonl", "--captions="], "--captions: got an empty"),
    (evaluation, ["--videos", "", "--out", "x"], "--videos: got an empty"),
    (evaluation, ["make-manifest", "--prompts=", "--out=x"], "--prompts: got an empty"),
    (convert, ["wan-dit", "--src", "x", "--dst", ""], "--dst: got an empty"),
  ],
)
def test_an_empty_argument_is_no_path(capsys, module, argv, words):
  """It would be the current folder."""
  with pytest.raises(SystemExit) as e:
    module.main(argv)
  error = capsys.readouterr().err
  assert e.value.code == 2 and words in error and error.count("\n") == 1


def test_empty_texts_and_keys_of_a_config_are_values(monkeypatch):
  """No negative prompt is one, and "" is the default of many keys."""
  made = []
  monkeypatch.setattr(command("train").module, "main", lambda: made.append(1))
  command("train").run(*flags("--config.data.root=", "--config.init="))
  monkeypatch.setattr(command("generate").module, "main", lambda: made.append(2))
  command("generate").run("--out=x", "--negative_prompt=", "--negative_prompt_video=")
  assert made == [1, 2]


def test_dashes_are_underscores_in_names_only():
  given = ["--scale-video=a-b", "--negative-prompt", "x-y", "-h", "two-words"]
  expected = ["--scale_video=a-b", "--negative_prompt", "x-y", "-h", "two-words"]
  assert [cli._underscored(arg) for arg in given] == expected


def test_errors_of_a_user_are_one_line_and_others_are_kept(monkeypatch, capsys):
  train = command("train").module

  def fails(error):
    def run(*_, **__):
      raise error

    monkeypatch.setattr(train, "train", run)
    command("train").run(*flags())

  with pytest.raises(SystemExit) as e:
    fails(UsageError("too small"))
  assert e.value.code == 2 and capsys.readouterr().err == "error: too small\n"
  with pytest.raises(ZeroDivisionError):
    fails(ZeroDivisionError())


@pytest.fixture(scope="module")
def network():
  """Sizes and random parameters of a small audio VAE."""
  sizes = {"bands": 80, "channels": 20, "hidden": 4}
  init = lambda key: audio_vae.init_params(key, **sizes)
  shapes = jax.eval_shape(init, jax.random.key(0))
  rng = np.random.default_rng(0)
  draw = lambda x: rng.standard_normal(x.shape).astype(np.float32)
  return sizes, jax.tree.map(draw, shapes)


def test_a_network_of_ones_own_is_read_back(network, tmp_path):
  """Number by number; its terms are the user's; an earlier one makes way."""
  sizes, params = network
  place = tmp_path / "run/audio-vae"
  place.mkdir(parents=True)
  (place / "config.json").write_text('{"kind": "audio-vae", "sizes": {}, "source": {}}')
  (place / "old").touch()
  about = own_weights.write_network("audio-vae", sizes, params, place, "my run")
  assert (
    about == read_description(place) == json.loads((place / "config.json").read_text())
  )
  assert about["licence"].startswith("your own training")
  assert about["source"]["name"] == "my run" and about["sizes"] == sizes
  assert about["dtype"] == "float32" and not (place / "old").exists()
  jax.tree.map(np.testing.assert_array_equal, restore_converted(place), params)
  assert [p.name for p in place.parent.iterdir()] == ["audio-vae"]


def test_another_network_is_not_overwritten(network, tmp_path):
  sizes, params = network
  (tmp_path / "config.json").write_text(
    '{"kind": "vocoder", "sizes": {}, "source": {}}'
  )
  with pytest.raises(UsageError, match="holds another network"):
    own_weights.write_network("audio-vae", sizes, params, tmp_path, "x")
  assert json.loads((tmp_path / "config.json").read_text())["kind"] == "vocoder"


def test_a_run_keeps_the_guidance_of_its_report():
  """What its scores were made with is what `generate` takes; without a report none."""
  guidance_of = command("train").module.guidance_of
  config = quickstart.get_config()
  assert guidance_of(config) == {
    "form": "ucg2", "scales": {"video": [2.0], "audio": [2.0]}
  }  # fmt: skip
  with config.unlocked():
    config.report.guidance = "ucg3"
    config.report.scales = {"video": (3.0, 2.0), "audio": ()}
  assert guidance_of(config) == {
    "form": "ucg3", "scales": {"video": [3.0, 2.0], "audio": []}
  }  # fmt: skip
  assert guidance_of(joint.get_config("runlocal")) == {}


def test_warnings_of_the_package_are_notes_of_a_command(capfd):
  ours, others = (logging.getLogger(x) for x in ("ccl_jax.data.sources.x", "jax.x"))
  library = logging.StreamHandler()  # as logging.basicConfig sets up
  with cli.working():
    logging.getLogger().addHandler(library)
    ours.warning("skipped %s: %s", "a.mov", "no picture")
    ours.info("not said")
    others.warning("of a library")
    logging.getLogger().removeHandler(library)
  assert capfd.readouterr().err == "note: skipped a.mov: no picture\n"
  ours.warning("of a program that imports the package")
  assert "note" not in capfd.readouterr().err


def test_of_many_warnings_of_one_kind_the_first_are_shown(capfd):
  log = logging.getLogger("ccl_jax.data.sources.x")
  with cli.working():
    for i in range(25):
      log.warning("skipped %d", i)
    log.warning("another")
  shown = [f"note: skipped {i}" for i in range(10)]
  told = ["note: more of these are only counted", "note: another"]
  last = "note: 25 such notes in all of ccl_jax.data.sources.x"
  assert capfd.readouterr().err.splitlines() == [*shown, *told, last]


def test_no_module_warns_in_a_way_that_commands_silence():
  """Python's own warnings are for developers: a command ignores them all, but for those
  that `metrics.summary` records beside a score.
  """
  package = pathlib.Path(cli.__file__).parent
  found = [p for p in package.rglob("*.py") if "warnings.warn(" in p.read_text()]
  assert found == [package / "metrics" / "frechet.py"]
