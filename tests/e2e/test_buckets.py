"""The commands on folders in a bucket: killed, resumed, and the mistakes one makes."""

import json
import signal
import time

import pytest

from ccl_jax.checkpoints.steps import stored_steps
from ccl_jax.files import UNFINISHED
from tests.e2e.commands import Command, finish
from tests.e2e.conftest import STEPS, train_flags
from tests.remote.buckets import emptied, google_store

google_store = google_store


@pytest.fixture(scope="module")
def bucket(google_store):
  return emptied(google_store)


@pytest.fixture(scope="module")
def around(google_store, home):
  """What is in the environment of a command: it finds the store."""
  return google_store.environment | {"CCL_CACHE": str(home / "copies")}


def fingerprints(workdir, step):
  meta = workdir / "checkpoints" / str(step) / "meta" / "metadata"
  leaves = json.loads(meta.read_text())["leaves"]
  return {path: leaf["fingerprint"] for path, leaf in leaves.items()}


def logged(workdir):
  rows = (workdir / "metrics.jsonl").read_text().splitlines()
  return [(r["step"], r["loss"]) for r in map(json.loads, rows)]


def flags_of(workdir, home, *more):
  data = f"--config.data.root={home / 'data'}"
  return [*train_flags(home / "x"), f"--workdir={workdir}", data, *more]


@pytest.fixture(scope="module")
def run(bucket, around, home, undisturbed):
  """A run that was killed while it trained, and that went on to its end."""
  workdir, deadline = bucket / "run", time.time() + 300
  flags = flags_of(workdir, home)
  process = Command(
    "ccl_jax.train", [*flags, "--config.steps=100000"], environment=around
  )
  while not stored_steps(workdir / "checkpoints"):
    assert process.poll() is None, process.output()
    assert time.time() < deadline
    time.sleep(0.02)
  process.send_signal(signal.SIGKILL)
  assert process.wait(120) == -signal.SIGKILL
  assert (workdir / ".lock").exists()
  last = max(stored_steps(workdir / "checkpoints"))
  total = max(STEPS, last + 2)
  code, out = finish("ccl_jax.train", [*flags, f"--config.steps={total}"], around)
  assert code == 0, out
  assert not (workdir / ".lock").exists()
  return workdir, total


def test_killed_and_resumed_is_bitwise_a_run_on_a_disk(run, undisturbed, home):
  workdir, total = run
  whole = undisturbed
  if total > STEPS:
    whole = home / "whole_of_bucket"
    flags = [*train_flags(whole), f"--config.steps={total}"]
    assert finish("ccl_jax.train", flags)[0] == 0
  assert fingerprints(workdir, total) == fingerprints(whole, total)
  assert logged(workdir) == logged(whole)
  names = {str(p.relative_to(workdir)).split("/")[0] for p in workdir.walk()}
  assert names == {"checkpoints", "codecs", "config.json", "metrics.jsonl",
                   "tensorboard"}  # fmt: skip


def test_another_config_is_refused(run, around, home):
  workdir, total = run
  flags = flags_of(workdir, home, f"--config.steps={total}", "--config.seed=5")
  code, out = finish("ccl_jax.train", flags, around)
  assert code == 2 and "config.seed: 0 -> 5" in out, out


def test_clips_are_made_there_and_scored_there(run, bucket, around, home):
  (bucket / "prompts.txt").write_bytes(b'a red face says "ba"\n')
  made = ["--steps=2", f"--ckpt={run[0]}", f"--out={bucket / 'clips'}"]
  code, out = finish(
    "ccl_jax.generate", [*made, f"--manifest={bucket / 'prompts.txt'}"], around
  )
  assert code == 0, out
  code, out = finish(
    "ccl_jax.generate", [*made, "--prompt=a face", "--task=a2v",
                         f"--audio={bucket / 'clips' / 'joint_0_1.mp4'}"], around
  )  # fmt: skip
  assert code == 0, out
  names = [p.name for p in (bucket / "clips").iterdir()]
  assert names == ["a2v_0_0.json", "a2v_0_0.mp4", "joint_0_1.json", "joint_0_1.mp4"]
  settings = json.loads((bucket / "clips" / "a2v_0_0.json").read_text())
  assert settings["ckpt"] == str(run[0])
  scoring = [f"--videos={bucket / 'clips'}", f"--out={bucket / 'scores'}"]
  scoring += ["--metrics=av_align"]
  for scored in (2, 0):  # a second time nothing is scored again
    code, out = finish("ccl_jax.eval", scoring, around)
    assert code == 0, out
    assert f"scored {scored} (clip, metric) pairs" in out
  names = {str(p.relative_to(bucket / "scores")) for p in (bucket / "scores").walk()}
  assert {"records.jsonl", "summary.json", "report.html", "per_clip.jsonl"} <= names
  comparison = ["--compare", str(bucket / "scores"), str(bucket / "scores")]
  code, out = finish("ccl_jax.eval", [*comparison, "--name=a,b"], around)
  assert code == 0 and "a" in out, out


def test_mistakes_are_one_line_and_leave_nothing(run, bucket, around, home):
  gone = "gs://no-such-bucket/run"
  half, new = bucket / "half", bucket / "never"
  (half / UNFINISHED).write_bytes(b"")
  (half / "config.json").write_bytes(b'{"kind": "wan-dit"}')
  generate = ["--steps=2", "--prompt=a face", f"--out={new}"]
  before = sorted(map(str, bucket.walk()))
  cases = [
    ("train", flags_of(gone, home), ["--workdir", "no bucket gs://no-such-bucket"]),
    ("train", flags_of("s3://bucket/run", home), ["s3://"]),
    ("train", flags_of(f"{new}*", home), ["never*", "pattern"]),
    ("train", flags_of(new, home, f"--config.codec.path={half}"), ["half uploaded"]),
    ("train", flags_of(new, home, f"--config.data.root={gone}"), ["config.data.root"]),
    ("train", flags_of(new, home, f"--config.data.root={new}"), ["this machine"]),
    ("train", flags_of(new, home, "--config.codec.path=hdfs://x"), ["hdfs://", "supp"]),
    ("generate", [*generate, f"--ckpt={half}"], ["half uploaded", str(half)]),
    ("generate", [*generate, f"--ckpt={new}"], ["holds no model", str(new)]),
    ("generate", [*generate, f"--ckpt={gone}"], ["--ckpt", "no bucket"]),
    ("generate", [*generate, f"--ckpt={run[0]}", f"--lora={new}/x"], ["--lora"]),
    ("convert", ["wan-dit", f"--src={half}/x", f"--dst={new}"], ["no such file"]),
    ("eval", [f"--videos={new}", f"--out={new}"], ["--videos: no folder", str(new)]),
  ]
  for module, flags, words in cases:
    code, out = finish(f"ccl_jax.{module}", flags, around)
    assert code == 2, (flags, out)
    line = out.strip().splitlines()[-1]
    assert line.startswith("error: "), (flags, out)
    assert all(w in line for w in words), (flags, line)
    assert "Traceback" not in out, flags
  assert sorted(map(str, bucket.walk())) == before


def test_no_credentials_are_one_line(run, around, home):
  from tests.remote.stores import answering

  with answering(401):
    code, out = finish("ccl_jax.train", flags_of(run[0], home), around)
  assert code == 2 and "no credentials" in out and "gcloud auth" in out, out
