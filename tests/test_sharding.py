"""The mesh and the table of rules."""

import re
from unittest import mock

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from ccl_jax import eval as evaluation
from ccl_jax.errors import UsageError
from ccl_jax.generation.pipeline import LoadedModel
from ccl_jax.models.adapter import Adapter
from ccl_jax.models.presets import build_model, parameter_shapes
from ccl_jax.sharding import (
  PARAMETERS,
  _arranged,
  batch_sharding,
  compiler_options,
  constrain,
  global_batch,
  local_rows,
  make_mesh,
  parameter_axes,
  parameter_shardings,
  path_of,
  require_devices,
  spec,
)


def test_mesh_fills_one_axis():
  mesh = make_mesh((1, -1, 2, 1))
  assert dict(mesh.shape) == {"data": 1, "fsdp": 4, "context": 2, "tensor": 1}


@pytest.mark.parametrize(
  "shape",
  # The product of two that are negative is the number of devices too.
  [
    (1, 3, 1, 1),
    (8, 1, 1),
    (-1, -1, 1, 1),
    (-1, -1, 8, 1),
    (-2, -4, 1, 1),
    (2, 2, 1, 1),
  ],
)
def test_a_mesh_that_does_not_fit_names_one_that_does(shape):
  with pytest.raises(UsageError, match="1,8,1,1"):
    make_mesh(shape)


def test_devices_that_are_not_here_are_one_line(monkeypatch):
  """As JAX says it of JAX_PLATFORMS=cuda on a machine without."""
  require_devices()
  said = "Unable to initialize backend 'cuda': no plugin (set JAX_PLATFORMS='' to ..)"
  for error in (RuntimeError(said), AssertionError()):
    monkeypatch.setattr(jax, "devices", mock.Mock(side_effect=error))
    with pytest.raises(UsageError, match="JAX_PLATFORMS=cpu: no such device can") as e:
      require_devices()
    assert "\n" not in str(e.value) and "set JAX" not in str(e.value)


def test_who_looks_for_devices_before_the_work(monkeypatch, tmp_path):
  refused = mock.Mock(side_effect=AssertionError())
  monkeypatch.setattr(jax, "devices", refused)
  with pytest.raises(UsageError, match="no such device"):
    LoadedModel.load("quickstart")
  (tmp_path / "a.mp4").touch()
  flags = ["--videos", str(tmp_path), "--out", str(tmp_path / "out")]
  with pytest.raises(UsageError, match="no such device"):
    evaluation.main([*flags, "--metrics", "av_align"])
  assert not (tmp_path / "out").exists()


def test_rules():
  mesh = make_mesh((1, 2, 2, 2))
  axes = parameter_axes("/blocks/video/ffn/in/kernel", 3)
  assert axes == (None, "embed", "mlp")
  assert spec(axes, (4, 64, 128), mesh) == P(None, ("fsdp", "context"), "tensor")
  # 6 divides by 2 but not by 4, 7 by neither: what does not divide stays whole.
  assert spec(axes, (4, 6, 7), mesh) == P(None, "fsdp", None)
  with pytest.raises(KeyError, match="no sharding rule"):
    parameter_axes("/blocks/video/new_thing/kernel", 3)


@pytest.mark.parametrize("image_form", ["first_frame", "channels"])
def test_no_large_parameter_is_whole_anywhere(image_form):
  """Of a million numbers and more, in the largest models and in a LoRA of one."""
  shapes = [
    parameter_shapes(model, (512, 4096))
    for model in (
      build_model("14b", image_form=image_form),
      build_model("5b", variant="fusion"),
    )
  ]
  lora = Adapter(layers="attention").trained
  shapes.append(jax.eval_shape(lora, shapes[0], jax.random.key(0)))
  for sizes in ((1, 4, 2, 1), (2, 1, 2, 2), (1, 8, 1, 1)):
    mesh = make_mesh(sizes)
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


