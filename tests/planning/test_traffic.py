"""Collectives in the text of a compiled program."""

import re

import jax
import jax.numpy as jnp
import pytest

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


@pytest.mark.parametrize(
  ("kind", "moved"),
  [
    ("all-gather", 480 * 3 / 4),  # all but one's own part
    ("reduce-scatter", 480 * 3),  # what it makes is a fourth of what goes round
    ("all-reduce", 480 * 2 * 3 / 4),  # one after the other
    ("all-to-all", 480 * 3 / 4),
    ("collective-permute", 480),
  ],
)
def test_what_a_device_of_four_sends(kind, moved):
  one = Collective(kind, "f32", (6, 20), 4, times=3)
  assert (one.elements, one.nbytes, one.moved) == (120, 480, moved)
  assert table([one, one]) == [(kind, 6, 6 * moved)]


@pytest.mark.parametrize(
  ("dtype", "nbytes"),
  [("pred", 1), ("u8", 1), ("f8e4m3fn", 1), ("bf16", 2), ("s32", 4), ("f64", 8)],
)
def test_bytes_of_an_element(dtype, nbytes):
  assert Collective("all-gather", dtype, (), 2).nbytes == nbytes


def test_a_computation_runs_as_often_as_all_that_call_it():
  """Twice from the entry, and once in each of three rounds."""
  text = """
HloModule m, num_partitions=8
%shared (p: f32[4]) -> f32[4] {
  %ar = f32[4] all-reduce(%p), replica_groups=[2,4]<=[8], to_apply=%add
}
%body (p: f32[4]) -> f32[4] {
  %c = f32[4] call(%p), to_apply=%shared
}
ENTRY %main (p: f32[4]) -> f32[4] {
  %one = f32[4] call(%p), to_apply=%shared
  %two = f32[4] call(%p), to_apply=%shared
  %w = f32[4] while(%p), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"3"}}
}
"""  # noqa: E501
  assert collectives(text) == [Collective("all-reduce", "f32", (4,), 4, 5)]


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
