"""A plan's accounts by hand: a program whose traffic, memory and FLOPs are known."""

import dataclasses
import io
import json
import types

import jax
import pytest

from ccl_jax import progress
from ccl_jax.checkpoints.fingerprint import leaf_paths
from ccl_jax.errors import UsageError
from ccl_jax.planning import compile as planning
from ccl_jax.planning.chips import CHIPS, GIB, chip_of
from ccl_jax.planning.compile import across, check, default_mesh, meshes, plan, sweep
from ccl_jax.planning.floors import Arithmetic
from ccl_jax.planning.predict import Part, Prediction
from ccl_jax.planning.report import Report, regressions, show
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


WORK = Arithmetic(model=9e9, hardware=12e9, seconds=0.12)


@pytest.fixture
def compiled(monkeypatch):
  """Programs are known, and the work that a plan asks for."""
  calls = []

  def compiler(kind):
    def compile_(config, mesh, batch):
      calls.append((kind, tuple(mesh.shape.values()), batch))
      return Compiled()

    return compile_

  monkeypatch.setattr(planning, "compile_train", compiler("train"))
  monkeypatch.setattr(planning, "compile_generate", compiler("generate"))

  def arithmetic(model, geometry, text, clips, chip, sampling):
    assert (model.remat, geometry, text) == ("full", (5, 2, 2, 22), (16, 32))
    calls.append((clips, chip, sampling))
    return WORK

  monkeypatch.setattr(planning, "arithmetic", arithmetic)
  monkeypatch.setattr(planning, "compile_phases", lambda *_: {})
  return calls


def seconds(report):
  return [report.seconds[k] for k in ("arithmetic", "memory", "network")]


def test_a_train_step(compiled):
  """Of 6 clips on 8 devices 3/4 are a device's."""
  got = plan(tiny(remat="full"), "cpu:8", (2, 1, 4, 1), 6, generate=False)
  assert compiled == [("train", (2, 1, 4, 1), 6), (0.75, CHIPS["cpu"], False)]
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
  # The compiler for processors makes no estimates.
  assert got.prediction is None and got.predicted_mfu is None
  assert got.compiler == f"jax {jax.__version__}"


def test_a_sampling_step_is_a_fiftieth_of_the_program(compiled):
  got = plan(tiny(remat="full"), "cpu:8", (1, 8, 1, 1), 8, generate=True)
  assert compiled == [("generate", (1, 8, 1, 1), 8), (1.0, CHIPS["cpu"], True)]
  assert got.program == "sampling step"
  assert got.traffic_bytes == TRAFFIC // 50
  expected = [0.12, 0.1, TRAFFIC / 50 / 1e10]
  assert seconds(got) == pytest.approx(expected)
  assert got.mfu == pytest.approx((0.09 / sum(expected), 0.75))


PART = Part("FFN", "forward", "product", 0.02, 0.01)
PREDICTION = Prediction(0.02, 0.01, [PART], ["a row"], [])


@pytest.mark.parametrize(("generate", "steps"), [(False, 1), (True, 50)])
def test_a_prediction_is_of_a_step_and_the_chip(compiled, monkeypatch, generate, steps):
  """Its MFU is useful arithmetic at the peak, 0.09 s here, over the predicted time."""

  def predict(program, chip, n):
    assert program.entry == "main" and (chip, n) == ("cpu", steps)
    return PREDICTION

  monkeypatch.setattr(planning, "predict", predict)
  got = plan(tiny(remat="full"), "cpu:8", (1, 8, 1, 1), 8, generate=generate)
  assert got.prediction is PREDICTION
  assert got.predicted_mfu == pytest.approx((4.5, 9.0))


