"""From films to latents to a trained model by the command line, killed on the way."""

import json
import shutil
import signal
import time

import numpy as np
import pytest

from ccl_jax.data import __main__ as data
from ccl_jax.data.media.decode import read_clip
from ccl_jax.data.spec import ClipSpec
from ccl_jax.viz.media import write_mp4, write_wav
from tests.e2e.commands import Command, finish, finish_alone

SPEC = ClipSpec(17, 32, 32, 24.0)
FILMS = 10


@pytest.fixture(scope="module")
def films(home):
  """Films with sound, and one sound alone."""
  root, rng = home / "films", np.random.default_rng(0)
  for i in range(FILMS):
    video = rng.integers(0, 255, (18, 32, 32, 3), np.uint8)
    wave = 0.1 * rng.standard_normal(12_500).astype(np.float32)
    write_mp4(root / f"{i}.mp4", video, 24.0, wave)
    (root / f"{i}.txt").write_text(f'a film says "{i}"')
  write_wav(root / "sound.wav", 0.1 * rng.standard_normal(24_000).astype(np.float32))
  return root


def encode_flags(films, out, *more):
  arg = f"data={films},out={out},runlocal"
  return [f"--config=configs/encode.py:{arg}", "--config.shard_clips=1", *more]


@pytest.fixture(scope="module")
def latents(home, films):
  code, out = finish("ccl_jax.encode", encode_flags(films, home / "set", "--check=2"))
  assert code == 0, out
  assert "fitting the codecs" in out and "encoding 12/12 clips" in out
  assert len(list((home / "set" / "check").glob("*.mp4"))) == 1
  return home / "set"


@pytest.mark.parametrize("shards", [0, 5])
def test_kill_9_and_the_same_command_again(home, films, latents, shards):
  out = home / f"killed_{shards}"
  process = Command("ccl_jax.encode", encode_flags(films, out))
  deadline = time.time() + 300
  while len(list(out.glob("shard-*.json"))) < shards or not out.exists():
    assert process.poll() is None, process.output()
    assert time.time() < deadline
    time.sleep(0.002)
  process.send_signal(signal.SIGKILL)
  assert process.wait() == -signal.SIGKILL
  assert not (out / "index.json").exists()
  code, text = finish("ccl_jax.encode", encode_flags(films, out))
  assert code == 0, text
  assert (out / "index.json").read_text() == (latents / "index.json").read_text()
  shards = [p.name for p in out.glob("*.array_record")]
  assert len(shards) == FILMS + 1 + 1  # films and two windows of the sound
  for name in shards:
    assert (out / name).read_bytes() == (latents / name).read_bytes()
  assert not list(out.glob(".*"))


def test_inspection(home, latents, capsys):
  code, out = finish_alone("ccl_jax.data", ["inspect", str(latents), "--clips=3"])
  assert code == 0, out
  assert "12 records" in out and (latents / "inspect.png").stat().st_size > 1000
  with pytest.raises(SystemExit) as e:
    data.main(["inspect", str(home)])
  assert e.value.code == 2
  assert capsys.readouterr().err.startswith("error: no set of latents")


def train_flags(latents, workdir, steps):
  return [
    f"--config=configs/joint.py:runlocal,records={latents}",
    f"--workdir={workdir}",
    "--config.batch.size=2",
    "--config.model.remat=none",  # it compiles sooner
    f"--config.steps={steps}",
  ]


def fingerprints(workdir, step):
  meta = workdir / "checkpoints" / str(step) / "meta" / "metadata"
  read = json.loads(meta.read_text())
  return read["leaves"], read["data"]


def test_train_on_latents_stop_go_on_and_generate(home, latents):
  whole, parts = home / "latents_whole", home / "latents_parts"
  every = "--config.checkpoint.every=3"
  code, out = finish("ccl_jax.train", [*train_flags(latents, whole, 6), every])
  assert code == 0, out
  # The same run as it was after three steps.
  shutil.copytree(whole, parts, ignore=lambda folder, names: {"6"} & set(names))
  rows = (parts / "metrics.jsonl").read_text().splitlines(keepends=True)
  (parts / "metrics.jsonl").write_text("".join(rows[:3]))
  assert {p.name for p in (parts / "checkpoints").iterdir()} == {"3"}
  code, out = finish("ccl_jax.train", [*train_flags(latents, parts, 6), every])
  assert code == 0, out
  assert fingerprints(whole, 6) == fingerprints(parts, 6)
  assert fingerprints(whole, 6)[1]["next_batch"] == 6
  rows = [json.loads(row) for row in (whole / "metrics.jsonl").read_text().splitlines()]
  names = {k for row in rows for k in row if k.startswith("loss/")}
  assert {"loss/single/audio", "loss/joint/video"} <= names
  code, out = finish(
    "ccl_jax.generate",
    [f"--ckpt={whole}", f"--out={home / 'made'}", "--steps=2", "--prompt=a film"],
  )
  assert code == 0, out
  video, audio = read_clip(home / "made" / "joint_0_0.mp4", SPEC)
  assert video.std() > 1 and np.abs(audio).max() > 0


def test_mistakes_are_one_line(home, films, latents):
  new = home / "never"
  encodings = [
    ([f"--config=configs/encode.py:out={new},runlocal"], ["data=DIR"]),
    ([f"--config=configs/encode.py:data={films},runlocal"], ["out=DIR"]),
    (encode_flags(home / "nowhere", new), ["no folder at", "nowhere"]),
    (encode_flags(films, films), ["no set of latents"]),
    (encode_flags(films, latents, "--config.shard_clips=2"), ["shard_clips", "1", "2"]),
    (
      encode_flags(films, new, "--process_index=2"),
      ["process_index is 2", "expected 0"],
    ),
    (encode_flags(films, new, "--config.clips=('17x32',)"), ["17x32", "FRAMESx"]),
    (encode_flags(films, new, "--config.codec.path=/none"), ["/none"]),
  ]
  trainings = [
    (train_flags(home / "nowhere", new, 2), ["no set of latents", "nowhere"]),
    (train_flags(f"{latents}:0", new, 2), ["weight", "more than 0"]),
    ([*train_flags(latents, new, 2), "--config.batch.size=0"], ["batch.size", "0"]),
    ([*train_flags(latents, new, 2), "--config.report.tasks=('joint',)"], ["report"]),
    (
      [*train_flags(latents, new, 2), "--config.tasks.probabilities.single=0.0"],
      ["clips of audio alone", "single"],
    ),
    (
      [
        *train_flags(latents, new, 2),
        "--config.model.streams=('video',)",
        "--config.optim.groups=(('.*',1e-4,0.0),)",
      ],
      ["+22", "buckets"],
    ),
  ]
  for module, cases in (("encode", encodings), ("train", trainings)):
    for flags, words in cases:
      code, out = finish(f"ccl_jax.{module}", flags)
      assert code == 2, (flags, out)
      line = out.strip().splitlines()[-1]
      assert line.startswith("error: "), (flags, out)
      assert all(w in line for w in words), (flags, line)
      assert "Traceback" not in out, flags
  assert not (new / "checkpoints").exists() and not (new / "plan.json").exists()
