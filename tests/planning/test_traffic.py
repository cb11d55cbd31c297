"""Collectives in the text of a compiled program."""

import re

import jax
import jax.numpy as jnp
import pytest

from ccl_jax.planning.chips import Chip
from ccl_jax.planning.program import Program
from ccl_jax.planning.traffic import Collective, table
from ccl_jax.planning.traffic import collectives as collectives_of
from ccl_jax.sharding import make_mesh


def collectives(text):
  return collectives_of(Program(text))


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


STARTED = """
HloModule m, num_partitions=8
%wrapped (p: f32[40]) -> f32[10] {
  ROOT %rs.2 = f32[10] reduce-scatter(%p), replica_groups=[2,4]<=[8], to_apply=%add
}
ENTRY %main (x: f32[64]) -> f32[64] {
  %rs = ((bf16[80,16]{1,0}), bf16[10,16]{1,0}) reduce-scatter-start(%x), replica_groups=[1,8]<=[8]
  %rs.done = bf16[10,16]{1,0} reduce-scatter-done(%rs)
  %ag = ((f32[2], bf16[3]{0}), (f32[16], bf16[24]{0})) all-gather-start(%x, %y), replica_groups=[1,8]<=[8]
  %ag.done = (f32[16], bf16[24]{0}) all-gather-done(%ag)
  %ar = (f32[5], f32[7]) all-reduce-start(%x, %y), replica_groups=[4,2]<=[8], to_apply=%add
  %ar.done = (f32[5], f32[7]) all-reduce-done(%ar)
  %cp = (f32[6]{0}, f32[6]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%x), source_target_pairs={{0,1}}
  %cp.done = f32[6]{0} collective-permute-done(%cp)
  %open = (f32[2], f32[16]) all-gather-start(%x), replica_groups=[1,8]<=[8]
  %as = ((f32[40]), f32[10], u32[]) async-start(%x), calls=%wrapped
  %as.done = f32[10] async-done(%as), calls=%wrapped
}
"""  # noqa: E501


def test_a_start_is_what_stands_at_its_end():
  """Of a reduce-scatter the small result, not the operand; of a combined one every
  array; a start without an end in sight makes the second of its tuple; what is started
  by a computation of its own counts once.
  """
  assert collectives(STARTED) == [
    Collective("reduce-scatter", "f32", (10,), 4),
    Collective("reduce-scatter", "bf16", (10, 16), 8),
    Collective("all-gather", "f32", (16,), 8),
    Collective("all-gather", "bf16", (24,), 8),
    Collective("all-reduce", "f32", (5,), 2),
    Collective("all-reduce", "f32", (7,), 2),
    Collective("collective-permute", "f32", (6,), 8),
    Collective("all-gather", "f32", (16,), 8),
  ]
  # 7 of 8 parts go out of what is scattered: 7 x 320 bytes, and 3 x 40 of four.
  assert (
    dict((k, b) for k, _, b in table(collectives(STARTED)))["reduce-scatter"]
    == 7 * 320 + 3 * 40
  )


MACHINES = [0, 0, 0, 0, 1, 1, 1, 1]
GPUS = """
HloModule m, num_partitions=8
ENTRY %main (x: f32[64]) -> f32[64] {
  %all = f32[80] all-gather(%x), replica_groups=[1,8]<=[8]
  %own = f32[80] all-gather(%x), replica_groups=[2,4]<=[8]
  %far = f32[80] all-gather(%x), replica_groups=[4,2]<=[2,4]T(1,0)
  %two = f32[80] all-gather(%x), replica_groups={{0,1,4,5},{2,3,6,7}}
  %named = f32[80] all-reduce(%x), replica_groups=mesh['a'=2,'b'=4] {'a'}, to_apply=%add
  %close = f32[80] all-reduce(%x), replica_groups=mesh['a'=2,'b'=4] {'b'}, to_apply=%add
  %part = f32[80] all-reduce(%x), replica_groups=mesh['a'=8] {'a':(1)2}, to_apply=%add
  %last = f32[80] all-reduce(%x), replica_groups=mesh['a'=8] {'a':(4)2}, to_apply=%add
  %rs = f32[10] reduce-scatter(%x), replica_groups=[1,8]<=[8], to_apply=%add
  %a2a = f32[80] all-to-all(%x), replica_groups=[1,8]<=[8]
  %near = f32[80] collective-permute(%x), source_target_pairs={{0,1},{1,2},{2,3}}
  %ring = f32[80] collective-permute(%x), source_target_pairs={{2,3},{3,4},{4,5}}
}
"""


