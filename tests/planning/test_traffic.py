"""Collectives in the text of a compiled program."""

import re

import jax
import jax.numpy as jnp

from ccl_jax.planning.traffic import Collective, collectives, table
from ccl_jax.sharding import make_mesh

TEXT = """
HloModule jit_f, num_partitions=8
ENTRY %main (x: f32[64,8]) -> f32[64,8] {
  %all-reduce.1 = f32[64,8]{1,0} all-reduce(%x), replica_groups={{0,1},{2,3}}
  %a2a = (bf16[2,3]{1,0}, bf16[2,3]{1,0}) all-to-all(%y, %z), dimensions={0}
  %ag = (bf16[4,16]{1,0}, bf16[32,16]{1,0}) all-gather-start(%w), dimensions={0}
  %done = bf16[32,16]{1,0} all-gather-done(%ag)
  %one = f32[9] all-reduce(%x), replica_groups={{0},{1},{2}}, to_apply=%add
  %rs = bf16[2,16] reduce-scatter(%x), replica_groups=mesh['a'=4,'b'=2,'c'=1] {'a','c'}
  %alone = f32[9] all-reduce(%x), replica_groups=mesh['a'=4,'b'=2,'c'=1] {'c'}
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


def test_a_loop_without_a_count_runs_as_long_as_its_condition_says():
  condition = """
%c (p: (s32[], f32[4])) -> pred[] {
  %limit = s32[]{:T(128)} constant(6)
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}
"""
  loops = re.sub(r', backend_config=\{"known[^\n]*', "", condition + LOOPS)
  assert [c.times for c in collectives(loops)] == [36, 1]


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
    Collective("all-reduce", "f32", (64, 8), 2),
    Collective("all-to-all", "bf16", (2, 3), 8),
    Collective("all-to-all", "bf16", (2, 3), 8),
    Collective("all-gather", "bf16", (32, 16), 8),
    Collective("reduce-scatter", "bf16", (2, 16), 4),
  ]
  # An all-reduce of two sends its 2048 bytes once, an all-gather 7 parts of 8.
  assert table(found) == [
    ("all-reduce", 1, 2048), ("all-gather", 1, 896), ("reduce-scatter", 1, 192),
    ("all-to-all", 2, 21),
  ]  # fmt: skip
  assert str(found[0]) == "all-reduce f32[64,8]"
