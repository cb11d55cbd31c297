"""The converter from end to end: what goes in comes out, whole or not at all."""

import functools
import json
import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file, save_file

from ccl_jax import convert
from ccl_jax.checkpoints import slices as streamed
from ccl_jax.checkpoints.checkpointer import restore_params
from ccl_jax.errors import UsageError
from ccl_jax.models.presets import parameter_shapes
from ccl_jax.sharding import make_mesh, parameter_shardings
from ccl_jax.weights import transfer, wan
from ccl_jax.weights.reader import open_weights
from ccl_jax.weights.transfer import export_weights, import_weights
from ccl_jax.weights.writer import write_safetensors
from tests.weights.wan_files import (
  config,
  save_legacy,
  save_pth,
  save_shards,
  wan_tensors,
)


@pytest.fixture(scope="module")
def tensors():
  return wan_tensors(image=True)


@pytest.fixture(scope="module")
def source(tmp_path_factory, tensors):
  """A download: shards, index, config.json."""
  folder = tmp_path_factory.mktemp("source") / "Wan2.1-I2V"
  save_shards(folder, tensors)
  (folder / "config.json").write_text(json.dumps(config(image=True)))
  return folder


@pytest.fixture(scope="module")
def imported(tmp_path_factory, source):
  folder = tmp_path_factory.mktemp("imported") / "i2v"
  import_weights("wan-dit", source, folder, verify=True)
  return folder


def exported(folder):
  weights = open_weights(folder)
  return {name: weights.read(name) for name in weights.names()}


def assert_same_bytes(got, expected):
  assert got.keys() == expected.keys()
  for name, x in expected.items():
    assert (got[name].shape, got[name].dtype) == (x.shape, x.dtype), name
    assert got[name].tobytes() == x.tobytes(), name


def test_in_and_out_again_is_the_same_bytes(tmp_path, imported, tensors):
  export_weights(imported, tmp_path / "native", form="native", verify=True)
  assert_same_bytes(exported(tmp_path / "native"), tensors)
  written = json.loads((tmp_path / "native" / "config.json").read_text())
  assert written["model_type"] == "i2v" and written.items() >= config(True).items()


def test_through_diffusers_names_and_back(tmp_path, imported, tensors, monkeypatch):
  small = functools.partial(write_safetensors, shard_bytes=2_000_000)
  monkeypatch.setattr(transfer, "write_safetensors", small)
  export_weights(imported, tmp_path / "transformer", form="diffusers", verify=True)
  assert len(list((tmp_path / "transformer").glob("*-of-*.safetensors"))) > 2
  names = open_weights(tmp_path / "transformer").names()
  assert "blocks.1.attn2.add_k_proj.weight" in names
  # The root of a diffusers pipeline is opened at its transformer/.
  again = import_weights("wan-dit", tmp_path, tmp_path / "again")
  first = json.loads((imported / "config.json").read_text())
  assert again["source"]["sha256"] == first["source"]["sha256"]
  assert again["source"]["format"] == "diffusers"
  export_weights(tmp_path / "again", tmp_path / "native", form="native")
  assert_same_bytes(exported(tmp_path / "native"), tensors)


@pytest.mark.parametrize("kind", ["comfyui", "bfloat16", "pth", "legacy"])
def test_every_form_of_download(tmp_path, kind):
  tensors = wan_tensors(seed=1)
  path = tmp_path / "model.pth"
  if kind == "pth":
    save_pth(path, tensors)
  elif kind == "legacy":
    save_legacy(path, tensors)
  else:
    path = tmp_path / "model.safetensors"
    dtype = ml_dtypes.bfloat16 if kind == "bfloat16" else np.float32
    tensors = {n: x.astype(dtype) for n, x in tensors.items()}
    prefix = "model.diffusion_model." if kind == "comfyui" else ""
    save_file({prefix + n: x for n, x in tensors.items()}, path)
  about = import_weights("wan-dit", path, tmp_path / "in", verify=True)
  assert about["dtype"] == ("bfloat16" if kind == "bfloat16" else "float32")
  assert about["parameters"] == sum(x.size for x in tensors.values())
  export_weights(tmp_path / "in", tmp_path / "out", form="native")
  assert_same_bytes(exported(tmp_path / "out"), tensors)


