"""Clips from a checkpoint by the command line, and the mistakes one makes there."""

import json
import shutil

import numpy as np
import pytest

from ccl_jax.data.media.decode import read_audio, read_clip
from ccl_jax.data.spec import ClipSpec
from ccl_jax.viz.media import write_mp4, write_png, write_wav
from tests.e2e.commands import Command, finish, meeting

MODULE = "ccl_jax.generate"
SPEC = ClipSpec(17, 32, 32, 25.0)


@pytest.fixture(scope="session")
def files(home):
  """A film, a long and a short sound, a picture, and a text file."""
  folder = home / "files"
  rng = np.random.default_rng(0)
  video = rng.integers(0, 255, (20, 48, 64, 3), np.uint8)
  wave = 0.1 * rng.standard_normal(16000).astype(np.float32)
  write_mp4(folder / "film.mp4", video, 25.0, wave)
  write_wav(folder / "long.wav", wave, 16000)
  write_wav(folder / "short.wav", wave[:3000], 16000)
  write_png(folder / "image.png", video[0])
  (folder / "text.txt").write_text("no film")
  return folder


def flags(files, undisturbed, *more):
  return [
    f"--ckpt={undisturbed}", f"--out={files / 'out'}", "--steps=2",
    '--prompt=a red face on the left says "ba do"', *more,
  ]  # fmt: skip


def test_joint_writes_a_film_with_sound_and_a_second_start_compiles_nothing(
  files, undisturbed, tmp_path
):
  """Of the same shapes with another seed: all programs are in the cache."""
  cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
  programs = lambda: {p.name for p in tmp_path.iterdir() if p.name.endswith("-cache")}
  made = []
  for seed in (0, 1):
    given = flags(files, undisturbed, "--task=joint", f"--seed={seed}")
    code, out = finish(MODULE, given, cache)
    assert code == 0, out
    made.append(programs())
  path = files / "out" / "joint_0_0.mp4"
  video, audio = read_clip(path, SPEC)
  assert video.shape == (17, 32, 32, 3) and video.std() > 1
  assert np.abs(audio).max() > 0
  assert json.loads(path.with_suffix(".json").read_text())["guidance"] == "ucg2"
  assert out.startswith("loading") and "sampling 2/2" in out
  assert made[0] == made[1]
  # The steps of sampling are among them.
  assert any(name.startswith("jit_advance") for name in made[0]), made[0]


def test_given_sound_and_no_picture(files, undisturbed):
  given = flags(files, undisturbed, "--task=a2v", f"--audio={files / 'long.wav'}")
  code, out = finish(MODULE, given)
  assert code == 0, out
  _, audio = read_clip(files / "out" / "a2v_0_0.mp4", SPEC)
  original = read_audio(files / "long.wav")[: SPEC.samples]
  assert np.corrcoef(audio, original)[0, 1] > 0.9  # through AAC
  code, out = finish(MODULE, flags(files, undisturbed, "--task=t2a"))
  assert code == 0, out
  assert len(read_audio(files / "out" / "t2a_0_0.wav")) == SPEC.samples


def test_a_manifest_in_two_parts(files, undisturbed):
  """The second command makes what the first has left, and nothing again."""
  out = files / "set"
  lines = [
    {"id": "one", "prompt": "a red face on the left", "image": "image.png"},
    {"id": "two", "prompt": "a red face on the left", "image": "image.png", "seed": 3},
  ]
  text = "".join(json.dumps(line) + "\n" for line in lines)
  (files / "set.jsonl").write_text(text)
  given = [
    f"--ckpt={undisturbed}", f"--out={out}", "--steps=1", "--task=ti2av",
    f"--manifest={files / 'set.jsonl'}",
  ]  # fmt: skip
  part = ["--process_index=1", "--process_count=2"]
  code, printed = finish(MODULE, [*given, *part])
  assert code == 0, printed
  assert [x.name for x in out.glob("*.mp4")] == ["two.mp4"]
  before = (out / "two.mp4").stat().st_mtime_ns
  code, printed = finish(MODULE, given)
  assert code == 0 and "1 of 2 clips made" in printed
  assert (out / "two.mp4").stat().st_mtime_ns == before
  videos = [read_clip(out / f"{x}.mp4", SPEC)[0] for x in ("one", "two")]
  assert (videos[0] != videos[1]).any()  # another seed
  assert json.loads((out / "two.json").read_text())["seed"] == 3


