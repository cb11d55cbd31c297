"""The pipeline from Python: what it hands on, gives back, saves and refuses."""

import gc
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ccl_jax import Pipeline
from ccl_jax.data.media.decode import read_audio, read_clip
from ccl_jax.errors import UsageError
from ccl_jax.generation.previews import colour_map, pictures, squares
from ccl_jax.viz.media import write_lossless, write_png, write_samples
from tests.flags.command import command
from tests.flags.listener import TRAINED, listening

FRAMES = np.random.default_rng(0).integers(0, 255, (17, 32, 48, 3), np.uint8)
WAVE = np.sin(np.arange(16000) / 5).astype(np.float32) / 3


@pytest.fixture
def listener(monkeypatch):
  return listening(monkeypatch)


@pytest.fixture
def pipe(listener):
  return Pipeline.load("here")


def test_the_import_is_cheap():
  code = "import sys, ccl_jax; print({'jax', 'numpy', 'av'} & set(sys.modules))"
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
  assert done.stdout.strip() == "set()", done.stderr


def test_a_call_is_what_the_command_is(pipe, listener, tmp_path):
  """With the same values both tell the model the same and write the same settings."""
  given = {
    "steps": 7, "shift": 2.5, "solver": "euler", "guidance": "ucg3", "skip_block": 1,
    "scale_video": [3, 5], "scale_audio": 2, "negative_prompt_audio": "hum",
    "seconds": 1.3, "size": "64x16", "guidance_interval": [0.2, 0.9],
    "guidance_every": 2, "sequential": True,
  }  # fmt: skip
  flags = [
    f"--{k}={','.join(map(str, v)) if isinstance(v, list) else v}"
    for k, v in given.items()
  ]
  command("generate").run(
    "--ckpt=here", f"--out={tmp_path}", "--prompt=a cat", "--seed=3", *flags
  )
  told = listener.calls.pop()
  clip = pipe("a cat", seed=3, **given)
  assert listener.calls.pop() == told
  assert told["sampling"].scales["video"] == {"s_m": 3.0, "s_t": 5.0}
  listener.loaded |= {"loras": []}
  assert clip.settings == json.loads((tmp_path / "joint_3_0.json").read_text())


def test_what_comes_back_and_is_saved(pipe, tmp_path):
  clip = pipe("a cat", seed=5)
  assert clip.frames.shape == (17, 32, 48, 3) and clip.frames.dtype == np.uint8
  assert (clip.frames == 40).all() and clip.fps == 25.0
  samples, rate = clip.sound
  assert rate == 16000 and samples.shape == (TRAINED.samples,)
  assert clip.settings["seed"] == 5 and clip.settings["prompt"] == "a cat"
  assert repr(clip) == "Clip(task='joint', seed=5, frames=17 x 32 x 48, sound=0.67 s)"
  path = clip.save(tmp_path / "new" / "v1.cat.mp4")
  assert path == tmp_path / "new" / "v1.cat.mp4"
  video, sound = read_clip(path, TRAINED)
  assert abs(video.mean() - 40) < 2 and np.corrcoef(sound, samples)[0, 1] > 0.9
  assert json.loads(path.with_suffix(".json").read_text()) == clip.settings
  sounds = pipe(["a", "b"], task="t2a", seed=[1, 2])
  assert [c.settings["seed"] for c in sounds] == [1, 2]
  assert sounds[1].frames is None
  assert sounds[0].save(tmp_path / "hum") == tmp_path / "hum.wav"
  assert len(read_audio(tmp_path / "hum.wav")) == TRAINED.samples
  with pytest.raises(UsageError, match=r"expected NAME\.wav"):
    sounds[0].save(tmp_path / "hum.mp4")
  assert pipe("a", task="t2v").sound is None


