"""What each benchmark is made of, by its flags; nothing is timed here."""

import contextlib
import dataclasses
import importlib.metadata
import json
import pathlib
import sys
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from ccl_jax.data.spec import ClipSpec
from ccl_jax.models.flops import forward_flops
from ccl_jax.models.presets import build_model
from tests.flags.command import BENCH, BORROWED, MODULES, command
from tests.flags.recording import Recorder
from tests.planning.test_kernels import FORM


@pytest.fixture
def r(monkeypatch):
  return Recorder(monkeypatch)


def test_names_are_the_benchmarks(r, monkeypatch, capsys):
  """`bench NAME flags` runs NAME's main with these flags, and no other's."""
  import importlib

  bench = importlib.import_module(BENCH)
  named = {name.split()[1] for name in MODULES if name.startswith("bench ")}
  assert set(bench.NAMES) == named | set(BORROWED)
  told = []
  module = SimpleNamespace(__file__="/x/step.py", main="main")
  imported = lambda name: told.append(name) or module
  monkeypatch.setattr(bench.importlib, "import_module", imported)
  run = lambda main: told.append((main, sys.argv))
  monkeypatch.setattr(bench.cli, "run", run)
  monkeypatch.setattr(sys, "argv", ["bench"])
  bench.main(["bench", "step", "--depth=2", "--nopeer"])
  assert told == [
    MODULES["bench step"],
    ("main", ["/x/step.py", "--depth=2", "--nopeer"]),
  ]
  bench.main(["bench", "--help"])
  names = (
    "compiler, data, denoise, device, eval, given, kernels, length, parts, pipeline, "
    "prepare, sampling, scale, start, step, vocoder"
  )
  assert f"NAME is one of {names}" in " ".join(capsys.readouterr().out.split())
  with pytest.raises(SystemExit) as e:
    bench.main(["bench", "stepp"])
  assert e.value.code == 2 and "no benchmark 'stepp'" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in MODULES if "bench" in name])
def test_numbers_have_a_least_value(name):
  """Of 0 clips, rounds or blocks nothing is measured."""
  numbers = (flags.IntegerParser, flags.FloatParser)
  for flag in command(name).flags.values():
    if isinstance(flag.parser, numbers):
      assert (flag.parser.lower_bound or 0) > 0, flag.name


def test_data(r, tmp_path):
  """--records, --batch, --threads, and --folder, which is left as it was."""
  data = command("bench data").module
  r.replace(data, "measure", {"x": 1})
  command("bench data").run(f"--folder={tmp_path}")
  folder, *sizes = r.last("measure").args
  assert sizes == [200, 4, 4] and folder.parent == tmp_path
  command("bench data").run("--records=7", "--batch=3", "--threads=2")
  folder, *sizes = r.last("measure").args
  assert sizes == [7, 3, 2] and folder.parent != tmp_path
  assert not list(tmp_path.iterdir())


@pytest.fixture
def scored(r, monkeypatch):
  module = command("bench eval").module
  rate = module.eval_rates.Rate(30.0, 5.0, 9.0, 2.0)
  r.replace(module, "draw_weights", lambda names, folder: folder / "drawn")
  clips = [pathlib.Path(f"{i}.mp4") for i in range(9)]
  make = lambda folder, count, *_: clips[:count]
  monkeypatch.setattr(module.eval_rates, "write_clips", r.stub(make, "write_clips"))
  monkeypatch.setattr(module.eval_rates, "measure", r.stub(rate, "measure"))
  r.named = lambda: [call.args[0] for call in r.calls["measure"]]
  return r


def test_eval_of_all_and_of_some(scored, capsys):
  """--metrics, each alone and then --together; --clips that are drawn."""
  command("bench eval").run()
  names = command("bench eval").module.NAMES
  assert "talking" not in names
  assert scored.named() == [*([n] for n in names), names]
  folder, *sizes = scored.last("write_clips").args
  assert sizes == [4, 480, 832, 81, 16.0]
  assert scored.last("measure").args[2] == folder / "drawn"
  scored.calls.clear()
  command("bench eval").run("--metrics=wer,sync", "--clips=6")
  assert scored.named() == [["wer"], ["sync"], ["wer", "sync"]]
  assert len(scored.last("measure").args[1]) == 6
  assert scored.told("draw_weights", 0) == ["wer", "sync"]
  capsys.readouterr()
  scored.calls.clear()
  command("bench eval").run("--metrics=wer,sync", "--notogether")
  assert scored.named() == [["wer"], ["sync"]]
  about = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert about["clips"] == 4 and about["rows"]["wer"]["clips_per_minute"] == 2.0
  scored.calls.clear()
  command("bench eval").run("--metrics=wer")
  assert scored.named() == [["wer"]]  # together it would be the same again


