"""Configs and checkpoints by name, from any folder, and the command ccl-jax."""

import importlib.util
import os
import pathlib
import subprocess
import sys
import tomllib

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from ccl_jax import __main__ as ccl_jax_command
from ccl_jax import cli, shipped
from ccl_jax.checkpoints.checkpointer import Checkpointer, restore_params
from ccl_jax.checkpoints.find import find_parameters
from ccl_jax.checkpoints.slices import SliceReader
from ccl_jax.codecs.bundle import Codecs, fingerprints, load_codecs, save_codecs
from ccl_jax.errors import UsageError
from ccl_jax.files import write_json
from ccl_jax.generation import pipeline
from ccl_jax.models.byte_text import ByteText

ROOT = pathlib.Path(__file__).parents[1]


def test_configs_by_name_from_any_folder(tmp_path, monkeypatch):
  """A user's own file comes first; FILE keeps its arguments."""
  monkeypatch.chdir(tmp_path)
  ours = ROOT / "ccl_jax/shipped/configs/quickstart.py"
  assert ours.read_bytes() == (ROOT / "configs/quickstart.py").read_bytes()
  for text in ("quickstart", "configs/quickstart.py"):
    assert shipped.config_file(f"{text}:data=A:B,runlocal") == (
      f"{ours}:data=A:B,runlocal"
    )
  (tmp_path / "configs").mkdir()
  for own in ("configs/quickstart.py", "mine.py"):
    (tmp_path / own).touch()
    assert shipped.config_file(f"{own}:seed=1") == f"{own}:seed=1"
  (tmp_path / "quickstart").mkdir()  # a folder is no config
  assert shipped.config_file("quickstart") == str(ours)
  for wrong in ("quickstat", "configs/common.py", "other/quickstart.py", "x.py", ""):
    with pytest.raises(UsageError, match="joint, lora, quickstart, vocoder") as e:
      shipped.config_file(f"{wrong}:a=1")
    assert f"no file {wrong};" in str(e.value)


