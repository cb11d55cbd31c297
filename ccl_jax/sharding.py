"""The mesh, and one table from logical axes to mesh axes.

Mesh axes: `data` (replicas), `fsdp` (parameters and batch), `context` (space of the
video stream), `tensor` (heads and hidden units). Parameters follow a table of path
patterns that must cover every one of them; activations name their logical axes.
"""

import math
import os
import re
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ccl_jax.errors import UsageError

AXES = ("data", "fsdp", "context", "tensor")

# Logical axis -> mesh axes.
LOGICAL = {
  "batch": ("data", "fsdp"),
  "space": ("context",),
  "embed": ("fsdp", "context"),
  "mlp": ("tensor",),
  "heads": ("tensor",),
  None: (),
}

# Parameter path -> logical axes of its last dimensions (a leading depth axis of the
# scanned blocks is never sharded). The first match holds.
PARAMETERS = [
  (r"/(self_attn|cross_attn)/o(_img)?/kernel", ("mlp", "embed")),
  (r"/ffn/out/kernel", ("mlp", "embed")),
  (r"/(audio_to_video|video_to_audio)/o/kernel", ("mlp", "embed")),
  (r"/(self_attn|cross_attn)/[qkv](_img)?/kernel", ("embed", "mlp")),
  (r"/(audio_to_video|video_to_audio)/[qkv]/kernel", ("embed", "mlp")),
  (r"/ffn/in/kernel", ("embed", "mlp")),
  (r"/(text|time|image)_embedding/(in|out)/kernel", ("embed", "mlp")),
  (r"/time_projection/kernel", ("embed", "mlp")),
  (r"/patch_embedding(/in)?/kernel", (None, "embed")),
  (r"/patch_embedding/w2/kernel", ("mlp", "embed")),
  (r"/patch_embedding/w[13]/kernel", ("embed", "mlp")),
  (r"/head/kernel", ("embed", None)),
  (r"/kernel/a", ("embed", None)),  # of an adapter
  (r"/kernel/b", (None, "embed")),
  (r"/context", (None, "embed")),
  (r"/(modulation|head_modulation|image_positions)", (None, "embed")),
  (r"/(bias|scale)", (None,)),
]


# Chips with 128 MiB of vector memory, of which kernels get 16 unless asked: the blocks
# of `ops.kernels.Kernel` need more, and matrix products gain from it.
_ROOMY = {"TPU v5", "TPU v5 lite", "TPU v6 lite"}
_VMEM = {"xla_tpu_scoped_vmem_limit_kib": str(64 * 1024)}
# Chips with sparse cores. These move data while the tensor core computes, which else
# waits for every collective; they cut gradients while they sum them, where the compiler
# else sums them whole on every chip. The last: parameters are gathered, not summed from
# parts among zeros, over three dimensions of links too.
_SPARSE_CORES = {"TPU v5", "TPU v6 lite"}
_COLLECTIVES = {
  "xla_tpu_enable_sparse_core_collective_offload_all_gather": "true",
  "xla_tpu_enable_sparse_core_collective_offload_2d_all_gather": "true",
  "xla_tpu_enable_sparse_core_collective_offload_3d_all_gather": "true",
  "xla_tpu_enable_sparse_core_collective_offload_all_reduce": "true",
  "xla_tpu_enable_sparse_core_collective_offload_reduce_scatter": "true",
  "xla_tpu_enable_sparse_core_collective_offload_nd_reduce_scatter": "true",
  "xla_tpu_prefer_async_allgather_to_allreduce": "true",
}


def compiler_options(mesh: Mesh) -> dict[str, str] | None:
  """What XLA is told of a program for the mesh's devices; None: nothing.

  An option that LIBTPU_INIT_ARGS names is left to it.

  Args:
    mesh: of devices that may be absent, as planning has them.
  """
  if mesh.empty:
    return None
  kinds = {x.device_kind for x in mesh.devices.flat}
  options = _VMEM if kinds <= _ROOMY else {}
  if kinds <= _SPARSE_CORES:
    options = options | _COLLECTIVES
  own = re.findall(r"--(\w+)", os.environ.get("LIBTPU_INIT_ARGS", ""))
  return {name: value for name, value in options.items() if name not in own} or None