def test_eval_of_given_clips_and_weights(scored, tmp_path, capsys):
  """--videos, the first --clips of them, --weights, --folder for what is drawn."""
  for i in range(5):
    (tmp_path / f"{i}.mp4").touch()
  run = lambda *argv: command("bench eval").run("--metrics=wer", *argv)
  run(f"--videos={tmp_path}", "--clips=3", "--weights=W")
  _, videos, weights = scored.last("measure").args
  assert [v.name for v in videos] == ["0.mp4", "1.mp4", "2.mp4"]
  assert weights == pathlib.Path("W") and not scored.calls["draw_weights"]
  place = tmp_path / "scratch"
  place.mkdir()
  run(f"--folder={place}")
  assert scored.told("draw_weights", 1).parent == place
  for argv, words in (
    ([f"--videos={place}"], "0 mp4 in"),
    (["--metrics=dance"], "no 'dance'"),
    (["--metrics=talking"], "no 'talking'"),
    (["--clips=1"], "clips"),
  ):
    with pytest.raises(SystemExit) as e:
      run(*argv)
    assert e.value.code == 2 and words in capsys.readouterr().err


def test_prepare(r, capsys):
  """--seconds of the film, and --rounds."""
  prepare = command("bench prepare").module
  r.replace(prepare, "make_film")
  times = {"decode": 0.5, "former": 0.75, "bars": 0.625, "cuts": 1.0, "sound": 0.25}
  r.replace(prepare, "measure", times)
  command("bench prepare").run()
  assert r.told("make_film", 1) == 5 and r.told("measure", 1) == 5
  out = capsys.readouterr().out
  assert "| cuts | 1.00 | 2.00 |" in out and "| cuts and sound | 0.80 | 2.50 |" in out
  assert "cuts, of former and bars: 1.14" in out  # 1 / (0.75 + 0.125)
  command("bench prepare").run("--seconds=9", "--rounds=2")
  assert r.told("make_film", 1) == 9 and r.told("measure", 1) == 2
  with pytest.raises(SystemExit) as e:
    command("bench prepare").run("--rounds=0")
  assert e.value.code == 2


def test_scale(r, capsys):
  """--clips by --chips; --rates, --cores and --memory of a host; --seeds."""
  scale = command("bench scale").module
  r.replace(scale, "measured", {"plan_bytes": 500, "index_bytes": 1, "row_bytes": 1})
  r.replace(scale, "simulated", [])
  command("bench scale").run()
  lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("| 1e")]
  assert len(lines) == 20 and [c.args[1:] for c in r.calls["simulated"]] == [
    (64, 20), (256, 20), (1024, 20), (2560, 20),
  ]  # fmt: skip
  few = ["--clips=1e5", "--chips=128", "--seeds=3", "--rates=step=36,batch=8,prepare=2"]
  command("bench scale").run(*few, "--cores=10", "--memory=100")
  (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("| 1e")]
  # 1e5 films by 32 hosts of 10 cores at 2 a second; batches of 16 in 36 s.
  assert line.startswith("| 1e+05 | 128 | 0.0434 | 62.5 | 0.52 |")
  assert r.calls["simulated"][-1].args[1:] == (128, 3)
  command("bench scale").run("--clips=1e5", "--chips=64", "--memory=1e-5")
  assert "host's memory" in capsys.readouterr().out
  with pytest.raises(SystemExit) as e:
    command("bench scale").run("--clips=x")
  assert e.value.code == 2
  # A host has 20.3 GB, ten times the 2 GB that were measured.
  took = {"save": 0.5, "write": 4.0, "restore": 3.0}
  r.replace(scale.saves, "measured", took)
  capsys.readouterr()
  command("bench scale").run("--chips=64", "--folder=F", "--megabytes=2000")
  assert r.calls["measured"][-1].args == ("F", 2_000_000_000)
  told = capsys.readouterr().out
  assert "of 20.3 GB a host 5 s, 41 s and 30 s" in told
  rates = r.calls["simulated"][-1].args[0]
  assert (rates.save, rates.write) == pytest.approx((5.078, 40.6), rel=1e-3)
  assert rates.startup == pytest.approx(630.5, abs=0.1)