def test_what_leaves_a_machine_of_gpus():
  """Two machines of four; 320 bytes, by hand. Each machine has half of what is gathered
  and needs the other: 160 bytes, which its members of the group share. A sum of eight
  goes out once as parts and once as sums; of what is exchanged half is for others.
  """
  found = collectives_of(Program(GPUS), MACHINES)
  assert [(c.group, c.machines, c.outside) for c in found] == [
    (8, 2, 160 / 4), (4, 1, 0), (2, 2, 160), (4, 2, 160 / 2), (2, 2, 2 * 160),
    (4, 1, 0), (2, 2, 2 * 160), (2, 1, 0), (8, 2, 160 / 4), (8, 2, 160), (8, 1, 0),
    (8, 2, 320),
  ]  # fmt: skip
  assert {c.machines for c in collectives(GPUS)} == {1}  # one set of links
  chip = Chip(1.0, 1.0, 1.0, link_rate=10.0, network_rate=1.0)
  # 280 bytes by links in 28 s, and 40 of them by the network in 40 s meanwhile.
  assert [c.seconds(chip) for c in found[:2]] == [40.0, 240 / 10]
  assert found[0].seconds(chip._replace(network_rate=2.0)) == 28.0
  assert found[0]._replace(between=True, machines=1).seconds(chip) == 280.0


SCATTERED = """
HloModule m, num_partitions=8
%all-reduce-scatter.1 (a: bf16[256,8], b: bf16[128,8]) -> (bf16[64,8], bf16[32,8]) {
  %all-reduce.2 = (bf16[256,8]{1,0}, bf16[128,8]{1,0}) all-reduce(%a, %b), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  %gte.1 = bf16[256,8]{1,0} get-tuple-element(%all-reduce.2), index=0
  %ds.1 = bf16[64,8]{1,0} dynamic-slice(%gte.1, %i, %z), dynamic_slice_sizes={64,8}
  %gte.2 = bf16[128,8]{1,0} get-tuple-element(%all-reduce.2), index=1
  %ds.2 = bf16[32,8]{1,0} dynamic-slice(%gte.2, %i, %z), dynamic_slice_sizes={32,8}
  ROOT %t = (bf16[64,8], bf16[32,8]) tuple(%ds.1, %ds.2)
}
%summed (a: bf16[256,8]) -> bf16[256,8] {
  %all-reduce.3 = bf16[256,8]{1,0} all-reduce(%a), replica_groups={{0,1}}, to_apply=%add
  ROOT %n = bf16[256,8]{1,0} negate(%all-reduce.3)
}
ENTRY %main (x: f32[64]) -> f32[64] {
  %f = (bf16[64,8], bf16[32,8]) fusion(%x, %y), kind=kCustom, calls=%all-reduce-scatter.1
  %g = bf16[256,8] fusion(%x), kind=kCustom, calls=%summed
  %all-reduce.4 = bf16[256,8]{1,0} all-reduce(%x), replica_groups={{0,1}}, to_apply=%add
  %own = bf16[128,8]{1,0} dynamic-slice(%all-reduce.4, %i, %z), dynamic_slice_sizes={128,8}
}
"""  # noqa: E501


def test_a_fused_sum_of_which_a_slice_is_kept_is_a_reduce_scatter():
  """As libtpu writes it; a sum beside which the slice stands alone is a whole one."""
  assert collectives(SCATTERED) == [
    Collective("reduce-scatter", "bf16", (64, 8), 4),
    Collective("reduce-scatter", "bf16", (32, 8), 4),
    Collective("all-reduce", "bf16", (256, 8), 2),
    Collective("all-reduce", "bf16", (256, 8), 2),
  ]


BETWEEN = """
HloModule m, num_partitions=8
ENTRY %main (x: f32[64]) -> f32[64] {
  %send.3 = (bf16[64,8]{1,0}, u32[], token[]) send(%x, %after), is_host_transfer=true, frontend_attributes={_xla_megascale_target="{1,2,5:7}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv.3 = (bf16[64,8]{1,0}, u32[], token[]) recv(%after), is_host_transfer=true, frontend_attributes={_xla_megascale_target="{1,2,5:7}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv.4 = (f32[9]{0}, u32[], token[]) recv(%after), is_host_transfer=true
  %send-done.3 = token[] send-done(%send.3)
  %recv-done.3 = (bf16[64,8]{1,0}, token[]) recv-done(%recv.3)
}
"""  # noqa: E501


def test_what_goes_from_slice_to_slice_goes_through_the_host():
  """It is a part of a collective among the slices that its target names: of five, each
  sends 2 x 4/5 of 1024 bytes. What a host callback receives is none.
  """
  (found,) = collectives(BETWEEN)
  assert found == Collective("all-reduce", "bf16", (64, 8), 5, between=True)
  assert found.moved == pytest.approx(1638.4)
  assert str(found) == "all-reduce bf16[64,8] between slices"
