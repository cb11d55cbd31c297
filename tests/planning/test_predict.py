"""The predicted time of programs, by sums made by hand."""

import pathlib

import pytest

from ccl_jax.planning import kernels
from ccl_jax.planning.chips import CHIPS
from ccl_jax.planning.kernels import Row
from ccl_jax.planning.predict import Time, predict
from ccl_jax.planning.program import Program
from ccl_jax.planning.traffic import collectives
from tests.planning.test_kernels import CALL, FORM

# What libtpu 0.0.52 made, for four v6e chips, of the gradient of a scan of 4 blocks
# tanh(tanh(x w) w^T) + x over bf16 matrices w (2048, 8192) that the chips share, with
# rematerialisation; of fusions stand here the lines that tell what they do.
SCAN = pathlib.Path(__file__).parents[1] / "testdata" / "planning" / "scan_v6e.txt"
CYCLE, BYTE, SENT = 1 / 1.75e9, 1 / 1.64e12, 1 / 224e9  # seconds of a v6e
WEIGHT = 2048 * 8192 * 2  # bytes


@pytest.fixture(scope="module")
def scan():
  return predict(Program(SCAN.read_text()), "v6e")


def test_products_of_a_scan_count_in_every_trip(scan):
  """By pass: two forward, the same again, and four of the backward pass, in 4 trips."""
  times = {k[0]: v for k, v in scan.by("step", "kind").items() if k[1] == "product"}
  forward, again = 143360 + 147456, 139264 + 144384
  backward = 139264 + 197474 + 150896 + 164548
  for step, cycles in (
    ("forward", forward), ("made again", again), ("backward", backward),
  ):  # fmt: skip
    assert times[step] == pytest.approx((4 * cycles * CYCLE,) * 2)


def test_collectives_of_a_scan(scan):
  """A weight is gathered in both loops, three quarters of it from others; its gradient
  is summed and 520 padded rows are kept, each sent by three others; 24 rows go to a
  neighbour, and nothing is done until they are there.
  """
  ((_, time),) = [x for x in scan.by("kind").items() if x[0] == ("collective",)]
  sent = 2 * 0.75 * WEIGHT + 3 * 520 * 8192 * 2 + 24 * 8192 * 2
  assert time == pytest.approx((4 * sent * SENT,) * 2)


def test_the_rest_of_a_scan(scan):
  """The last sum is what the compiler has no price for: rows put together in each trip,
  and the copy of the input; copies that were started hide behind what is done.
  """
  state = 2048 * 2048 * 2
  unpriced = 4 * (24 + 520 + 544) * 8192 * 2 + 2 * state
  times = {kind: t for (kind,), t in scan.by("kind").items()}
  assert times["copy"].est == pytest.approx(
    4 * (3 * 36116 + 2 * 36628 + 3124) * CYCLE + unpriced * BYTE, rel=1e-5
  )
  # A select in each trip of the backward loop, and zeros for the gradient before it:
  # low is a state that is read and one that is written, and a weight's size.
  assert times["elementwise"] == pytest.approx(
    ((4 * 36372 + 378432) * CYCLE, (4 * 2 * state + WEIGHT) * BYTE), rel=1e-5
  )
  assert scan.est == pytest.approx(sum(t.est for t in times.values()))
  assert scan.low == pytest.approx(sum(t.low for t in times.values()))
  assert not scan.unknown and not scan.kernels


def program(*lines, more=""):
  text = "\n".join(f"  {line}" for line in lines)
  return Program(f"""HloModule m, num_partitions=4
{more}
ENTRY %main (x: f32[8]) -> f32[8] {{
  %x = f32[8]{{0}} parameter(0), metadata={{op_name="state.params['x']"}}
{text}
}}
""")


def work(name, cycles, operand="x"):
  return (
    f"%{name} = f32[8]{{0}} add(%{operand}, %{operand}), "
    f'backend_config={{"estimated_cycles":"{cycles}"}}'
  )