def test_compiler(r, capsys):
  """--chips: a column each; products first, then passes."""
  compiler = command("bench compiler").module
  r.replace(compiler, "stay_on_the_host")
  r.replace(compiler, "compiler", "jax 0.1, libtpu 0.2")
  shares = {"v5e": 0.5, "v5p": 0.625, "v6e": 0.75}
  r.replace(compiler, "product_share", lambda chip, size: shares[chip] + size[2] / 1e6)
  r.replace(compiler, "pass_share", lambda chip, dtype: shares[chip] / 2)
  command("bench compiler").run()
  lines = capsys.readouterr().out.splitlines()
  assert lines[:2] == ["jax 0.1, libtpu 0.2", ""]
  assert lines[2:5] == [
    "| share of peak | v5p | v6e | v5e |",
    "|---|---|---|---|",
    "| product 8192 x 8192 x 8192 | 0.63 | 0.76 | 0.51 |",
  ]
  assert (
    lines[-1] == "| pass over bfloat16, of the memory's rate | 0.31 | 0.38 | 0.25 |"
  )
  assert len(lines) == 4 + len(compiler.PRODUCTS) + len(compiler.PASSES)
  command("bench compiler").run("--chips=v6e")
  assert "| share of peak | v6e |" in capsys.readouterr().out.splitlines()
  with pytest.raises(SystemExit) as e:
    command("bench compiler").run("--chips=v6e,v7")
  assert e.value.code == 2 and "--chips v7: expected of v4" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["compiler", "kernels"])
def test_without_the_compiler_of_tpus(name, r, capsys, monkeypatch):
  module = command(f"bench {name}").module
  for work in ("stay_on_the_host", "count" if name == "kernels" else "product_share"):
    r.replace(module, work)

  def missing(package):
    if package == "libtpu":
      raise importlib.metadata.PackageNotFoundError(package)
    return "0.1"

  monkeypatch.setattr(importlib.metadata, "version", missing)
  with pytest.raises(SystemExit) as e:
    command(f"bench {name}").run()
  assert e.value.code == 2
  assert "is missing (No package metadata was found for libtpu): pip install" in (
    capsys.readouterr().err
  )


def test_kernels(r, monkeypatch, tmp_path, capsys):
  """--chips and --blocks; rows are printed, and written after each chip."""
  kernels = command("bench kernels").module
  row = lambda chip: kernels.kernels.Row(chip, FORM, 5, 6, "0")
  r.replace(kernels, "compiler")
  r.replace(kernels, "count", lambda chip, blocks: [row(chip)])
  monkeypatch.setattr(kernels.kernels, "FILE", tmp_path / "kernels.json")
  kernels.kernels.rows.cache_clear()
  run = command("bench kernels").run
  try:
    run("--chips=v6e,v5p")
    assert [c.args for c in r.calls["count"]] == [("v6e", {}), ("v5p", {})]
    assert f"v6e {row('v6e')}\nv5p {row('v5p')}\n" == capsys.readouterr().out
    run("--blocks=block_q=2048,block_kv=512")
    assert [c.args for c in r.calls["count"]][2:] == [
      (chip, {"block_q": 2048, "block_kv": 512}) for chip in ("v5e", "v5p", "v6e")
    ]
    assert {key[0] for key in kernels.kernels.rows()} == {"v5e", "v5p", "v6e"}
  finally:
    kernels.kernels.rows.cache_clear()
  for flag, words in (
    ("--chips=v7", "--chips v7: expected of v4"),
    ("--blocks=block_q", "expected NAME=SIZE"),
    ("--blocks=blocks=4", "unexpected keyword argument 'blocks'"),
  ):
    with pytest.raises(SystemExit) as e:
      run(flag)
    assert e.value.code == 2 and words in capsys.readouterr().err


def test_vocoder(r):
  """--preset, --seconds, --chunk and --rounds."""
  vocoder = command("bench vocoder").module
  r.replace(vocoder, "run", [vocoder.Row("torch", 1.0, 1.0, 2.0, None)])
  r.replace(vocoder.jax.config, "update")
  command("bench vocoder").run()
  expected = (("16k",), {"seconds": 4.0, "chunk": 128, "rounds": 5})
  assert r.last("run") == expected
  command("bench vocoder").run(
    "--preset=44k", "--seconds=1.5", "--chunk=9", "--rounds=2"
  )
  assert r.last("run") == (("44k",), {"seconds": 1.5, "chunk": 9, "rounds": 2})