def test_what_goes_between_slices_is_at_the_networks_rate(compiled, monkeypatch):
  """400 bytes of the program's sum, at an eighth of the links' rate."""
  between = (
    '_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"'
  )
  summed = "%ar = f32[100] all-reduce(%p), replica_groups={{0,1}}, to_apply=%add"
  received = f"%r = (f32[100], token[]) recv(%p), frontend_attributes={{{between}}}"
  assert summed in PROGRAM
  text = PROGRAM.replace(summed, received)
  monkeypatch.setattr(Compiled, "as_text", lambda self: text)
  chip = CHIPS["cpu"]._replace(network_rate=CHIPS["cpu"].link_rate / 8)
  monkeypatch.setattr(
    planning, "parse_topology", lambda name, slices: (chip, jax.devices()[:8])
  )
  whole = lambda shape, devices, slices: make_mesh(shape, devices)
  monkeypatch.setattr(planning, "make_mesh", whole)
  got = plan(tiny(remat="full"), "cpu:8", (2, 4, 1, 1), 8, generate=False, slices=2)
  assert (got.slices, got.traffic_bytes) == (2, TRAFFIC)
  assert got.seconds["network"] == pytest.approx((50 * 2400 + 8 * 400) / 1e10)


def test_slices_part_the_data_or_else_the_parameters():
  """Unless the config says how."""
  assert across(1, (2, 4, 1, 1), (1, 1, 1, 1)) == (1, 1, 1, 1)
  assert across(2, (2, 4, 1, 1), (1, 1, 1, 1)) == (2, 1, 1, 1)
  assert across(2, (1, 8, 1, 1), (1, 1, 1, 1)) == (1, 2, 1, 1)
  assert across(2, (2, 4, 1, 1), (1, 2, 1, 1)) == (1, 2, 1, 1)


def test_a_program_without_traffic(compiled, monkeypatch):
  monkeypatch.setattr(Compiled, "as_text", lambda self: "ENTRY %main () -> () {")
  got = plan(tiny(remat="full"), "cpu:1", (1, 1, 1, 1), 1, generate=False)
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
  # Slices are replicas: they divide the batch and the devices.
  assert list(meshes(8, 8, space=6, heads=2, slices=2)) == [
    (2, 4, 1, 1), (2, 2, 1, 2), (2, 2, 2, 1), (2, 1, 2, 2)
  ]  # fmt: skip
  assert not list(meshes(8, 4, space=1, heads=1, slices=2))
  assert list(meshes(8, 4, space=2, heads=1, slices=2)) == [(2, 2, 2, 1)]


@pytest.mark.parametrize("generate", [False, True])
def test_a_sweep_goes_on_where_memory_is_short(monkeypatch, capsys, generate):
  tried = []

  def planned(config, topology, shape, batch, generate, slices, tile):
    assert (slices, tile) == (1, "auto")
    progress.phase("compiling")
    tried.append((shape, config.model.remat))
    if shape == (1, 8, 1, 1):
      raise RuntimeError("RESOURCE_EXHAUSTED: 99 GiB\nmore")
    return tried[-1]

  monkeypatch.setattr(planning, "plan", planned)
  monkeypatch.setattr(planning, "show", str)
  config = tiny(remat="full").lock()
  before = config.to_json()
  said = io.StringIO()
  with progress.shown(said):
    got = list(sweep(config, "cpu:8", 8, generate))
  assert config.to_json() == before
  # To a file a line every half minute.
  assert said.getvalue() == f"plans 0/{len(tried)}: compiling\n"
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


PARTS = [
  Part("self-attention", "backward", "kernel", 3.0, 3.0),
  Part("self-attention", "forward", "RoPE", 2.0, 0.5),
  Part("FFN", "forward", "product", 1.25, 1.25),
  Part("self-attention", "made again", "kernel", 1.0, 1.0),
  Part("FFN", "backward", "copy", 0.75, 0.25),
]
REPORT = Report(
  topology="cpu:8", mesh=(1, 8, 1, 1), batch=8, program="train step", remat="full",
  hbm_bytes=1000, hbm_limit=999.0, model_flops=3e12, hardware_flops=4e12,
  traffic_bytes=2 * 10**9, collectives=[("all-gather", 7, 1.5e9)], largest="all-gather",
  seconds={"arithmetic": 3.0, "memory": 1.0, "network": 2.0}, mfu=(0.3, 0.6),
  compile_seconds=4.0, compiler="jax 0.1, libtpu 0.2",
)  # fmt: skip
PREDICTED = dataclasses.replace(
  REPORT,
  prediction=Prediction(8.0, 6.0, PARTS, ["a kernel's row"], []),
  predicted_mfu=(0.25, 0.333),
)


