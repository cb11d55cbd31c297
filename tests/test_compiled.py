"""Collectives in the text of a compiled program."""

import jax
import jax.numpy as jnp

from ccl_jax.compiled import Collective, collectives, table
from ccl_jax.sharding import make_mesh

TEXT = """
ENTRY %main (x: f32[64,8]) -> f32[64,8] {
  %all-reduce.1 = f32[64,8]{1,0} all-reduce(%x), replica_groups={{0,1},{2,3}}
  %a2a = (bf16[2,3]{1,0}, bf16[2,3]{1,0}) all-to-all(%y, %z), dimensions={0}
  %ag = (bf16[4,16]{1,0}, bf16[32,16]{1,0}) all-gather-start(%w), dimensions={0}
  %done = bf16[32,16]{1,0} all-gather-done(%ag)
  %one = f32[9] all-reduce(%x), replica_groups={{0},{1},{2}}, to_apply=%add
  %two = f32[9] all-reduce(%x), replica_groups=[8,1]<=[8], to_apply=%add
  ROOT %add.2 = f32[64,8]{1,0} add(%all-reduce.1, %all-reduce.1)
}
"""


LOOPS = """
%inner (p: f32[4]) -> f32[4] {
  %all-reduce.2 = f32[4] all-reduce(%p), replica_groups={{0,1}}, to_apply=%add
}

%outer (p: (f32[4])) -> (f32[4]) {
  %w = f32[4] while(%p), condition=%c, body=%inner, backend_config={"known_trip_count":{"n":"3"}}
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %all-reduce.1 = f32[4] all-reduce(%p), replica_groups={{0,1}}, to_apply=%add
  %w = (f32[4]) while(%p), condition=%c, body=%outer, backend_config={"known_trip_count":{"n":"5"}}
}
"""  # noqa: E501


def test_a_loop_runs_what_is_in_it_again_and_again():
  assert [c.times for c in collectives(LOOPS)] == [15, 1]
  assert table(collectives(LOOPS)) == [("all-reduce", 16, 256)]


def test_a_scan_of_a_real_program():
  mesh = make_mesh((1, 8, 1, 1))

  def program(x):
    step = lambda c, _: (jnp.tanh(c @ c.T @ c), None)
    return jax.lax.scan(step, x, length=7)[0]

  with jax.set_mesh(mesh):
    x = jax.ShapeDtypeStruct((64, 32), jnp.float32)
    placed = jax.NamedSharding(mesh, jax.P("fsdp"))
    jitted = jax.jit(program, in_shardings=placed, out_shardings=placed)
    found = collectives(jitted.lower(x).compile().as_text())
  assert found and {c.times for c in found} == {7}


def test_kinds_shapes_and_bytes():
  found = collectives(TEXT)
  assert found == [
    Collective("all-reduce", "f32", (64, 8)),
    Collective("all-to-all", "bf16", (2, 3)),
    Collective("all-to-all", "bf16", (2, 3)),
    Collective("all-gather", "bf16", (32, 16)),
  ]
  assert table(found) == [
    ("all-reduce", 1, 2048), ("all-gather", 1, 1024), ("all-to-all", 2, 24),
  ]  # fmt: skip
  assert str(found[0]) == "all-reduce f32[64,8]"
