"""A clip again from the settings that lie beside it, and what is refused."""

import json
import shutil

import numpy as np
import pytest

from ccl_jax.data.media.decode import read_clip
from ccl_jax.data.spec import ClipSpec
from ccl_jax.viz.media import write_wav
from tests.e2e.commands import finish

MODULE = "ccl_jax.generate"
SPEC = ClipSpec(17, 32, 32, 25.0)


@pytest.fixture(scope="module")
def run(undisturbed, home):
  """A copy of a run, that tests may change."""
  return shutil.copytree(undisturbed, home / "settings" / "run")


@pytest.fixture(scope="module")
def sounds(home):
  rng = np.random.default_rng(0)
  paths = [home / "settings" / f"{i}.wav" for i in range(2)]
  for path in paths:
    write_wav(path, 0.1 * rng.standard_normal(16000).astype(np.float32), 16000)
  return paths


@pytest.fixture(scope="module")
def clips(run, sounds, home):
  """The folder of two clips that were made together, of two sounds and seeds."""
  out = home / "settings" / "out"
  flags = [
    f"--ckpt={run}", f"--out={out}", "--task=a2v", "--steps=2", "--guidance=ucg3",
    "--scale_video=2,4", "--negative_prompt=nothing", "--sequential", "--step=6",
    "--prompt=a red face", "--prompt=a blue face", "--seed=3", "--seed=4",
    *(f"--audio={path}" for path in sounds),
  ]  # fmt: skip
  code, printed = finish(MODULE, flags)
  assert code == 0, printed
  return out


def test_the_settings_say_all(clips, run, sounds):
  about = json.loads((clips / "a2v_4_1.json").read_text())
  told = {
    "ckpt": str(run), "step": 6, "weights": "ema", "task": "a2v", "seed": 4,
    "prompt": "a blue face", "negative_prompt_video": "nothing",
    "negative_prompt_audio": "nothing", "audio": str(sounds[1]),
    "steps": 2, "batched": False, "frames": 25, "guidance": "ucg3",
  }  # fmt: skip
  assert {k: about[k] for k in told} == told
  assert set(about["fingerprints"]) == {"params", "codecs", *map(str, sounds)}


def test_the_same_pixels_again(clips, tmp_path):
  flags = [f"--settings={clips / 'a2v_4_1.json'}", f"--out={tmp_path}"]
  code, printed = finish(MODULE, flags)
  assert code == 0, printed
  # A flag beside it overrides; then the clip is one of its own.
  code, printed = finish(MODULE, [*flags, "--seed=5", "--steps=1", "--step=8"])
  assert code == 0 and "note: the params" in printed, printed
  assert sorted(p.name for p in tmp_path.glob("*.mp4")) == [
    "a2v_4_1.mp4",
    "a2v_5_0.mp4",
  ]
  same, other = (tmp_path / f"{name}.mp4" for name in ("a2v_4_1", "a2v_5_0"))
  for mine, first in zip(read_clip(same, SPEC), read_clip(clips / same.name, SPEC)):
    np.testing.assert_array_equal(mine, first)
  assert same.read_bytes() == (clips / same.name).read_bytes()
  again = same.with_suffix(".json").read_text()
  assert again == (clips / "a2v_4_1.json").read_text()
  assert (read_clip(other, SPEC)[0] != read_clip(same, SPEC)[0]).any()
  about = json.loads(other.with_suffix(".json").read_text())
  assert (about["seed"], about["steps"], about["scales"]) == (
    5, 1, {"video": {"s_m": 2.0, "s_t": 4.0}},
  )  # fmt: skip
  assert about["prompt"] == "a blue face" and "batch" not in about


def test_mistakes_are_one_line(clips, run, sounds, tmp_path):
  about = json.loads((clips / "a2v_4_1.json").read_text())

  def changed(name, **values):
    (tmp_path / name).write_text(json.dumps(about | values))
    return f"--settings={tmp_path / name}"

  prints = about["fingerprints"]
  (tmp_path / "list.json").write_text("[1]")
  shutil.copytree(run / "codecs", tmp_path / "codecs")
  good = f"--settings={clips / 'a2v_4_1.json'}"
  prompt = "--prompt=a red face"
  ckpt = f"--ckpt={run}"
  cases = [
    ([f"--settings={tmp_path / 'none.json'}"], ["none.json", "cannot be read"]),
    ([f"--settings={tmp_path / 'list.json'}"], ["list.json", "batched", "NAME.json"]),
    ([changed("old.json", fingerprints=None)], ["old.json"]),
    ([changed("type.json", steps="many")], ["type.json", "steps", "many"]),
    ([changed("scale.json", scales=3)], ["scale.json"]),
    ([changed("gone.json", step=77)], ["77", "8"]),
    ([changed("p.json", fingerprints=prints | {"params": "0" * 64})],
     ["the params", "step 6", "--ckpt", "00000000"]),
    ([changed("c.json", fingerprints=prints | {"codecs": "0" * 64})], ["the codecs"]),
    ([changed("f.json", fingerprints=prints | {str(sounds[0]): "0" * 64})],
     ["0.wav", "not the file", "--audio"]),
    ([good, "--manifest=set.jsonl"], ["--settings", "--manifest"]),
    ([good, "--task=t2v"], ["task t2v makes no use of audio", "a2v"]),
    ([prompt], ["--ckpt"]),
    ([ckpt, prompt, "--seed=-1"], ["-1", "2^64"]),
    ([ckpt, prompt, f"--seed={2**64}"], [str(2**64)]),
    ([ckpt, prompt, "--seed=1", "--seed=2"], ["--seed", "2 for 1"]),
    ([ckpt, prompt, "--task=t2a", f"--image={sounds[0]}"], ["t2a", "image", "i2v"]),
    ([ckpt, prompt, "--task=v2a", f"--video={sounds[0]}", f"--image={sounds[0]}"],
     ["v2a", "image", "i2v"]),
    ([ckpt, prompt, "--task=t2v", f"--audio={sounds[0]}"], ["t2v", "audio", "a2v"]),
    ([ckpt, "--manifest=set.jsonl", "--seed=3"], ["--seed", "manifest's lines"]),
  ]  # fmt: skip
  for flags, words in cases:
    code, out = finish(MODULE, [*flags, f"--out={tmp_path / 'out'}"])
    assert code == 2, (flags, out)
    line = out.strip().splitlines()[-1]
    assert line.startswith("error: ") and all(w in line for w in words), (flags, line)
    assert "Traceback" not in out, flags
  assert not (tmp_path / "out").exists()