def lines_of(report):
  return [" ".join(line.split()) for line in show(report).splitlines()]


def test_a_report_for_people():
  lines = lines_of(REPORT)
  assert lines[0].startswith("train step on cpu:8, mesh (1, 8, 1, 1) ")
  assert lines[1].endswith("0.00 of 0.00 GiB a chip: DOES NOT FIT")
  assert lines[2] == "FLOPs 3.0 TFLOP a chip, with recomputation 4.0"
  assert lines[3] == "network 2.00 GB a chip; largest all-gather"
  assert lines[4] == "all-gather x 7 1.500 GB"
  assert lines[5] == "floors arithmetic 3.000 s, memory 1.000 s, network 2.000 s"
  assert lines[6] == (
    "no step is faster than 3.00 s, MFU 60%, if all overlaps; 6.00 s, 30%, if nothing "
    "does"
  )
  assert lines[7] == (
    "predicted nothing: the compiler for this chip makes no estimates"
  )
  assert lines[8] == "compiled in 4 s by jax 0.1, libtpu 0.2"
  assert "fits" in show(dataclasses.replace(REPORT, hbm_limit=1000.0))
  assert "cpu:8 x 3 slices," in show(dataclasses.replace(REPORT, slices=3))


def test_a_prediction_for_people():
  """What it is worth, the modules with what they do, the longest first, and passes."""
  lines = lines_of(PREDICTED)[7:-1]
  assert lines == [
    "predicted 8.00 s (low 6.00 s): MFU 25% (33%)",
    "the compiler's own estimates, never run; the one published step took 1.26 times "
    "its prediction: 10.1 s here",
    "seconds kernel product RoPE copy est low share",
    "self-attention 4.000 2.000 6.000 4.500 75%",
    "FFN 1.250 0.750 2.000 1.500 25%",
    "all 4.000 1.250 2.000 0.750 8.000 6.000 100%",
    "passes: backward 3.75 s, forward 3.25 s, made again 1.00 s",
    "a kernel's row",
  ]
  # Columns stand under their names.
  head, row = show(PREDICTED).splitlines()[9:11]
  assert head.index("RoPE") + 4 == row.index("2.000") + 5


def test_what_has_no_price_is_said():
  lacking = dataclasses.replace(PREDICTED.prediction, unknown=["kernel x on v6e"])
  lines = lines_of(dataclasses.replace(PREDICTED, prediction=lacking))[7:]
  assert lines[0].startswith("predicted at least 8.00 s ")
  assert lines[1].endswith("at least 10.1 s here")
  assert lines[2] == "WITHOUT A PRICE, and not in the sums: kernel x on v6e"


def test_ranks():
  """By the prediction; what lacks a price comes last, whatever it says; without any
  prediction by the sum of the floors.
  """
  at = lambda est, *unknown: dataclasses.replace(
    PREDICTED, prediction=Prediction(est, est, [], [], list(unknown))
  )
  ranked = sorted([at(1.0, "x"), at(7.0), at(3.0), REPORT], key=lambda r: r.rank)
  times = [r.prediction and r.prediction.est for r in ranked]
  assert times == [3.0, None, 7.0, 1.0] and REPORT.rank == (False, 6.0)


def written(report):
  return json.loads(json.dumps(dataclasses.asdict(report)))


