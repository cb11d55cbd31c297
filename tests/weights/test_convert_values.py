"""What conversion notes of every tensor, and what it notices, by values known here."""

import hashlib
import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from ccl_jax.errors import UsageError
from ccl_jax.weights import transfer
from tests.weights.wan_files import wan_tensors


@pytest.fixture(scope="module")
def tensors():
  """Of a small model, whose patch embedding's bias is in half precision."""
  out = wan_tensors()
  out["patch_embedding.bias"] = out["patch_embedding.bias"].astype(np.float16)
  return out


def imported(folder, tensors, **options):
  """config.json and tensors.json of these tensors, converted."""
  (folder / "source").mkdir(parents=True)
  save_file(tensors, folder / "source/model.safetensors")
  about = transfer.import_weights(
    "wan-dit", folder / "source", folder / "in", **options
  )
  return about, json.loads((folder / "in/tensors.json").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tensors):
  folder = tmp_path_factory.mktemp("whole")
  return folder, *imported(folder, tensors)


def test_every_tensor_has_the_hash_of_its_bytes(whole, tensors):
  _, about, kept = whole
  assert kept == {
    name: {
      "sha256": hashlib.sha256(x.tobytes()).hexdigest(),
      "shape": list(x.shape),
      "dtype": x.dtype.name,
    }
    for name, x in tensors.items()
  }
  assert about["parameters"] == sum(x.size for x in tensors.values())
  assert about["dtype"] == "mixed"


def test_the_sources_hash_is_of_the_source(whole, tensors, tmp_path, monkeypatch):
  """The same whatever it is stored in; another for one other number. And the terms are
  those of the published weights, unless others are given.
  """
  _, about, _ = whole
  monkeypatch.setattr(transfer, "LICENCES", {"wan-dit": "published"})
  small, kept = imported(tmp_path / "small", tensors, dtype="bfloat16")
  assert small["dtype"] == "bfloat16"
  assert small["source"]["sha256"] == about["source"]["sha256"]
  name = "head.head.weight"
  stored = tensors[name].astype(ml_dtypes.bfloat16)
  assert kept[name]["sha256"] == hashlib.sha256(stored.tobytes()).hexdigest()
  other = {**tensors, name: tensors[name] + np.float32(1e-3)}
  moved, _ = imported(tmp_path / "moved", other, dtype="bfloat16", licence="own")
  assert (small["licence"], moved["licence"]) == ("published", "own")
  assert moved["source"]["sha256"] != about["source"]["sha256"]


def test_files_beside_the_weights_come_along(whole, tmp_path, monkeypatch, capsys):
  """From the first place that has one; one that is nowhere is told."""
  real = transfer.get_upstream("wan-dit")
  places = {"tokenizer.json": ("here", ".", "there"), "gone.txt": (".",)}
  upstream = real._replace(beside=places)
  monkeypatch.setattr(transfer, "get_upstream", lambda _: upstream)
  source = whole[0] / "source"
  (source / "there").mkdir(exist_ok=True)
  (source / "there/tokenizer.json").write_text("third")
  (source / "tokenizer.json").write_text("second")
  transfer.import_weights("wan-dit", source / "model.safetensors", tmp_path / "in")
  assert (tmp_path / "in/tokenizer.json").read_text() == "second"
  assert not (tmp_path / "in/gone.txt").exists()
  assert "no gone.txt near" in capsys.readouterr().err


def test_an_export_that_the_disk_spoils_is_noticed(whole, tmp_path, monkeypatch):
  write = transfer.write_safetensors

  def spoiled(folder, *rest):
    write(folder, *rest)
    (path,) = folder.glob("*.safetensors")
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)

  monkeypatch.setattr(transfer, "write_safetensors", spoiled)
  with pytest.raises(UsageError, match="the disk cannot be trusted"):
    transfer.export_weights(
      whole[0] / "in", tmp_path / "out", form="native", verify=True
    )
  assert not (tmp_path / "out").exists()


def test_a_folder_of_other_sizes_than_it_says(whole, monkeypatch, tmp_path):
  kind, sizes, *rest = transfer._exportable(whole[0] / "in")
  wrong = sizes | {"ffn": sizes["ffn"] + 16}
  monkeypatch.setattr(transfer, "_exportable", lambda _: (kind, wrong, *rest))
  with pytest.raises(UsageError, match=r"is not the .* its config.json speaks of"):
    transfer.export_weights(whole[0] / "in", tmp_path / "out", form="native")
