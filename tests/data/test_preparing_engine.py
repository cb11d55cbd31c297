"""Films prepared on Apache Beam: the same table, and what may not end a run."""

import os

import numpy as np
import pytest

from ccl_jax.data.preparing import child, engine, parts, silero
from ccl_jax.data.preparing.child import CRASHED, Child
from ccl_jax.data.preparing.parts import Parts
from ccl_jax.data.preparing.rows import Options
from ccl_jax.data.preparing.run import prepare
from ccl_jax.errors import UsageError
from ccl_jax.viz.media import write_wav

PLAIN = Options(shots=False)


def tone(level, rate=16000):
  time = np.arange(rate) / rate
  return (10 ** (level / 20) * np.sin(2 * np.pi * 1000 * time)).astype(np.float32)


@pytest.fixture
def sounds(tmp_path):
  """Five sounds, each 3 dB quieter than the one before, and a file that is none."""
  root = tmp_path / "sounds"
  root.mkdir()
  for k in range(5):
    write_wav(root / f"{k}.wav", tone(-20 - 3 * k))
  (root / "bad.wav").write_text("no sound")
  return root


def levels(rows):
  return {row["file"]: row["loudness"] for row in rows}


# A 1 kHz sine of -20 dBFS is at -20 LUFS (EBU R 128), and so on.
EXPECTED = {f"{k}.wav": pytest.approx(-20 - 3 * k, abs=0.1) for k in range(5)}


def test_without_beam_files_are_done_one_by_one(sounds, tmp_path, monkeypatch):
  monkeypatch.setattr(engine, "has_beam", lambda: False)
  done = prepare(sounds, tmp_path / "t.jsonl", PLAIN)
  assert levels(done.rows) == EXPECTED
  assert [name for name, _ in done.skipped] == ["bad.wav"]
  for runner, flags in (("FlinkRunner", []), ("DirectRunner", ["--streaming"])):
    with pytest.raises(UsageError, match=f"{runner} needs Apache Beam.*beam"):
      prepare(sounds, tmp_path / "u.jsonl", PLAIN, 4, runner, flags)
  with pytest.raises(UsageError, match="got 'Spark', expected one of DirectRunner"):
    prepare(sounds, tmp_path / "u.jsonl", PLAIN, 4, "Spark")
  assert not list(tmp_path.glob("*u.jsonl*"))


def test_a_decoder_that_dies_costs_its_file_alone(sounds, tmp_path, monkeypatch):
  """The child kills itself at one file: SIGSEGV, as a fault in FFmpeg would be."""
  monkeypatch.setattr(engine, "has_beam", lambda: False)
  (tmp_path / "crash.py").write_text(
    "import os, signal\n"
    "def share(wave, rate):\n"
    "  if abs(abs(wave).max() - 10 ** (-26 / 20)) < 1e-3:\n"
    "    os.kill(os.getpid(), signal.SIGSEGV)\n"
    "  return 0.5\n"
  )
  monkeypatch.syspath_prepend(tmp_path)
  done = prepare(
    sounds, tmp_path / "t.jsonl", Options(speech="crash:share", shots=False)
  )
  assert [row["file"] for row in done.rows] == [f"{k}.wav" for k in (0, 1, 3, 4)]
  assert all(row["speech_share"] == 0.5 for row in done.rows)
  assert dict(done.skipped)["2.wav"] == CRASHED


@pytest.fixture
def ten(monkeypatch):
  """A table has ten shards as a rule, of three files at most."""
  monkeypatch.setattr(parts, "_SHARDS", 10)
  monkeypatch.setattr(parts, "_MOST", 3)


def begun(folder, count):
  files = [(f"{k}.wav", [{"file": f"{k}.wav"}]) for k in range(count)]
  made = Parts(folder)
  made.begin(folder, PLAIN, files)
  held = [name for k in range(made.plan["shards"]) for name, _ in made.files(k)]
  assert held == [name for name, _ in files]
  return made


