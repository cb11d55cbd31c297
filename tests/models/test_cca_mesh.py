"""Cross-modal attention moves nothing of the size of the video between devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ccl_jax.models.cca import CrossAttention, CrossConfig, Geometry
from ccl_jax.planning.program import Program
from ccl_jax.planning.traffic import collectives
from ccl_jax.sharding import make_mesh
from tests.close import assert_close
from tests.params import living_params

GEOMETRY = Geometry(t=4, h=24, w=8, a=13)
WIDTHS = {"video": 64, "audio": 32}
CONFIG = CrossConfig(video_tokens=5, audio_tokens=3)


def tokens(stream: str) -> tuple[int, int]:
  g = GEOMETRY
  return (g.t, g.h * g.w) if stream == "video" else (g.a, 1)


@pytest.mark.parametrize(("into", "frames"), [("video", 1), ("audio", 1), ("audio", 3)])
def test_forward_and_gradient(into, frames):
  """`frames`: that a token of sound sees."""
  config = dataclasses.replace(CONFIG, video_window=frames)
  source = {"video": "audio", "audio": "video"}[into]
  module = CrossAttention(into, WIDTHS[into], 4, WIDTHS[source], config, jnp.float32)
  table = lambda s: GEOMETRY.cross_table(s, WIDTHS[into] // 4, config)

  def run(module, x, y):
    keys = module.keys(y, table(source))
    return module(x, table(into), GEOMETRY, keys, None)

  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
  x, y, w = (draw(2, *tokens(s), WIDTHS[s]) for s in (into, source, into))
  shapes = jax.eval_shape(
    lambda k: module.init(k, x, y, method=run)["params"], jax.random.key(0)
  )
  # The names of a model's tree, by which its parameters are drawn.
  params = living_params({f"{source}_to_{into}": shapes})[f"{source}_to_{into}"]

  def loss(params, x, y):
    out = module.apply({"params": params}, x, y, method=run)
    return (out * w).sum()

  program = jax.value_and_grad(loss, argnums=(0, 1, 2))
  whole = jax.jit(program)(params, x, y)
  mesh = make_mesh((1, 2, 4, 1))
  placed = {
    "video": NamedSharding(mesh, P("fsdp", None, "context")),
    "audio": NamedSharding(mesh, P("fsdp")),
  }
  here = NamedSharding(mesh, P())
  shardings = here, placed[into], placed[source]
  with jax.set_mesh(mesh):
    jitted = jax.jit(program, in_shardings=shardings, out_shardings=(here, shardings))
    compiled = jitted.lower(params, x, y).compile()
    arguments = jax.device_put((params, x, y), shardings)
    parted = compiled(*arguments)
  # Sums over four parts in another order; gradients of parameters, over all tokens.
  assert_close(jax.device_get(parted), jax.device_get(whole), 2e-5)

  found = [c for c in collectives(Program(compiled.as_text())) if c.elements > 1]
  assert found, "expected sums over the parts"
  t, s = tokens("video")
  # One device's part of the video at the narrower width; more than any parameter.
  part = t * s // 4 * min(WIDTHS.values())
  large = [str(c) for c in found if c.elements >= part]
  assert not large
  assert {c.kind for c in found} <= {"all-reduce"}, list(map(str, found))
