"""What benchmarks make of seconds, by a clock that only programs move."""

import importlib
import json
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.benchmarks import eval_rates, timing
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.models.cca import Geometry
from ccl_jax.models.flops import forward_flops
from ccl_jax.models.presets import build_model
from tests.flags.command import command

data, vocoder, step = (
  command(f"bench {n}").module for n in ("data", "vocoder", "step")
)
# With the flags of step.
parts, given = (
  importlib.import_module(f"ccl_jax.benchmarks.{n}") for n in ("parts", "given")
)


@pytest.fixture
def clock(monkeypatch):
  """A function that lets seconds pass."""
  now = [100.0]
  monkeypatch.setattr(time, "perf_counter", lambda: now[0])

  def wait(seconds):
    now[0] += seconds

  return wait


def test_programs_take_turns_and_the_first_run_compiles(clock):
  ran = []

  def program(name, seconds):
    left = iter(seconds)

    def run():
      ran.append(name)
      clock(next(left))

    return run

  programs = {"a": program("a", (9, 1, 2)), "b": program("b", (8, 3, 4))}
  assert timing.in_turn(programs, 2) == {"a": [1, 2], "b": [3, 4]}
  assert "".join(ran) == "ababab"


def test_cores_are_those_that_are_allowed(monkeypatch):
  monkeypatch.setattr(timing.os, "sched_getaffinity", lambda _: {3}, raising=False)
  assert timing.cores() == 1
  monkeypatch.delattr(timing.os, "sched_getaffinity")
  monkeypatch.setattr(timing.os, "cpu_count", lambda: 7)
  assert timing.cores() == 7


def test_ratios_are_of_a_round_and_sorted():
  assert timing.ratios([4.0, 1.0, 3.0], [1.0, 2.0, 2.0]) == [0.5, 1.5, 4.0]
  assert timing.median([5.0, 1.0, 2.0]) == 2
  with pytest.raises(ValueError, match="argument 2 is longer"):
    timing.ratios([1.0], [1.0, 2.0])


def test_a_product_of_matrices_is_two_operations_an_element(monkeypatch):
  """At the best of the rounds: others only slow it down."""
  monkeypatch.setattr(timing, "in_turn", lambda programs, rounds: {"": [0.5, 0.25, 4]})
  assert timing.matmul_rate(100, jnp.float32) == 2e6 / 0.25
  sizes = []
  monkeypatch.setattr(timing, "matmul_rate", lambda n, dtype: sizes.append(n) or 1.0)
  timing.device_ceiling(jnp.float32)
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  timing.device_ceiling(jnp.float32)
  assert sizes == [1024, 8192]


def test_rows_are_shown_for_people_and_programs(capsys):
  timing.show({"device": "x"}, [{"what": "forward", "ms": 1.23456}])
  line, held = capsys.readouterr().out.splitlines()
  assert line == "forward, ms 1.235"
  assert json.loads(held) == {
    "device": "x", "rows": [{"what": "forward", "ms": 1.23456}]
  }  # fmt: skip


def test_rows_that_were_measured_are_told_though_a_later_one_fails(capsys):
  def rows():
    yield {"what": "forward", "ms": 1.0}
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    timing.show({"device": "x"}, rows())
  line, held = capsys.readouterr().out.splitlines()
  assert line == "forward, ms 1.000"
  assert json.loads(held) == {"device": "x", "rows": [{"what": "forward", "ms": 1.0}]}


def test_a_peer_on_the_processor_is_none_for_a_gpu(monkeypatch):
  absent = types.SimpleNamespace(is_available=lambda: False)
  torch = types.SimpleNamespace(cuda=absent, __version__="2.0+cpu")
  monkeypatch.setitem(sys.modules, "torch", torch)
  diffusers = types.SimpleNamespace(WanTransformer3DModel=None)
  monkeypatch.setitem(sys.modules, "diffusers", diffusers)
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  with pytest.raises(UsageError, match="torch with CUDA, got torch 2.0.cpu; or"):
    step.peer(ClipSpec(5, 32, 32, 16.0), {})


def test_a_row_of_steps():
  """100 FLOPs in the median of 2 s, at a ceiling of 200 a second."""
  got = step.row("forward", [2.0, 1.0, 4.0], [1.0, 2.0, 2.0], 100.0, 200.0)
  assert got == {
    "what": "forward", "seconds": 2.0, "ceiling": 0.25, "theirs": 2.0,
    "ours/theirs": 2.0, "lowest": 0.5, "highest": 2.0,
  }  # fmt: skip
  assert step.row("x", [2.0], None, 100.0, 200.0).keys() == {
    "what", "seconds", "ceiling"
  }  # fmt: skip