def test_names_in_both_spellings_of_the_flag(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  path = str(shipped.CONFIGS / "joint.py")
  assert cli._with_config_files(["c", "--config=joint:size=14b", "--x=joint"]) == [
    "c", f"--config={path}:size=14b", "--x=joint"
  ]  # fmt: skip
  assert cli._with_config_files(["c", "--config", "joint", "joint"]) == [
    "c", "--config", path, "joint"
  ]  # fmt: skip


def run(folder, *argv, **env):
  return subprocess.run(
    [sys.executable, "-m", "ccl_jax", *argv],
    cwd=folder,
    env=os.environ | {"PYTHONPATH": str(ROOT)} | env,
    capture_output=True,
    text=True,
  )


def test_a_config_of_ones_own_and_its_defects_are_one_line(tmp_path):
  """`from configs import common` works away from a clone; what it raises is a line."""
  lines = "from configs import common", "steps = common.base().steps"
  (tmp_path / "mine.py").write_text("\n".join([*lines, "raise RuntimeError(steps)"]))
  done = run(tmp_path, "train", "--config=mine.py", "--workdir=w")
  assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
  assert "RuntimeError: 1000" in done.stderr


def test_help_of_every_command(tmp_path):
  """Exit 0, examples, and every command is listed."""
  listed = run(tmp_path, "--help").stdout
  names = [line.split()[0] for line in listed.split("Commands:")[1].strip().split("\n")]
  assert names == list(ccl_jax_command.COMMANDS)
  for name in ("generate", "eval"):  # one of either sort of parser
    done = run(tmp_path, name, "--help")
    assert done.returncode == 0 and f"python -m ccl_jax.{name} " in done.stdout
    assert "--out" in done.stdout and done.stderr == ""
  for folder in ROOT.glob("ccl_jax/*.py"):
    if 'if __name__ == "__main__":' in folder.read_text():
      assert folder.stem in (*ccl_jax_command.COMMANDS, "__main__")
  wrong = run(tmp_path, "trian")
  assert wrong.returncode == 2 and "no command 'trian'; expected one of generate" in (
    wrong.stderr
  )


def test_programs_are_kept_where_the_user_says(tmp_path, monkeypatch):
  """JAX's own variable, XDG's, then the home; one that cannot be made is no error."""
  told = []
  monkeypatch.setattr(
    jax.config, "update", lambda key, value: told.append((key, value))
  )
  monkeypatch.setenv(cli.CACHE, "mine")
  monkeypatch.setenv(cli.SHORTEST, "2")
  cli._keep_programs()
  assert not told
  # All of them, and not only what took JAX's second.
  monkeypatch.delenv(cli.SHORTEST)
  cli._keep_programs()
  assert told.pop() == ("jax_persistent_cache_min_compile_time_secs", 0.0)
  assert float(os.environ[cli.SHORTEST]) == 0 and os.environ[cli.CACHE] == "mine"
  monkeypatch.delenv(cli.CACHE)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
  cli._keep_programs()
  folder = pathlib.Path(os.environ[cli.CACHE])
  assert folder.is_dir() and folder.parent == tmp_path / "xdg/ccl_jax/programs"
  assert told == [("jax_compilation_cache_dir", str(folder))]
  monkeypatch.delenv(cli.CACHE)
  monkeypatch.delenv("XDG_CACHE_HOME")
  monkeypatch.setenv("HOME", str(tmp_path))
  cli._keep_programs()
  assert os.environ[cli.CACHE].startswith(f"{tmp_path}/.cache/ccl_jax/")
  monkeypatch.delenv(cli.CACHE)
  (tmp_path / "file").touch()
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
  cli._keep_programs()
  assert cli.CACHE not in os.environ and len(told) == 2


def test_what_the_wheel_holds():
  """The script, the configs behind a link, the checkpoints as data."""
  project = tomllib.loads((ROOT / "pyproject.toml").read_text())
  assert project["project"]["scripts"] == {"ccl-jax": "ccl_jax.__main__:main"}
  assert (ROOT / "ccl_jax/shipped/configs").resolve() == ROOT / "configs"
  data = project["tool"]["setuptools"]["package-data"]
  shipped = ["checkpoints/**", "checkpoints/**/.*"]
  assert data == {"ccl_jax.shipped": shipped, "ccl_jax.planning": ["kernels.json"]}


def ship():
  """The script launch/ship.py as a module."""
  spec = importlib.util.spec_from_file_location("ship", ROOT / "launch/ship.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_a_run_becomes_a_small_checkpoint_with_a_name(tmp_path, monkeypatch):
  """The average alone, in bfloat16, with the codecs; a name finds it unless a folder
  of the user's has that name.
  """
  run, dst = tmp_path / "run", tmp_path / "shipped" / "tiny"
  values = np.random.default_rng(0).standard_normal((3, 1100)).astype(np.float32)
  about = {"model": {"preset": "tiny"}, "clip": {"frames": 17}, "codecs": {"text": "x"}}
  about |= {"objective": {"shift": 2.0}, "negative": {}, "guidance": {"form": "ucg2"}}
  state = {"ema": {"a": {"b": values}}, "params": {"a": {"b": 0 * values}}}
  checkpointer = Checkpointer(run / "checkpoints", keep=1)
  checkpointer.save(7, jax.tree.map(jnp.asarray, state), {}, about)
  checkpointer.close()
  write_json(run / "config.json", {"model": {}})
  save_codecs(Codecs(text=ByteText(4, 16)), run / "codecs")
  size = ship().ship(run, dst)
  assert size < 2 * values.size + 6000
  monkeypatch.setattr(shipped, "CHECKPOINTS", dst.parent)
  monkeypatch.chdir(tmp_path)
  found = find_parameters("tiny")
  assert (found.folder, found.name, found.codecs) == (dst, "params", dst / "codecs")
  kept = {k: v for k, v in about.items() if k != "codecs"}
  assert found.description == kept | {"kind": "joint", "licence": "Apache-2.0"}
  assert fingerprints(load_codecs(found.codecs)) == fingerprints(
    load_codecs(run / "codecs")
  )
  one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  asked = {"a": {"b": jax.ShapeDtypeStruct(values.shape, jnp.float32, sharding=one)}}
  _, params, metadata = restore_params(dst / "checkpoints", "params", asked)
  assert metadata["guidance"] == {"form": "ucg2"}
  expected = values.astype(ml_dtypes.bfloat16).astype(np.float32)
  np.testing.assert_array_equal(params["a"]["b"], expected)
  with pytest.raises(UsageError, match="is there already"):
    ship().ship(run, dst)
  with pytest.raises(UsageError, match="expected a training run"):
    ship().ship(dst, tmp_path / "again")
  (tmp_path / "tiny").mkdir()
  assert shipped.checkpoint("tiny") == pathlib.Path("tiny")
  assert shipped.checkpoint("runs/tiny") == pathlib.Path("runs/tiny")


def test_what_is_shipped_is_whole_and_small():
  """Every array is what was saved, and a model is there for it."""
  for folder in shipped.CHECKPOINTS.glob("*"):
    about = pipeline.describe(folder.name)
    assert about.trained_shift and about.guidance["scales"] and about.spec.frames
    reader = SliceReader(folder / "checkpoints")
    for path, x in reader.shapes.items():
      assert x.dtype == jnp.bfloat16
      reader.read(path, ())  # raises where it is damaged
    load_codecs(folder / "codecs")
    sizes = [p.stat().st_size for p in folder.rglob("*") if p.is_file()]
    assert sum(sizes) < 7e6