def require_devices() -> None:
  """Finds this process's devices.

  Raises:
    UsageError: JAX_PLATFORMS names a platform that this machine does not have, or that
      this installation of JAX cannot use.
  """
  try:
    jax.devices()
  except (RuntimeError, AssertionError) as e:  # the second of cuda without its plugin
    why = " ".join(str(e).split(" (set JAX")[0].split())[:300]
    raise UsageError(
      f"JAX_PLATFORMS={jax.config.jax_platforms}: no such device can be used here"
      f"{why and f' ({why})'}: give cpu, tpu or cuda, whichever this machine and this "
      "installation have, or nothing to take the best"
    ) from e


def make_mesh(
  shape: Sequence[int],
  devices: Sequence[jax.Device] | None = None,
  slices: Sequence[int] = (1, 1, 1, 1),
) -> Mesh:
  """A mesh (data, fsdp, context, tensor); one size may be -1, for all that is left.

  Args:
    shape: the four sizes.
    devices: None: all there are.
    slices: of each size, how many parts lie on different slices, that is TPU pods that
      a data-centre network joins, or hosts of GPUs: of `data` and `fsdp` only, as the
      others talk in every block.

  Raises:
    UsageError: the sizes do not multiply to the number of devices, or not by slices.
  """
  devices = jax.devices() if devices is None else devices
  sizes = list(shape)
  fixed = math.prod(n for n in sizes if n != -1)
  if sizes.count(-1) == 1 and fixed and len(devices) % fixed == 0:
    sizes[sizes.index(-1)] = len(devices) // fixed
  wrong = len(sizes) != len(AXES) or any(n < 1 for n in sizes)
  if wrong or math.prod(sizes) != len(devices):
    raise UsageError(
      f"mesh {tuple(shape)} over {AXES}: expected four sizes with product "
      f"{len(devices)} (the devices); try 1,{len(devices)},1,1"
    )
  return Mesh(
    _arranged(sizes, devices, slices), AXES, axis_types=(AxisType.Auto,) * len(AXES)
  )