@pytest.mark.parametrize(
  ("files", "shards"), [(1, 1), (9, 9), (19, 19), (20, 10), (25, 13), (100, 34)]
)
def test_shards_hold_each_file_once(ten, tmp_path, files, shards):
  """Of 19 files one each, from 20 on two, and never more than three."""
  assert begun(tmp_path / "p", files).plan["shards"] == shards


def test_what_is_left_is_told_by_the_files_that_are_there(ten, tmp_path):
  made = begun(tmp_path / "p", 25)
  for k in (0, 7):
    made.write(k, [[name, "no picture"] for name, _ in made.files(k)])
  again = Parts(tmp_path / "p")
  assert again.done() == 4 and set(range(13)) - set(again.left()) == {0, 7}
  assert again.is_done(7) and not again.is_done(8)
  again.write(12, [["24.wav", "x"]])  # the last one has one file
  assert again.done() == 5
  for k in range(12):
    again.write(k, [])
  assert again.done() == 25 and again.left() == []


def test_a_plan_that_is_not_whole_begins_anew(one_by_one, tmp_path, sounds):
  """Killed before plan.json was there: the numbers of shards mean nothing."""
  begun = Parts(tmp_path / "t.jsonl.parts")
  begun.begin(sounds, PLAIN, [("0.wav", [{"file": "0.wav"}])])
  (tmp_path / "t.jsonl.parts" / "plan.json").unlink()
  done = prepare(sounds, tmp_path / "t.jsonl", PLAIN)
  assert levels(done.rows) == EXPECTED


def test_a_damaged_part_is_named(tmp_path, sounds):
  begun = Parts(tmp_path / "t.jsonl.parts")
  begun.begin(sounds, PLAIN, [("0.wav", [{"file": "0.wav"}])])
  for name in ("00000.out.json", "plan.json"):
    (tmp_path / "t.jsonl.parts" / name).write_text('{"root": 3}')
    with pytest.raises(UsageError, match=f"{name}.*remove its folder"):
      prepare(sounds, tmp_path / "t.jsonl", PLAIN)


@pytest.fixture
def beam():
  return pytest.importorskip("apache_beam", reason="the extra [beam] is not installed")


def test_on_beam_the_table_is_the_same(beam, sounds, tmp_path, monkeypatch):
  """Two workers, each with its process; what was done before is not done again."""
  on = prepare(sounds, tmp_path / "beam.jsonl", PLAIN, 2)
  assert levels(on.rows) == EXPECTED and not list(tmp_path.glob("*.parts"))
  examine = child._rows  # beside it one by one, in this process
  monkeypatch.setattr(Child, "rows", lambda self, *args: examine(*args))
  monkeypatch.setattr(engine, "has_beam", lambda: False)
  prepare(sounds, tmp_path / "here.jsonl", PLAIN)
  for end in ("", ".skipped.txt"):
    here, there = (tmp_path / f"{n}.jsonl{end}" for n in ("here", "beam"))
    assert here.read_bytes() == there.read_bytes()


def test_on_a_job_server_the_table_is_the_same(beam, no_child, sounds, tmp_path):
  """Beam's own server, which is asked as those of Flink and Spark are."""
  from apache_beam.runners.portability import local_job_service

  server = local_job_service.LocalJobServicer(str(tmp_path / "staging"))
  flags = ["--environment_type=LOOPBACK", "--job_endpoint=localhost:"]
  flags[1] += str(server.start_grpc_server(0))
  try:
    on = prepare(sounds, tmp_path / "there.jsonl", PLAIN, 2, "PortableRunner", flags)
  finally:
    server.stop()
  assert levels(on.rows) == EXPECTED and not list(tmp_path.glob("*.parts"))


def test_on_beam_a_run_goes_on(beam, no_child, sounds, tmp_path, monkeypatch):
  of, out = Child.rows, tmp_path / "t.jsonl"

  def broken(self, root, name, *rest):
    if name == "3.wav":
      raise OSError(28, "No space left on device")
    return of(self, root, name, *rest)

  monkeypatch.setattr(Child, "rows", broken)
  with pytest.raises(UsageError, match="No space left on device"):
    prepare(sounds, out, PLAIN, 1)
  left = Parts.of(out).left()
  assert not out.exists() and 1 <= len(left) < 6
  looked = []
  note = lambda self, root, name, *rest: (
    looked.append(name) or of(self, root, name, *rest)
  )
  monkeypatch.setattr(Child, "rows", note)
  done = prepare(sounds, out, PLAIN, 1)
  assert len(looked) == len(left) and levels(done.rows) == EXPECTED


