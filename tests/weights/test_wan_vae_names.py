"""The table of Wan2.1's VAE against the published list of names, and both ways."""

import csv

import jax
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import save_file

from ccl_jax.errors import UsageError
from ccl_jax.models.wan_vae import init_params
from ccl_jax.weights.rules import flat_shapes, unload, wanted
from ccl_jax.weights.wan_vae import ROWS, load_wan_vae, native_name


def shapes_of(width):
  shapes = jax.eval_shape(lambda k: init_params(k, width), jax.random.key(0))
  return flat_shapes(shapes)


def test_names_and_shapes_are_the_published_ones(shared):
  with open(shared / "design" / "wan_keys.tsv") as file:
    rows = [r for r in csv.reader(file, delimiter="\t") if r[0] == "vae"]
  published = {
    native: tuple(int(n) for n in shape.strip("(),").split(","))
    for _, native, _, shape in rows
  }
  assert len(published) == 194
  assert {m.name: m.shape for m in wanted(ROWS, shapes_of(96))} == published
  for _, native, diffusers, _ in rows:
    assert native_name(diffusers) == native
    assert native_name(native) == native


@pytest.mark.parametrize("layout", ["file", "native", "diffusers"])
def test_written_weights_are_read_back_bit_for_bit(tmp_path, layout):
  shapes, rng = shapes_of(4), np.random.default_rng(0)
  arrays = {
    path: rng.standard_normal(x.shape).astype(np.float32) for path, x in shapes.items()
  }
  tensors = unload(ROWS, shapes, lambda path, slot: arrays[path])
  tensors = {name: np.ascontiguousarray(x) for name, x in tensors}
  place = {
    "file": "anything.safetensors",
    "native": "Wan2.1_VAE.safetensors",
    "diffusers": "vae/diffusion_pytorch_model.safetensors",
  }[layout]
  (tmp_path / place).parent.mkdir(exist_ok=True)
  save_file(tensors, tmp_path / place)
  save_file({"patch_embedding.bias": np.zeros(3)}, tmp_path / "dit.safetensors")
  path = tmp_path / place if layout == "file" else tmp_path
  codec = load_wan_vae(path, chunk=3)
  assert codec.chunk == 3
  loaded = traverse_util.flatten_dict(codec.params, sep="/")
  assert loaded.keys() == arrays.keys()
  for name, array in arrays.items():
    np.testing.assert_array_equal(loaded[name], array, err_msg=name)


def test_other_weights_are_refused_in_one_line(tmp_path):
  save_file({"blocks.0.x": np.zeros(3)}, tmp_path / "a.safetensors")
  with pytest.raises(UsageError, match=r"no tensor encoder.conv1.weight: expected the"):
    load_wan_vae(tmp_path / "a.safetensors")