def _arranged(sizes, devices, slices) -> np.ndarray:
  """Devices by their place in the mesh, neighbours on the wires where these matter."""
  count = math.prod(slices)
  if count > 1:
    have = len({getattr(d, "slice_index", d.process_index) for d in devices})
    inner = [n // k for n, k in zip(sizes, slices)]
    if (
      count != have or slices[2:] != (1, 1) or any(n % k for n, k in zip(sizes, slices))
    ):
      raise UsageError(
        f"slices {tuple(slices)} of mesh {tuple(sizes)}: expected {have} slices (those "
        f"of the devices), dividing data or fsdp; try {have},1,1,1 or 1,{have},1,1"
      )
    return mesh_utils.create_hybrid_device_mesh(
      inner,
      slices,
      devices,
      process_is_granule=not hasattr(devices[0], "slice_index"),
    )
  if devices[0].platform == "tpu":
    return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
  return np.array(devices).reshape(sizes)


def parameter_axes(path: str, ndim: int) -> tuple[str | None, ...]:
  """Logical axes of the parameter (or its moment) at a '/'-joined path.

  Raises:
    KeyError: no pattern covers the path.
  """
  for pattern, axes in PARAMETERS:
    if re.search(pattern + "$", path):
      return (None,) * (ndim - len(axes)) + axes
  raise KeyError(f"no sharding rule covers parameter {path!r}")


def spec(axes: Sequence[str | None], shape: Sequence[int], mesh) -> P:
  """The partition of an array by its logical axes.

  A mesh axis that does not divide its dimension is left out, the last first.

  Args:
    axes: logical names, of `LOGICAL`.
    shape: of the array.
    mesh: with the axes `AXES`.
  """
  parts = []
  for axis, size in zip(axes, shape):
    names = tuple(n for n in LOGICAL[axis] if mesh.shape[n] > 1)
    # An axis that does not divide is dropped, rather than padded.
    while names and size % math.prod(mesh.shape[n] for n in names):
      names = names[:-1]
    parts.append(names if len(names) > 1 else (names[0] if names else None))
  return P(*parts)


def path_of(key_path) -> str:
  """A key path of a pytree as text, 'a/b/c'."""
  return jax.tree_util.keystr(key_path, simple=True, separator="/")


def parameter_shardings(tree, mesh: Mesh):
  """Shardings of a tree whose leaves are parameters, or mirror them (moments, EMA).

  Scalars are replicated.

  Raises:
    KeyError: no pattern covers a parameter.
  """

  def leaf(key_path, x):
    axes = parameter_axes("/" + path_of(key_path), x.ndim) if x.ndim else ()
    return NamedSharding(mesh, spec(axes, x.shape, mesh))

  return jax.tree_util.tree_map_with_path(leaf, tree)


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The sharding of a batch: its leading axis over data and fsdp."""
  return NamedSharding(mesh, P(LOGICAL["batch"]))


def local_rows(mesh: Mesh, batch_size: int) -> list[int]:
  """The rows of a batch that this process's devices hold.

  Other processes hold the same ones where `context` or `tensor` goes over processes.
  """
  parts = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
  return sorted({row for (part,) in parts for row in range(batch_size)[part]})


def global_batch(
  batch: Mapping[str, np.ndarray], rows: Sequence[int], batch_size: int, mesh: Mesh
) -> dict[str, jax.Array]:
  """The batch over all processes, as arrays on the mesh.

  Args:
    batch: this process's rows.
    rows: their indices, as `local_rows` gives them.
    batch_size: rows of the whole.
    mesh: of the run.
  """
  place = {row: i for i, row in enumerate(rows)}

  def whole(x):
    def part(index):  # a device's rows lie side by side, among a process's too
      wanted = range(batch_size)[index[0]]
      return x[place[wanted[0]] : place[wanted[-1]] + 1]

    shape = (batch_size, *x.shape[1:])
    return jax.make_array_from_callback(shape, batch_sharding(mesh), part)

  # A transfer that is asked for, though JAX does not count it among the explicit ones.
  with jax.transfer_guard("allow"):
    return {name: whole(x) for name, x in batch.items()}


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
  """Pins an activation to its logical axes on the current mesh, if there is one."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return x
  return jax.lax.with_sharding_constraint(x, spec(axes, x.shape, mesh))


def devices_here() -> int:
  """How many devices the current mesh has; 1 without one."""
  mesh = jax.sharding.get_abstract_mesh()
  return 1 if mesh.empty else mesh.size


def spread(x: jax.Array, units: Mapping[int, int]) -> jax.Array:
  """Pins an array to all devices of the current mesh, if there is one: each mesh axis
  splits the first dimension that it divides.

  Args:
    x: the array.
    units: by dimension, in their order, so many places that stay together.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if devices_here() == 1:
    return x
  left = {dim: x.shape[dim] // unit for dim, unit in units.items()}
  parts = {dim: [] for dim in units}
  for name, size in mesh.shape.items():
    for dim in units:
      if size > 1 and left[dim] % size == 0:
        left[dim] //= size
        parts[dim].append(name)
        break
  axes = [tuple(parts.get(dim, ())) or None for dim in range(x.ndim)]
  return jax.lax.with_sharding_constraint(x, P(*axes))


def finest(mesh: Mesh) -> Mesh:
  """The devices of a mesh in their order, with a mesh axis for each prime factor: what
  `spread` can split by several dimensions.
  """
  sizes = [f for n in mesh.shape.values() for f in _factors(n)] or [1]
  names = tuple(f"part_{i}" for i in range(len(sizes)))
  axis_types = (AxisType.Auto,) * len(sizes)
  return Mesh(mesh.devices.reshape(sizes), names, axis_types=axis_types)


def _factors(n: int) -> list[int]:
  """The prime factors of n, smallest first."""
  factor = next((f for f in range(2, n + 1) if n % f == 0), None)
  return [] if factor is None else [factor, *_factors(n // factor)]
