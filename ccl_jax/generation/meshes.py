"""The mesh that clips are made on: parameters over all devices, clips where it is free.

data     evaluations and clips, as far as the parameters fit that many times
context  the space of the video: tokens of a latent frame, and heads, divide by it
fsdp     what is left; it holds parameters as context does
"""

import math

import jax
from jax.sharding import Mesh

from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.generation.memory import GIB, device_memory
from ccl_jax.models.joint import JointDiT, geometry_of
from ccl_jax.models.precision import stored_as
from ccl_jax.models.presets import parameter_shapes
from ccl_jax.processes import agreed
from ccl_jax.sharding import AXES, make_mesh

ROOM = 0.5  # of a device's memory, for parameters
TEXT_WIDTH = 4096  # of UMT5; another is a small part of the parameters


def alone() -> Mesh:
  """The mesh of this process's first device."""
  return make_mesh((1,) * len(AXES), jax.local_devices()[:1])


def shape_for(
  devices: int, space: int, heads: int, rows: int, size: int, memory: int | None
) -> tuple[int, int, int, int]:
  """The sizes (data, fsdp, context, tensor) of a mesh for generation.

  Args:
    devices: how many there are.
    space: tokens of a latent frame of the video; 1 without a video.
    heads: of the video.
    rows: clips by evaluations that run together.
    size: bytes of the parameters.
    memory: bytes of a device; None: unknown, and no limit.
  """
  divisors = [n for n in range(1, devices + 1) if devices % n == 0]
  room = math.inf if memory is None else ROOM * memory
  fits = lambda copies: copies == 1 or size * copies / devices <= room
  data = max(n for n in divisors if rows % n == 0 and fits(n))
  rest = devices // data
  context = max(
    n for n in divisors if rest % n == 0 and space % n == 0 and heads % n == 0
  )
  return data, rest // context, context, 1


def chosen_shape(
  model: JointDiT, spec: ClipSpec, rows: int, devices: int, memory: int | None
) -> tuple[int, int, int, int]:
  """`shape_for` clips of a model.

  Args:
    model, spec: the network and the clip.
    rows, devices, memory: see `shape_for`.
  """
  video = dict(model.streams).get("video")
  heads = 1 if video is None else video.heads
  size = 0 if memory is None else parameter_bytes(model)
  return shape_for(devices, _space(model, spec), heads, rows, size, memory)


def _space(model: JointDiT, spec: ClipSpec) -> int:
  """Tokens of a latent frame of the video; 1 without a video."""
  geometry = geometry_of(model, spec)
  return geometry.h * geometry.w if "video" in dict(model.streams) else 1


def mesh_for(
  model: JointDiT, spec: ClipSpec, rows: int, shape: tuple[int, ...] | None = None
) -> Mesh:
  """The mesh of all devices for clips of a model.

  Args:
    model, spec: the network and the clip.
    rows: see `shape_for`.
    shape: its sizes, one of which may be -1; None: chosen by `shape_for`.

  Raises:
    UsageError: a shape that the devices, the clip or the model do not divide by, or
      parameters that have no room on it.
  """
  devices = jax.devices()
  # Of a device of the first process: all take the same mesh.
  memory = agreed(device_memory)
  if shape is None and len(devices) == 1:
    check_room(model, 1, 1, memory)
    return alone()
  geometry, space = geometry_of(model, spec), _space(model, spec)
  asked = "" if shape is None else f"--mesh {','.join(map(str, shape))}: "
  if shape is None:
    shape = chosen_shape(model, spec, rows, len(devices), memory)
  mesh = make_mesh(shape, devices)
  check_room(model, mesh.shape["data"], len(devices), memory, asked)
  if space % mesh.shape["context"]:
    raise UsageError(
      f"--mesh {','.join(map(str, shape))}: context {mesh.shape['context']} does not "
      f"divide the {space} tokens of a latent frame"
      + (
        f" ({geometry.h} x {geometry.w})"
        if "video" in dict(model.streams)
        else ", without a video"
      )
      + "; leave --mesh out, and one is chosen"
    )
  for name, c in model.streams:
    if c.heads % mesh.shape["tensor"]:
      raise UsageError(
        f"--mesh {','.join(map(str, shape))}: tensor {mesh.shape['tensor']} does not "
        f"divide the {c.heads} heads of the {name}; leave --mesh out, and one is chosen"
      )
  return mesh


def check_room(
  model: JointDiT, data: int, devices: int, memory: int | None, asked: str = ""
) -> None:
  """Checks that a model's parameters alone have room on a mesh, before they are read.

  Args:
    model: the network.
    data: size of that axis, on which they are copies.
    devices: of the mesh.
    memory: bytes of a device; None: unknown.
    asked: what the line begins with.

  Raises:
    UsageError: they have not.
  """
  if memory is None:
    return
  share = parameter_bytes(model) * data / devices
  if share > memory:
    advice = "use more devices, or larger ones"
    if data > 1:
      advice = f"give data less than {data}, or leave --mesh out, and one is chosen"
    raise UsageError(
      f"{asked}the parameters take {share / GIB:.1f} GiB of each device, which has "
      f"{memory / GIB:.1f}: {advice}"
    )


def parameter_bytes(model: JointDiT) -> int:
  """Bytes of a model's parameters, as they are held for generation."""
  shapes = stored_as(parameter_shapes(model, (1, TEXT_WIDTH)), model.dtype)
  return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(shapes))