@pytest.fixture
def sampled(r, monkeypatch):
  """The benchmark of sampling, whose pipeline makes a clip a level apart for each of
  its evaluations, and takes a second for each.
  """
  module = command("bench sampling").module
  about = SimpleNamespace(
    sampling=lambda how, spec: dataclasses.replace(
      how, guidance="ucg2", shift=5.0, solver="euler"
    )
  )

  def generate(task, prompts, *, sampling, seed, negative, watch=None):
    r.calls["made"].append((task, prompts, sampling, seed, negative))
    if watch is not None:
      for i in range(sampling.steps):
        watch(i, {"context+cond/video": jnp.full((2, 1, 1, 1), 0.99**i)})
    level = module.evaluations(pipeline, sampling)[1]
    video = np.full((len(prompts), 2, 2, 2, 3), level, np.uint8)
    return {"video": video, "audio": np.full((len(prompts), 9), 0.01 * level)}

  def in_turn(programs, rounds):
    r.calls["rounds"].append(rounds)
    for run in programs.values():
      run()
    wholes = [call[2] for call in r.calls["made"][1:]]
    cost = [float(module.evaluations(pipeline, how)[1]) for how in wholes]
    return {name: [c] * rounds for name, c in zip(programs, cost, strict=True)}

  pipeline = SimpleNamespace(
    model=build_model("tiny"), about=about, spec=None, negative="dull",
    origin={"fingerprints": {"params": "Pa"}}, generate=generate,
  )  # fmt: skip
  load = lambda ckpt: r.calls["loaded"].append(ckpt) or pipeline
  monkeypatch.setattr(module, "load_model", load)
  monkeypatch.setattr(module, "in_turn", in_turn)
  shown = lambda about, rows: r.calls["shown"].append((about, list(rows)))
  monkeypatch.setattr(module, "show", shown)
  r.pipeline = pipeline
  return r


def test_sampling(sampled):
  """--ckpt, --prompt, --steps, --clips and --rounds; the calibration's clips are other
  ones than those that are compared.
  """
  command("bench sampling").run(
    "--ckpt=C", "--prompt=p", "--steps=10", "--clips=2", "--rounds=3"
  )
  assert sampled.calls["loaded"] == ["C"] and sampled.calls["rounds"] == [3]
  first, *others = sampled.calls["made"]
  assert first[3] == [1000, 1001] and all(call[3] == [0, 1] for call in others)
  assert {(t, *p, n) for t, p, _, _, n in others} == {("joint", "p", "p", "dull")}
  about, rows = sampled.calls["shown"][-1]
  assert about["ckpt"] == "C" and about["clips"] == 2
  by = {row["what"]: row for row in rows}
  count = lambda name: (by[name]["evaluations"], by[name]["with blocks"])
  assert count("plain") == (20, 20) and count("half of the steps") == (10, 10)
  assert count("guidance_every 2") == (15, 15) and count("guidance_every 4") == (13, 13)
  assert count("guidance_interval 0.5,1") == (19, 19)  # the last level is 0.36
  assert count("cache 0.24") == (20, 8)  # steps 0, 1, 4 and 7
  plain, half = by["plain"], by["half of the steps"]
  assert (plain["faster"], half["faster"]) == (1.0, 2.0)
  assert plain["picture dB"] == plain["sound dB"] == float("inf")
  assert half["picture dB"] == pytest.approx(20 * np.log10(255 / 10))
  assert half["sound dB"] == pytest.approx(20 * np.log10(20 / 10))
  sampled.calls["made"].clear()
  command("bench sampling").run()
  assert (
    sampled.calls["loaded"][-1] == "quickstart" and sampled.calls["rounds"][-1] == 5
  )
  assert sampled.calls["made"][1][3] == [0, 1, 2, 3]
  assert sampled.calls["made"][1][2].steps == 50


def test_sampling_of_one_stream(sampled, capsys):
  sampled.pipeline.model = build_model("tiny", streams=("video",))
  with pytest.raises(SystemExit) as e:
    command("bench sampling").run()
  assert e.value.code == 2 and "expected a joint model" in capsys.readouterr().err


