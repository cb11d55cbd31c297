"""A plan's accounts by hand: a program whose traffic, memory and FLOPs are known."""

import dataclasses
import types

import jax
import pytest

from ccl_jax.checkpoints.fingerprint import leaf_paths
from ccl_jax.errors import UsageError
from ccl_jax.planning import compile as planning
from ccl_jax.planning.chips import CHIPS, GIB, chip_of
from ccl_jax.planning.compile import (
  Report,
  check,
  meshes,
  plan,
  regressions,
  show,
  sweep,
)
from ccl_jax.sharding import make_mesh
from configs import joint

# A gather of 3200 bytes by four, 2400 of them from others, in each of 50 rounds; and a
# sum of 400 bytes by two, which each sends once.
PROGRAM = """
HloModule jit_f, num_partitions=8
%body (p: f32[800]) -> f32[800] {
  %ag = f32[800] all-gather(%p), replica_groups={{0,1,2,3},{4,5,6,7}}
}

ENTRY %main (p: f32[100]) -> f32[100] {
  %ar = f32[100] all-reduce(%p), replica_groups={{0,1}}, to_apply=%add
  %w = f32[800] while(%p), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"50"}}
}
"""  # noqa: E501
TRAFFIC = 50 * 2400 + 400


def tiny(**model):
  config = joint.get_config("runlocal").unlock()
  config.model.update({"attention": "chunked", **model})
  return config


class Compiled:
  """What a compiler would tell."""

  def memory_analysis(self):
    return types.SimpleNamespace(
      argument_size_in_bytes=10**9,
      output_size_in_bytes=5 * 10**8,
      temp_size_in_bytes=25 * 10**7,
      peak_memory_in_bytes=int(8 * GIB),
    )

  def as_text(self):
    return PROGRAM


@pytest.fixture
def compiled(monkeypatch):
  """Programs are known, and a clip's forward pass is 3 + 1 GFLOP."""
  calls = []

  def compiler(kind):
    def compile_(config, mesh, batch):
      calls.append((kind, tuple(mesh.shape.values()), batch))
      return Compiled()

    return compile_

  monkeypatch.setattr(planning, "compile_train", compiler("train"))
  monkeypatch.setattr(planning, "compile_generate", compiler("generate"))
  monkeypatch.setattr(planning, "compile_phases", lambda *_: {})
  flops = lambda *_: {"linear": 3e9, "cross": 1e9}
  monkeypatch.setattr(planning, "forward_flops", flops)
  return calls


def seconds(report):
  return [report.seconds[k] for k in ("arithmetic", "memory", "network")]


def test_a_train_step_is_three_passes_and_one_that_is_made_again(compiled):
  """Of 6 clips on 8 devices 3/4 of a pass of 4 GFLOP are a device's."""
  got = plan(tiny(remat="full"), "cpu:8", (2, 1, 4, 1), 6, generate=False)
  assert compiled == [("train", (2, 1, 4, 1), 6)]
  assert (got.program, got.remat) == ("train step", "full")
  assert got.model_flops == 9e9 and got.hardware_flops == 12e9
  assert got.traffic_bytes == TRAFFIC and got.largest == "all-gather f32[800]"
  assert got.collectives == [("all-gather", 50, 120000), ("all-reduce", 1, 400)]
  assert got.hbm_bytes == got.hbm_limit == 8 * GIB and got.fits
  # A device of 1e11 FLOP/s, 2e10 bytes/s of memory, in and out once and what is
  # between twice, and 1e10 bytes/s of network.
  expected = [0.12, 0.1, TRAFFIC / 1e10]
  assert seconds(got) == pytest.approx(expected)
  assert got.mfu == pytest.approx((0.09 / sum(expected), 0.09 / 0.12))
  assert not dataclasses.replace(got, hbm_bytes=got.hbm_bytes + 1).fits


@pytest.mark.parametrize("remat", ["none", "save_attention"])
def test_what_is_kept_is_not_made_again(compiled, remat):
  got = plan(tiny(remat=remat), "cpu:8", (8, 1, 1, 1), 8, generate=False)
  again = 0 if remat == "none" else 4e9
  assert (got.model_flops, got.hardware_flops) == (12e9, 12e9 + again)


