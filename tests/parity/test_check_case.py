"""The comparison with the reference can fail, and says where."""

import importlib.util
import json
import pathlib
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ccl_jax.errors import UsageError


@pytest.fixture(scope="module")
def check_case():
  path = pathlib.Path(__file__).with_name("check_case.py")
  spec = importlib.util.spec_from_file_location("check_case", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_the_error_is_relative_and_never_passes_nan(check_case):
  x = np.array([1.0, 3.0], np.float32)
  assert check_case.relative_error(x + 0.5, x) == 0.5
  assert np.isnan(check_case.relative_error(x * np.nan, x))
  assert check_case.relative_error(x[:1], x) == np.inf


@pytest.mark.shared
@pytest.mark.parametrize("case", ["wan_t2v", "wan_i2v"])
def test_the_video_stream_is_the_reference(check_case, shared, capsys, case):
  assert check_case.check(shared / "parity" / case)
  assert "out " in capsys.readouterr().out


@pytest.mark.shared
def test_both_towers_of_ovi_are_the_reference(check_case, shared, capsys):
  """Velocities of every run, and two guided samples with a block skipped."""
  assert check_case.check(shared / "parity" / "ovi")
  out = capsys.readouterr().out
  assert out.count(" ok\n") == 12 and "sample_ti2av.audio" in out


@pytest.mark.shared
def test_one_wrong_number_is_a_miss(check_case, shared, tmp_path, capsys):
  folder = tmp_path / "case"
  shutil.copytree(shared / "parity" / "wan_schedules", folder)
  assert check_case.check(folder)
  tensors = load_file(folder / "schedules.safetensors")
  tensors["dpmpp_20_s5.traj"][7, 0, 3] += 1e-3
  (folder / "schedules.safetensors").unlink()
  save_file(tensors, folder / "schedules.safetensors")
  capsys.readouterr()
  assert not check_case.check(folder)
  missed = [x for x in capsys.readouterr().out.splitlines() if x.endswith("MISS")]
  assert len(missed) == 1 and "dpmpp_20_s5.traj" in missed[0]


def test_a_folder_that_is_no_case(check_case, tmp_path):
  (tmp_path / "config.json").write_text(json.dumps({"kind": "other"}))
  with pytest.raises(UsageError, match="is no case of wan_dit, wan_schedules"):
    check_case.check(tmp_path)


@pytest.mark.parametrize("wrong", [None, "first", "second"])
def test_a_folder_of_two_kinds_runs_both(
  check_case, tmp_path, monkeypatch, capsys, wrong
):
  """And a miss of either is one."""
  x = np.arange(3.0)
  kind = lambda name: (
    lambda folder: folder == tmp_path,
    lambda folder: [(name, x + (name == wrong), x, 1e-4)],
  )
  others = {name: kind(name) for name in ("first", "second")}
  monkeypatch.setattr(check_case, "other_cases", lambda: others)
  assert check_case.check(tmp_path) == (wrong is None)
  out = capsys.readouterr().out
  assert "(first)" in out and "(second)" in out and out.count("limit") == 2