def test_the_exchange_is_what_a_step_without_it_saves(monkeypatch):
  """6 s with masks by sample, 5 static, 4 apart; a pass of 30 and 10 FLOPs."""
  flags = {"DEPTH": 1, "BATCH": 2, "ROUNDS": 3}
  for name, value in flags.items():
    monkeypatch.setattr(step, name, types.SimpleNamespace(value=value))
  model = build_model("tiny")
  monkeypatch.setattr(step, "make", lambda spec, streams, depth: (model, None, None))
  monkeypatch.setattr(step, "programs", lambda *_: {"forward": None, "train": None})
  flops = {"linear": 30.0, "cross": 10.0}
  monkeypatch.setattr(step, "forward_flops", lambda *_: flops)
  seconds = {"joint": [5.0], "by sample": [6.0], "apart": [4.0]}
  monkeypatch.setattr(
    step, "in_turn", lambda runs, rounds: {k: seconds[k] for k in runs}
  )
  forward, train_ = step.joint_rows(ClipSpec(5, 32, 32, 25), 100.0)
  assert (forward["what"], train_["what"]) == ("joint forward", "joint train")
  assert forward["ceiling"] == pytest.approx(2 * 40 / 5 / 100)
  assert train_["ceiling"] == pytest.approx(3 * forward["ceiling"])
  assert forward["cross, of time"] == pytest.approx(0.2)
  assert forward["cross, of FLOPs"] == 0.25
  assert forward["masks by sample/static"] == pytest.approx(1.2)


def set_flags(monkeypatch, **values):
  for name, value in values.items():
    monkeypatch.setattr(step, name, types.SimpleNamespace(value=value))


def test_the_parts_of_a_step_are_all_of_it(monkeypatch):
  """Counted part by part and by the formula of the whole: of three blocks, and two
  evaluations of two clips.
  """
  set_flags(monkeypatch, BATCH=2)
  model, g = build_model("tiny").clone(depth=3), Geometry(3, 2, 4, 7)
  got = parts.part_flops(model, g)
  # Multiply and add: q, k, v, o; scores and sums; two products of the FFN.
  n, d, ffn = 24, 128, 384
  c = dict(model.streams)["audio"]
  m, e = 7, c.width
  ones = lambda n, d: 4 * 2 * n * d * d + 2 * 2 * n * n * d
  times = 3 * 2 * 2
  assert got["self_attention"] == times * (ones(n, d) + ones(m, e))
  assert got["ffn"] == times * (2 * 2 * n * d * ffn + 2 * 2 * m * e * c.ffn)
  # q and o of the tokens, which see the 512 of the text.
  text = lambda n, d: 2 * 2 * n * d * d + 2 * 2 * n * 512 * d
  assert got["text_attention"] == times * (text(n, d) + text(m, e))
  whole = forward_flops(model, g, *step.TEXT)
  assert got["exchange"] == 4 * whole["cross"] and got[parts.ENDS] == 4 * whole["ends"]
  step_flops = sum(whole.values()) - whole["texts"]
  assert sum(got.values()) == pytest.approx(4 * step_flops)


def test_the_rest_of_a_step_is_what_its_parts_do_not_take(monkeypatch):
  """A block takes half of what three blocks take more than one, 8 ms, and four of them
  with the ends 35 ms; a step a quarter of what six take more than two, 40 ms.
  """
  set_flags(
    monkeypatch, SIZE="tiny", DTYPE="float32", ATTENTION="dense", ROUNDS=1, DEPTH=4
  )
  seconds = {"self_attention": 2, "text_attention": 1, "ffn": 2, "exchange": 0.5}
  took = {(k, s): x / 1e3 for k, x in seconds.items() for s in ("video", "audio")}
  took = {k: x if k[1] == "video" else x / 4 for k, x in took.items()}
  pieces = dict.fromkeys(took, ())
  took |= {1: 0.011, 3: 0.027, 4: 0.035, (2, True): 0.085, (6, True): 0.245}
  monkeypatch.setattr(parts, "pieces", lambda model, g: pieces)
  monkeypatch.setattr(parts, "compiled_call", lambda *_: None)
  monkeypatch.setattr(parts, "forward", lambda spec, streams, depth, rows: (None,))
  samplings = lambda spec, task, ways: dict.fromkeys(ways) if task == "joint" else {}
  monkeypatch.setattr(parts, "samplings", samplings)
  monkeypatch.setattr(parts, "in_turn", lambda runs, _: {k: [took[k]] for k in runs})
  flops = {
    "self_attention": 4e6, "text_attention": 2e6, "ffn": 2e6, "exchange": 1e6,
    parts.ENDS: 1e6,
  }  # fmt: skip
  monkeypatch.setattr(parts, "part_flops", lambda model, g: flops)
  rows = {row["what"]: row for row in parts.part_rows(ClipSpec(5, 32, 32, 25), 1e10)}
  assert rows["ffn"] == {
    "what": "ffn", "ms": pytest.approx(10), "of time": pytest.approx(0.25),
    "of FLOPs": 0.2, "ceiling": pytest.approx(0.02),
  }  # fmt: skip
  assert rows["exchange"]["ms"] == pytest.approx(2.5)
  # 4 x 8 ms less 4 x 5.5 x 1.25.
  assert rows["rest"] == {
    "what": "rest", "ms": pytest.approx(4.5), "of time": pytest.approx(4.5 / 40)
  }  # fmt: skip
  assert rows[parts.ENDS]["ms"] == pytest.approx(3)
  assert rows["guidance, solver"]["ms"] == pytest.approx(5)
  assert rows["step"]["ms"] == pytest.approx(40)
  assert rows["step"]["ceiling"] == pytest.approx(1e7 / 0.04 / 1e10)
  shares = [row["of time"] for name, row in rows.items() if name != "step"]
  assert sum(shares) == pytest.approx(1)