GATHER = "(f32[2], f32[28000]) all-gather-start(%x), replica_groups=[1,4]<=[4]"
GATHERED = 3 / 4 * 28000 * 4 * SENT  # 375 ns, as 656.25 cycles


@pytest.mark.parametrize(
  ("cycles", "waits"), [(0, 656.25), (500, 156.25), (656, 0.25), (1000, 0)]
)
def test_a_started_collective_hides_behind_the_work_until_its_end(cycles, waits):
  assert GATHERED == pytest.approx(656.25 * CYCLE)
  found = predict(
    program(
      work("before", 700), f"%s = {GATHER}", work("during", cycles),
      "%d = f32[28000] all-gather-done(%s)", work("after", 900),
    ),
    "v6e",
  )  # fmt: skip
  assert found.est == pytest.approx((700 + cycles + 900 + waits) * CYCLE)
  times = {kind: t.est for (kind,), t in found.by("kind").items()}
  assert times.get("collective", 0) == pytest.approx(waits * CYCLE)


CALLED = """%called (p: f32[2]) -> f32[28000] {
  %p = f32[2]{0} parameter(0)
  ROOT %g = f32[28000] all-gather(%p), replica_groups=[1,4]<=[4], \
metadata={op_name="jit(step)/jvp(JointDiT)/while/body/blocks/video.feed/ffn/in/dot"}
}, execution_thread="sparsecore"
"""


@pytest.mark.parametrize(
  ("lines", "wait"),
  [
    (  # libtpu 0.0.42
      (
        "%s = ((f32[2], token[]), f32[28000]) call-start(%x), "
        'async_execution_thread="sparsecore", to_apply=%called',
        work("early", 100),
        work("during", 400),
        "%d = f32[28000] call-done(%s)",
      ),
      656.25 - 500,
    ),
    (  # libtpu 0.0.52: empty at first, it works from when it has its operands
      (
        "%s = ((), (), (s32[8])) custom-call-start(), "
        'async_execution_thread="sparsecore", custom_call_target="TODO", '
        "called_computations={%called}",
        work("early", 100),
        "%u = ((f32[2]), f32[28000], (s32[8])) custom-call-update(%s, %x), "
        "output_to_operand_aliasing={{2,0}: (0, {2,0})}",
        work("during", 400),
        "%d = f32[28000] custom-call-done(%u)",
      ),
      656.25 - 400,
    ),
  ],
)
def test_what_a_sparse_core_moves_hides_behind_the_work_until_its_end(lines, wait):
  text = program(work("before", 700), *lines, more=CALLED)
  found = predict(text, "v6e")
  assert found.est == pytest.approx((700 + 500 + wait) * CYCLE)
  times = {key: t.est for key, t in found.by("module", "kind").items()}
  assert times["FFN", "collective"] == pytest.approx(wait * CYCLE)
  assert not found.unknown
  (moved,) = collectives(text)
  assert (moved.kind, moved.group, moved.times) == ("all-gather", 4, 1)


# As libtpu 0.0.52 writes them for a v5e, shortened: two gathers in pieces, each of them
# a start, a product beside it and an end, all of which name the gather.
PIECES = "".join(
  f"""%{step}.{chain} (p: f32[2]) -> f32[28000] {{
  %p.{step}.{chain} = f32[2]{{0}} parameter(0)
  %g.{step}.{chain} = f32[28000] all-gather(%p.{step}.{chain}), \
replica_groups=[1,4]<=[4], frontend_attributes={{chain_id="{chain}"}}
  ROOT %r.{step}.{chain} = f32[28000] {root}
}}
"""
  for chain in "01"
  for step, root in (
    ("start", 'custom-call(%p), custom_call_target="AsyncCollectiveStart"'),
    ("step", "convolution(%p, %p)"),
    ("done", 'custom-call(%p), custom_call_target="AsyncCollectiveDone"'),
  )
)


