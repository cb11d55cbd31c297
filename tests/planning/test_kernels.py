"""Attention kernels in a program's text, what is counted of them, and their table."""

import json

import pytest

from ccl_jax.planning import kernels
from ccl_jax.planning.bundles import Static, static_cycles
from ccl_jax.planning.chips import CHIPS
from ccl_jax.planning.kernels import Call, Form, Row, call_of
from ccl_jax.planning.program import Program

# As libtpu writes a call of splash, but for the kernel itself: 24 heads, 3072 queries
# and 4096 keys; the keys of one block of 1024 x 2048 are masked in part.
CALL = r"""%splash_mha_fwd_residuals.8 = (f32[1024,128]{1,0:T(8,128)}, f32[1024,128]{1,0:T(8,128)}, f32[1024,128]{1,0:T(8,128)}, bf16[24,3072,128]{2,1,0:T(8,128)(2,1)S(1)}, f32[24,3072,128]{2,1,0:T(8,128)}) custom-call(%a, %b, %a, %q, %k, /*index=5*/%v, %m), custom_call_target="tpu_custom_call", operand_layout_constraints={s8[1,3,2]{2,1,0}, s8[1,3,2]{2,1,0}, s8[1,3,2]{2,1,0}, bf16[24,3072,128]{2,1,0}, bf16[24,4096,128]{2,1,0}, bf16[24,4096,128]{2,1,0}, s32[1,1024,2048]{2,1,0}}, frontend_attributes={kernel_metadata={
"xprof_metadata":"{\"block_q\": 1024, \"block_kv\": 2048, \"block_kv_compute\": 512, \"block_q_dkv\": 256, \"block_kv_dkv\": 128, \"block_kv_dkv_compute\": 64, \"block_q_dq\": 768, \"block_kv_dq\": 384, \"use_fused_bwd_kernel\": false, \"q_layout\": 1}"
}}, metadata={op_name="jit(step)/jvp(JointDiT)/while/body/closed_call/blocks/video.attend/self_attn/shard_map/vmap(static_sparsity_splash)/jit(_splash_attention)/splash_mha_fwd_residuals/pallas_call" stack_frame_id=558}, backend_config={"custom_call_config":{"body":"TUzv"}}"""  # noqa: E501
FORM = Form("splash_mha_fwd_residuals", 128, "bf16", 1024, 2048, 512, True, False)


def instruction(text):
  (found,) = Program(f"ENTRY %m (x: f32[]) -> f32[] {{\n  {text}\n}}").by_name.values()
  return found


def test_a_call_tells_its_shapes_its_blocks_and_whether_it_is_masked():
  assert call_of(instruction(CALL)) == Call(FORM, copies=24, q=3072, k=4096)
  whole = CALL.replace(", s32[1,1024,2048]{2,1,0}}", "}")
  assert call_of(instruction(whole)).form == FORM._replace(masked=False)
  samples = CALL.replace("bf16[24,", "bf16[2,12,").replace("f32[24,", "f32[2,12,")
  assert call_of(instruction(samples)).copies == 24
  for kernel, sizes in (("dq", (768, 384, 384)), ("dkv", (256, 128, 64))):
    named = CALL.replace("%splash_mha_fwd_residuals.8", f"%splash_mha_{kernel}_x.8")
    form = call_of(instruction(named)).form
    assert (form.block_q, form.block_kv, form.compute) == sizes
    assert not form.fused
    # One kernel for the whole backward pass: sums, parts of dq, dk and dv.
    made = (
      "f32[24,1024,128]{2,1,0}, f32[24,2048,128]{2,1,0}, bf16[2,24,3072,128]{3,2,1,0}, "
      "bf16[24,4096,128]{2,1,0}, bf16[24,4096,128]{2,1,0})"
    )
    before, _, after = named.partition(" = (")
    fused = f"{before} = ({made} custom-call({after.partition(' custom-call(')[2]}"
    assert call_of(instruction(fused)).form.fused == (kernel == "dkv")
    apart = fused.replace("bf16[2,24,3072,128]{3,2,1,0}, ", "")
    assert not call_of(instruction(apart)).form.fused


def test_a_kernel_that_does_not_tell_its_blocks():
  assert call_of(instruction(CALL.replace("xprof_metadata", "other"))) is None
  assert call_of(instruction(CALL.replace('block_q\\":', 'b\\":'))) is None
  assert call_of(instruction("%x = f32[8] add(%a, %b)")) is None


