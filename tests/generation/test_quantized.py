"""Matrices of the blocks in eight bits: their numbers, and what the model makes."""

import json
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from qwix import QArray

from ccl_jax import Pipeline
from ccl_jax.errors import UsageError
from ccl_jax.generation.pipeline import LoadedModel
from ccl_jax.generation.quantized import check_kind, dequantized, quantized
from ccl_jax.models.joint import Route
from ccl_jax.models.presets import build_model, parameter_shapes
from ccl_jax.sharding import make_mesh, parameter_shardings
from tests.flags.command import command
from tests.flags.listener import call, listening

TEXT = 8, 16


@pytest.fixture(scope="module")
def model():
  return build_model("tiny")


@pytest.fixture
def params(model):
  """All of them random, so that nothing is zero by its initialization."""
  shapes = parameter_shapes(model, TEXT)
  rng = np.random.default_rng(0)
  draw = lambda x: jnp.asarray(0.1 * rng.standard_normal(x.shape), x.dtype)
  return jax.tree.map(draw, shapes)


def by_hand(w, kind):
  """Quantized and back, of (depth, inputs, outputs): a scale for depth and output."""
  top = np.abs(w).max(1, keepdims=True)
  if kind == "int8":
    scale = top / 127.5
    return np.clip(np.round(w / scale), -128, 127) * scale
  scale = top / 448
  return (w / scale).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale


def matrices(tree):
  """(path, array) of the matrices of the blocks."""
  leaves = jax.tree_util.tree_leaves_with_path(tree["blocks"])
  return {jax.tree_util.keystr(p): x for p, x in leaves if p[-1].key == "kernel"}


@pytest.mark.parametrize(("kind", "bound"), [("int8", 0.5 / 127), ("fp8", 2**-4)])
def test_numbers_of_a_block(kind, bound, params):
  plain = jax.tree.map(np.asarray, params)
  size = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree))
  held = quantized(params, kind)
  assert size(held["blocks"]) < 0.28 * size(plain["blocks"])  # of float32
  back = dequantized(held["blocks"])
  whole = matrices(plain)
  assert len(whole) > 20
  for path, got in matrices({"blocks": back}).items():
    w = whole[path]
    assert got.dtype == w.dtype
    # A number halfway between two may go to either.
    off = np.abs(got - by_hand(w, kind)) > 1e-5 * np.abs(w).max()
    assert off.mean() < 5e-3, path
    top = np.abs(w).max(1, keepdims=True)
    assert (np.abs(got - w) <= 1.02 * bound * top).all(), path
  others = lambda tree: {
    jax.tree_util.keystr(path): x
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
    if path[-1].key != "kernel"
  }
  for path, w in others(plain["blocks"]).items():
    assert (others(back)[path] == w).all(), path
  for name in plain.keys() - {"blocks"}:
    same = jax.tree.map(lambda a, b: (a == b).all(), held[name], plain[name])
    assert all(jax.tree.leaves(same)), name


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_the_model_multiplies_by_what_is_held(kind, model, params):
  """Velocities are those of the plain model with the numbers that are held."""
  streams = dict(model.streams)
  draw = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape)
  latents = {
    "video": draw(0, 2, 3, 4, 6, streams["video"].in_channels),
    "audio": draw(1, 2, 12, streams["audio"].in_channels),
  }
  inputs = latents, {s: jnp.full((2, 1), 700.0) for s in latents}, draw(2, 2, *TEXT)
  route = Route({"video": True, "audio": True})
  run = jax.jit(lambda p: model.apply({"params": p}, *inputs, route))
  plain = run(params)
  held = quantized(params, kind)
  product = lambda x: np.asarray(x.qvalue, np.float32) * np.asarray(x.scale)
  numbers = jax.tree.map(
    lambda x: product(x) if isinstance(x, QArray) else x,
    held["blocks"],
    is_leaf=lambda x: isinstance(x, QArray),
  )
  expected = run(held | {"blocks": numbers})
  reads = model.clone(stored=dequantized)
  got = jax.jit(lambda p: reads.apply({"params": p}, *inputs, route))(held)
  for s in latents:
    scale = jnp.std(expected[s])
    assert jnp.abs(got[s] - expected[s]).max() < 1e-4 * scale
    assert jnp.abs(got[s] - plain[s]).max() > 1e-3 * scale  # it is rounded


def test_they_stay_where_they_were(model, params):
  mesh = make_mesh((1, 4, 1, 2))
  placed = jax.device_put(params, parameter_shardings(params, mesh))
  before = {path: x.sharding for path, x in matrices(placed).items()}
  assert any(not s.is_fully_replicated for s in before.values())
  leaves = jax.tree_util.tree_leaves_with_path(quantized(placed, "int8")["blocks"])
  values = [(p, x) for p, x in leaves if x.dtype == jnp.int8]
  assert len(values) == len(before)
  for path, x in values:
    wanted = before[jax.tree_util.keystr(path).removesuffix(".qvalue")]
    assert x.sharding.is_equivalent_to(wanted, x.ndim), path
  assert all(x.is_deleted() for x in matrices(placed).values())


def test_the_command(monkeypatch, tmp_path):
  """--quantize is told to the pipeline, kept beside the clip, and made again."""
  listener = listening(monkeypatch)
  call(listener, tmp_path)
  assert listener.loaded["quantize"] is None
  call(listener, tmp_path, "--quantize=int8", "--seed=1")
  assert listener.loaded["quantize"] == "int8"
  file = tmp_path / "out" / "joint_1_0.json"
  assert json.loads(file.read_text())["quantize"] == "int8"
  command("generate").run(f"--settings={file}", f"--out={tmp_path / 'again'}")
  assert listener.loaded["quantize"] == "int8"
  command("generate").run(
    f"--settings={file}", f"--out={tmp_path / 'again'}", "--quantize=fp8"
  )
  assert listener.loaded["quantize"] == "fp8"


def test_a_set_that_was_made_otherwise(monkeypatch, tmp_path, capsys):
  listener = listening(monkeypatch)
  lines = tmp_path / "set.jsonl"
  lines.write_text('{"id": "a", "prompt": "a cat", "seed": 0}\n')
  call(listener, tmp_path, f"--manifest={lines}", "--quantize=int8")
  call(listener, tmp_path, f"--manifest={lines}", "--quantize=int8")
  assert len(listener.calls) == 1
  capsys.readouterr()
  with pytest.raises(SystemExit):
    call(listener, tmp_path, f"--manifest={lines}")
  assert "quantize int8 there, None here" in capsys.readouterr().err


def test_a_clip_of_the_shipped_checkpoint():
  """Eight bits of int8 are enough that a clip stays what it was."""
  prompt = 'a red face in the middle says "ba do"'
  plain, held = (
    Pipeline("quickstart", quantize=q)(prompt, steps=4) for q in (None, "int8")
  )
  error = np.float64(held.frames) - plain.frames
  assert 0 < np.mean(error**2) < 255**2 * 10**-4  # 40 dB
  assert held.settings["quantize"] == "int8" and "quantize" not in plain.settings


def test_mistakes(monkeypatch):
  check_kind(None)
  with pytest.raises(UsageError, match="--quantize: got 'int4'; expected int8 or fp8"):
    LoadedModel.load("quickstart", quantize="int4")
  with pytest.raises(UsageError, match="--quantize: got 'int4'"):
    Pipeline("quickstart", quantize="int4")
  monkeypatch.setitem(sys.modules, "qwix", None)
  with pytest.raises(UsageError, match=r"needs the package qwix .*ccl_jax\[quantize\]"):
    check_kind("int8")