def piece(step, chain, cycles=0):
  return (
    f"%{step}{chain} = f32[28000] fusion(%x), kind=kCustom, calls=%{step}.{chain}, "
    f'backend_config={{"estimated_cycles":"{cycles}"}}'
  )


@pytest.mark.parametrize(("cycles", "waits"), [(0, 656.25), (500, 156.25), (900, 0)])
def test_a_gather_in_pieces_hides_behind_the_products_that_hold_them(cycles, waits):
  text = program(
    work("before", 700),
    piece("start", 0),
    piece("step", 0, cycles),
    piece("done", 0),
    more=PIECES,
  )
  found = predict(text, "v6e")
  assert found.est == pytest.approx((700 + cycles + waits) * CYCLE)
  times = {kind: t.est for (kind,), t in found.by("kind").items()}
  assert times.get("product", 0) == pytest.approx(cycles * CYCLE)
  assert times.get("collective", 0) == pytest.approx(waits * CYCLE)


def test_gathers_in_pieces_are_two_and_take_turns():
  """The second starts within the first: its end is that of both."""
  text = program(
    piece("start", 0), piece("start", 1), piece("step", 0, 60), piece("step", 1, 40),
    piece("done", 0), work("meanwhile", 50), piece("done", 1),
    more=PIECES,
  )  # fmt: skip
  assert predict(text, "v6e").est == pytest.approx(2 * GATHERED)
  assert [(c.kind, c.shape, c.group, c.times) for c in collectives(text)] == [
    ("all-gather", (28000,), 4, 1)
  ] * 2


def test_calls_on_a_sparse_core_take_turns_at_the_links():
  """As their operands come, whichever was started first."""
  start = lambda name: (
    f"%{name} = ((), (), (s32[8])) custom-call-start(), "
    'async_execution_thread="sparsecore", called_computations={%called}'
  )
  update = lambda name, of: f"%{name} = (f32[28000]) custom-call-update(%{of}, %x)"
  found = predict(
    program(
      start("s"), start("t"), update("v", "t"), update("u", "s"), work("during", 1000),
      "%d = f32[28000] custom-call-done(%v)", work("after", 50),
      "%e = f32[28000] custom-call-done(%u)",
      more=CALLED,
    ),
    "v6e",
  )  # fmt: skip
  assert found.est == pytest.approx(2 * GATHERED)
  assert found.by("kind")["collective",].est == pytest.approx(
    2 * GATHERED - 1050 * CYCLE
  )


def test_collectives_share_the_links():
  """The second that is started waits for the first; one that is not started waits for
  both, and all work waits for it.
  """
  found = predict(
    program(
      f"%s = {GATHER}", f"%t = {GATHER}",
      work("during", 1000),
      "%d = f32[28000] all-gather-done(%t)",
      "%e = f32[28000] all-gather-done(%s)",
      f"%u = {GATHER}",
      "%v = f32[28000] all-gather(%x), replica_groups=[1,4]<=[4]",
      "%f = f32[28000] all-gather-done(%u)",
    ),
    "v6e",
  )  # fmt: skip
  assert found.est == pytest.approx(4 * GATHERED)


def test_work_in_a_loop_hides_a_collective_too():
  body = "%body (p: f32[8]) -> f32[8] {\n  " + work("w", 100) + "\n}\n"
  loop = (
    "%l = f32[8] while(%x), condition=%c, body=%body, "
    'backend_config={"known_trip_count":{"n":"6"}}'
  )
  found = predict(
    program(f"%s = {GATHER}", loop, "%d = f32[28000] all-gather-done(%s)", more=body),
    "v6e",
  )
  assert found.est == pytest.approx(656.25 * CYCLE)
  assert predict(program(loop, more=body), "v6e", steps=50).est == pytest.approx(
    6 * 100 / 50 * CYCLE
  )