def test_the_cycles_of_a_grid():
  """3 x 2 blocks for each of 24 heads, of which a core takes its part, and no less than
  whole heads. What is summed over keys begins anew with each of 3 blocks of queries; of
  dk and dv, with each of 2 blocks of keys.
  """
  call = Call(FORM, 24, 3072, 4096)
  assert call.cycles(100, 7, cores=1) == 24 * (6 * 100 + 3 * 7)
  assert call.cycles(100, 7, cores=2) == 12 * (6 * 100 + 3 * 7)
  keys = call.form._replace(kernel="splash_mha_dkv_no_residuals")
  assert Call(keys, 5, 3072, 4096).cycles(100, 7, cores=2) == 3 * (600 + 2 * 7)
  # A block that is not full costs as much as one that is.
  assert Call(FORM, 1, 1025, 2049).cycles(100, 7, cores=1) == 4 * 100 + 2 * 7
  assert call.pairs == 24 * 3072 * 4096


def test_rows_are_those_of_the_chip_and_form(monkeypatch):
  row = Row("v6e", FORM, 4096, 10, "1.2")
  monkeypatch.setattr(kernels, "rows", lambda: {("v6e", FORM): row})
  call = Call(FORM, 24, 3072, 4096)
  seconds, used = kernels.seconds(call, "v6e", CHIPS["v6e"])
  assert used is row and seconds == pytest.approx(24 * (6 * 4096 + 30) / 1.75e9)
  assert kernels.seconds(call, "v5p", CHIPS["v5p"]) is None
  others = {"masked": False, "block_q": 512, "compute": 256, "width": 64, "fused": True}
  for field, value in others.items():
    asked = Call(FORM._replace(**{field: value}), 24, 3072, 4096)
    assert kernels.seconds(asked, "v6e", CHIPS["v6e"]) is None
  # 4096 cycles for 2^21 pairs.
  assert str(row) == (
    "splash_mha_fwd_residuals bf16 d 128, blocks 1024 x 2048, masked: 1.95e-3 cycles a "
    "pair (libtpu 1.2)"
  )


def test_rows_that_are_counted_anew_go_before_those_of_the_file(monkeypatch):
  known = {(c, FORM): Row(c, FORM, 1, 2, "old") for c in ("v5p", "v6e")}
  found = Row("v6e", FORM, 3, 4, "new")

  def rows():
    return known

  rows.cache_clear = lambda: None
  monkeypatch.setattr(kernels, "rows", rows)
  written = json.loads(json.dumps(kernels.merged([found])))
  assert [(r["chip"], r["step"], r["libtpu"]) for r in written] == [
    ("v5p", 1, "old"), ("v6e", 3, "new")
  ]  # fmt: skip
  assert Form(**written[1]["form"]) == FORM


# Products of the matrix units for a pair, 2 d FLOPs each, by the pass that they are of.
PRODUCTS = {"fwd": 2, "dkv": 5}


def test_no_kernel_is_faster_than_its_products():
  """Of the table that is shipped; a v6e's units are half idle at d = 128. The kernels
  of long clips are there for all three chips, and take less than 2.2 times the floor.
  """
  fast = set()
  for (chip, form), row in kernels.rows().items():
    c = CHIPS[chip]
    a_cycle = c.flops / c.clock / c.cores * min(1, form.width / c.mxu)
    assert form.fused == ("dkv" in form.kernel) and not form.masked
    products = PRODUCTS[form.kernel.split("_")[2]]
    floor = products * 2 * form.width / a_cycle * form.block_q * form.block_kv
    assert floor <= row.step, row
    if form.block_q >= 512 and form.block_kv >= 1024 and row.step < 2.2 * floor:
      fast.add((chip, form.kernel.split("_")[2]))
  assert fast == {(c, k) for c in ("v5e", "v5p", "v6e") for k in PRODUCTS}


