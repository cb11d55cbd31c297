"""Rows read both ways, and nothing in a checkpoint goes unaccounted for."""

import jax
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import save_file

from ccl_jax.errors import UsageError
from ccl_jax.weights import rules
from ccl_jax.weights.reader import open_weights
from ccl_jax.weights.rules import Row, dense, load, load_tree, norm, unload

ROWS = [
  Row("patch.weight", "stem/kernel", rules.patch_linear((1, 2, 3))),
  *dense(r"layers.(\d+).(up|down)", r"blocks/\2[\1]"),
  *norm(r"layers\.(\d+)\.norm", r"blocks/norm[\1]", bias=False),
  Row(r"layers.(\d+).conv.weight", r"blocks/conv/kernel[\1]", rules.conv),
  Row("table", "table", rules.squeeze),
  Row("gamma", "gamma", rules.reshape((-1, 1, 1), (-1,))),
  *dense(r"layers.(\d+).left", r"blocks/pair[\1,0]"),
  *dense(r"layers.(\d+).right", r"blocks/pair[\1,1]"),
]
# The same parameters, of which two are one tensor.
FUSED = [
  *ROWS[:-4],
  Row(r"layers.(\d+).both.weight", r"blocks/pair/kernel[\1]", rules.fused_linear(2)),
  Row(r"layers.(\d+).both.bias", r"blocks/pair/bias[\1]", rules.fused_linear(2)),
]
SHAPES = {
  "patch.weight": (5, 4, 1, 2, 3),
  "table": (1, 6, 4),
  "gamma": (7, 1, 1),
  **{f"layers.{i}.up.weight": (8, 4) for i in range(3)},
  **{f"layers.{i}.up.bias": (8,) for i in range(3)},
  **{f"layers.{i}.down.weight": (4, 8) for i in range(3)},
  **{f"layers.{i}.down.bias": (4,) for i in range(3)},
  **{f"layers.{i}.norm.weight": (4,) for i in range(3)},
  **{f"layers.{i}.conv.weight": (6, 4, 3, 2) for i in range(3)},
  **{f"layers.{i}.{x}.weight": (5, 4) for i in range(3) for x in ("left", "right")},
  **{f"layers.{i}.{x}.bias": (5,) for i in range(3) for x in ("left", "right")},
}
TARGETS = {
  "stem/kernel": (1 * 2 * 3 * 4, 5),
  "table": (6, 4),
  "gamma": (7,),
  "blocks/up/kernel": (3, 4, 8),
  "blocks/up/bias": (3, 8),
  "blocks/down/kernel": (3, 8, 4),
  "blocks/down/bias": (3, 4),
  "blocks/norm/scale": (3, 4),
  "blocks/conv/kernel": (3, 3, 2, 4, 6),
  "blocks/pair/kernel": (3, 2, 4, 5),
  "blocks/pair/bias": (3, 2, 5),
}
TARGETS = {k: jax.ShapeDtypeStruct(v, np.float32) for k, v in TARGETS.items()}


@pytest.fixture
def tensors():
  rng = np.random.default_rng(0)
  return {n: rng.standard_normal(s, np.float32) for n, s in SHAPES.items()}


def opened(tmp_path, tensors):
  save_file(tensors, tmp_path / "model.safetensors")
  return open_weights(tmp_path / "model.safetensors")


def test_a_row_reads_both_ways():
  row = Row(r"a.(\d+).(q|k).weight", r"b/\2/kernel[\1]")
  assert row.forward("a.12.q.weight") == "b/q/kernel[12]"
  assert row.backward("b/q/kernel[12]") == "a.12.q.weight"
  assert row.forward("a.12.v.weight") is None
  assert row.forward("aX12.q.weight") is None  # a dot is a dot
  assert row.backward("b/v/kernel[12]") is None
  with pytest.raises(ValueError, match="every group"):
    Row(r"a.(\d+).(q|k)", r"b/\2")


def test_there_and_back_is_the_same_bits(tmp_path, tensors):
  tensors["table"][0, 0] = [np.nan, -0.0, np.inf, 1e-45]
  weights = opened(tmp_path, tensors)
  tree = load_tree(ROWS, weights, TARGETS)
  flat = traverse_util.flatten_dict(tree, sep="/")
  assert {k: v.shape for k, v in flat.items()} == {
    k: v.shape for k, v in TARGETS.items()
  }
  back = dict(unload(ROWS, TARGETS, lambda path, slot: flat[path][slot]))
  assert back.keys() == tensors.keys()
  for name, x in tensors.items():
    assert back[name].tobytes() == x.tobytes(), name


def test_the_layouts(tmp_path, tensors):
  tree = load_tree(ROWS, opened(tmp_path, tensors), TARGETS)
  up = tree["blocks"]["up"]
  np.testing.assert_array_equal(up["kernel"][2], tensors["layers.2.up.weight"].T)
  np.testing.assert_array_equal(up["bias"][1], tensors["layers.1.up.bias"])
  conv = tree["blocks"]["conv"]["kernel"][1]
  assert conv[2, 1, 3, 5] == tensors["layers.1.conv.weight"][5, 3, 2, 1]
  # Row (ph pw c) of the flattened patch, channels fastest.
  stem = tree["stem"]["kernel"].reshape(1, 2, 3, 4, 5)
  assert stem[0, 1, 2, 3, 4] == tensors["patch.weight"][4, 3, 0, 1, 2]