def test_between_slices_it_is_the_network_that_is_waited_for():
  between = (
    '_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"'
  )
  found = predict(
    program(
      f"%r = (bf16[1000], u32[], token[]) recv(%x), frontend_attributes={{{between}}}",
      f"%s = {GATHER}",
      "%d = f32[28000] all-gather-done(%s)",
      "%e = (bf16[1000], token[]) recv-done(%r)",
    ),
    "v6e",
  )
  # A sum among two sends 2000 bytes, at 100 Gbit/s: 160 ns, behind the gather's 375.
  assert CHIPS["v6e"].network_rate == 12.5e9
  assert found.est == pytest.approx(GATHERED)
  alone = predict(
    program(
      f"%r = (bf16[1000], u32[], token[]) recv(%x), frontend_attributes={{{between}}}",
      "%e = (bf16[1000], token[]) recv-done(%r)",
    ),
    "v6e",
  )
  assert alone.est == pytest.approx(160e-9)


def test_the_low_sum_takes_bytes_where_the_compiler_asks_more():
  """Passes and copies, never products; a copy with padded tiles moves the padding."""
  found = predict(
    program(
      # 40 of 128 lanes and 8 rows: 4096 bytes, in and out.
      '%c = f32[8,40]{1,0:T(8,128)} copy(%b), {"estimated_cycles":"999"}',
      '%b = f32[8,40]{1,0:T(8,128)} add(%c, %c), {"estimated_cycles":"9"}',
      '%k = bf16[8]{0} convolution(%x, %x), {"estimated_cycles":"70"}',
    ),
    "v6e",
  )
  times = {kind: t for (kind,), t in found.by("kind").items()}
  assert times["copy"] == pytest.approx((999 * CYCLE, 2 * 4096 * BYTE))
  # Three arrays of 4096 bytes would take longer than the compiler says: 9 cycles.
  assert times["elementwise"] == pytest.approx((9 * CYCLE, 9 * CYCLE))
  assert times["product"] == pytest.approx((70 * CYCLE, 70 * CYCLE))


def test_started_copies_take_turns_and_those_to_the_host_have_no_price():
  copy = (
    "(f32[1000]{0:S(1)}, f32[1000]{0}, u32[]{:S(2)}) copy-start(%x)",
    "f32[1000]{0:S(1)} copy-done",
  )
  lines = [
    f"%a = {copy[0]}", f"%b = {copy[0]}", f"%c = {copy[1]}(%a)", f"%d = {copy[1]}(%b)",
  ]  # fmt: skip
  found = predict(program(*lines), "v6e")
  assert found.est == pytest.approx(8000 * BYTE) and not found.unknown
  hosted = [line.replace("{0:S(1)}", "{0:S(5)}") for line in lines]
  found = predict(program(*hosted), "v6e")
  assert found.est == 0 and found.unknown == ["copies between chip and host"]


def test_kernels_by_the_table_and_those_that_are_not_in_it(monkeypatch):
  """Of 3 x 2 blocks of 24 heads, each 700 cycles and 30 more a row of blocks."""
  row = Row("v5p", FORM, 700, 30, "0.0")
  monkeypatch.setattr(kernels, "rows", lambda: {("v5p", FORM): row})
  found = predict(program(CALL), "v5p")
  # Two cores share the heads.
  assert found.est == pytest.approx(12 * (6 * 700 + 3 * 30) / 1.75e9)
  assert found.by("module", "kind") == {
    ("self-attention", "kernel"): Time(found.est, found.low)
  }
  assert found.kernels == [str(row)] and not found.unknown
  other = predict(program(CALL), "v6e")
  assert other.est == 0 and other.unknown == [f"kernel {FORM} on v6e"]
  untold = predict(program(CALL.replace("xprof", "other")), "v6e")
  assert untold.unknown == ["kernel splash_mha_fwd_residuals on v6e"]


def test_a_chip_whose_compiler_makes_no_estimates():
  assert predict(program(work("w", 5)), "cpu") is None
  assert predict(program(work("w", 5)), "H100") is None