def test_the_parts_are_those_of_both_streams(monkeypatch):
  """Of both evaluations of two clips; with the text's rows and the other's tokens."""
  set_flags(monkeypatch, BATCH=2)
  model, g = build_model("tiny"), Geometry(3, 2, 4, 7)
  got = parts.pieces(model, g)
  widths = {s: c.width for s, c in model.streams}
  tokens = {"video": (4, 3, 8, widths["video"]), "audio": (4, 7, 1, widths["audio"])}
  assert len(got) == 8
  for (name, s), (module, inputs, _) in got.items():
    assert inputs[0].shape == tokens[s]
    if name == "text_attention":
      assert [x.shape for x in inputs[1]["text"]] == [(4, 512, 4, widths[s] // 4)] * 2
    if name == "exchange":
      assert inputs[1].shape == tokens["audio" if s == "video" else "video"]
      assert module.into == s


def test_what_keys_save(monkeypatch):
  """Four steps more take 4, 8 and 12 s of what is run at every step, of what is run
  once 2, 2 and 3 s.
  """
  set_flags(monkeypatch, ROUNDS=3)
  took = {
    (2, True): [1.0, 1.0, 1.0], (6, True): [3.0, 3.0, 4.0],
    (2, False): [2.0, 2.0, 2.0], (6, False): [6.0, 10.0, 14.0],
  }  # fmt: skip
  latents = lambda steps, once: {"video": jnp.array([0.0, 2.0, 0.0, 2.0 + 0.5 * once])}

  def in_turn(programs, rounds):
    assert rounds == 3
    for run in programs.values():
      run()
    return {key: took[key] for key in programs}

  tasks = []
  made = lambda spec, task, ways: {k: lambda k=k: latents(*k) for k in ways}
  monkeypatch.setattr(given, "samplings", lambda *a: tasks.append(a[1]) or made(*a))
  monkeypatch.setattr(given, "in_turn", in_turn)
  joint, v2a, a2v = given.rows(ClipSpec(5, 32, 32, 25))
  assert tasks == ["joint", "v2a", "a2v"] == [x["what"] for x in (joint, v2a, a2v)]
  assert v2a | {"what": ""} == {
    "what": "", "once, s": 0.5, "every step, s": 2.0, "faster": 4.0, "lowest": 2.0,
    "highest": 4.0, "apart": pytest.approx(0.5),
  }  # fmt: skip


SAMPLED = {
  "v2a": ({"audio"}, {"video"}),
  "a2v": ({"video"}, {"audio"}),
  "joint": ({"video", "audio"}, set()),
}


@pytest.mark.parametrize("task", SAMPLED)
def test_what_is_sampled(monkeypatch, task):
  """With guidance, UniPC, and a negative prompt of no rows; keys once or every step."""
  set_flags(monkeypatch, DEPTH=1)
  told = []

  def sample_latents(model, params, kind, noise, conditions, how, reuse_keys):
    told.append((how.steps, reuse_keys))
    assert (set(noise), set(conditions["given"])) == SAMPLED[task]
    assert conditions["text"].shape == (2, 2, 5, 7)
    assert (how.guidance, how.solver, model) == ("ucg2", "unipc", "model")
    return noise | {"texts": conditions["text"]}

  inputs = {"latents": {"video": jnp.ones(3), "audio": jnp.ones(2)}}
  inputs["text"] = jnp.ones((2, 5, 7))
  monkeypatch.setattr(step, "make", lambda *_: ("model", {}, inputs))
  monkeypatch.setattr(parts, "sample_latents", sample_latents)
  ways = [(2, True), (6, False)]
  calls = parts.samplings(ClipSpec(5, 32, 32, 25), task, ways)
  made = [run() for run in calls.values()]
  assert list(calls) == told == ways
  assert made[0]["texts"].mean((1, 2, 3)).tolist() == [1, 0]


def test_a_rate_is_the_best_of_the_rounds(clock):
  """Closing takes no part of the time, and what is before neither."""
  closed = []

  def reader(seconds):
    left = iter(seconds)

    def read():
      clock(next(left))
      return 6_000_000, lambda: (clock(50), closed.append(1))

    return read

  readers = {"a": reader((3, 2, 4)), "b": reader((1, 6, 6))}
  assert data.rates(readers, lambda: clock(70)) == {"a": 3, "b": 6}
  assert len(closed) == 6


def test_waits_leave_out_those_that_fill_the_queues(clock, monkeypatch):
  left = iter((9.0, 8.0, 7.0, 0.5, 0.25, 0.0))

  class Prefetch:
    def __init__(self, reader, mesh):
      pass

    def __next__(self):
      clock(next(left))
      return jnp.zeros(())

    def close(self):
      pass

  monkeypatch.setattr(data, "DevicePrefetch", Prefetch)
  monkeypatch.setattr(data, "LatentBatches", lambda mixture, threads: None)
  monkeypatch.setattr(time, "sleep", clock)
  assert data.waits.__wrapped__(None, 1, 6) == [0.5, 0.25, 0]


def test_the_peak_of_memory_is_in_gib(monkeypatch):
  status = "VmPeak:\t 9 kB\nVmHWM:\t 3145728 kB\nVmRSS:\t 12 kB\n"
  monkeypatch.setattr("pathlib.Path.read_text", lambda self: status)
  assert eval_rates.peak_gigabytes() == 3


def test_a_rate_is_of_the_clips_after_the_first(clock, monkeypatch):
  """20 s at first, then 1, 5 and 2; of which the processor had half."""
  now = [0.0]
  monkeypatch.setattr(time, "process_time", lambda: now[0])
  monkeypatch.setattr(eval_rates, "build_metrics", lambda *_: ([], {}))

  def evaluate(items, metrics, records, done):
    for item, seconds in zip(items, (20, 1, 5, 2)):
      clock(seconds)
      now[0] += seconds / 2
      done(item.name)
    return types.SimpleNamespace(records={}, broken={}, accidents=[])

  monkeypatch.setattr(eval_rates, "evaluate", evaluate)
  monkeypatch.setattr(eval_rates, "peak_gigabytes", lambda: 2.5)
  videos = [eval_rates.pathlib.Path(f"{i}.mp4") for i in range(4)]
  got = eval_rates._score([], videos, None)
  assert got == (2, 1, 20, 2.5, "") and got.clips_per_minute == 30


def test_a_vocoder_is_timed_by_the_second_of_its_sound(monkeypatch):
  """Medians of 1, 4 and 2 seconds and the like, of a sound of half a second."""
  ways = ("torch", "whole", "chunks of 8", "VAE encode", "VAE decode")
  for name in ("_drawn", "_torch", "_jax"):
    monkeypatch.setattr(vocoder, name, lambda *_: None)
  of_vae = dict.fromkeys(ways[3:])
  monkeypatch.setattr(vocoder, "_vae", lambda *_: of_vae)
  seconds = iter([9, 8, 7, 6, 5, *(1, 2, 3, 4, 5), *(4, 8, 1, 1, 1), *(2, 4, 3, 4, 5)])
  waves = iter(
    [np.array([0.0, 2.0]), np.array([0.0, 2.5]), *18 * [np.array([0.0, 2.0])]]
  )
  timed = lambda call: (float(next(seconds)), next(waves))
  monkeypatch.setattr(vocoder, "_timed", timed)
  rows = vocoder.run("16k", seconds=0.512, chunk=8, rounds=3)
  assert [row.name for row in rows] == list(ways)
  assert [row.first for row in rows] == [9, 8, 7, 6, 5]
  factors = [x / 0.512 for x in (2, 4, 3, 4, 5)]
  assert [row.real_time_factor for row in rows] == pytest.approx(factors)
  assert [row.ratio for row in rows] == pytest.approx([1, 2, 1.5, 2, 2.5])
  # The wave of torch deviates by 1.
  assert [row.difference for row in rows] == [0, 0.5, 0, None, None]
