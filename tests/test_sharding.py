"""The mesh and the table of rules."""

import re

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from ccl_jax.errors import UsageError
from ccl_jax.models.presets import build_model, init_params
from ccl_jax.sharding import (
  PARAMETERS,
  _arranged,
  batch_sharding,
  global_batch,
  local_rows,
  make_mesh,
  parameter_axes,
  parameter_shardings,
  path_of,
  spec,
)


def test_mesh_fills_one_axis():
  mesh = make_mesh((1, -1, 2, 1))
  assert dict(mesh.shape) == {"data": 1, "fsdp": 4, "context": 2, "tensor": 1}


@pytest.mark.parametrize(
  "shape", [(1, 3, 1, 1), (8, 1, 1), (-1, -1, 1, 1), (2, 2, 1, 1)]
)
def test_a_mesh_that_does_not_fit_names_one_that_does(shape):
  with pytest.raises(UsageError, match="1,8,1,1"):
    make_mesh(shape)


def test_rules():
  mesh = make_mesh((1, 2, 2, 2))
  axes = parameter_axes("/blocks/video/ffn/in/kernel", 3)
  assert axes == (None, "embed", "mlp")
  assert spec(axes, (4, 64, 128), mesh) == P(None, ("fsdp", "context"), "tensor")
  # 6 divides by 2 but not by 4, 7 by neither: what does not divide stays whole.
  assert spec(axes, (4, 6, 7), mesh) == P(None, "fsdp", None)
  with pytest.raises(KeyError, match="no sharding rule"):
    parameter_axes("/blocks/video/new_thing/kernel", 3)


@pytest.mark.parametrize("mesh", [(1, 4, 2, 1), (2, 1, 2, 2), (1, 8, 1, 1)])
@pytest.mark.parametrize("image_form", ["first_frame", "channels"])
def test_no_large_parameter_is_whole_anywhere(mesh, image_form):
  """Of a million numbers and more, in the largest model."""
  model = build_model("14b", image_form=image_form)
  init = lambda key: init_params(model, key, (512, 4096))
  shapes = jax.eval_shape(init, jax.random.key(0))
  mesh = make_mesh(mesh)
  parts = mesh.shape["fsdp"] * mesh.shape["context"]
  for x, where in zip(
    *map(jax.tree.leaves, (shapes, parameter_shardings(shapes, mesh))), strict=True
  ):
    if x.size > 1e6:
      whole, part = x.size, np.prod(where.shard_shape(x.shape))
      assert whole >= parts * part
  paths = ["/" + path_of(p) for p, _ in jax.tree_util.tree_leaves_with_path(shapes)]
  unused = [r for r, _ in PARAMETERS if not any(re.search(r + "$", p) for p in paths)]
  assert not unused


def test_size_one_axes_are_not_named():
  mesh = make_mesh((1, 8, 1, 1), jax.devices())
  assert spec(("batch", None, "space", None), (8, 3, 4, 5), mesh) == P(
    "fsdp", None, None, None
  )


class Device:
  """A stand-in for a device of one of several slices."""

  platform, device_kind, process_index = "cpu", "some", 0

  def __init__(self, number, slice_index):
    self.id, self.slice_index = number, slice_index

  def __repr__(self):
    return f"{self.id}@{self.slice_index}"


def test_slices_split_the_slow_axes():
  devices = [Device(i, i // 4) for i in range(8)]
  for slices in ((2, 1, 1, 1), (1, 2, 1, 1)):
    shape = (2, 2, 2, 1) if slices[0] == 2 else (1, 4, 2, 1)
    placed = _arranged(list(shape), devices, slices)
    assert placed.shape == shape
    where = [[d.slice_index for d in row] for row in placed.reshape(2, 4)]
    assert where == [[0] * 4, [1] * 4]  # a slice is a whole part of the split axis


@pytest.mark.parametrize("slices", [(4, 1, 1, 1), (1, 1, 2, 1), (3, 1, 1, 1)])
def test_slices_that_are_not_there(slices):
  devices = [Device(i, i // 4) for i in range(8)]
  with pytest.raises(UsageError, match="expected 2 slices .* try 2,1,1,1 or 1,2,1,1"):
    _arranged([4, 1, 2, 1], devices, slices)


def test_each_process_puts_its_rows_into_the_batch():
  mesh = make_mesh((2, 2, 2, 1))
  assert local_rows(mesh, 8) == list(range(8))
  whole = np.arange(24).reshape(8, 3)
  batch = global_batch({"x": whole}, local_rows(mesh, 8), 8, mesh)["x"]
  np.testing.assert_array_equal(batch, whole)
  assert batch.sharding == batch_sharding(mesh)


def test_processes_along_the_context_hold_the_same_rows(monkeypatch):
  # Four processes of two devices each, of which two and two share their rows.
  for process, rows in enumerate([range(4), range(4), range(4, 8), range(4, 8)]):
    mine = jax.devices()[2 * process : 2 * process + 2]
    monkeypatch.setattr(
      jax.sharding.NamedSharding,
      "addressable_devices_indices_map",
      lambda self, shape, mine=mine: {
        d: i for d, i in self.devices_indices_map(shape).items() if d in mine
      },
    )
    assert local_rows(make_mesh((1, 2, 4, 1)), 8) == list(rows)