# Every parameter of a model with both streams and an image, and how its last axes lie
# on a mesh where everything divides. In (E) matrices that widen, the inputs lie over
# fsdp and context and the outputs over tensor; in (M) those that go back, the reverse.
E, M = (("fsdp", "context"), "tensor"), ("tensor", ("fsdp", "context"))
LAST = (None, ("fsdp", "context"))  # what has only its channels to share out
BLOCK = {
  "self_attn/q/kernel": E, "self_attn/k/kernel": E, "self_attn/v/kernel": E,
  "self_attn/o/kernel": M,
  "cross_attn/q/kernel": E, "cross_attn/k/kernel": E, "cross_attn/v/kernel": E,
  "cross_attn/o/kernel": M,
  "ffn/in/kernel": E, "ffn/out/kernel": M,
  "modulation": LAST,
}  # fmt: skip
IMAGE = {"cross_attn/k_img/kernel": E, "cross_attn/v_img/kernel": E}
EXCHANGE = {
  "q/kernel": E, "k/kernel": E, "v/kernel": E, "o/kernel": M, "context": LAST,
}  # fmt: skip
STREAM = {
  "patch_embedding/kernel": LAST,
  "text_embedding/in/kernel": E, "text_embedding/out/kernel": E,
  "time_embedding/in/kernel": E, "time_embedding/out/kernel": E,
  "time_projection/kernel": E,
  "head/kernel": (("fsdp", "context"), None),
  "head_modulation": LAST,
}  # fmt: skip
IMAGE_STREAM = {"image_embedding/in/kernel": E, "image_embedding/out/kernel": E}
WHERE = {
  f"{prefix}/{path}": axes
  for prefix, table in {
    "blocks/video": BLOCK | IMAGE,
    "blocks/audio": BLOCK,
    "blocks/audio_to_video": EXCHANGE,
    "blocks/video_to_audio": EXCHANGE,
    "video": STREAM | IMAGE_STREAM,
    "audio": STREAM,
  }.items()
  for path, axes in table.items()
}


@pytest.fixture(scope="module")
def placed():
  """{path: (shape, sharding)} of the lab model with an image, on eight devices."""
  model = build_model("lab", image_form="channels")
  shapes = parameter_shapes(model, (512, 64))
  shardings = parameter_shardings(shapes, make_mesh((1, 2, 2, 2)))
  return {
    path_of(path): (x.shape, sharding)
    for (path, x), sharding in zip(
      jax.tree_util.tree_leaves_with_path(shapes),
      jax.tree.leaves(shardings),
      strict=True,
    )
  }


def test_every_parameter_lies_where_its_rule_says(placed):
  small = {p for p in placed if p.endswith(("bias", "scale"))}
  assert placed.keys() - small == WHERE.keys()
  for path, (shape, sharding) in placed.items():
    # Vectors are whole everywhere; so is the depth of the blocks.
    axes = (None,) if path in small else WHERE[path]
    expected = P(*(None,) * (len(shape) - len(axes)), *axes)
    assert sharding.spec == expected, path


def test_axes_of_the_layers_that_only_ovi_has():
  """A convolution's taps are whole; hidden channels are split as those of an FFN."""
  axes = lambda path, ndim: parameter_axes(f"/{path}", ndim)[-2:]
  patches = "audio/patch_embedding"
  assert axes(f"{patches}/in/kernel", 3) == (None, "embed")
  assert axes(f"{patches}/w1/kernel", 3) == ("embed", "mlp")
  assert axes(f"{patches}/w2/kernel", 3) == ("mlp", "embed")
  assert axes(f"{patches}/w3/kernel", 3) == ("embed", "mlp")
  assert axes("blocks/audio_to_video/k/kernel", 3) == ("embed", "mlp")
  assert parameter_axes("/blocks/video_to_audio/ln_kv/bias", 2) == (None, None)


def test_axes_of_activations():
  mesh = make_mesh((2, 2, 2, 1))
  assert spec(("batch", None, "space", "heads"), (8, 3, 4, 6), mesh) == P(
    ("data", "fsdp"), None, "context", None
  )
  assert batch_sharding(mesh).spec == P(("data", "fsdp"))
  assert spec(("heads", "mlp", "embed"), (4, 4, 4), make_mesh((1, 1, 2, 4))) == P(
    "tensor", "tensor", "context"
  )
  # Three rows over data 2 x fsdp 2: whole; six: over data alone.
  assert spec(("batch",), (3,), mesh) == P(None)
  assert spec(("batch",), (6,), mesh) == P("data")


def test_an_activation_is_pinned_where_there_is_a_mesh():
  pin = lambda x: constrain(x, "batch", None, "space", None)
  x = jax.numpy.arange(96.0).reshape(4, 3, 4, 2)
  assert pin(x) is x
  with jax.set_mesh(make_mesh((2, 1, 4, 1))):
    out = jax.jit(pin)(x)
  assert {s.data.shape for s in out.addressable_shards} == {(2, 3, 1, 2)}
  np.testing.assert_array_equal(out, x)


