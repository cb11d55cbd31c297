"""A run from the command line: killed, resumed, stopped, and broken on purpose."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 8


@pytest.fixture(scope="session")
def home(tmp_path_factory):
  """A folder with a compilation cache that all runs of this module share."""
  return tmp_path_factory.mktemp("runs")


def command(workdir, *flags):
  return [
    sys.executable, "-m", "ccl_jax.train",
    "--config=configs/quickstart.py:runlocal", f"--workdir={workdir}",
    f"--config.data.root={workdir.parent / 'data'}", "--config.report.tasks=()",
    f"--config.steps={STEPS}", "--config.checkpoint.every=3",
    "--config.clip.frames=17", *flags,
  ]  # fmt: skip


def environment(home):
  return os.environ | {
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": "1",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_COMPILATION_CACHE_DIR": str(home / "cache"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }


def start(home, workdir, *flags):
  return subprocess.Popen(
    command(workdir, *flags), cwd=ROOT, env=environment(home),
    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
  )  # fmt: skip


def finish(home, workdir, *flags):
  process = start(home, workdir, *flags)
  out, _ = process.communicate(timeout=300)
  return process.returncode, out


def logged(workdir):
  path = workdir / "metrics.jsonl"
  if not path.exists():
    return []
  return [json.loads(line) for line in path.read_text().splitlines()]


def wait_for_step(process, workdir, step):
  deadline = time.time() + 300
  while not any(r["step"] >= step for r in logged(workdir)):
    assert process.poll() is None, process.stdout.read()
    assert time.time() < deadline
    time.sleep(0.02)


def fingerprints(workdir):
  meta = workdir / "checkpoints" / str(STEPS) / "meta" / "metadata"
  leaves = json.loads(meta.read_text())["leaves"]
  return {path: leaf["fingerprint"] for path, leaf in leaves.items()}


@pytest.fixture(scope="session")
def undisturbed(home):
  workdir = home / "undisturbed"
  code, out = finish(home, workdir)
  assert code == 0, out
  return workdir


def test_a_run_leaves_what_it_should(undisturbed):
  steps = {int(p.name) for p in (undisturbed / "checkpoints").iterdir()}
  assert steps == {6, 8}
  rows = logged(undisturbed)
  assert [r["step"] for r in rows] == list(range(STEPS))
  assert all(np.isfinite(r["loss"]) for r in rows)
  assert (undisturbed / "config.json").exists()
  assert (undisturbed / "codecs" / "video.safetensors").exists()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_stopped_and_resumed_is_bitwise_the_same(home, undisturbed, how):
  workdir = home / how.name
  process = start(home, workdir)
  wait_for_step(process, workdir, 4)
  process.send_signal(how)
  out, _ = process.communicate(timeout=120)
  if how == signal.SIGTERM:
    assert process.returncode == 0, out
  assert STEPS > max(r["step"] for r in logged(workdir))
  code, out = finish(home, workdir)
  assert code == 0, out
  assert fingerprints(workdir) == fingerprints(undisturbed)
  same = lambda rows: [(r["step"], r["loss"]) for r in rows]
  assert same(logged(workdir)) == same(logged(undisturbed))
  assert not list((workdir / "checkpoints").glob("*tmp*"))


def test_an_infinite_loss_stops_and_keeps_the_last_checkpoint(home, undisturbed):
  workdir = home / "infinite"
  groups = "((r'.*', 1e30, 0.0),)"
  code, out = finish(
    home, workdir, f"--config.optim.groups={groups}", "--config.checkpoint.every=1"
  )
  assert code == 2
  last = out.strip().splitlines()[-1]
  assert last.startswith("error: step ") and "task" in last
  bad = int(last.split()[2].rstrip(":"))
  assert max(int(p.name) for p in (workdir / "checkpoints").iterdir()) <= bad


@pytest.mark.parametrize(
  ("flags", "words"),
  [
    (["--config.clip.frames=18"], ["18", "17"]),
    (["--config.clip.height=40"], ["40", "32", "48"]),
    (["--config.tasks.draw=never"], ["never", "sample"]),
    (["--config.model.preset=huge"], ["huge", "tiny"]),
    (["--config.nothing=1"], ["nothing"]),
    (["--config.mesh=(1,3,1,1)"], ["mesh", "devices"]),
    (["--config.data.source=nowhere"], ["nowhere", "talking_scene"]),
  ],
)
def test_mistakes_are_one_line(home, flags, words):
  """In one process: the entry point's own error path, without its start-up time."""
  code, out = finish(home, home / "mistake", *flags)
  assert code == 2, out
  line = out.strip().splitlines()[-1]
  assert line.startswith("error: ")
  assert all(w in line for w in words), line
  assert "Traceback" not in out