def test_layouts_by_hand():
  """Small arrays both ways, by their numbers."""
  two = np.arange(6).reshape(2, 3)
  cases = {
    rules.same: (two, two),
    rules.linear: (two, [[0, 3], [1, 4], [2, 5]]),
    # (out 2, in 3, taps 1) to (taps, in, out).
    rules.conv: (two[..., None], [[[0, 3], [1, 4], [2, 5]]]),
    rules.squeeze: (two[None], two),
    rules.reshape((2, 3, 1), (3, -1)): (two[..., None], [[0, 1], [2, 3], [4, 5]]),
    # Two layers of (out 1, in 3), side by side, as (2, in, out).
    rules.fused_linear(2): (two, [[[0], [1], [2]], [[3], [4], [5]]]),
    # (out 2, channels 3, 1 x 1 x 1), the channels of a patch as rows.
    rules.patch_linear((1, 1, 1)): (two[..., None, None, None], two.T),
  }
  for transform, (theirs, ours) in cases.items():
    np.testing.assert_array_equal(transform.forward(theirs), ours)
    np.testing.assert_array_equal(transform.backward(np.array(ours)), theirs)
  bias = rules.fused_linear(2)  # of three outputs each
  np.testing.assert_array_equal(bias.forward(np.arange(6)), two)
  np.testing.assert_array_equal(bias.backward(two), np.arange(6))


def test_parameters_take_the_types_they_are_asked_for(tmp_path, tensors):
  half = {n: jax.ShapeDtypeStruct(x.shape, np.float16) for n, x in TARGETS.items()}
  tree = load_tree(ROWS, opened(tmp_path, tensors), half)
  assert {x.dtype for x in jax.tree.leaves(tree)} == {np.dtype(np.float16)}
  np.testing.assert_array_equal(tree["gamma"], tensors["gamma"][:, 0, 0].astype("f2"))


def test_an_ignored_name_is_ignored_as_a_whole(tmp_path, tensors):
  weights = opened(tmp_path, tensors | {"more.up.there": np.zeros(3, np.float32)})
  for pattern in ("more", r"more\.up", r"up\.there"):
    with pytest.raises(UsageError, match="unexpected tensor"):
      load_tree(ROWS, weights, TARGETS, ignore=[pattern])
  load_tree(ROWS, weights, TARGETS, ignore=["other", r"more\.up\.\w+"])


def test_two_tensors_or_one_that_is_both(tmp_path, tensors):
  """What one table takes apart, another puts together."""
  tree = load_tree(ROWS, opened(tmp_path, tensors), TARGETS)
  pair = tree["blocks"]["pair"]["kernel"]
  np.testing.assert_array_equal(pair[2, 1], tensors["layers.2.right.weight"].T)
  flat = traverse_util.flatten_dict(tree, sep="/")
  fused = dict(unload(FUSED, TARGETS, lambda path, slot: flat[path][slot]))
  fused = {name: np.ascontiguousarray(x) for name, x in fused.items()}
  for i in range(3):
    for kind in ("weight", "bias"):
      parts = [tensors[f"layers.{i}.{x}.{kind}"] for x in ("left", "right")]
      np.testing.assert_array_equal(
        fused[f"layers.{i}.both.{kind}"], np.concatenate(parts)
      )
  again = load_tree(FUSED, opened(tmp_path, fused), TARGETS)
  jax.tree.map(np.testing.assert_array_equal, again, tree)


def test_layers_come_one_after_the_other(tmp_path, tensors):
  slots = [slot for _, slot, _ in load(ROWS, opened(tmp_path, tensors), TARGETS)]
  assert [slot[:1] for slot in slots] == [()] * 3 + [(0,)] * 10 + [(1,)] * 10 + [
    (2,)
  ] * 10
  assert slots.count((2, 1)) == 2


def test_an_unexpected_tensor(tmp_path, tensors):
  weights = opened(tmp_path, tensors | {"more.up": np.zeros(3, np.float32)})
  with pytest.raises(UsageError, match=r"model.safetensors: unexpected tensor more.up"):
    load_tree(ROWS, weights, TARGETS)
  load_tree(ROWS, weights, TARGETS, ignore=[r"more\..*"])
  deeper = tensors | {"layers.3.norm.weight": np.zeros(4, np.float32)}
  with pytest.raises(UsageError, match=r"unexpected tensor layers.3.norm.weight"):
    load_tree(ROWS, opened(tmp_path, deeper), TARGETS)


def test_a_missing_tensor(tmp_path, tensors):
  del tensors["layers.1.down.bias"]
  with pytest.raises(UsageError, match=r"no tensor layers.1.down.bias.*shape \(4,\)"):
    load_tree(ROWS, opened(tmp_path, tensors), TARGETS)


def test_a_wrong_shape(tmp_path, tensors):
  tensors["layers.2.up.weight"] = np.zeros((8, 5), np.float32)
  message = r"layers.2.up.weight has shape \(8, 5\), expected \(8, 4\)"
  with pytest.raises(UsageError, match=message):
    load_tree(ROWS, opened(tmp_path, tensors), TARGETS)


def test_mistakes_in_a_table(tmp_path, tensors):
  weights = opened(tmp_path, tensors)
  with pytest.raises(ValueError, match="0 rows reach stem/kernel"):
    load_tree(ROWS[1:], weights, TARGETS)
  with pytest.raises(ValueError, match=r"0 rows reach blocks/pair/kernel\[0,1\]"):
    load_tree(ROWS[:-2], weights, TARGETS)
  with pytest.raises(ValueError, match="2 rows reach gamma"):
    load_tree([*ROWS, Row("other", "gamma")], weights, TARGETS)
  twice = [*(r for r in ROWS if r.target != "gamma"), Row("table", "gamma")]
  with pytest.raises(ValueError, match="come from one tensor"):
    load_tree(twice, weights, TARGETS)