def test_arrays_are_as_good_as_files(pipe, listener, tmp_path):
  """The model is given the same numbers; the settings name no file that goes."""
  write_png(tmp_path / "x.png", FRAMES[0])
  write_samples(tmp_path / "x.wav", WAVE, 16000)
  write_lossless(tmp_path / "x.mkv", FRAMES, 25.0)
  picture = Image.fromarray(FRAMES[0])
  for task, name, end, arrays in (
    ("i2v", "image", "png", (FRAMES[0], picture)),
    ("a2v", "audio", "wav", ((WAVE, 16000), (np.int16(WAVE * 2**15), 16000))),
    ("v2a", "video", "mkv", (FRAMES, (FRAMES, 25))),
  ):
    pipe("a cat", task=task, **{name: tmp_path / f"x.{end}"})
    expected = listener.calls[-1][name]
    for array in arrays:
      clip = pipe(["a cat"], task=task, **{name: [array]})[0]
      np.testing.assert_allclose(listener.calls[-1][name], expected, atol=1e-4)
      assert clip.settings[name] == f"array {name} 0.{end}"
      assert clip.settings[name] in clip.settings["fingerprints"]
  np.testing.assert_array_equal(expected[0], FRAMES)
  path = clip.save(tmp_path / "y.mp4").with_suffix(".json")
  with pytest.raises(SystemExit):
    command("generate").run(f"--settings={path}", f"--out={tmp_path}")


def test_a_clip_goes_on(pipe, listener):
  """What was made is given again, and comes back with what is new after it; a sound
  decides the length.
  """
  first = pipe("a cat", seed=1)
  more = pipe("a cat", extend=first, seed=2)
  told = listener.calls[-1]
  assert told["extend"]["video"].shape == (1, 5, 32, 48, 3)
  assert more.frames.shape[0] == 17 + 12  # of 17, 5 were there
  assert more.settings["extend"] == "array extend 0.mp4"
  assert pipe("a", task="a2v", audio=(WAVE, 16000)).frames.shape[0] == 25
  assert pipe("a", frames=37, window=17).frames.shape[0] == 37
  assert listener.calls[-1]["sampling"].window == 17
  with pytest.raises(UsageError, match="--extend: got ndarray|--extend: got uint8"):
    pipe("a", extend=FRAMES)
  with pytest.raises(UsageError, match="--window: got 1.5; expected a whole number"):
    pipe("a", window=1.5)
  with pytest.raises(UsageError, match="last_image: this model was trained without"):
    pipe("a", last_image=FRAMES[0])


def test_settings_of_an_array_ask_for_a_file(pipe, tmp_path, capsys):
  pipe("a cat", task="i2v", image=FRAMES[0]).save(tmp_path / "x")
  given = f"--settings={tmp_path / 'x.json'}", f"--out={tmp_path / 'out'}"
  with pytest.raises(SystemExit):
    command("generate").run(*given)
  assert "the image of this clip was an array" in capsys.readouterr().err
  write_png(tmp_path / "x.png", FRAMES[0])
  command("generate").run(*given, f"--image={tmp_path / 'x.png'}")
  assert (tmp_path / "out" / "i2v_0_0.mp4").is_file()


def test_files_of_arrays_go_with_their_clip(pipe, tmp_path, monkeypatch):
  monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
  clip = pipe("a cat", task="v2a", video=FRAMES)
  (folder,) = tmp_path.glob("ccl_jax-*")
  assert folder.is_dir()
  del clip
  gc.collect()
  assert not folder.exists()