def test_start(r, monkeypatch, capsys):
  """--ckpt, --task, --steps; --rounds of one cache of its own, that is empty at first.

  A command writes two programs into the cache that it finds, and then none.
  """
  start = command("bench start").module
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/mine")
  monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "9")

  def run(argv, env, **_):
    r.calls["commands"].append((argv, env))
    cache = pathlib.Path(env["XDG_CACHE_HOME"]) / "ccl_jax/programs"
    r.calls["found"].append(cache.exists())
    cache.mkdir(parents=True, exist_ok=True)
    for name in ("jit_advance-1-cache", "jit_decode-2-cache", "jit_decode-2-atime"):
      (cache / name).touch()
    return SimpleNamespace(returncode=0, stderr="")

  ticks = iter([10.0, 26.0, 30.0, 38.0, 50.0, 59.0] * 2)
  used = iter([0.0, 12.0, 12.0, 17.0, 17.0, 23.0] * 2)
  monkeypatch.setattr(start.subprocess, "run", run)
  monkeypatch.setattr(start.time, "perf_counter", lambda: next(ticks))
  monkeypatch.setattr(start, "processor_seconds", lambda: next(used))
  shown = lambda about, rows: r.calls["shown"].append((about, rows))
  monkeypatch.setattr(start, "show", shown)
  command("bench start").run("--ckpt=C", "--task=t2v", "--steps=7", "--rounds=2")
  (cold, env), (warm, same) = r.calls["commands"]
  assert env == same and r.calls["found"] == [False, True]
  # What the user has told JAX is not what it starts with.
  assert not {"JAX_COMPILATION_CACHE_DIR"} & env.keys()
  assert "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in env
  assert cold[1:3] == ["-m", "ccl_jax.generate"]
  assert {"--ckpt=C", "--task=t2v", "--steps=7", "--seed=0"} < set(cold)
  assert "--seed=1" in warm  # another clip
  about, rows = r.calls["shown"][-1]
  assert (about["ckpt"], about["steps"]) == ("C", 7) and rows == [
    {"what": "cold", "seconds": 16.0, "processor": 12.0, "compiled": 2},
    {"what": "warm", "seconds": 8.0, "processor": 5.0, "compiled": 0},
  ]
  command("bench start").run()
  assert {"--ckpt=quickstart", "--task=joint", "--steps=50"} < set(
    r.calls["commands"][-1][0]
  )
  assert len(r.calls["shown"][-1][1]) == 3
  failed = SimpleNamespace(returncode=2, stderr="loading\nerror: no folder C\n")
  monkeypatch.setattr(start.subprocess, "run", lambda *_, **__: failed)
  monkeypatch.setattr(start.time, "perf_counter", lambda: 0.0)
  monkeypatch.setattr(start, "processor_seconds", lambda: 0.0)
  with pytest.raises(SystemExit) as e:
    command("bench start").run("--ckpt=C")
  assert e.value.code == 2 and "ended with 2: error: no folder C" in (
    capsys.readouterr().err
  )


@pytest.fixture
def long(r, monkeypatch):
  """The benchmark of lengths, whose pipeline makes clips of a level for each of its
  seeds, and the tables of its figures.
  """
  module = command("bench length").module

  def generate(task, prompt, *, sampling, seed, spec, extend, negative):
    r.calls["made"].append((prompt, sampling, seed, spec, extend))
    spec = spec or pipeline.spec
    video = np.full((1, spec.frames, 16, 16, 3), seed % 256, np.uint8)
    return {"video": video, "audio": np.zeros((1, spec.samples), np.float32)}

  pipeline = SimpleNamespace(
    model=build_model("tiny"), takes_channels=0, spec=ClipSpec(33, 16, 16, 25.0),
    negative="dull", generate=generate,
  )  # fmt: skip
  load = lambda ckpt: r.calls["loaded"].append(ckpt) or pipeline
  monkeypatch.setattr(module, "load_model", load)
  figures = lambda clips, frames, fps: r.calls["seams"].append((clips, frames)) or {}
  monkeypatch.setattr(module, "seams", figures)
  shown = lambda about, rows: r.calls["shown"].append((about, list(rows)))
  monkeypatch.setattr(module, "show", shown)
  written = lambda path, *_: r.calls["written"].append(path.name)
  monkeypatch.setattr(module, "write_mp4", written)
  r.pipeline = pipeline
  return r