def test_two_processes_go_on_with_a_set_of_one(files, undisturbed):
  """Eight devices of two processes (--distributed, --coordinator, --num_processes,
  --process_id) make what one device has left; the first writes.
  """
  text = "".join(
    json.dumps({"id": name, "prompt": f"a {name} face", "audio": "long.wav"}) + "\n"
    for name in ("red", "green")
  )
  (files / "faces.jsonl").write_text(text)
  given = [
    f"--ckpt={undisturbed}", "--steps=2", "--task=a2v",
    f"--manifest={files / 'faces.jsonl'}",
  ]  # fmt: skip
  alone, pair = files / "alone", [files / f"pair{i}" for i in range(2)]
  code, printed = finish(MODULE, [*given, f"--out={alone}"])
  assert code == 0 and "2 of 2 clips made" in printed, printed
  shutil.copytree(alone, pair[0], ignore=shutil.ignore_patterns("green.*"))
  before = (pair[0] / "red.mp4").stat().st_mtime_ns
  both = [
    Command(MODULE, [*given, *which, f"--out={out}"], devices=4)
    for which, out in zip(meeting(2), pair)
  ]
  codes = [command.wait() for command in both]
  assert codes == [0, 0], [command.output() for command in both]
  first, second = (command.output() for command in both)
  assert "mesh of 8 devices" in first and "memory of a device: text" in first
  assert "1 of 2 clips made" in first and "clips made" not in second
  made = lambda folder: sorted(p.name for p in folder.glob("[!.]*"))
  assert (
    made(pair[0]) == made(alone) == ["green.json", "green.mp4", "red.json", "red.mp4"]
  )
  assert made(pair[1]) == []
  assert (pair[0] / "red.mp4").stat().st_mtime_ns == before
  settings = [(folder / "green.json").read_text() for folder in (alone, pair[0])]
  assert settings[0] == settings[1]
  (a, sound), (b, same) = (read_clip(x / "green.mp4", SPEC) for x in (alone, pair[0]))
  np.testing.assert_array_equal(sound, same)
  # Sums in another order: at most a level of a pixel, before the film is compressed.
  assert np.abs(a.astype(int) - b.astype(int)).mean() < 0.1 and a.std() > 1


CASES = [
  (["--manifest={}/set.jsonl"], ["--prompt", "--manifest"]),
  (["--task=dance"], ["dance", "joint"]),
  (["--guidance=loud"], ["loud", "ucg2"]),
  (["--guidance=multimodal"], ["multimodal", "context", "ucg2"]),
  (["--prompt= "], ["empty"]),
  (["--task=i2v"], ["--image"]),
  (["--task=a2v"], ["--audio"]),
  (["--task=i2v", "--image={}/none.png"], ["none.png"]),
  (["--task=i2v", "--image={}/text.txt"], ["text.txt"]),
  (["--task=v2a", "--video={}/text.txt"], ["text.txt"]),
  (["--task=a2v", "--audio={}/text.txt"], ["text.txt"]),
  (["--task=a2v", "--audio={}/short.wav", "--frames=17"], ["short.wav", "0.1", "0.6"]),
  (["--height=40"], ["40", "32", "48"]),
  (["--frames=18"], ["18", "17"]),
  (["--scale_video=high"], ["high"]),
  (["--scale_video=1,2,3"], ["3", "1"]),
  (["--steps=0"], ["0", "1"]),
  (["--ckpt={}"], ["config.json"]),
  (["--step=77"], ["77", "8"]),
  (["--nonsense"], ["nonsense"]),
]


def test_mistakes_are_one_line(files, undisturbed):
  for case, words in CASES:
    given = [flag.replace("{}", str(files)) for flag in case]
    code, out = finish(MODULE, flags(files, undisturbed, *given))
    assert code == 2, (case, out)
    line = out.strip().splitlines()[-1]
    assert line.startswith("error: "), (case, out)
    assert all(w in line for w in words), (case, line)
    assert "Traceback" not in out, case


def test_a_run_is_what_its_checkpoint_says(home, files, undisturbed):
  """A config that has changed since changes no clip."""
  import shutil

  other = home / "other"
  shutil.copytree(undisturbed, other)
  config = json.loads((other / "config.json").read_text())
  config["model"]["preset"] = "lab"
  config["clip"]["frames"] = 33
  (other / "config.json").write_text(json.dumps(config))
  made = []
  for run in (undisturbed, other):
    out = home / f"same_{run.name}"
    code, text = finish(MODULE, [*flags(files, run), f"--out={out}"])
    assert code == 0, text
    made.append(read_clip(out / "joint_0_0.mp4", SPEC))
  for a, b in zip(*made):
    np.testing.assert_array_equal(a, b)
