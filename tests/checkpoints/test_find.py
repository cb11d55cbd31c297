"""Folders that hold no parameters of a transformer, or those of another version."""

import json

import pytest

from ccl_jax.checkpoints.find import find_parameters
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.models.presets import build_model
from configs import audio_vae, quickstart, vocoder


def folder(path, config):
  (path / "config.json").write_text(json.dumps(config))
  return path


@pytest.mark.parametrize("module", [audio_vae, vocoder])
def test_a_run_of_an_audio_codec_holds_no_model(tmp_path, module):
  config = json.loads(module.get_config("runlocal").to_json_best_effort())
  with pytest.raises(UsageError, match="holds no model: expected"):
    find_parameters(folder(tmp_path, config))


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
  config = json.loads(quickstart.get_config().to_json_best_effort())
  build = {"model": build_model, "clip": ClipSpec}[section]
  assert find_parameters(folder(tmp_path, config)).build(section, build)
  config[section] |= change
  with pytest.raises(UsageError, match=r"config.json is not of this version") as e:
    find_parameters(folder(tmp_path, config)).build(section, build)
  assert str(next(iter(change))) in str(e.value) and "\n" not in str(e.value)
