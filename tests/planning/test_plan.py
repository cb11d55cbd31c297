"""Plans of tiny programs on virtual devices: what is reported, and what is refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.models.flops import forward_flops
from ccl_jax.models.presets import build_model
from ccl_jax.planning.chips import CHIPS
from ccl_jax.planning.compile import (
  check,
  compile_generate,
  geometry_of,
  parse_topology,
  plan,
  regressions,
  show,
)
from ccl_jax.planning.traffic import collectives
from ccl_jax.sharding import make_mesh
from configs import joint


def tiny(**model):
  config = joint.get_config("runlocal").unlock()
  config.model.update({"attention": "chunked", **model})
  return config


@pytest.fixture(scope="module")
def report():
  return plan(tiny(), "cpu:8", (1, 4, 2, 1), 4, generate=False)


def test_what_a_plan_tells(report):
  config = tiny()
  model = build_model(**config.model)
  spec = ClipSpec(**config.clip)
  forward = sum(forward_flops(model, geometry_of(model, spec), 16, 32).values())
  assert report.model_flops == pytest.approx(3 * forward * 4 / 8)
  assert report.hardware_flops == pytest.approx(4 * forward * 4 / 8)  # full remat
  kinds = {kind: count for kind, count, _ in report.collectives}
  # Parameters are gathered in every block, forward and backward; Ulysses trades space
  # for heads in every block, too.
  assert kinds["all-gather"] >= model.depth and kinds["all-to-all"] >= model.depth
  assert 0 < report.hbm_bytes < report.hbm_limit and report.fits
  text = show(report)
  assert "fits" in text and "all-to-all" in text and "(1, 4, 2, 1)" in text


def test_a_report_that_was_written_is_no_worse_than_itself(report):
  assert regressions(report, json.loads(json.dumps(dataclasses.asdict(report)))) == []


def test_sampling_compiles_too():
  mesh = make_mesh((1, 2, 1, 1), parse_topology("cpu:2")[1])
  compiled = compile_generate(tiny(), mesh, 2)
  assert compiled.memory_analysis().peak_memory_in_bytes > 0


@pytest.mark.parametrize(
  ("shape", "batch", "words"),
  [
    ((1, 4, 2, 1), 6, "--batch 6: expected a multiple of 4 .* 4 or 8"),
    ((1, 1, 8, 1), 1, "context 8 does not divide the 4 tokens .* 4, 2, 1"),
    ((1, 1, 1, 8), 1, "tensor 8 does not divide the 4 heads of video: .* 1, 2, 4"),
  ],
)
def test_what_does_not_divide_names_what_does(shape, batch, words):
  with pytest.raises(UsageError, match=words):
    check(tiny(), make_mesh(shape), batch)


@pytest.mark.parametrize(
  ("name", "words"),
  [
    ("v9:2x2", "expected KIND:AxB or AxBxC with KIND one of v4, v5e, v5p, v6e"),
    ("v5p", "expected KIND:AxB"),
    ("cpu:512", "shows 8 devices; set JAX_NUM_CPU_DEVICES=512"),
    ("H100:3", "or a GPU as H100:1, with 1, 4 or 8 of A100, H100"),
  ],
)
def test_an_unknown_topology(name, words):
  with pytest.raises(UsageError, match=words):
    parse_topology(name)


def test_the_real_compiler_for_a_tpu():
  """Splash attention and all, where libtpu is installed."""
  pytest.importorskip("libtpu", reason="needs the extra [tpu]")
  report = plan(tiny(attention="splash"), "v5e:2x2", (1, 2, 2, 1), 2, generate=False)
  assert report.fits and report.traffic_bytes > 0


def test_a_gpu_is_planned_on_a_chip_of_more_memory():
  pytest.importorskip("libtpu", reason="needs the extra [tpu]")
  chip, devices = parse_topology("H100:4")
  assert (chip.hbm, len(devices)) == (80 * 2**30, 4)
  assert chip.hbm < CHIPS["v5p"].hbm and devices[0].platform == "tpu"


@pytest.mark.parametrize(
  ("topology", "kind"),
  [("v5p:2x2x4", "all-gather"), ("v6e:8x8", "all-gather"), ("v5p:4x4x4", "all-reduce")],
)
def test_how_a_parameter_is_gathered(topology, kind):
  """Over 64 and more chips in three dimensions libtpu sums parts padded with zeros: a
  plain product of matrices shows it, so it is no doing of the model's.
  """
  pytest.importorskip("libtpu", reason="needs the extra [tpu]")
  _, devices = parse_topology(topology)
  mesh = make_mesh((1, len(devices), 1, 1), devices)
  array = lambda spec, *shape: jax.ShapeDtypeStruct(
    shape, jnp.bfloat16, sharding=NamedSharding(mesh, spec)
  )
  x = array(P("fsdp"), len(devices), 512, 5120)
  blocks = array(P(None, "fsdp"), 4, 5120, 13824)
  block = lambda x, w: (jnp.tanh(jnp.tanh(x @ w) @ w.T), None)
  program = jax.jit(lambda x, blocks: jax.lax.scan(block, x, blocks)[0])
  found = collectives(program.lower(x, blocks).compile().as_text())
  assert {(c.kind, c.elements) for c in found} == {(kind, 5120 * 13824)}
  assert {(c.group, c.times) for c in found} == {(len(devices), 4)}