def test_a_sampling_step_is_two_passes_and_a_fiftieth_of_the_program(compiled):
  """Whatever the config recomputes in training."""
  got = plan(tiny(remat="full"), "cpu:8", (1, 8, 1, 1), 8, generate=True)
  assert compiled == [("generate", (1, 8, 1, 1), 8)]
  assert got.program == "sampling step"
  assert got.model_flops == got.hardware_flops == 8e9
  assert got.traffic_bytes == TRAFFIC // 50
  expected = [0.08, 0.1, (TRAFFIC // 50) / 1e10]
  assert seconds(got) == pytest.approx(expected)
  assert got.mfu == pytest.approx((0.08 / sum(expected), 0.8))


def test_a_program_without_traffic(compiled, monkeypatch):
  monkeypatch.setattr(Compiled, "as_text", lambda self: "ENTRY %main () -> () {")
  got = plan(tiny(), "cpu:1", (1, 1, 1, 1), 1, generate=False)
  assert (got.traffic_bytes, got.largest, got.collectives) == (0, "none", [])


@pytest.mark.parametrize(
  ("streams", "guidance", "kind"),
  [
    (("video", "audio"), "ucg2", "joint"),
    (("video",), "text", "t2v"),
    (("audio",), "text", "t2a"),
  ],
)
def test_what_is_planned_is_50_guided_steps_of_two_passes(
  monkeypatch, streams, guidance, kind
):
  """That of all streams, with both texts, from noise of the clip's sizes."""
  seen = []

  def sample(model, params, task, noise, conditions, sampling):
    seen.append((model, params, task, noise, conditions, sampling))
    return noise

  monkeypatch.setattr(planning, "sample_latents", sample)
  config = tiny(dtype="bfloat16")
  config.model.streams = streams
  mesh = make_mesh((2, 1, 1, 1), jax.devices()[:2])
  planning.compile_generate(config, mesh, 4)
  ((_, params, task, noise, conditions, sampling),) = seen
  assert (sampling.steps, sampling.guidance) == (50, guidance)
  assert task is planning.GENERATIONS[kind]
  # 17 frames of 32 x 32 at 24 per second: 5 x 4 x 4 latents, 0.708 s of 31.25.
  shapes = {"video": (4, 5, 4, 4, 16), "audio": (4, 22, 20)}
  assert {s: x.shape for s, x in noise.items()} == {s: shapes[s] for s in streams}
  assert conditions["text"].shape == (2, 4, 16, 32) and conditions["given"] == {}
  kernels = {k: x.dtype.name for k, x in leaf_paths(params).items() if "q/kernel" in k}
  assert kernels and set(kernels.values()) == {"bfloat16"}


def test_what_must_divide(compiled):
  """Microbatches too; and a batch below the least has no smaller one that would do."""
  mesh = make_mesh((2, 4, 1, 1))
  config = tiny()
  config.accumulate = 3
  check(config, mesh, 48)
  for batch, near in ((47, "24 or 48"), (23, "24"), (25, "24 or 48")):
    with pytest.raises(UsageError, match=f"a multiple of 24 .*: {near}$"):
      check(config, mesh, batch)
  check(tiny(), make_mesh((1, 1, 4, 1), jax.devices()[:4]), 1)


def test_meshes_of_a_sweep():
  """All that divide the devices, the batch, a frame's tokens and the heads."""
  assert list(meshes(8, 8, space=6, heads=2)) == [
    (1, 8, 1, 1), (1, 4, 1, 2), (1, 4, 2, 1), (1, 2, 2, 2)
  ]  # fmt: skip
  assert list(meshes(8, 4, space=6, heads=3)) == [(1, 4, 2, 1)]
  assert list(meshes(12, 12, space=8, heads=4)) == [
    (1, 12, 1, 1), (1, 6, 1, 2), (1, 3, 1, 4), (1, 6, 2, 1), (1, 3, 2, 2), (1, 3, 4, 1)
  ]  # fmt: skip


@pytest.mark.parametrize("generate", [False, True])
def test_a_sweep_goes_on_where_memory_is_short(monkeypatch, capsys, generate):
  tried = []

  def planned(config, topology, shape, batch, generate):
    tried.append((shape, config.model.remat))
    if shape == (1, 8, 1, 1):
      raise RuntimeError("RESOURCE_EXHAUSTED: 99 GiB\nmore")
    return tried[-1]

  monkeypatch.setattr(planning, "plan", planned)
  monkeypatch.setattr(planning, "show", str)
  config = tiny(remat="full").lock()
  got = list(sweep(config, "cpu:8", 8, generate))
  policies = ["full"] if generate else ["full", "save_attention"]
  shapes = list(meshes(8, 8, space=4, heads=4))
  assert len(shapes) > 3 and tried == [(s, p) for s in shapes for p in policies]
  assert got == [x for x in tried if x[0] != (1, 8, 1, 1)]
  assert "mesh (1, 8, 1, 1) remat full: RESOURCE_EXHAUSTED: 99 GiB\n" in (
    capsys.readouterr().out
  )


@pytest.mark.parametrize("error", [UsageError("RESOURCE_EXHAUSTED"), ValueError("x")])
def test_a_sweep_ends_at_what_is_no_lack_of_memory(monkeypatch, error):
  def planned(*_):
    raise error

  monkeypatch.setattr(planning, "plan", planned)
  with pytest.raises(type(error)):
    list(sweep(tiny(), "cpu:8", 8, False))


REPORT = Report(
  topology="cpu:8", mesh=(1, 8, 1, 1), batch=8, program="train step", remat="full",
  hbm_bytes=1000, hbm_limit=999.0, model_flops=3e12, hardware_flops=4e12,
  traffic_bytes=2 * 10**9, collectives=[("all-gather", 7, 1.5e9)], largest="all-gather",
  seconds={"arithmetic": 3.0, "memory": 1.0, "network": 2.0}, mfu=(0.3, 0.6),
  compile_seconds=4.0,
)  # fmt: skip


def test_a_report_for_people():
  lines = [" ".join(line.split()) for line in show(REPORT).splitlines()]
  assert lines[1].endswith("0.00 of 0.00 GiB a chip: DOES NOT FIT")
  assert lines[2] == "FLOPs 3.0 TFLOP a chip, with recomputation 4.0"
  assert lines[3] == "network 2.00 GB a chip; largest all-gather"
  assert lines[4] == "all-gather x 7 1.500 GB"
  assert lines[5] == "floors arithmetic 3.000 s, memory 1.000 s, network 2.000 s"
  assert lines[6] == (
    "step 3.00 s if all overlaps, 6.00 s if nothing does: MFU at most 60%, 30%"
  )
  assert "fits" in show(dataclasses.replace(REPORT, hbm_limit=1000.0))


@pytest.mark.parametrize("key", ["hbm_bytes", "traffic_bytes", "hardware_flops"])
def test_more_than_a_fiftieth_more_is_worse(key):
  old = dataclasses.asdict(REPORT) | {"mesh": [1, 8, 1, 1]}
  assert regressions(REPORT, old) == []
  at = lambda factor: dataclasses.replace(
    REPORT, **{key: type(old[key])(factor * old[key])}
  )
  assert regressions(at(1.02), old) == [] and regressions(at(0.5), old) == []
  (line,) = regressions(at(1.03), old)
  assert line.startswith(f"{key}: {old[key]} -> ") and line.endswith("(1.030x)")
  for other in ("topology", "program", "remat", "batch", "mesh"):
    with pytest.raises(UsageError, match=f"that report has {other} another"):
      regressions(REPORT, old | {other: "another"})


# TFLOP/s, memory and its GB/s, Gbit/s of all links in both directions, as published.
SHEETS = {
  "v4": (275, 32 * GIB, 1228, 2400),
  "v5e": (197, 16 * GIB, 819, 1600),
  "v5p": (459, 95 * GIB, 2765, 4800),
  "v6e": (918, 31.25 * GIB, 1640, 3584),
  "H100": (989, 80 * GIB, 3350, 7200),
  "H200": (989, 141e9, 4800, 7200),
  "A100": (312, 80 * GIB, 2000, 4800),
}


@pytest.mark.parametrize("name", SHEETS)
def test_chips_are_those_of_the_data_sheets(name):
  flops, memory, rate, links = SHEETS[name]
  assert CHIPS[name] == pytest.approx(
    (flops * 1e12, memory, rate * 1e9, links * 1e9 / 16)
  )
  assert set(CHIPS) == {*SHEETS, "cpu"}


@pytest.mark.parametrize(
  ("kind", "name"),
  [
    ("TPU v4", "v4"), ("TPU v5 lite", "v5e"), ("TPU v5e", "v5e"), ("TPU v5", "v5p"),
    ("TPU v5p", "v5p"), ("TPU v6 lite", "v6e"), ("NVIDIA H100 80GB HBM3", "H100"),
    ("NVIDIA H200", "H200"), ("NVIDIA A100-SXM4-80GB", "A100"),
  ],
)  # fmt: skip
def test_chips_by_what_jax_calls_them(kind, name):
  assert chip_of(kind) is CHIPS[name]
  assert chip_of("cpu") is None and chip_of("TPU v3") is None
