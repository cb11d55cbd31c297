"""The mesh and the table of rules."""

import jax
import pytest
from jax.sharding import PartitionSpec as P

from ccl_jax.errors import UsageError
from ccl_jax.sharding import make_mesh, parameter_axes, spec


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


def test_size_one_axes_are_not_named():
  mesh = make_mesh((1, 8, 1, 1), jax.devices())
  assert spec(("batch", None, "space", None), (8, 3, 4, 5), mesh) == P(
    "fsdp", None, None, None
  )