REFUSED = [
  ({"prompt": ""}, "--prompt is empty"),
  ({"prompt": 3}, "--prompt: got 3; expected a text"),
  ({"prompt": []}, r"--prompt: got \[\]"),
  ({"task": "dance"}, "unknown task 'dance'"),
  ({"task": 3}, "--task: got 3; expected a text"),
  ({"task": None}, "--task: got None; expected a text"),
  ({"task": "a2v"}, "needs audio: give --audio FILE"),
  ({"style": "noir"}, "no setting style; expected one of"),
  ({"steps": 2.5}, "--steps: got 2.5; expected a whole number"),
  ({"steps": True}, "--steps: got True"),
  ({"steps": 0}, "--steps: got 0"),
  ({"steps": 1001}, "--steps: got 1001; expected a whole number from 1 to 1000"),
  ({"shift": "far"}, "--shift: got 'far'; expected a number"),
  ({"seconds": -1}, "--seconds: got -1; expected a length above 0"),
  ({"seconds": float("nan")}, "--seconds: got nan"),
  ({"seconds": 1e5}, r"--seconds: got 100000; expected at most 41943"),
  ({"size": 64}, "--size: got 64; expected a text"),
  ({"height": 33}, "height must be a multiple of 16, got 33: use 32 or 48"),
  ({"height": 10**9}, "height must be at most"),
  ({"scale_video": float("nan")}, "--scale_video: got nan; expected numbers"),
  ({"scale_video": [1, "loud"]}, "--scale_video: got 1,loud"),
  ({"guidance_interval": 3}, "--guidance_interval: got 3"),
  ({"seed": "x"}, "seed 'x'"),
  ({"seed": [1, 2]}, "--seed: got 2 for 1 prompts"),
  ({"lora": 3}, "--lora: got 3"),
  ({"lora": "none.safetensors"}, "no file or folder none.safetensors"),
  ({"negative_prompt": 3}, "--negative_prompt: got 3"),
  ({"task": "i2v", "image": "none.png"}, "--image: no file none.png"),
  ({"task": "i2v", "image": FRAMES[0] / 255}, r"--image: got float64 \(32, 48, 3\)"),
  ({"task": "i2v", "image": 3}, r"--image: got int64 \(\); expected a file, uint8"),
  ({"task": "i2v", "image": FRAMES}, r"--image: got uint8 \(17, 32, 48, 3\)"),
  ({"task": "v2a", "video": FRAMES[0]}, r"--video: got uint8 \(32, 48, 3\)"),
  ({"task": "v2a", "video": (FRAMES, 0)}, "--video: got 0 frames per second"),
  ({"task": "v2a", "video": FRAMES[:5]}, "too short"),
  ({"task": "a2v", "audio": WAVE}, "--audio: got float32"),
  ({"task": "a2v", "audio": (WAVE, "fast")}, "--audio: got 'fast' samples per second"),
  ({"task": "a2v", "audio": (WAVE + np.inf, 16000)}, "no finite numbers"),
  ({"task": "a2v", "audio": (WAVE[:100], 16000)}, "less than a frame"),
]  # fmt: skip


def test_mistakes_are_one_line(pipe, listener):
  for wrong, words in REFUSED:
    with pytest.raises(UsageError, match=words) as e:
      pipe(**{"prompt": "a cat"} | wrong)
    assert "\n" not in str(e.value)
  assert not listener.calls
  with pytest.raises(UsageError, match="--weights: got 'adam'"):
    Pipeline("here", weights="adam")
  with pytest.raises(UsageError, match="--vae_tile: got 0"):
    Pipeline("here", vae_tile=0)


def test_what_is_loaded_when(listener, tmp_path):
  """`load` keeps the text encoder; without it texts are encoded before the model is
  read. Other LoRAs are read anew, the same ones are not.
  """
  from safetensors.numpy import save_file

  save_file({"x": np.zeros(1)}, tmp_path / "x.safetensors")
  lora = f"{tmp_path / 'x.safetensors'}:0.5"
  Pipeline.load("here", step=3, weights="params", vae_tile=64, choices=[lora])
  told = {k: v for k, v in listener.loaded.items() if k != "mesh"}
  assert told == {
    "ckpt": "here", "codecs": None, "weights": "params", "step": 3, "loras": [],
    "choices": [lora], "texts": None, "tile": 64, "quantize": None,
  }  # fmt: skip
  listener.loaded = None
  pipe = Pipeline("here", mesh=(2, 1, 1, 4))
  assert listener.loaded is None
  pipe("a cat")
  assert listener.loaded["texts"] == ["a cat", "blurred", ""]
  assert dict(listener.loaded["mesh"].shape) == {
    "data": 2, "fsdp": 1, "context": 1, "tensor": 4
  }  # fmt: skip
  first = listener.loaded
  pipe("a dog")
  assert listener.loaded is first
  pipe("a dog", lora=lora)
  assert listener.loaded["loras"] == [lora]
  pipe("a dog")
  assert listener.loaded["loras"] == []


def test_colours_of_latents():
  """Of a codec whose latents are linear in the mean colour of a square, exactly."""
  rng = np.random.default_rng(0)
  mix = rng.standard_normal((3, 5))
  means = lambda film: film.reshape(
    *film.shape[:2], film.shape[2] // 8, 8, film.shape[3] // 8, 8, 3
  ).mean((3, 5))
  picture = squares(8)
  assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 64
  colours = colour_map(means(picture) @ mix + 2, picture)
  film = rng.integers(0, 255, (1, 2, 16, 24, 3), np.uint8)
  latents = {"video": means(film) @ mix + 2, "audio": np.full((1, 4, 3), -3.0)}
  seen = pictures(latents, colours)
  np.testing.assert_allclose(seen["video"], means(film), atol=0.6)
  assert seen["audio"].shape == (1, 3, 4) and not seen["audio"].any()
