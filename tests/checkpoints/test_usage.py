"""How parameters are sampled: what a start hands on to a run, a join and an export."""

import json

import pytest

from ccl_jax.checkpoints.find import find_parameters, read_config
from ccl_jax.checkpoints.usage import inherited, stated
from ccl_jax.documents import Malformed
from ccl_jax.tasks import taught
from ccl_jax.weights import ovi_release
from ccl_jax.weights.wan import usage_of

OVI = ovi_release.defaults_of("960x960_5s", 30)
TI2V = {"kind": "wan-dit", "sizes": {"out_channels": 48, "image_tokens": False}}
SMALL = {"frames": 17, "height": 64, "width": 96, "fps": 24, "stride": 16}


def test_a_run_on_ovis_own_clips_is_sampled_as_ovi():
  run = inherited(OVI, OVI["clip"], {}, ["joint", "t2v"])
  expected = {k: v for k, v in OVI.items() if k != "objective"}  # the run has its own
  assert run == expected
  assert run["guidance"]["skip_block"] == 11 and run["fit"] == "squeeze"


def test_what_a_run_changes():
  report = {"form": "none", "scales": {}}
  run = inherited(OVI, SMALL, report, ["joint", "a2v"])
  assert run["guidance"] == report | {"skip_block": 11}
  assert run["tasks"] == [*OVI["tasks"], "a2v"]
  assert run["clip"] == SMALL and run["area"] == 64 * 96
  # It goes on from its own, with no report now.
  assert inherited(run, SMALL, {}, []) == run


def test_a_run_from_nothing_has_no_rules():
  assert inherited({}, SMALL, {}, ["joint"]) == {
    "clip": SMALL, "negative": {}, "guidance": {},
  }  # fmt: skip


def test_a_run_from_wan22_keeps_its_rule_for_a_first_frame():
  run = inherited(usage_of(TI2V), usage_of(TI2V)["clip"], {}, [])
  assert (run["area"], run["area_rule"], run["fit"]) == (704 * 1280, "within", "cover")
  assert run["negative"]["video"].startswith("色调艳丽，过曝，静态")


def test_of_a_runs_objective_the_shift_is_its_usage():
  about = {"objective": {"shift": 3.0, "sigma": "uniform"}, "model": {}, "seed": 1}
  assert stated(about) == {"objective": {"shift": 3.0}}


@pytest.mark.parametrize(
  "change",
  [
    {"sound": "words"}, {"area": -1}, {"area_rule": "far"}, {"fit": "crop"},
    {"negative": {"video": 3}}, {"negative": []}, {"tasks": "joint"},
    {"guidance": {"scales": {"video": ["x"]}}}, {"guidance": {"skip_block": -2}},
    {"objective": 5.0}, {"edition": 720},
  ],
)  # fmt: skip
def test_a_damaged_setting_is_one_line(tmp_path, change):
  about = {"kind": "ovi-dit", "sizes": {}, **OVI} | change
  (tmp_path / "config.json").write_text(json.dumps(about))
  with pytest.raises(Malformed, match=rf"{next(iter(change))}.*: got .*put back") as e:
    read_config(tmp_path)
  assert "\n" not in str(e.value)


def test_what_was_written_is_read(tmp_path):
  about = {"kind": "ovi-dit", "sizes": {}, **OVI}
  (tmp_path / "config.json").write_text(json.dumps(about))
  assert stated(find_parameters(tmp_path).description) == OVI


@pytest.mark.parametrize(
  ("names", "images", "expected"),
  [
    (["joint"], False, ("joint",)),
    (["joint"], True, ("joint", "ti2av")),
    (["single"], False, ("t2v", "t2a")),
    (["single", "v2a"], True, ("t2v", "i2v", "t2a", "v2a")),
    (["a2v"], True, ("a2v",)),
  ],
)
def test_what_training_tasks_teach(names, images, expected):
  assert taught(names, images) == expected
