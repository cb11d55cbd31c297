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
parts = importlib.import_module("ccl_jax.benchmarks.parts")  # with the flags of step


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
  with pytest.raises(UsageError, match="torch with CUDA, got torch 2.0.cpu: --nopeer"):
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


def test_the_parts_of_a_block_are_all_of_it(monkeypatch):
  """Counted part by part and by the formula of the whole, of two clips; the video
  stream of one block without its ends.
  """
  monkeypatch.setattr(step, "BATCH", types.SimpleNamespace(value=2))
  model, g = build_model("tiny"), Geometry(3, 2, 4, 7)
  got = parts.part_flops(model, g)
  n, d, ffn = 24, 128, 384
  # Multiply and add: q, k, v, o; scores and sums; two products of the FFN.
  assert got["self_attention"] == 2 * (4 * 2 * n * d * d + 2 * 2 * n * n * d)
  assert got["ffn"] == 2 * 2 * 2 * n * d * ffn
  # q and o of the video's tokens, k and v of the 512 of the text.
  pairs = 2 * 2 * n * d * d + 2 * 2 * 512 * d * d
  assert got["text_attention"] == 2 * (pairs + 2 * 2 * n * 512 * d)
  alone = build_model("tiny", streams=("video",)).clone(depth=1)
  whole = forward_flops(alone, g, *step.TEXT)
  video = sum(whole[k] for k in ("linear", "self_attention", "text_attention"))
  assert sum(got.values()) - got["cross"] == pytest.approx(2 * video)


def test_the_rest_of_a_block_is_what_its_parts_do_not_take(monkeypatch):
  """A block takes half of what three blocks take more than one: 8 ms of it."""
  for name, value in {"SIZE": "tiny", "DTYPE": "float32", "ATTENTION": "dense"}.items():
    monkeypatch.setattr(step, name, types.SimpleNamespace(value=value))
  monkeypatch.setattr(step, "ROUNDS", types.SimpleNamespace(value=1))
  names = (
    "self_attention",
    "text_attention",
    "ffn",
    "audio to video",
    "video to audio",
  )
  monkeypatch.setattr(parts, "pieces", lambda model, g: dict.fromkeys(names, ()))
  monkeypatch.setattr(parts, "compiled_call", lambda *_: None)
  monkeypatch.setattr(parts, "forward", lambda spec, streams, depth: (None,))
  took = dict(zip(names, (0.002, 0.001, 0.002, 0.0005, 0.0005))) | {1: 0.01, 3: 0.026}
  monkeypatch.setattr(parts, "in_turn", lambda runs, _: {k: [took[k]] for k in runs})
  flops = {"self_attention": 4e6, "text_attention": 2e6, "ffn": 3e6, "cross": 1e6}
  monkeypatch.setattr(parts, "part_flops", lambda model, g: flops)
  rows = {row["what"]: row for row in parts.part_rows(ClipSpec(5, 32, 32, 25), 1e10)}
  assert rows["ffn"] == {
    "what": "ffn", "ms": 2, "of time": pytest.approx(0.25), "of FLOPs": 0.3,
    "ceiling": pytest.approx(0.15),
  }  # fmt: skip
  assert rows["cross"]["ms"] == 1 and rows["cross"]["of FLOPs"] == 0.1
  assert rows["rest"]["ms"] == pytest.approx(2) and rows["rest"]["of time"] == (
    pytest.approx(0.25)
  )


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