def test_training_restores_it_sharded(imported, tensors):
  """On a mesh of eight devices, each array where the sharding table wants it."""
  sizes = json.loads((imported / "config.json").read_text())["sizes"]
  model, mesh = wan.model_of(sizes), make_mesh((1, 4, 1, 2))
  shapes = parameter_shapes(model, (8, sizes["text_dim"]))
  abstract = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16, sharding=s),
    shapes,
    parameter_shardings(shapes, mesh),
  )
  step, params, metadata = restore_params(imported / "checkpoints", "params", abstract)
  assert step == 0 and metadata["kind"] == "wan-dit"
  flat = traverse_util.flatten_dict(params, sep="/")
  for path, want in traverse_util.flatten_dict(abstract, sep="/").items():
    assert flat[path].sharding == want.sharding and flat[path].dtype == jnp.bfloat16
  kernel = flat["blocks/video/ffn/in/kernel"]
  assert {s.data.shape for s in kernel.addressable_shards} == {(2, 64, 36)}
  np.testing.assert_array_equal(
    np.asarray(kernel[1]),
    tensors["blocks.1.ffn.0.weight"].T.astype(ml_dtypes.bfloat16),
  )


def test_another_dtype(tmp_path, source, tensors):
  about = import_weights("wan-dit", source, tmp_path / "in", dtype="bfloat16")
  assert about["dtype"] == "bfloat16"
  export_weights(tmp_path / "in", tmp_path / "out", form="native")
  cast = {n: x.astype(ml_dtypes.bfloat16) for n, x in tensors.items()}
  assert_same_bytes(exported(tmp_path / "out"), cast)


def test_layers_of_different_dtypes(tmp_path):
  tensors = wan_tensors()
  name = "blocks.1.ffn.0.bias"
  tensors[name] = tensors[name].astype(np.float16)
  save_file(tensors, tmp_path / "model.safetensors")
  with pytest.raises(UsageError, match=f"{name} is float16.*float32.*--dtype"):
    import_weights("wan-dit", tmp_path, tmp_path / "in")
  import_weights("wan-dit", tmp_path, tmp_path / "in", dtype="float32", verify=True)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left")])
def test_an_interruption_leaves_nothing(tmp_path, source, monkeypatch, error):
  write, calls = streamed.SliceWriter.write, []

  def stop(self, *args):
    calls.append(args)
    if len(calls) == 30:
      raise error
    write(self, *args)

  monkeypatch.setattr(streamed.SliceWriter, "write", stop)
  with pytest.raises((KeyboardInterrupt, UsageError)):
    import_weights("wan-dit", source, tmp_path / "in")
  assert len(calls) == 30 and not list(tmp_path.iterdir())


def test_a_kill_leaves_nothing_that_looks_whole(tmp_path, source):
  """SIGKILL cannot be answered: what is left is hidden, and swept by the next run."""
  command = [sys.executable, "-m", "ccl_jax.convert", "wan-dit", "--src", str(source)]
  env = os.environ | {"JAX_PLATFORMS": "cpu"}
  for sent in (signal.SIGTERM, signal.SIGKILL):
    process = subprocess.Popen(
      [*command, "--dst", str(tmp_path / "in")], env=env, stderr=subprocess.DEVNULL
    )
    while not list(tmp_path.glob(".in.*.part/checkpoints/0/state/*")):
      assert process.poll() is None
      time.sleep(0.02)
    process.send_signal(sent)
    assert process.wait() != 0
    left = {p.name for p in tmp_path.iterdir()}
    hidden = {f".in.{process.pid}.part", ".in.lock"}
    assert left == (hidden if sent == signal.SIGKILL else set())
  import_weights("wan-dit", source, tmp_path / "in")
  assert {p.name for p in tmp_path.iterdir()} == {"in"}