# Bundles as libtpu writes them: a loop from 0x3 to 0x27, a branch around all of it for
# the rounds after the last, and in it the start of a row (2 bundles), the body (6) and
# the end of a row (3). A branch and four bundles more run whether it is taken or not.
BUNDLES = """
= control target key start
LH: loop header
= control target key end

     0   :  { %s1 = inlined_call_operand.vmem [shape: s8[1,4,2]] }
   0x1   :  { %2 = sbr.rel (%p0) target = $region4 } /* Start region 1 */
   0x2   :  {} /* End region 1 */
   0x3 LB: > { %3 = sbr.rel (%p5) target = $region20 } /* Start region 90 */
   0x4   : > { %5 = nop }
   0x5   : > { %5 = nop }
   0x6   : > { %5 = nop }
   0x7   : > { %5 = nop }
   0x8   : > { %9 = sbr.rel (%p6) target = $region40 }
   0x9   : > { %5 = nop }
   0xa   : > { %5 = nop }
   0xb   : > { %5 = nop }
   0xc   :  {} /* End region 38 */
   0xd   : > { %7 = vst [vmem:[#allocation6] sm:$0xff] %v1 } /* Start region 39 */
   0xe   : > { %8 = vst [vmem:[#allocation6] sm:$0xff] %v1 } /* End region 39 */
   0xf PF: > { %9 = sbr.rel (%p7) target = $region44 } /* Start/End empty region 40 */
  0x10   : > { %5 = nop }
  0x11   : > { %5 = nop }
  0x12   : > { %5 = nop }
  0x13   : > { %5 = nop }
  0x14   : > { %1 = vmatmul %v1 } /* Start region 43 */
  0x15   : > { %1 = vmatmul %v1 }
  0x16   : > { %1 = vmatmul %v1 }
  0x17   : > { %1 = vmatmul %v1 }
  0x18   : > { %1 = vmatmul %v1 }
  0x19   : > { %1 = vmatmul %v1 } /* End region 43 */
  0x1a PF: > { %2 = sbr.rel (%p8) target = $region48 } /* Start/End empty region 44 */
  0x1b   : > { %5 = nop }
  0x1c   : > { %5 = nop }
  0x1d   : > { %5 = nop }
  0x1e   : > { %5 = nop }
  0x1f   : > { %3 = vst [vmem:[%s1] sm:$0xff] %v5 } /* Start region 47 */
  0x20   : > { %3 = vst [vmem:[%s1] sm:$0xff] %v5 }
  0x21   : > { %3 = vst [vmem:[%s1] sm:$0xff] %v5 } /* End region 47 */
  0x22 PF: > { %5 = nop } /* Start/End empty region 48 :: Start/End empty region 20 */
  0x23   :  { %37 = sbr.rel (!%p35) target = $region90 }
  0x24   :  {}
  0x25   :  {}
  0x26   :  {}
  0x27   :  {}
  0x28   :  { %5 = vsyncpa [#allocation7], 1 }
  0x29 PF:  {} /* exit bundle: %splash_mha_fwd_residuals.1 = custom-call(%a) */
"""


def test_the_bundles_of_a_steps_loop():
  """0x3 to 0x27 are 37 bundles, of which 2 + 3 are once a row of blocks."""
  assert static_cycles(BUNDLES, CHIPS["v5p"]) == Static(step=37 - 5, row=5)


@pytest.mark.parametrize(
  ("chip", "dtype", "cycles"),
  [("v5p", "bf16", 16), ("v5p", "f32", 8), ("v6e", "bf16", 8)],
)
def test_a_body_takes_as_long_as_its_products(chip, dtype, cycles):
  """Six of 16 or 8 rows on one unit of four, a row a cycle; or of a v6e's two, which
  take two rows. What is outside of the body's 6 bundles has no wait.
  """
  units = {"v5p": (0, 1, 2, 3), "v6e": (0, 1)}[chip]
  name = {"v5p": "vmatmul", "v6e": "vmatmul.mubr"}[chip]
  one = lambda unit: f"%1 = {name}.{dtype}.gmra.mxu{unit} %v1"
  text = BUNDLES.replace("%1 = vmatmul %v1", one(0))
  text = text.replace(one(0), " ;; ".join(map(one, units)), 1)
  found = static_cycles(text, CHIPS[chip])
  assert found == Static(step=37 - 5 - 6 + 6 * cycles, row=5)
  slow = text.replace(f".{dtype}.", ".s8.")
  with pytest.raises(ValueError, match="products of s8: expected f32 or bf16"):
    static_cycles(slow, CHIPS[chip])


@pytest.mark.parametrize(
  ("old", "new", "words"),
  [
    ("target = $region44", "target = $region99", r"no such region .*\[99\]"),
    ("target = $region90", "target = $region99", "0 loops"),
    ("%37 = sbr.rel (!%p35) target = $region90", "%5 = nop", "0 loops"),
    (
      "0x1b   : > {",
      "0x1b : > { sbr.rel (%p) target = $region43 ;;",
      "2 loops",
    ),
  ],
)
def test_bundles_that_are_no_single_loop(old, new, words):
  assert old in BUNDLES
  with pytest.raises(ValueError, match=words):
    static_cycles(BUNDLES.replace(old, new), CHIPS["v5p"])
