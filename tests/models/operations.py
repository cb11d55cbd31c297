"""The operations of a traced forward pass, and the part of the network of each."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ccl_jax.models.cca import Geometry
from ccl_jax.models.joint import JointDiT
from ccl_jax.models.presets import parameter_shapes
from ccl_jax.tasks import Route

TEXT = (512, 32)  # as many rows as Wan2.1's, which its image conditioning asks for


class Operation(NamedTuple):
  """One of a program.

  Attributes:
    path: names of the modules around it, joined by '/'.
    name: of the primitive.
    times: how often it runs.
    inputs, out: their shapes and dtypes.
    flops: of a product of matrices, multiply and add.
  """

  path: str
  name: str
  times: int
  inputs: list[Any]
  out: Any
  flops: int


def operations(model: JointDiT, geometry: Geometry) -> list[Operation]:
  """Of one clip's forward pass, with both streams reading each other. Nothing runs."""
  shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)
  sizes = {
    "video": (geometry.t, 2 * geometry.h, 2 * geometry.w),
    "audio": (geometry.a,),
  }
  inputs = {
    "latents": {s: shape(1, *sizes[s], c.in_channels) for s, c in model.streams},
    "timesteps": {s: shape(1, 1) for s, _ in model.streams},
    "text": shape(1, *TEXT),
    "image": {s: shape(1, 257, 1280) for s, c in model.streams if c.image_tokens},
  }
  params = parameter_shapes(model, TEXT)
  route = Route({s: len(model.streams) == 2 for s, _ in model.streams})
  run = lambda p, x: model.apply({"params": p}, **x, route=route)
  return list(_walk(jax.make_jaxpr(run)(params, inputs).jaxpr, "", 1))


def _walk(jaxpr, path: str, times: int) -> Iterator[Operation]:
  for e in jaxpr.eqns:
    here = f"{path}/{e.source_info.name_stack}"
    count = times * e.params.get("length", 1) if e.primitive.name == "scan" else times
    inner = [j for p in e.params.values() for j in _jaxprs(p)]
    for j in inner:
      yield from _walk(j, here, count)
    if not inner:
      shapes = [x.aval for x in e.invars]
      out = e.outvars[0].aval
      flops = 0
      if e.primitive.name == "dot_general":
        (contracted, _), _ = e.params["dimension_numbers"]
        flops = 2 * count * out.size * math.prod(shapes[0].shape[i] for i in contracted)
      yield Operation(here, e.primitive.name, count, shapes, out, flops)


def _jaxprs(value):
  values = value if isinstance(value, tuple | list) else [value]
  return [
    getattr(v, "jaxpr", v) for v in values if hasattr(getattr(v, "jaxpr", v), "eqns")
  ]