def test_on_beam_a_mistake_is_its_own_line(beam, sounds, tmp_path, monkeypatch):
  (tmp_path / "talk.py").write_text("def share(wave, rate):\n  return 'much'\n")
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(UsageError, match=r"^talk:share gave 'much', expected a share$"):
    prepare(sounds, tmp_path / "t.jsonl", Options(shots=False, speech="talk:share"), 1)


def test_a_runner_that_does_not_start_leaves_nothing(sounds, tmp_path, monkeypatch):
  def run(parts, runner, flags, threads):
    assert len(parts.left()) == 6
    raise UsageError("FlinkRunner failed: no job server")

  monkeypatch.setattr(engine, "run", run)
  with pytest.raises(UsageError, match="no job server"):
    prepare(sounds, tmp_path / "t.jsonl", PLAIN)
  assert os.listdir(tmp_path) == ["sounds"]


@pytest.mark.parametrize(
  ("runner", "flags", "told"),
  [
    ("DataflowRunner", [], r"pip install 'apache-beam\[gcp\]'"),
    ("FlinkRunner", [], "FlinkRunner starts a job server in Java"),
    ("SparkRunner", [], "SparkRunner starts a job server in Java"),
    ("PortableRunner", [], "needs -- --job_endpoint=HOST:PORT"),
    ("DirectRunner", ["--regoin=x"], "Beam knows no option --regoin"),
  ],
)
def test_a_runner_without_what_it_needs(
  beam, sounds, tmp_path, monkeypatch, runner, flags, told
):
  found = engine.importlib.util.find_spec
  monkeypatch.setattr(
    engine.importlib.util, "find_spec", lambda n: None if n == "apitools" else found(n)
  )
  monkeypatch.setattr(engine.shutil, "which", lambda name: None)
  with pytest.raises(UsageError, match=told):
    prepare(sounds, tmp_path / "t.jsonl", PLAIN, 4, runner, flags)
  assert os.listdir(tmp_path) == ["sounds"]


def test_the_network_of_silero_hears_speech_alone(tmp_path):
  """Beside the package's own front end, which needs torch: the same probabilities."""
  pytest.importorskip("onnxruntime", reason="the extra [speech] is not installed")
  rng = np.random.default_rng(0)
  noise = (0.01 * rng.standard_normal(3 * 16000)).astype(np.float32)
  assert silero.share(noise, 16000) == 0 and silero.share(noise[:0], 16000) == 0
  assert len(silero.probabilities(noise)) == -(-3 * 16000 // 512)
  theirs = pytest.importorskip("silero_vad.sequence_vad")
  path = silero.importlib.metadata.distribution("silero-vad").locate_file(
    silero._NETWORK
  )
  peer = theirs.SileroVADSequence(str(path))
  wave = (0.3 * rng.standard_normal(20 * 16000)).astype(np.float32)
  wave *= (
    np.sin(np.arange(len(wave)) / 16000 * 2 * np.pi * 4).clip(0).astype(np.float32)
  )
  np.testing.assert_allclose(
    silero.probabilities(wave), peer.audio_forward(wave), rtol=0, atol=1e-6
  )
  with pytest.raises(UsageError, match="16000 Hz, got 8000"):
    silero.share(wave, 8000)


def test_without_silero_one_line(monkeypatch, sounds, tmp_path):
  silero.session.cache_clear()

  def none(name):
    raise ImportError(name)

  monkeypatch.setattr(silero.importlib.metadata, "distribution", none)
  with pytest.raises(UsageError, match="pip install --no-deps 'silero-vad"):
    prepare(sounds, tmp_path / "t.jsonl", Options(shots=False, speech="silero"))
  silero.session.cache_clear()
  assert os.listdir(tmp_path) == ["sounds"]