def damage(folder, name="params.blocks.video.ffn.in.kernel/1.0.0"):
  piece = folder / "checkpoints" / "0" / "state" / name
  raw = bytearray(piece.read_bytes())
  raw[100] ^= 1
  piece.write_bytes(raw)


def test_a_flipped_bit_is_noticed(tmp_path, source, monkeypatch):
  import_weights("wan-dit", source, tmp_path / "in")
  damage(tmp_path / "in")
  with pytest.raises(
    UsageError, match="blocks/video/ffn/in/kernel is not what was sav"
  ):
    export_weights(tmp_path / "in", tmp_path / "out", form="native")
  assert not (tmp_path / "out").exists()
  # And by --verify, where the disk lies from the start.
  finish = streamed.SliceWriter.finish

  def finish_badly(self, metadata):
    finish(self, metadata)
    damage(self._folder.parents[1])

  monkeypatch.setattr(streamed.SliceWriter, "finish", finish_badly)
  with pytest.raises(UsageError, match="cannot be trusted|not what was saved"):
    import_weights("wan-dit", source, tmp_path / "bad", verify=True)
  assert not (tmp_path / "bad").exists()


def test_mistakes_of_the_user(tmp_path, source, imported, monkeypatch):
  with pytest.raises(UsageError, match="is there already"):
    import_weights("wan-dit", source, imported)
  with pytest.raises(UsageError, match="got hdfs://b/w; hdfs:// is not supported"):
    import_weights("wan-dit", source, "hdfs://b/w")
  with pytest.raises(UsageError, match="no file or folder"):
    import_weights("wan-dit", tmp_path / "x", tmp_path / "in")
  with pytest.raises(UsageError, match="neither converted weights nor a run"):
    export_weights(source, tmp_path / "out", form="native")
  with pytest.raises(UsageError, match="--format keras: wan-dit has native, diffusers"):
    export_weights(imported, tmp_path / "out", form="keras")
  tight = type("usage", (), {"free": 1000})
  monkeypatch.setattr("shutil.disk_usage", lambda _: tight)
  with pytest.raises(UsageError, match=r"needs 0.0 GB, its disk has 0.0 GB free"):
    import_weights("wan-dit", source, tmp_path / "in")
  assert not list(tmp_path.iterdir())


def test_the_command_line(tmp_path, source, capsys):
  def run(*args):
    with pytest.raises(SystemExit) as e:
      convert.main(list(map(str, args)))
    return e.value.code, capsys.readouterr()

  code, out = run("wan-dit", "--src", tmp_path, "--dst", tmp_path / "in")
  assert code == 2 and out.err.startswith("error: ") and out.err.count("\n") == 1
  code, out = run("wan-dit", "--src", source)
  assert code == 2 and "--dst" in out.err and out.err.count("\n") == 1
  code, out = run("nonsense")
  assert code == 2 and out.err.count("\n") == 1
  code, out = run("--help")
  assert code == 0 and "python -m ccl_jax.convert wan-dit --src" in out.out
  convert.main(["wan-dit", "--src", str(source), "--dst", str(tmp_path / "in")])
  out = capsys.readouterr()
  assert out.out.strip() == str(tmp_path / "in") and "15.9/15.9 MB" in out.err
  assert sorted(p.name for p in (tmp_path / "in").iterdir()) == [
    "checkpoints", "config.json", "tensors.json",
  ]  # fmt: skip


def test_the_export_is_what_others_read(tmp_path, imported, tensors):
  """Through the safetensors library, not our own reader."""
  export_weights(imported, tmp_path / "out", form="native")
  got = load_file(tmp_path / "out" / "diffusion_pytorch_model.safetensors")
  assert_same_bytes(got, tensors)