def test_length(long, tmp_path, capsys):
  """--ckpt, --fold, --clips, --steps and --out: as long clips by every way, and where
  their parts meet.
  """
  command("bench length").run(
    "--ckpt=C", "--fold=3", "--clips=2", "--steps=7", f"--out={tmp_path}"
  )
  assert long.calls["loaded"] == ["C"]
  about, rows = long.calls["shown"][-1]
  assert (about["fold"], about["clips"], about["steps"]) == (3, 2, 7)
  ways = [row["what"] for row in rows]
  shared = [8, 16, 24]
  assert ways == ["cut", "direct", *(f"extended {n}" for n in shared),
                  *(f"parts {n}" for n in shared)]  # fmt: skip
  by = {way: clips for way, (clips, _) in zip(ways, long.calls["seams"])}
  assert all(len(clip.video) == 97 for clips in by.values() for clip in clips)
  assert {frames for _, frames in long.calls["seams"]} == {33}
  joins = lambda way: list(by[way][0].joins)
  assert joins("cut") == joins("direct") == [32, 64]
  # Each adds 32 frames but for those that it shares, to 97.
  assert joins("extended 8") == [33, 57, 81]
  assert joins("extended 24")[:3] == [33, 41, 49]
  # Latents 0 to 8, 4 to 12, ...: 5 to 8, frames 17 to 32, are shared.
  assert joins("parts 16") == [25, 41, 57, 73]
  assert {how.steps for _, how, *_ in long.calls["made"]} == {7}
  assert {how.window for _, how, *_ in long.calls["made"]} == {None, 33}
  hues = {seed % 1000: prompt.split()[1] for prompt, _, seed, *_ in long.calls["made"]}
  assert hues == {0: "red", 1: "yellow"}
  assert long.calls["written"][:2] == ["cut_0.mp4", "cut_1.mp4"]
  long.calls["written"].clear()
  command("bench length").run("--fold=2", "--clips=1")
  assert long.calls["loaded"][-1] == "quickstart" and not long.calls["written"]
  long.pipeline.model = build_model("tiny", streams=("video",))
  with pytest.raises(SystemExit) as e:
    command("bench length").run()
  assert e.value.code == 2 and "expected a joint model" in capsys.readouterr().err


def test_denoise_borrows_the_flags_of_step(r, monkeypatch):
  """A model of a whole preset, unless --depth is given, samples with guidance; its
  parameters lie in the dtype of products.
  """
  import importlib

  step = command("bench step")
  denoise = importlib.import_module(MODULES["bench step"].replace("step", "denoise"))
  monkeypatch.setattr(step.module, "main", denoise.main)
  r.replace(denoise, "device_ceiling", 1e12)
  assert denoise.TEXT == (512, 4096)
  monkeypatch.setattr(denoise, "TEXT", (16, 4096))  # drawn at once
  told = []

  def sample_latents(model, params, task, noise, conditions, how):
    told.append((model, params, task, noise, conditions, how))
    return noise

  def in_turn(programs, rounds):
    programs[""]()
    told.append(rounds)
    return {"": [8.0] * rounds}

  shown = lambda about, rows: told.append((about, *rows))
  monkeypatch.setattr(denoise, "sample_latents", sample_latents)
  monkeypatch.setattr(denoise, "in_turn", in_turn)
  monkeypatch.setattr(denoise, "show", shown)
  step.run(
    "--size=tiny", "--depth=2", "--frames=5", "--height=32", "--width=48",
    "--batch=2", "--dtype=bfloat16", "--attention=chunked", "--rounds=7",
  )  # fmt: skip
  (model, params, task, noise, conditions, how), rounds, (about, row) = told
  assert model.depth == 2 and model.kernel.name == "chunked" and rounds == 7
  assert (how.steps, how.guidance) == (4, "ucg2")
  assert task.generated == ("video", "audio")
  assert noise["video"].shape == (2, 2, 4, 6, 16)
  assert conditions["text"].shape == (2, 2, 16, 4096)
  kernel = params["blocks"]["video"]["self_attn"]["q"]["kernel"]
  assert kernel.dtype == jnp.bfloat16 and kernel.shape[0] == 2
  spec = ClipSpec(5, 32, 48, 16.0)
  flops = forward_flops(model, denoise.geometry_of(model, spec), 16, 4096)
  # Two clips, each evaluated with the prompt and without, in 8 / 4 s.
  assert row["seconds"] == 2.0
  step_flops = 2 * 2 * (sum(flops.values()) - flops["texts"])
  assert row["TFLOP/s"] == pytest.approx(step_flops / 2.0 / 1e12)
  assert row["ceiling"] == pytest.approx(row["TFLOP/s"])
  assert row["GiB of the program"] > 0 and about["size"] == "tiny, 4 steps, bfloat16"
  told.clear()
  monkeypatch.setattr(denoise, "random_params", lambda model: params)
  step.run("--size=tiny", "--frames=5", "--height=32", "--width=32")
  assert told[0][0].depth == 4  # the preset's


