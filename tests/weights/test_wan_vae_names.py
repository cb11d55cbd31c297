"""The table of Wan2.1's VAE against the published list of names, and both ways."""

import csv

import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import save_file

from ccl_jax.errors import UsageError
from ccl_jax.weights.load import load_params
from ccl_jax.weights.rules import expected_tensors, unload
from ccl_jax.weights.wan_vae import DIFFUSERS, NATIVE, UPSTREAM


def test_names_and_shapes_are_the_published_ones(shared):
  with open(shared / "design" / "wan_keys.tsv") as file:
    rows = [r for r in csv.reader(file, delimiter="\t") if r[0] == "vae"]
  published = {
    native: tuple(int(n) for n in shape.strip("(),").split(","))
    for _, native, _, shape in rows
  }
  assert len(published) == 194
  shapes = UPSTREAM.shapes({"width": 96})
  native, diffusers = (expected_tensors(table, shapes) for table in (NATIVE, DIFFUSERS))
  assert {m.name: m.shape for m in native} == published
  assert {a.name: b.name for a, b in zip(native, diffusers)} == {
    row[1]: row[2] for row in rows
  }


@pytest.mark.parametrize(
  "rows, place, given",
  [
    (NATIVE, "anything.safetensors", "anything.safetensors"),
    (NATIVE, "Wan2.1_VAE.safetensors", ""),
    (DIFFUSERS, "vae/diffusion_pytorch_model.safetensors", ""),
    (DIFFUSERS, "vae/diffusion_pytorch_model.safetensors", "vae"),
  ],
)
def test_written_weights_are_read_back_bit_for_bit(tmp_path, rows, place, given):
  shapes, rng = UPSTREAM.shapes({"width": 4}), np.random.default_rng(0)
  arrays = {
    path: rng.standard_normal(x.shape).astype(np.float32) for path, x in shapes.items()
  }
  tensors = unload(rows, shapes, lambda path, slot: arrays[path])
  tensors = {name: np.ascontiguousarray(x) for name, x in tensors}
  (tmp_path / place).parent.mkdir(exist_ok=True)
  save_file(tensors, tmp_path / place)
  save_file({"patch_embedding.bias": np.zeros(3)}, tmp_path / "dit.safetensors")
  params, _ = load_params("wan-vae", tmp_path / given)
  loaded = traverse_util.flatten_dict(params, sep="/")
  assert loaded.keys() == arrays.keys()
  for name, array in arrays.items():
    np.testing.assert_array_equal(loaded[name], array, err_msg=name)


def test_other_weights_are_refused_in_one_line(tmp_path):
  save_file({"blocks.0.x": np.zeros(3)}, tmp_path / "a.safetensors")
  with pytest.raises(UsageError, match="is not Wan2.1's VAE: .* but blocks.0.x"):
    load_params("wan-vae", tmp_path / "a.safetensors")
  half = {"decoder.conv1.weight": np.zeros((16, 16, 3, 3, 3), np.float32)}
  half["conv2.weight"] = np.zeros((16, 16, 1, 1, 1), np.float32)
  save_file(half, tmp_path / "b.safetensors")
  with pytest.raises(UsageError, match="no tensor encoder.conv1.weight"):
    load_params("wan-vae", tmp_path / "b.safetensors")
