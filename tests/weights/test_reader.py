"""Every file format gives the same tensors, and every damage is told in one line."""

import json
import os
import shutil

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ccl_jax.errors import UsageError
from ccl_jax.weights.reader import open_weights
from tests.weights.wan_files import save_legacy, save_pth, save_shards


@pytest.fixture(scope="module")
def tensors():
  rng = np.random.default_rng(0)
  shapes = {
    "a.weight": (5, 7),
    "b.weight": (6, 3, 1, 2, 2),
    "c": (4,),
    "d.x": (1, 6, 3),
  }
  return {n: rng.standard_normal(s, np.float32) for n, s in shapes.items()}


def save(kind, folder, tensors):
  """Writes the form `kind` and returns what to open."""
  folder.mkdir()
  if kind == "safetensors":
    save_file(tensors, folder / "model.safetensors")
  elif kind == "comfyui":
    prefixed = {f"model.diffusion_model.{n}": x for n, x in tensors.items()}
    save_file(prefixed, folder / "model.safetensors")
  elif kind == "pth":
    save_pth(folder / "model.pth", tensors)
  elif kind == "legacy":
    save_legacy(folder / "model.pth", tensors)
  else:
    save_shards(folder, tensors)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    if kind == "index":
      return index
    if kind == "shard":
      index.unlink()
      return folder / "diffusion_pytorch_model-00001-of-00003.safetensors"
  return folder


KINDS = ("safetensors", "comfyui", "pth", "legacy", "folder", "index", "shard")


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_every_format_reads_the_same_bytes(tmp_path, tensors, kind, dtype):
  tensors = {n: x.astype(dtype) for n, x in tensors.items()}
  weights = open_weights(save(kind, tmp_path / "w", tensors))
  assert sorted(weights.names()) == sorted(tensors)
  for name, expected in tensors.items():
    got = weights.read(name)
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    assert (weights.shape(name), weights.dtype(name)) == (got.shape, got.dtype)
    assert got.tobytes() == expected.tobytes()


@pytest.mark.shared
@pytest.mark.parametrize(
  ("pickle", "plain"),
  [
    ("wan_vae/Wan2.1_VAE.pth", "wan_vae/vae.safetensors"),
    ("umt5/models_t5_umt5-enc.pth", "umt5/umt5.safetensors"),
    ("wan_clip/models_clip.pth", "wan_clip/clip.safetensors"),
  ],
)
def test_pickles_that_torch_wrote(shared, pickle, plain):
  weights = open_weights(shared / "parity" / pickle)
  expected = load_file(shared / "parity" / plain)
  assert sorted(weights.names()) == sorted(expected)
  for name, x in expected.items():
    got = weights.read(name)
    assert (got.shape, got.dtype) == (x.shape, x.dtype)
    assert got.tobytes() == x.tobytes()


def test_a_view_into_a_storage(tmp_path):
  """Rows 2 and 3, columns transposed, of a larger storage."""
  from ccl_jax.weights.entries import Entry
  from ccl_jax.weights.reader import Weights

  base = np.arange(20, dtype=np.float32).reshape(5, 4)
  (tmp_path / "raw").write_bytes(b"head" + base.tobytes())
  entry = Entry(tmp_path / "raw", 4 + 8 * 4, base.dtype, (4, 2), (1, 4))
  weights = Weights(tmp_path, {"x": entry})
  np.testing.assert_array_equal(weights.read("x"), base[2:4].T)


def test_opening_reads_no_tensor(tmp_path):
  """A header and a hole of 40 GB open at once."""
  header = json.dumps(
    {"x": {"dtype": "F32", "shape": [10**10], "data_offsets": [0, 4 * 10**10]}}
  ).encode()
  path = tmp_path / "big.safetensors"
  with open(path, "wb") as f:
    f.write(len(header).to_bytes(8, "little") + header)
    f.truncate(8 + len(header) + 4 * 10**10)
  assert open_weights(path).shape("x") == (10**10,)


