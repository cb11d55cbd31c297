"""Training on several processes: one lost, one stopped, resumed on other meshes."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.e2e.conftest import ROOT, environment, mistakes, train_flags

STEPS = 10
EIGHT = "--config.mesh=(1,8,1,1)"
TWO_BY_FOUR = "--config.mesh=(2,4,1,1)"
# The sound alone, of a fifth of a second: processes and meshes are the matter here.
TINY = [
  "--config.optim.schedule=constant",
  "--config.model.streams=('audio',)",
  "--config.model.remat=none",
  "--config.objective.image_probability=0.0",
  "--config.clip.frames=5",
  "--config.codec.text_length=16",
  "--config.codec.text_dim=16",
  "--config.batch.size=8",
  "--config.checkpoint.every=2",
]


def launch(home, workdir, processes, *flags, devices=8):
  """Starts a run of so many processes with eight devices between them."""
  with socket.socket() as s:
    s.bind(("localhost", 0))
    port = s.getsockname()[1]
  env = environment(home) | {
    "JAX_NUM_CPU_DEVICES": str(devices // processes),
    "PYTHONPATH": str(ROOT),
  }
  workdir.mkdir(exist_ok=True)
  started = []
  for i in range(processes):
    several = [
      *["--distributed", f"--coordinator=localhost:{port}"],
      *[f"--num_processes={processes}", f"--process_id={i}"],
    ]
    argv = [*train_flags(workdir, *TINY, *flags), *several[: 4 * (processes > 1)]]
    with (workdir / f"out.{i}").open("w") as out:
      started.append(
        subprocess.Popen(
          [sys.executable, "-m", "ccl_jax.train", *argv],
          cwd=ROOT,
          env=env,
          stdout=out,
          stderr=subprocess.STDOUT,
        )
      )
  return started


@contextlib.contextmanager
def killed_at_the_end(processes):
  try:
    yield processes
  finally:
    for process in processes:
      process.kill()
      process.wait()


def output(workdir):
  return "\n".join(path.read_text() for path in sorted(workdir.glob("out.*")))


def ends(workdir, processes, seconds=300):
  """Exit codes; the run may take so long."""
  with killed_at_the_end(processes):
    deadline = time.monotonic() + seconds
    return [p.wait(timeout=max(0.1, deadline - time.monotonic())) for p in processes]


def finish(workdir, processes):
  codes = ends(workdir, processes)
  assert codes == [0] * len(codes), output(workdir)


def losses(workdir):
  path = workdir / "metrics.jsonl"
  rows = path.read_text().splitlines() if path.exists() else []
  rows = [json.loads(row) for row in rows]
  return {row["step"]: row["loss"] for row in rows}


def saved(workdir):
  folder = workdir / "checkpoints"
  return sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit())


def wait_until(done, workdir, processes, seconds=300):
  deadline = time.monotonic() + seconds
  while not done():
    assert all(p.poll() is None for p in processes), output(workdir)
    assert time.monotonic() < deadline, output(workdir)
    time.sleep(0.05)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  return tmp_path_factory.mktemp("pods")


def test_one_run_through_a_loss_a_stop_and_three_meshes(place):
  workdir, whole = place / "run", place / "whole"
  steps = f"--config.steps={STEPS}"
  undisturbed = launch(place, whole, 1, EIGHT, steps)
  with killed_at_the_end(undisturbed):
    # Both build the data set and the codecs: not at the same time.
    wait_until(lambda: (whole / "config.json").exists(), whole, undisturbed)

    # Two processes: one is killed, the other ends by itself.
    both = launch(place, workdir, 2, TWO_BY_FOUR, "--config.steps=100000")
    with killed_at_the_end(both):
      wait_until(lambda: saved(workdir), workdir, both)
      both[1].kill()
      begun = time.monotonic()
      assert both[0].wait(timeout=60) != 0, output(workdir)
      print(f"a lost process was noticed after {time.monotonic() - begun:.1f} s")
    lost = output(workdir)
    first = max(saved(workdir))

    # One process goes on.
    finish(workdir, launch(place, workdir, 1, EIGHT, f"--config.steps={first + 2}"))
    assert max(saved(workdir)) == first + 2

    # Two again, of which one is told to stop.
    both = launch(place, workdir, 2, TWO_BY_FOUR, "--config.steps=100000")
    with killed_at_the_end(both):
      wait_until(lambda: first + 2 in losses(workdir), workdir, both)
      both[1].send_signal(signal.SIGTERM)
      assert ends(workdir, both) == [0, 0], output(workdir)
    assert output(workdir).count('{"stopped": true') == 2
    last = max(saved(workdir))
    assert last > first + 2

    # To the end, and the same as without any of this.
    total = max(STEPS, last + 1)
    finish(workdir, launch(place, workdir, 1, EIGHT, f"--config.steps={total}"))
    finish(whole, undisturbed)
  if total > STEPS:
    finish(whole, launch(place, whole, 1, EIGHT, f"--config.steps={total}"))
  got, expected = losses(workdir), losses(whole)
  assert sorted(got) == sorted(expected) == list(range(total)), lost
  np.testing.assert_allclose(
    [got[i] for i in range(total)], [expected[i] for i in range(total)], rtol=1e-5
  )
  # One process alone wrote: one event file for each of the four starts.
  assert len(list((workdir / "tensorboard").glob("events*"))) == 4
  assert not list((workdir / "checkpoints").glob("*tmp*"))


SEVERAL = ["--distributed", "--coordinator=localhost:1", "--num_processes=2"]
CASES = [
  (["--coordinator=localhost:1"], 2, ["--distributed"]),
  (SEVERAL[:2], 2, ["num_processes=None", "all three"]),
  ([*SEVERAL, "--coordinator=here", "--process_id=0"], 2, ["here", "HOST:PORT"]),
  ([*SEVERAL, "--process_id=2"], 2, ["got 2", "0 to 1"]),
  (["--distributed"], 2, ["--coordinator"]),
  ([*SEVERAL, "--process_id=1", "--meet_seconds=1"], 1, ["not there within 1 s"]),
]


def test_mistakes_are_one_line(place):
  lines = [train_flags(place / "none", *flags) for flags, _, _ in CASES]
  results = mistakes(place, "ccl_jax.train", lines)
  for (flags, expected, words), (code, out) in zip(CASES, results):
    assert code == expected, (flags, out)
    line = out.strip().splitlines()[-1]
    assert line.startswith("error: ") and all(w in line for w in words), (flags, out)
    assert "Traceback" not in out, flags
