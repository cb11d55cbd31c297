"""Collectives in the text of a compiled program."""

from ccl_jax.compiled import Collective, collectives, table

TEXT = """
  %all-reduce.1 = f32[64,8]{1,0} all-reduce(%x), replica_groups={{0,1},{2,3}}
  %a2a = (bf16[2,3]{1,0}, bf16[2,3]{1,0}) all-to-all(%y, %z), dimensions={0}
  %ag = (bf16[4,16]{1,0}, bf16[32,16]{1,0}) all-gather-start(%w), dimensions={0}
  %done = bf16[32,16]{1,0} all-gather-done(%ag)
  %one = f32[9] all-reduce(%x), replica_groups={{0},{1},{2}}, to_apply=%add
  %two = f32[9] all-reduce(%x), replica_groups=[8,1]<=[8], to_apply=%add
  ROOT %add.2 = f32[64,8]{1,0} add(%all-reduce.1, %all-reduce.1)
"""


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
