"""The text of a compiled program: its instructions, arrays and loops."""

import pytest

from ccl_jax.planning.program import Array, Program, arrays

TEXT = r"""HloModule jit_f, is_scheduled=true, num_partitions=8

FileNames
1 "/x/ccl_jax/models/layers.py"
2 "/x/ccl_jax/ops/rope.py"

FunctionNames
1 "rotate"

FileLocations
1 {file_name_id=2 function_name_id=1 line=3 end_line=3 column=1 end_column=2}
2 {file_name_id=1 function_name_id=1 line=3 end_line=3 column=1 end_column=2}

StackFrames
1 {file_location_id=2 parent_frame_id=1}
2 {file_location_id=1 parent_frame_id=2}


%inside (p: f32[4]) -> f32[4] {
  ROOT %neg.1 = f32[4]{0} negate(%p)
}

%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %f.1 = (f32[4]{0:T(128)}, /*index=1*/f32[4]{0}) fusion(%p, /*index=1*/%q.2), kind=kLoop, calls=%inside, metadata={op_name="jit(f)/while/body/mul" stack_frame_id=2}, backend_config={"window_config":{"estimated_cycles":"120"}}
  %c.1 = f32[4] custom-call(%f.1), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\"block_q\": 1}"
}}, metadata={op_name="jit(f)/kernel"}
}

%less (a: s32[], b: s32[]) -> pred[] {
  %limit.2 = s32[]{:T(128)} constant(9)
  ROOT %lt = pred[] compare(%a, %limit.2), direction=LT
}

%condition (p: (s32[], f32[4])) -> pred[] {
  %limit = s32[]{:T(128)} constant(7)
  ROOT %l = pred[] fusion(%p, %limit), kind=kLoop, calls=%less
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %w.1 = (s32[], f32[4]) while(%x), condition=%condition, body=%body
  %w.2 = (s32[], f32[4]) while(%x), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %if = f32[4] conditional(%i, %x, %x), branch_computations={%inside, %other}
  %s = ((f32[4]), f32[4], u32[]) async-start(%x), calls=%other
  %d = f32[4] async-done(%s), calls=%other
}

%other (p: f32[4]) -> f32[4] {
  ROOT %neg.2 = f32[4]{0} negate(%p)
}
"""  # noqa: E501


@pytest.fixture(scope="module")
def program():
  return Program(TEXT)


def test_instructions(program):
  assert (program.entry, program.devices) == ("main", 8)
  assert list(program.computations) == [
    "inside", "body", "less", "condition", "main", "other"
  ]  # fmt: skip
  fusion, call = program.computations["body"]
  assert (fusion.name, fusion.op, fusion.place) == ("f.1", "fusion", "body")
  assert fusion.operands == ("p", "q.2") and fusion.called == ("inside",)
  assert (fusion.cycles, fusion.op_name) == (120, "jit(f)/while/body/mul")
  assert fusion.arrays == (
    Array("f32", (4,), (0,), (128,)), Array("f32", (4,), (0,))
  )  # fmt: skip
  # An attribute of several lines, and what follows it.
  assert call.op_name == "jit(f)/kernel" and "block_q" in call.text
  assert call.attribute("custom_call_target") == "tpu_custom_call"
  assert (call.cycles, call.called) == (None, ())


def test_where_the_code_stands(program):
  fusion, call = program.computations["body"]
  assert program.source(fusion) == "/x/ccl_jax/ops/rope.py"
  assert program.source(call) == ""


def test_neighbours(program):
  assert [i.name for i in program.users["x"]] == ["w.1", "w.2", "if", "if", "s"]
  assert program.done["s"].name == "d"
  assert program.fused == {"inside", "less"}


def test_how_often_computations_run(program):
  """A loop by the count it tells or else by the largest constant of its condition, one
  inside of a fusion included: 9 + 3 times. Each branch of a conditional once; what a
  start calls is not called again by its end.
  """
  loops = program.computations["main"][:2]
  assert [program.trips(w) for w in loops] == [9, 3]
  runs = program.runs
  assert (runs["main"], runs["body"], runs["inside"], runs["other"]) == (1, 12, 13, 2)


@pytest.mark.parametrize(
  ("text", "array", "stored"),
  [
    ("f32[3,5]", Array("f32", (3, 5)), 60),
    # Axis 1 is the fastest: 5 lanes of 128 and 3 rows of 8.
    ("f32[3,5]{1,0:T(8,128)}", Array("f32", (3, 5), (1, 0), (8, 128)), 4096),
    # Axis 0 is: 130 fill two rows of lanes.
    ("bf16[130,3]{0,1:T(8,128)(2,1)S(1)}",
     Array("bf16", (130, 3), (0, 1), (8, 128), 1), 4096),
    # Pairs along the slower of the tiled axes, padded to it alone.
    ("f32[64,2]{0,1:T(2,128)}", Array("f32", (64, 2), (0, 1), (2, 128)), 1024),
    ("s8[1000]{0:T(1024)(128)(4,1)S(5)}",
     Array("s8", (1000,), (0,), (1024,), 5), 1024),
    ("pred[]{:T(512)S(6)}", Array("pred", (), (), (512,), 6), 1),
  ],
)  # fmt: skip
def test_arrays_and_what_they_take(text, array, stored):
  (found,) = arrays(text)
  assert found == array and found.stored == stored


def test_what_is_no_array_is_left_out():
  assert arrays("(f32[2]{0}, token[], opaque[])") == (Array("f32", (2,), (0,)),)