def shards(folder, tensors):
  save_shards(folder, tensors)
  return folder, folder / "diffusion_pytorch_model-00002-of-00003.safetensors"


def test_a_missing_shard(tmp_path, tensors):
  folder, second = shards(tmp_path / "w", tensors)
  name = next(iter(load_file(second)))
  second.unlink()
  with pytest.raises(UsageError, match=f"00002-of-00003.*missing.*{name}"):
    open_weights(folder)
  (folder / "diffusion_pytorch_model.safetensors.index.json").unlink()
  with pytest.raises(UsageError, match="00002-of-00003.*missing"):
    open_weights(folder)


def test_an_index_that_names_an_absent_tensor(tmp_path, tensors):
  folder, second = shards(tmp_path / "w", tensors)
  left = load_file(second)
  name, _ = left.popitem()
  save_file(left or {"other": np.zeros(2, np.float32)}, second)
  with pytest.raises(UsageError, match=f"{name} in {second.name}, which does not hold"):
    open_weights(folder)


@pytest.mark.parametrize("kind", ["safetensors", "pth", "legacy"])
@pytest.mark.parametrize("cut", [1, 400])
def test_a_truncated_file(tmp_path, tensors, kind, cut):
  (path,) = save(kind, tmp_path / "w", tensors).iterdir()
  os.truncate(path, path.stat().st_size - cut)
  with pytest.raises(UsageError, match=f"{path.name} is truncated.*download it again"):
    open_weights(path)


@pytest.mark.parametrize("size", [0, 5, 30])
def test_a_file_cut_in_its_header(tmp_path, tensors, size):
  (path,) = save("safetensors", tmp_path / "w", tensors).iterdir()
  os.truncate(path, size)
  with pytest.raises(UsageError, match=path.name):
    open_weights(path)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth"])
def test_a_git_lfs_pointer(tmp_path, name):
  (tmp_path / name).write_text(POINTER)
  with pytest.raises(UsageError, match=f"{name} is a Git LFS pointer.*git lfs pull"):
    open_weights(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth", "model.txt"])
def test_not_a_weight_file(tmp_path, name):
  (tmp_path / name).write_text("<!doctype html> 404: no such file, and so on\n" * 3)
  with pytest.raises(UsageError, match=f"{name} is a web page"):
    open_weights(tmp_path / name)


def test_what_a_pickle_may_not_ask_for(tmp_path, tensors):
  class Evil:
    def __reduce__(self):
      return os.system, (f"touch {tmp_path}/run",)

  save_pth(tmp_path / "model.pth", tensors, extra={"evil": Evil()})
  with pytest.raises(UsageError, match=r"asks for \w+\.system, which is refused"):
    open_weights(tmp_path / "model.pth")
  assert not (tmp_path / "run").exists()


def test_a_pickle_of_other_things(tmp_path, tensors):
  save_pth(tmp_path / "model.pth", tensors, extra={"epoch": 3})
  with pytest.raises(UsageError, match="epoch is no tensor"):
    open_weights(tmp_path / "model.pth")


def test_folders_without_one_checkpoint(tmp_path, tensors):
  with pytest.raises(UsageError, match="holds no checkpoint"):
    open_weights(tmp_path)
  for name in "ab":
    save_file(tensors, tmp_path / f"{name}.safetensors")
  with pytest.raises(UsageError, match=r"a\.safetensors, b\.safetensors: name the one"):
    open_weights(tmp_path)
  assert open_weights(tmp_path, files=("b*", "*")).names()
  with pytest.raises(UsageError, match="no file or folder"):
    open_weights(tmp_path / "nothing")


def test_places_are_looked_through_in_order(tmp_path, tensors):
  (tmp_path / "transformer").mkdir()
  save_file(tensors, tmp_path / "transformer" / "model.safetensors")
  assert open_weights(tmp_path, places=("", "transformer")).names()
  shutil.copy(
    tmp_path / "transformer" / "model.safetensors", tmp_path / "m.safetensors"
  )
  weights = open_weights(tmp_path, places=("", "transformer"))
  assert weights.file_of("c").name == "m.safetensors"