def test_device(monkeypatch, tmp_path, capsys):
  """--sizes, --depth, --rounds, the clip's and --peer reach the benchmarks that are
  run for --minutes, and --out has the report, the tables and the profile.
  """
  device = command("bench device").module
  told = []

  def run(part, out, seconds):
    told.append((part, out, seconds))
    return {"rows": [{"what": "x", "seconds": 0.123456}], "took": 1.0}

  monkeypatch.setattr(device, "run", run)
  out = tmp_path / "new" / "gpu"
  command("bench device").run(
    f"--out={out}", "--sizes=tiny,lab", "--depth=3", "--rounds=7", "--frames=33",
    "--height=48", "--width=64", "--nopeer", "--minutes=2",
  )  # fmt: skip
  clip = ["--dtype=bfloat16", "--frames=33", "--height=48", "--width=64"]
  stack = ["--depth=3", "--rounds=7", *clip]
  profile = f"--profile={out / 'profile'}"
  assert [part.argv for part, *_ in told] == [
    ["step", "--size=tiny", *stack, "--nojoint", "--nopeer"],
    ["step", "--size=lab", *stack, "--nojoint", "--nopeer", profile],
    ["denoise", "--size=lab", "--rounds=1", *clip],
    ["parts", "--size=lab", *stack],
    ["parts", "--size=tiny", *stack],
  ]
  assert all(at == out and 100 < seconds <= 120 for _, at, seconds in told)
  report = json.loads((out / "device.json").read_text())
  assert report["minutes"] == 2 and list(report["parts"])[2] == "denoise lab"
  assert "| x | 0.1235 |" in (out / "device.md").read_text()
  assert "| what | seconds |" in capsys.readouterr().out
  monkeypatch.chdir(tmp_path)
  told.clear()
  command("bench device").run()
  assert [part.name for part, *_ in told] == [
    "step 1.3b", "step 14b", "denoise 14b", "parts 14b", "parts 1.3b",
  ]  # fmt: skip
  first = told[0][0].argv
  assert "--nopeer" not in first and str(told[0][1]) == "device"
  clip = {"--frames=81", "--height=480", "--width=832", "--depth=2", "--rounds=3"}
  assert clip <= set(first) and 590 < told[0][2] <= 600
  with pytest.raises(SystemExit) as e:
    command("bench device").run("--sizes=lab,huge")
  assert e.value.code == 2 and "--sizes: got 'huge'" in capsys.readouterr().err


def test_a_trace_of_a_step(timed, monkeypatch):
  """--profile: both steps once more, within a trace."""
  step, told = command("bench step").module, []
  calls = {"forward": lambda: told.append("f"), "train": lambda: told.append("t")}
  monkeypatch.setattr(step, "programs", lambda *args: calls)

  @contextlib.contextmanager
  def trace(folder):
    told.append(folder)
    yield
    told.append("end")

  monkeypatch.setattr(step.jax.profiler, "trace", trace)
  command("bench step").run("--size=tiny", "--nojoint", "--profile=there")
  assert told == ["there", "f", "t", "end"]


@pytest.fixture
def timed(r, monkeypatch):
  """The benchmark of a step, whose programs take 2 s (ours) and 4 s (theirs)."""
  step = command("bench step").module
  r.replace(step, "device_ceiling", 1e12)
  r.replace(step, "init_params", lambda model, key, text: {"x": jnp.ones((2, 3))})
  r.replace(step, "peer", {"forward": "their forward", "train": "their train"})

  def in_turn(programs, rounds):
    r.calls["turns"].append((sorted(programs), rounds))
    seconds = {"theirs": 4.0, "apart": 1.5, "by sample": 3.0}
    return {name: [seconds.get(name, 2.0)] * rounds for name in programs}

  def programs(model, params, inputs, route=None):
    r.calls["models"].append((model, inputs))
    return {"forward": "forward", "train": "train"}

  shown = lambda about, rows: r.calls["shown"].append((about, list(rows)))
  for name, stub in (("in_turn", in_turn), ("programs", programs), ("show", shown)):
    monkeypatch.setattr(step, name, stub)
  return r