def test_a_number_is_whole_everywhere():
  mesh = make_mesh((1, 8, 1, 1))
  shardings = parameter_shardings({"count": np.float32(3)}, mesh)
  assert shardings["count"].spec == P() and shardings["count"].mesh == mesh


@pytest.mark.parametrize(
  ("kinds", "vmem"),
  [
    (["TPU v5", "TPU v5"], "65536"),
    (["TPU v5 lite"], "65536"),
    (["TPU v6 lite"], "65536"),
    (["TPU v4"], None),  # it has 16 MiB for all
    (["NVIDIA H100 80GB HBM3"], None),
    (["cpu"], None),
  ],
)
def test_kernels_get_room_where_there_is_some(kinds, vmem):
  options = compiler_options(mesh_of(*kinds)) or {}
  assert options.get("xla_tpu_scoped_vmem_limit_kib") == vmem
  assert compiler_options(jax.sharding.get_mesh()) is None  # none is in use


def mesh_of(*kinds):
  return Mesh(np.array([mock.Mock(device_kind=kind) for kind in kinds]), ("x",))


@pytest.mark.parametrize(
  ("kinds", "sparse"),
  [
    (["TPU v5", "TPU v5"], True),
    (["TPU v6 lite"], True),
    (["TPU v5 lite"], False),  # it has none, and its compiler refuses
    (["TPU v4"], False),
    (["TPU v6 lite", "TPU v5 lite"], False),
    (["NVIDIA H100 80GB HBM3"], False),
    (["cpu"], False),
  ],
)
def test_sparse_cores_move_data_where_there_are_some(kinds, sparse):
  options = compiler_options(mesh_of(*kinds)) or {}
  offloads = {name for name in options if "sparse_core_collective_offload" in name}
  kind = lambda name: name.partition("offload_")[2]
  expected = {
    "all_gather", "2d_all_gather", "3d_all_gather", "all_reduce", "reduce_scatter",
    "nd_reduce_scatter",
  }  # fmt: skip
  assert {kind(name) for name in offloads} == (expected if sparse else set())
  assert all(options[name] == "true" for name in offloads)
  assert ("xla_tpu_prefer_async_allgather_to_allreduce" in options) == sparse


def test_what_the_environment_tells_libtpu_is_left_to_it(monkeypatch):
  gather = "xla_tpu_enable_sparse_core_collective_offload_all_gather"
  monkeypatch.setenv("LIBTPU_INIT_ARGS", f"--xla_other=1 --{gather}=false")
  options = compiler_options(mesh_of("TPU v6 lite"))
  assert gather not in options
  # A name that only begins like it is another's.
  assert "xla_tpu_enable_sparse_core_collective_offload_all_reduce" in options
  monkeypatch.setenv(
    "LIBTPU_INIT_ARGS", "--xla_tpu_scoped_vmem_limit_kib=98304 --xla_x"
  )
  assert compiler_options(mesh_of("TPU v5 lite")) is None


def test_devices_of_a_mesh_are_in_their_order():
  """Neighbours are tensor's, then context's: those that talk most."""
  mesh = make_mesh((1, 2, 2, 2))
  assert mesh.axis_names == ("data", "fsdp", "context", "tensor")
  numbers = np.vectorize(lambda d: d.id)(mesh.devices)
  np.testing.assert_array_equal(numbers, np.arange(8).reshape(1, 2, 2, 2))


def test_tpus_are_arranged_by_their_wires(monkeypatch):
  """By JAX, which may split an axis of a torus."""
  called = {}

  def arrange(sizes, devices, **options):
    called.update(options, sizes=sizes)
    return np.array(devices).reshape(sizes)[::-1]

  monkeypatch.setattr("jax.experimental.mesh_utils.create_device_mesh", arrange)
  devices = [Device(i, 0) for i in range(4)]
  for d in devices:
    d.platform = "tpu"
  placed = _arranged([2, 2, 1, 1], devices, (1, 1, 1, 1))
  assert called == {"sizes": [2, 2, 1, 1], "allow_split_physical_axes": True}
  assert placed[0, 0, 0, 0].id == 2
