"""Training from the command line: killed, resumed, stopped, and broken on purpose."""

import json
import signal
import time

import numpy as np

from tests.e2e.commands import Command, finish
from tests.e2e.conftest import STEPS, train_flags

MODULE = "ccl_jax.train"


def logged(workdir):
  path = workdir / "metrics.jsonl"
  if not path.exists():
    return []
  return [json.loads(line) for line in path.read_text().splitlines()]


def saved(workdir):
  """Steps whose checkpoints are whole."""
  folder = workdir / "checkpoints"
  return [int(p.name) for p in folder.glob("*") if p.name.isdigit()]


def wait_for_checkpoint(process, workdir):
  deadline = time.time() + 300
  while not saved(workdir):
    assert process.poll() is None, process.output()
    assert time.time() < deadline
    time.sleep(0.02)


def fingerprints(workdir, step):
  meta = workdir / "checkpoints" / str(step) / "meta" / "metadata"
  leaves = json.loads(meta.read_text())["leaves"]
  return {path: leaf["fingerprint"] for path, leaf in leaves.items()}


def test_a_run_leaves_what_it_should(undisturbed):
  assert set(saved(undisturbed)) == {6, 8}
  rows = logged(undisturbed)
  assert [r["step"] for r in rows] == list(range(STEPS))
  assert all(np.isfinite(r["loss"]) for r in rows)
  assert (undisturbed / "config.json").exists()
  assert (undisturbed / "codecs" / "video.safetensors").exists()
  assert len(list((undisturbed / "profile").rglob("*.xplane.pb"))) == 1


def test_stopped_resumed_and_evaluated_is_bitwise_the_same(home, undisturbed):
  """Nor does an evaluation move the training; it has the same numbers in a restart.

  What a kill leaves, on a disk and in a bucket: test_pods.py and test_buckets.py.
  """
  workdir, whole, total = home / "stopped", undisturbed, STEPS
  evaluation = ["--config.evaluate.every=4", "--config.evaluate.clips=8"]
  flags = train_flags(workdir, *evaluation)
  # The interrupted run is told of a later end, so that it cannot win the race; its
  # schedule of learning rates does not depend on that.
  process = Command(MODULE, [*flags, "--config.steps=100000"])
  wait_for_checkpoint(process, workdir)
  process.send_signal(signal.SIGTERM)
  assert process.wait(120) == 0, process.output()
  last = max(saved(workdir))
  assert 3 <= last <= max(r["step"] for r in logged(workdir)) + 2
  if last >= STEPS:  # a machine so busy that the signal came late
    whole, total = home / "whole_of_stopped", last + 4
    flags_of_whole = train_flags(whole, f"--config.steps={total}")
    assert finish(MODULE, flags_of_whole)[0] == 0
  flags.append(f"--config.steps={total}")
  code, out = finish(MODULE, flags)
  assert code == 0, out
  same = lambda rows: [(r["step"], r["loss"]) for r in rows if "loss" in r]
  assert same(logged(workdir)) == same(logged(whole))
  ends = [fingerprints(w, total) for w in (workdir, whole)]
  assert ends[0] == ends[1]
  assert not list((workdir / "checkpoints").glob("*tmp*"))
  assert f"after {total} steps, held-out loss" in out
  held_out = [r for r in logged(workdir) if "held_out/joint/video" in r]
  assert [r["step"] for r in held_out] == [*range(0, total, 4), total]
  assert all(np.isfinite(list(r.values())).all() for r in held_out)
  assert finish(MODULE, flags)[0] == 0  # a finished run is measured again
  again = [r for r in logged(workdir) if "held_out/joint/video" in r]
  assert again == held_out


CASES = [
  (["--config.clip.frames=18"], ["18", "17"]),
  (["--config.clip.height=40"], ["40", "32", "48"]),
  (["--config.tasks.draw=never"], ["never", "sample"]),
  (["--config.tasks.probabilities.dance=1.0"], ["dance"]),
  (["--config.model.preset=huge"], ["huge", "tiny"]),
  (["--config.nothing=1"], ["nothing"]),
  (["--config=configs/quickstart.py:size=4"], ["size", "data"]),
  (["--config=configs/none.py"], ["none.py"]),
  (["--config.mesh=(1,3,1,1)"], ["mesh", "1"]),
  (["--config.batch.size=3", "--config.accumulate=2"], ["3", "2"]),
  (["--config.data.source=nowhere"], ["nowhere", "talking_scene"]),
  (["--config.optim.groups=(('video/.*',1e-3,0.),)"], ["group"]),
  (["--config.codec.path=/nonexistent"], ["/nonexistent"]),
]


def test_mistakes_are_one_line(home, undisturbed):
  homes = [home / f"mistake_{i}" for i in range(len(CASES))]
  for workdir, (flags, words) in zip(homes, CASES):
    code, out = finish(MODULE, train_flags(workdir, *flags))
    assert code == 2, (flags, out)
    line = out.strip().splitlines()[-1]
    assert line.startswith("error: "), (flags, out)
    assert all(w in line for w in words), (flags, line)
    assert "Traceback" not in out, flags
    assert not saved(workdir)


def test_what_a_run_takes_from_elsewhere_is_looked_for_before_its_data(home):
  workdir, data = home / "fresh", home / "nowhere"
  for flags, words in (
    (["--config.init=none"], "none holds no model"),
    (["--config.codec.path=none"], "none holds no codecs"),
    (["--config.init=quickstart", "--config.model.preset=lab"], "depth: got 12; quick"),
  ):
    more = [f"--config.data.root={data}", *flags]
    code, out = finish(MODULE, train_flags(workdir, *more))
    assert code == 2 and out.startswith("error: ") and words in out, out
    assert out.count("\n") == 1 and not workdir.exists() and not data.exists()