def test_step(timed, capsys):
  """Sizes: --size, --depth, --frames, --height, --width, --batch; --dtype, --attention;
  --rounds in turn; and the peer and the joint model unless --nopeer, --nojoint.
  """
  command("bench step").run(
    "--size=tiny", "--depth=3", "--frames=33", "--height=48", "--width=64", "--batch=2",
    "--dtype=bfloat16", "--attention=chunked", "--rounds=7",
  )  # fmt: skip
  spec = ClipSpec(33, 48, 64, 16.0)
  (video, inputs), *joint = timed.calls["models"]
  assert video.depth == 3 and [s for s, _ in video.streams] == ["video"]
  assert video.dtype == jnp.bfloat16 and video.kernel.name == "chunked"
  assert inputs["latents"]["video"].shape == (2, 9, 6, 8, 16)
  assert inputs["text"].shape == (2, 512, 4096)
  assert [m.cross is None for m, _ in joint] == [False, False, True]
  assert joint[0][1]["latents"]["audio"].shape == (2, spec.audio_tokens, 20)
  assert all(m.depth == 3 for m, _ in joint)
  pair, three = ["ours", "theirs"], ["apart", "by sample", "joint"]
  assert timed.calls["turns"] == [(pair, 7), (pair, 7), (three, 7), (three, 7)]
  assert timed.told("device_ceiling", 0) == jnp.dtype("bfloat16")
  about, rows = timed.calls["shown"][-1]
  assert about["size"] == "tiny, 3 blocks, bfloat16" and about["tokens"] == 9 * 3 * 4
  flops = forward_flops(video, command("bench step").module.geometry_of(video, spec), 512, 4096)  # fmt: skip  # noqa: E501
  share = 2 * sum(flops.values()) / 2.0 / 1e12
  assert [row["what"] for row in rows] == [
    "video forward", "video train", "joint forward", "joint train",
  ]  # fmt: skip
  assert rows[0]["ceiling"] == pytest.approx(share)
  assert rows[1]["ceiling"] == pytest.approx(3 * share)  # forward, and twice backward
  assert rows[0]["ours/theirs"] == 0.5 and rows[0]["theirs"] == 4.0
  assert rows[2]["cross, of time"] == 0.25  # 1.5 of 2 s without it
  assert rows[2]["masks by sample/static"] == 1.5
  assert json.loads(capsys.readouterr().out)["tokens"] == 108


def test_step_alone(timed):
  command("bench step").run(
    "--size=tiny", "--peer=false", "--joint=false", "--rounds=1"
  )
  assert timed.calls["turns"] == [(["ours"], 1)] * 2
  _, rows = timed.calls["shown"][-1]
  assert len(rows) == 2 and "theirs" not in rows[0] and not timed.calls["peer"]
  (model, inputs), *_ = timed.calls["models"]
  assert (
    model.depth == 4 and model.dtype == jnp.float32 and model.kernel.name == "dense"
  )
  assert inputs["latents"]["video"].shape == (1, 5, 32, 32, 16)  # 17 x 256 x 256
  timed.calls.clear()
  command("bench step").run("--nopeer", "--nojoint")
  assert timed.calls["turns"] == [(["ours"], 5)] * 2
  assert dict(timed.calls["models"][0][0].streams)["video"].width == 512  # lab
  assert np.isfinite(timed.calls["shown"][-1][1][0]["ceiling"])


def borrowing(name):
  """(the command whose flags it has, the module of a benchmark without its own)."""
  import importlib

  step = command("bench step")
  return step, importlib.import_module(MODULES["bench step"].replace("step", name))


@pytest.mark.parametrize("name", ["given", "pipeline"])
def test_others_have_the_flags_of_step(name, monkeypatch):
  step, other = borrowing(name)
  told = []
  measured = {"given": ("rows", [{"x": 1}]), "pipeline": ("row", {"x": 1})}
  function, result = measured[name]
  monkeypatch.setattr(other, function, lambda spec: told.append(spec) or result)
  monkeypatch.setattr(other, "show", lambda about, rows: told.append((about, rows)))
  monkeypatch.setattr(step.module, "main", other.main)
  step.run(
    "--frames=33", "--height=48", "--width=64", "--size=tiny", "--depth=3",
    "--dtype=bfloat16", "--rounds=2",
  )  # fmt: skip
  spec, (about, rows) = told
  assert spec == ClipSpec(33, 48, 64, 16.0) and rows == [{"x": 1}]
  assert about["size"] == "tiny, 3 blocks, bfloat16" and about["rounds"] == 2


def test_parts_lend_the_flags_of_step(monkeypatch):
  """A clip of these sizes, its whole and its halves."""
  step, parts = borrowing("parts")
  told = []
  monkeypatch.setattr(parts, "device_ceiling", lambda dtype: float(dtype.itemsize))
  monkeypatch.setattr(parts, "part_rows", lambda spec, c: [{"spec": spec, "c": c}])
  monkeypatch.setattr(parts, "scaling_rows", lambda spec, c: [{"spec": spec, "c": c}])
  monkeypatch.setattr(parts, "show", lambda about, rows: told.append((about, rows)))
  monkeypatch.setattr(step.module, "main", parts.main)
  step.run(
    "--frames=33", "--height=48", "--width=64", "--dtype=bfloat16", "--size=tiny"
  )
  (about, rows) = told[0]
  assert list(rows) == 2 * [{"spec": ClipSpec(33, 48, 64, 16.0), "c": 2.0}]
  assert about["size"] == "tiny, 4 blocks, bfloat16" and about["matmul GFLOP/s"] == 2e-9
