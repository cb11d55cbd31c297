"""Which parameters a folder stands for, and folders that hold none."""

import json

import jax.numpy as jnp
import pytest

from ccl_jax.checkpoints.checkpointer import Checkpointer
from ccl_jax.checkpoints.find import find_parameters, read_config
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.models.presets import build_model
from configs import audio_vae, quickstart


def run_folder(path, config, *metadata):
  """A run's folder, with a checkpoint for each of `metadata`."""
  (path / "config.json").write_text(config.to_json_best_effort())
  checkpointer = Checkpointer(path / "checkpoints", keep=9)
  for step, about in enumerate(metadata):
    checkpointer.save(step, {"ema": {"x": jnp.zeros(2)}}, {}, about)
  checkpointer.close()
  return path


def config(folder, **about):
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "config.json").write_text(json.dumps(about))
  return folder


def test_every_kind_of_folder_has_its_parameters(tmp_path):
  """A run trains its parameters, and what it is for is their average."""
  about = {"model": {"preset": "tiny"}}
  run = run_folder(config(tmp_path / "run"), quickstart.get_config(), about)
  assert find_parameters(run) == (run, "ema", about, None)
  (run / "codecs").mkdir()
  assert find_parameters(run).codecs == run / "codecs"
  for kind in ("joint", "wan-dit"):
    folder = config(tmp_path / kind, kind=kind)
    assert find_parameters(folder) == (folder, "params", {"kind": kind}, None)
  whole = config(tmp_path / "wan", kind="wan")
  dit = config(whole / "dit", kind="wan-dit", size="14b")
  (dit / "codecs").mkdir()  # of nobody
  got = find_parameters(whole)
  assert got == (dit, "params", {"kind": "wan-dit", "size": "14b"}, None)
  (whole / "codecs").mkdir()
  assert find_parameters(whole).codecs == whole / "codecs"
  named = config(tmp_path / "named", kind="joint", codecs=str(run / "codecs"))
  (named / "codecs").mkdir()
  assert find_parameters(named).codecs == run / "codecs"


def test_a_folder_without_parameters(tmp_path):
  (tmp_path / "config.json").write_text("[1]")
  for folder in (tmp_path, tmp_path / "none", config(tmp_path / "x", kind="vocoder")):
    with pytest.raises(UsageError, match="no model: .* a shipped model: quickstart"):
      find_parameters(folder)
  assert read_config(tmp_path) == read_config(tmp_path / "none") == {}


def test_a_run_of_an_audio_codec_holds_no_model(tmp_path):
  config = audio_vae.get_config("runlocal")
  folder = run_folder(tmp_path, config, {"kind": "audio-vae", "sizes": {}})
  with pytest.raises(UsageError, match="holds no model: expected"):
    find_parameters(folder)


def test_what_a_run_is_its_newest_checkpoint_says(tmp_path):
  """Or the one that is asked for; the config may have changed since."""
  metadata = [{"model": {"preset": name}} for name in ("tiny", "lab")]
  folder = run_folder(tmp_path, quickstart.get_config(), *metadata)
  assert find_parameters(folder).description == metadata[1]
  assert find_parameters(folder, 0).description == metadata[0]
  file = folder / "checkpoints" / "1" / "meta" / "metadata"
  file.write_text(file.read_text().replace("lab", "14b"))  # its digest tells
  assert find_parameters(folder).description == metadata[0]
  with pytest.raises(UsageError, match="holds no checkpoint of step 5"):
    find_parameters(folder, 5)


@pytest.mark.parametrize(
  ("section", "change"),
  [
    ("model", {"wings": 2}),  # a key that is unknown here
    ("model", {"preset": "huge"}),
    ("clip", {"depth": 3}),
    ("clip", {"frames": 4}),
  ],
)
def test_a_run_of_another_version(tmp_path, section, change):
  config = quickstart.get_config()
  about = json.loads(config.to_json_best_effort())
  build = {"model": build_model, "clip": ClipSpec}[section]
  other = about | {section: about[section] | change}
  folder = run_folder(tmp_path, config, about, other)
  assert find_parameters(folder, 0).build(section, build)
  with pytest.raises(UsageError, match="are not of this version") as e:
    find_parameters(folder).build(section, build)
  assert str(next(iter(change))) in str(e.value) and "\n" not in str(e.value)