@pytest.mark.parametrize("key", ["hbm_bytes", "traffic_bytes", "hardware_flops"])
def test_more_than_a_fiftieth_more_is_worse(key):
  old = written(REPORT)
  assert regressions(REPORT, old) == []
  at = lambda factor: dataclasses.replace(
    REPORT, **{key: type(old[key])(factor * old[key])}
  )
  assert regressions(at(1.02), old) == [] and regressions(at(0.5), old) == []
  (line,) = regressions(at(1.03), old)
  assert line.startswith(f"{key}: {old[key]} -> ") and line.endswith("(1.030x)")
  for other in ("topology", "program", "remat", "batch", "mesh", "slices"):
    with pytest.raises(UsageError, match=f"that report has {other} another"):
      regressions(REPORT, old | {other: "another"})
  (line,) = regressions(REPORT, old | {key: 0})
  assert line == f"{key}: 0 -> {getattr(REPORT, key)}"


def test_a_prediction_that_grew_by_more_than_a_twentieth_is_worse():
  old = written(PREDICTED)
  assert old["prediction"]["parts"][0]["module"] == "self-attention"
  at = lambda est, *unknown: dataclasses.replace(
    PREDICTED, prediction=Prediction(est, 1.0, [], [], list(unknown))
  )
  assert regressions(at(8.4), old) == [] and regressions(at(1.0), old) == []
  assert regressions(at(8.5), old) == ["predicted seconds: 8.0 -> 8.5 (1.062x)"]
  # Less time since less is known.
  (line,) = regressions(at(7.0, "kernel x"), old)
  assert line == "predicted seconds: no price of kernel x"
  old["prediction"]["unknown"] = ["kernel x"]
  assert regressions(at(7.0, "kernel x"), old) == []
  # Reports of before there were predictions, and of processors.
  for none in ({k: v for k, v in old.items() if k != "prediction"}, written(REPORT)):
    assert regressions(at(99.0), none) == []
  assert regressions(REPORT, old) == []
  old = {k: v for k, v in written(REPORT).items() if k != "slices"}
  assert regressions(REPORT, old) == []


# TFLOP/s, memory and its GB/s, Gbit/s of all links in both directions, and of a chip's
# part of the data-centre network, as published; of a GPU its network card in a DGX.
SHEETS = {
  "v4": (275, 32 * GIB, 1228, 2400, 0),
  "v5e": (197, 16 * GIB, 819, 1600, 25),
  "v5p": (459, 95 * GIB, 2765, 4800, 50),
  "v6e": (918, 31.25 * GIB, 1640, 3584, 100),
  "H100": (989, 80 * GIB, 3350, 7200, 400),
  "H200": (989, 141e9, 4800, 7200, 400),
  "A100": (312, 80 * GIB, 2000, 4800, 200),
}


@pytest.mark.parametrize("name", SHEETS)
def test_chips_are_those_of_the_data_sheets(name):
  flops, memory, rate, links, network = SHEETS[name]
  assert CHIPS[name][:5] == pytest.approx(
    (flops * 1e12, memory, rate * 1e9, links * 1e9 / 16, network * 1e9 / 8)
  )
  assert set(CHIPS) == {*SHEETS, "cpu"}


@pytest.mark.parametrize(
  ("name", "units"), [("v4", 8), ("v5e", 4), ("v5p", 8), ("v6e", 4)]
)
def test_clocks_are_those_that_make_the_peak(name, units):
  """Each matrix unit multiplies and adds its rows by its columns in a cycle."""
  chip = CHIPS[name]
  assert 2 * units * chip.mxu**2 * chip.clock == pytest.approx(chip.flops, rel=2e-3)
  assert all(CHIPS[other].clock == 0 for other in ("H100", "H200", "A100", "cpu"))


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


def test_slices_are_data_and_their_chips_share_parameters():
  assert default_mesh(tiny(), CHIPS["v6e"], 6, 6, False, 2) == (2, 3, 1, 1)
  assert default_mesh(tiny(), CHIPS["v6e"], 6, 6, False) == (1, 6, 1, 1)
