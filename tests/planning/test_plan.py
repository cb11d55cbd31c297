"""Plans of tiny programs on virtual devices: what is reported, and what is refused."""

import dataclasses
import importlib.metadata
import json
import pathlib
import re
import subprocess
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.models.flops import forward_flops
from ccl_jax.models.presets import build_model
from ccl_jax.planning.compile import check, compile_generate, geometry_of, plan
from ccl_jax.planning.floors import attention_flops
from ccl_jax.planning.modules import PASSES
from ccl_jax.planning.program import Program
from ccl_jax.planning.report import regressions, show
from ccl_jax.planning.topologies import parse_topology, text_of
from ccl_jax.planning.traffic import collectives
from ccl_jax.sharding import compiler_options, make_mesh
from configs import joint

ROOT = pathlib.Path(__file__).parents[2]


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
  # Full remat: a fourth pass, and chunked attention makes its logits again.
  attention = sum(attention_flops(model, geometry_of(model, spec), 16).values())
  assert report.hardware_flops == pytest.approx((4 * forward + attention) * 4 / 8)
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
    ("v5p:0x0x0", "expected KIND:AxB"),  # which ends a process within libtpu
    ("v5p:2x2x0", "expected KIND:AxB"),
    ("v6e:axb", "expected KIND:AxB"),
    ("v5e:4", "expected KIND:AxB"),
    ("v5e:99999x4", "expected KIND:AxB"),
    ("cpu:512", "shows 8 devices; set JAX_NUM_CPU_DEVICES=512"),
    ("B200:8", "or GPUs, H100 or H200 or A100, e.g. H100:64"),
    ("H100:0", "expected KIND:AxB"),
    (
      "H100:12",
      "at most 8 GPUs, those of a machine, or a multiple of 8: H100:8 or H100:16",
    ),
  ],
)
def test_an_unknown_topology(name, words):
  with pytest.raises(UsageError, match=words):
    parse_topology(name)


@pytest.mark.parametrize(
  ("name", "slices"), [("v6e:2x2", 0), ("cpu:2", 2), ("v4:2x2x1", 2)]
)
def test_slices_of_what_has_no_network_of_known_rate(name, slices):
  words = (
    f"--slices {slices} of --topology {name}: expected 1 or, of v5e, v5p, v6e, more"
  )
  with pytest.raises(UsageError, match=words):
    parse_topology(name, slices)


def test_the_real_compiler_for_a_tpu(libtpu):
  """Splash attention and all, where libtpu is installed."""
  report = plan(tiny(attention="splash"), "v5e:2x2", (1, 2, 2, 1), 2, generate=False)
  assert report.fits and report.traffic_bytes > 0
  found = report.prediction
  assert found.est > found.low > 0 and report.predicted_mfu[1] < 1
  modules = {module for (module,) in found.by("module")}
  assert {"self-attention", "FFN", "video to audio", "optimizer, average"} <= modules
  assert {step for (step,) in found.by("step")} == set(PASSES)
  assert ("RoPE",) in found.by("kind")
  # Its heads are 32 wide, and no such kernel was counted.
  assert all("splash_mha" in name and "d 32" in name for name in found.unknown)
  assert "at least" in show(report) and len(found.unknown) == 2  # forward, backward


def test_the_compiler_tells_nothing_of_this_machine(libtpu):
  """In a process of its own: libtpu speaks once."""
  program = "from ccl_jax.planning.topologies import *; parse_topology('v5p:2x2x1')"
  done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
  assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_both_cores_of_a_chip_are_one_device(libtpu):
  for name in ("v4:2x2x1", "v5p:2x2x1", "v5e:2x2", "v6e:2x2"):
    chip, devices = parse_topology(name)
    assert len(devices) == 4 and {d.num_cores for d in devices} == {chip.cores}


def test_between_two_slices_goes_a_chips_part_of_the_gradient(libtpu, monkeypatch):
  """Data parallel slices: within them a gradient is summed into parts of a fourth, and
  these are summed over both slices.
  """
  # For slices libtpu reads these too, and ends the process at one it does not know.
  monkeypatch.delenv("XLA_FLAGS", raising=False)
  chip, devices = parse_topology("v6e:2x2", 2)
  assert len(devices) == 8 and chip.network_rate > 0
  mesh = make_mesh((2, 4, 1, 1), devices, (2, 1, 1, 1))
  assert [len({d.slice_index for d in row.flat}) for row in mesh.devices] == [1, 1]
  array = lambda spec, *shape: jax.ShapeDtypeStruct(
    shape, jnp.bfloat16, sharding=NamedSharding(mesh, spec)
  )
  x, w = array(P(("data", "fsdp")), 8, 256, 256), array(P("fsdp"), 256, 1024)
  loss = lambda w, x: jnp.tanh(x @ w).astype(jnp.float32).sum()
  program = jax.jit(jax.grad(loss), out_shardings=w.sharding).lower(w, x)
  found = collectives(Program(program.compile().as_text()))
  between = [c for c in found if c.between]
  assert {(c.kind, c.group) for c in between} == {("all-reduce", 2)}
  assert sum(c.elements for c in between) == 256 * 1024 / 4


@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5e:2x2"])
def test_the_flags_of_the_docs_are_taken_by_the_compiler(libtpu, topology):
  page = (ROOT / "docs" / "launch.md").read_text().partition("## Compiler flags")[2]
  rows = re.findall(r"^\| (v\d.*) \| (.*) \|$", page, re.M)
  (own,) = [text for chips, text in rows if topology.split(":")[0] in chips]
  flags = dict(re.findall(r"--(xla_\w+)=(\w+)", page.split("```")[1] + own))
  assert len(flags) == (7 if topology.startswith("v5e") else 4)
  mesh = make_mesh((1, 1, 1, 1), parse_topology(topology)[1][:1])
  x = jax.ShapeDtypeStruct((256, 256), jnp.float32, sharding=NamedSharding(mesh, P()))
  options = flags | (compiler_options(mesh) or {})
  jax.jit(lambda x: x @ x, compiler_options=options).lower(x).compile()


@pytest.mark.parametrize(
  ("topology", "asynchronous"),
  [("v5p:4x4x4", True), ("v6e:8x8", True), ("v5e:8x8", False)],
)
def test_how_a_parameter_is_gathered_and_its_gradient_summed(
  libtpu, topology, asynchronous
):
  """With sparse cores: gathered and cut while it is summed, beside the arithmetic. What
  the compiler does without being told is for v5e alone: it waits for both, and sums
  gradients whole.
  """
  _, devices = parse_topology(topology)
  mesh = make_mesh((1, len(devices), 1, 1), devices)
  array = lambda spec, *shape: jax.ShapeDtypeStruct(
    shape, jnp.bfloat16, sharding=NamedSharding(mesh, spec)
  )
  x = array(P("fsdp"), len(devices), 512, 2048)
  blocks = array(P(None, "fsdp"), 4, 2048, 8192)
  block = lambda x, w: (jnp.tanh(jnp.tanh(x @ w) @ w.T), None)
  loss = lambda blocks, x: jax.lax.scan(block, x, blocks)[0].astype(jnp.float32).sum()
  program = Program(
    text_of(
      jax.jit(
        jax.grad(loss),
        out_shardings=blocks.sharding,
        compiler_options=compiler_options(mesh),
      )
      .lower(blocks, x)
      .compile()
    )
  )
  weight = 2048 * 8192
  found = {
    (c.kind, c.elements, c.group, c.times)
    for c in collectives(program)
    if c.elements * c.group >= weight
  }
  gathered = ("all-gather", weight, len(devices), 4)
  cut = ("reduce-scatter", weight // len(devices), len(devices), 4)
  whole = ("all-reduce", weight, len(devices), 4)
  assert found == {gathered, cut if asynchronous else whole}
  starts = [i for i in program.by_name.values() if i.op.endswith("call-start")]
  assert bool(starts) == asynchronous


def test_a_compiler_that_is_too_new_for_this_jax(monkeypatch):
  compiled = mock.Mock()
  text = "INTERNAL: RET_CHECK\n" + "of an instruction " * 9
  compiled.as_text.side_effect = jax.errors.JaxRuntimeError(text)
  monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0.99")
  words = (
    rf"jax {jax.__version__} cannot read what libtpu 0.0.99 compiles \(INTERNAL: "
    rf"RET_CHECK of an instruction of .*\[...\]\): .* pip install 'jax\[tpu\]=="
    rf"{jax.__version__}'"
  )
  with pytest.raises(UsageError, match=words):
    text_of(compiled)


def test_a_text_that_cannot_be_read_without_libtpu(monkeypatch):
  compiled = mock.Mock()
  compiled.as_text.side_effect = jax.errors.JaxRuntimeError("INTERNAL: of a GPU")
  missing = mock.Mock(side_effect=importlib.metadata.PackageNotFoundError)
  monkeypatch.setattr(importlib.metadata, "version", missing)
  with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL: of a GPU"):
    text_of(compiled)
