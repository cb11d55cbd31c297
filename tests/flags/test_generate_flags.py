"""What `generate` does with each of its flags, told by a pipeline that only listens."""

import json
import types

import numpy as np
import pytest

from ccl_jax.data.media.decode import probe, read_audio, read_clip
from ccl_jax.data.spec import ClipSpec
from ccl_jax.viz.media import write_mp4, write_png, write_wav
from tests.flags.command import command
from tests.flags.listener import TRAINED, call, listening


def at(told, path):
  """The value at "sampling.steps" and the like."""
  for name in path.split("."):
    told = told[name] if isinstance(told, dict) else getattr(told, name)
  return told


SETTINGS = [
  ([], "task", "joint"),
  (["--task=t2a"], "task", "t2a"),
  ([], "seed", [0]),
  (["--seed=7"], "seed", [7]),
  (["--prompt=a dog", "--prompt=a cat", "--seed=7", "--seed=5"], "seed", [7, 5]),
  ([], "negative", {"video": ["blurred"], "audio": [""]}),  # of the model
  (["--negative_prompt=dim"], "negative", {"video": ["dim"], "audio": ["dim"]}),
  # Dashes are as good, and nothing is a text.
  (["--negative-prompt="], "negative", {"video": [""], "audio": [""]}),
  (
    ["--negative_prompt_audio=hum"],
    "negative",
    {"video": ["blurred"], "audio": ["hum"]},
  ),
  (["--negative_prompt_video="], "negative", {"video": [""], "audio": [""]}),
  (
    ["--negative_prompt=dim", "--negative_prompt_video=red"],
    "negative",
    {"video": ["red"], "audio": ["dim"]},
  ),
  (
    [
      "--prompt=a",
      "--prompt=b",
      "--negative_prompt_audio=x",
      "--negative_prompt_audio=y",
    ],
    "negative",
    {"video": ["blurred"], "audio": ["x", "y"]},
  ),
  (["--prompt=a dog", "--prompt=a cat"], "prompts", ["a dog", "a cat"]),
  ([], "sampling.steps", 50),
  (["--steps=7"], "sampling.steps", 7),
  ([], "sampling.shift", 3.248),  # the listener's, of the trained clip
  (["--height=64"], "sampling.shift", 6.448),  # of the clip that is asked for
  (["--shift=2.5"], "sampling.shift", 2.5),
  ([], "sampling.solver", "unipc"),
  (["--solver=dpmpp"], "sampling.solver", "dpmpp"),
  (["--solver=euler"], "sampling.solver", "euler"),
  ([], "sampling.batched", True),
  (["--sequential"], "sampling.batched", False),
  ([], "sampling.guidance", "ucg2"),
  (["--guidance=sync"], "sampling.guidance", "sync"),
  (["--guidance=ucg2_null"], "sampling.guidance", "ucg2_null"),
  (
    ["--guidance=ucg3_text", "--scale_video=5,3"],
    "sampling.scales",
    {"video": {"s_t": 5.0, "s_m": 3.0}},  # in the form's own order
  ),
  (["--guidance=none", "--scale_video=5"], "sampling.scales", {}),
  ([], "sampling.scales", {}),
  (["--scale_video=3"], "sampling.scales", {"video": {"s": 3.0}}),
  (["--scale-audio=6"], "sampling.scales", {"audio": {"s": 6.0}}),
  (
    ["--guidance=ucg3", "--scale_video=3,5", "--scale_audio=2"],
    "sampling.scales",
    {"video": {"s_m": 3.0, "s_t": 5.0}, "audio": {"s_m": 2.0, "s_t": 2.0}},
  ),
  ([], "spec", TRAINED),
  (["--frames=33"], "spec", ClipSpec(33, 32, 48, 25.0)),
  (["--height=64"], "spec", ClipSpec(17, 64, 48, 25.0)),
  (["--width=16"], "spec", ClipSpec(17, 32, 16, 25.0)),
]


def test_every_setting_goes_to_its_place(monkeypatch, tmp_path):
  listener = listening(monkeypatch)
  for argv, path, expected in SETTINGS:
    told = call(listener, tmp_path, *argv)
    assert at(told, path) == expected, (argv, path)


MODELS = [
  ({"variant": "context"}, "joint", "ucg2", {}),
  ({"variant": "gate"}, "joint", "multimodal", {}),
  ({"streams": ("video",)}, "t2v", "text", {"video": {"s": 5.0}}),  # Wan2.1's
  ({"streams": ("audio",)}, "t2a", "text", {}),
]


@pytest.mark.parametrize(("model", "task", "guidance", "scales"), MODELS)
def test_guidance_if_none_is_named(
  monkeypatch, tmp_path, model, task, guidance, scales
):
  told = call(listening(monkeypatch, **model), tmp_path, f"--task={task}")
  assert told["sampling"].guidance == guidance
  assert told["sampling"].scales == scales


def test_a_clip_follows_its_image_where_no_size_is_given(monkeypatch, tmp_path):
  """Of a model whose clips do: a tall picture in the area of the clip."""
  listener = listening(monkeypatch)
  write_png(tmp_path / "tall.png", np.zeros((96, 64, 3), np.uint8))
  i2v = "--task=i2v", f"--image={tmp_path / 'tall.png'}"
  assert call(listener, tmp_path, *i2v)["spec"] == TRAINED
  listener.area = 32 * 48
  told = call(listener, tmp_path, *i2v)
  assert told["spec"] == ClipSpec(17, 48, 32, 25.0)
  assert told["image"].shape == (1, 48, 32, 3)
  about = json.loads((tmp_path / "out" / "i2v_0_0.json").read_text())
  assert (about["height"], about["width"]) == (48, 32)
  assert call(listener, tmp_path, *i2v, "--width=48")["spec"] == TRAINED
  assert call(listener, tmp_path, "--task=t2v")["spec"] == TRAINED


def test_a_scale_that_is_given_wins(monkeypatch, tmp_path):
  listener = listening(monkeypatch, streams=("video",))
  told = call(listener, tmp_path, "--task=t2v", "--scale_video=1.5")
  assert told["sampling"].scales == {"video": {"s": 1.5}}


def test_what_is_loaded(monkeypatch, tmp_path):
  listener = listening(monkeypatch)
  call(listener, tmp_path)
  expected = {"ckpt": str(tmp_path), "codecs": None, "weights": "ema", "step": None}
  assert listener.loaded == expected
  call(listener, tmp_path, "--codecs=bundle", "--weights=params", "--step=6")
  expected |= {"codecs": "bundle", "weights": "params", "step": 6}
  assert listener.loaded == expected


def test_each_clip_in_its_file_beside_its_prompt(monkeypatch, tmp_path):
  """--out, --seed and --task name the files; the i-th prompt is the i-th clip's."""
  listener = listening(monkeypatch)
  call(
    listener, tmp_path, "--task=joint", "--seed=3", "--prompt=a dog", "--prompt=a cat",
    "--shift=4", "--scale_audio=2", "--steps=6", "--width=64",
  )  # fmt: skip
  out = tmp_path / "out"
  names = [f"joint_3_{i}" for i in (0, 1)]
  assert sorted(p.name for p in out.iterdir()) == sorted(
    f"{name}.{end}" for name in names for end in ("mp4", "json")
  )
  spec = ClipSpec(17, 32, 64, 25.0)
  for i, (name, prompt) in enumerate(zip(names, ("a dog", "a cat"))):
    assert probe(out / f"{name}.mp4").fps == 25
    video, audio = read_clip(out / f"{name}.mp4", spec)
    assert abs(video.mean() - 40 * (i + 1)) < 3
    assert abs(np.abs(audio[2000:8000]).max() - 0.1 * (i + 1)) < 0.03
    settings = json.loads((out / f"{name}.json").read_text())
    assert settings == {
      "task": "joint", "prompt": prompt, "seed": 3, "guidance": "ucg2",
      "scales": {"audio": {"s": 2.0}}, "steps": 6, "shift": 4.0, "solver": "unipc",
      "batched": True, "frames": 17, "height": 32, "width": 64, "fps": 25.0,
      "sample_rate": 16000, "stride": 8, "negative_prompt_video": "blurred",
      "negative_prompt_audio": "", "ckpt": str(tmp_path),
      "codecs": None, "step": 9, "weights": "ema",
      "fingerprints": {"params": "Pa", "codecs": "Co"},
      "batch": {
        "index": i, "prompt": ["a dog", "a cat"], "seed": [3],
        "negative_prompt_video": ["blurred"], "negative_prompt_audio": [""],
      },
    }  # fmt: skip


@pytest.fixture(scope="module")
def media(tmp_path_factory):
  """A picture in two halves, a rising sound and a film that grows light."""
  root = tmp_path_factory.mktemp("media")
  picture = np.full((32, 48, 3), 200, np.uint8)
  picture[:, :24] = 30
  write_png(root / "first.png", picture)
  wave = np.linspace(0, 0.5, 16000).astype(np.float32)
  write_wav(root / "voice.wav", wave)
  film = np.repeat(np.arange(20, 220, 10, dtype=np.uint8), 32 * 48 * 3)
  write_mp4(root / "film.mp4", film.reshape(20, 32, 48, 3), 25.0, wave[:12800])
  return root


def test_what_is_given_is_read_and_kept(monkeypatch, tmp_path, media):
  """--image, --audio and --video, once for every prompt; the result has them too."""
  listener = listening(monkeypatch)
  two = ("--prompt=a dog", "--prompt=a cat")
  told = call(
    listener, tmp_path, "--task=ti2av", f"--image={media / 'first.png'}", *two
  )
  assert told["image"].shape == (2, 32, 48, 3) and {"audio", "video"}.isdisjoint(told)
  assert (told["image"][:, :, :24] == 30).all() and (
    told["image"][:, :, 24:] > 90
  ).all()
  told = call(listener, tmp_path, "--task=a2v", f"--audio={media / 'voice.wav'}", *two)
  assert told["audio"].shape == (2, TRAINED.samples) and "image" not in told
  expected = np.arange(TRAINED.samples) / 15999 / 2
  np.testing.assert_allclose(told["audio"], [expected, expected], atol=1e-3)
  _, sound = read_clip(tmp_path / "out/a2v_0_1.mp4", TRAINED)
  assert np.corrcoef(sound, expected)[0, 1] > 0.6  # AAC has no slow rise
  told = call(listener, tmp_path, "--task=v2a", f"--video={media / 'film.mp4'}", *two)
  light = told["video"].mean((2, 3, 4))
  np.testing.assert_allclose(light, 2 * [np.arange(20, 190, 10)], atol=4)
  video, sound = read_clip(tmp_path / "out/v2a_0_1.mp4", TRAINED)
  np.testing.assert_allclose(video.mean((1, 2, 3)), np.arange(20, 190, 10), atol=6)
  assert abs(np.abs(sound[2000:8000]).max() - 0.2) < 0.05  # the second made clip's
  call(listener, tmp_path, "--task=t2a", *two)
  heard = read_audio(tmp_path / "out/t2a_0_1.wav")
  assert heard.shape == (TRAINED.samples,) and abs(np.abs(heard).max() - 0.2) < 1e-3
  assert not (tmp_path / "out/t2a_0_1.mp4").exists()


LINES = [
  {"id": "a.1", "prompt": "one", "seed": 11},
  {"id": "b", "prompt": "two", "seed": 12, "image": "first.png"},
  {"id": "c", "prompt": "three", "negative_prompt_audio": "hum"},
  {"id": "d", "prompt": "four", "seed": 14},
  {
    "id": "e",
    "prompt": "five",
    "seed": 15,
    "negative_prompt": "",
    "negative_prompt_video": "grey",
  },
]


def test_each_prompt_may_have_a_seed_and_a_file_of_its_own(monkeypatch, tmp_path):
  """The i-th --image, --audio, --video and --seed are the i-th prompt's."""
  paths = {name: [] for name in ("image", "audio", "video")}
  for i in range(2):
    for name, end in (("image", "png"), ("audio", "wav"), ("video", "mp4")):
      paths[name].append(tmp_path / f"{i}.{end}")
    write_png(paths["image"][i], np.full((32, 48, 3), 50 + 100 * i, np.uint8))
    write_wav(paths["audio"][i], np.full(16000, 0.1 + 0.3 * i, np.float32))
    film = np.full((17, 32, 48, 3), 200 - 100 * i, np.uint8)
    write_mp4(paths["video"][i], film, 25.0, np.zeros(TRAINED.samples, np.float32))
  listener = listening(monkeypatch)
  flags = ["--prompt=a dog", "--prompt=a cat", "--seed=8", "--seed=5"]
  for task, means in (
    ("ti2av", {"image": (50, 150)}),
    ("a2v", {"audio": (0.1, 0.4), "image": (50, 150)}),
    ("v2a", {"video": (200, 100)}),
  ):
    given = [f"--{name}={path}" for name in means for path in paths[name]]
    told = call(listener, tmp_path, f"--task={task}", *flags, *given)
    assert told["prompts"] == ["a dog", "a cat"] and told["seed"] == [8, 5]
    for name, values in means.items():
      assert len(told[name]) == 2
      for row, value in zip(told[name], values):
        assert abs(row.mean() - value) < 0.02 * value
    for i, seed in enumerate((8, 5)):
      about = json.loads((tmp_path / f"out/{task}_{seed}_{i}.json").read_text())
      assert about["seed"] == seed and about["prompt"] == told["prompts"][i]
      assert {name: about[name] for name in means} == {
        name: str(paths[name][i]) for name in means
      }


def test_a_manifest_in_parts_and_batches(monkeypatch, tmp_path, media):
  """Every line once, with its own seed; those with an image first."""
  path = media / "set.jsonl"
  path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
  listener = listening(monkeypatch)
  given = (f"--manifest={path}", "--negative_prompt=dull", "--steps=5")
  part = ("--process_index=1", "--process_count=2")
  call(listener, tmp_path, *given, *part)
  told = [(c["prompts"], c["seed"], "image" in c) for c in listener.calls]
  assert told == [(["two"], [12], True), (["four"], [14], False)]
  dull = {"video": ["dull"], "audio": ["dull"]}
  assert all(c["negative"] == dull for c in listener.calls)
  listener.calls.clear()
  call(listener, tmp_path, *given, "--batch=2")
  told = [(c["prompts"], c["seed"], "image" in c) for c in listener.calls]
  assert told == [(["one", "three"], [11, 0], False), (["five"], [15], False)]
  # A line's own negative prompts are before those of the flags.
  assert [c["negative"] for c in listener.calls] == [
    {"video": ["dull", "dull"], "audio": ["dull", "hum"]},
    {"video": ["grey"], "audio": [""]},
  ]
  out = tmp_path / "out"
  for line, level in zip(LINES, (40, 40, 80, 40, 40)):
    settings = json.loads((out / f"{line['id']}.json").read_text())
    assert settings["prompt"] == line["prompt"]
    assert settings["seed"] == line.get("seed", 0) and settings["steps"] == 5
    video, _ = read_clip(out / f"{line['id']}.mp4", TRAINED)
    assert abs(video.mean() - level) < 3


REFUSED = [
  (["--prompt=a", "--manifest=x.jsonl"], "one of them only"),
  (["--prompt= "], "--prompt is empty"),
  (["--task=dance"], "unknown task 'dance'"),
  (["--task=a2v"], "needs audio: give --audio FILE"),
  (["--task=v2a"], "needs video: give --video FILE"),
  (["--task=ti2av"], "needs image: give --image FILE"),
  (["--task=t2v", "--audio=x.wav"], "t2v makes no use of audio"),
  (["--manifest=x.jsonl", "--image=x.png"], "--image with --manifest"),
  (["--manifest=x.jsonl", "--seed=0"], "--seed with --manifest"),
  (["--image=x.png", "--image=y.png"], "--image: got 2 for 1 prompts"),
  (["--seed=1", "--seed=2"], "--seed: got 2 for 1 prompts"),
  (["--prompt=a", "--prompt=b", "--prompt=c", "--seed=1", "--seed=2"], "got 2 for 3"),
  (["--seed=-1"], "seed -1: expected"),
  (["--settings=x.json", "--manifest=x.jsonl"], "--settings or --manifest"),
  (["--steps=0"], "--steps: got 0"),
  (["--image=none.png"], "no file none.png"),
  (["--solver=heun"], "heun"),
  (["--weights=adam"], "adam"),
  (["stray"], "unexpected argument 'stray'"),
  (["--scale_video=1,2"], "--scale_video: got 2 values; expected 1 (s)"),
  (["--guidance=ucg2_nil"], "'ucg2_nil' is unknown"),
  (
    ["--negative_prompt_audio=a", "--negative_prompt_audio=b"],
    "--negative_prompt_audio: got 2 for 1 prompts",
  ),
  (
    ["--manifest=x.jsonl", "--negative_prompt=a", "--negative_prompt=b"],
    "--negative_prompt with --manifest",
  ),
  (["--scale_audio=loud"], "--scale_audio: got loud"),
]


def test_mistakes_are_said_before_anything_is_made(monkeypatch, tmp_path, capsys):
  listener = listening(monkeypatch)
  for argv, words in REFUSED:
    with pytest.raises(SystemExit) as e:
      call(listener, tmp_path, *argv)
    error = capsys.readouterr().err
    assert e.value.code == 2 and error.startswith("error: ") and words in error, argv
    assert len(error.splitlines()) == 1, error
  assert not listener.calls
  call(listener, tmp_path, "--steps=1")  # the least that there is
  for missing in ("--ckpt=x", "--out=x"):
    with pytest.raises(SystemExit):
      command("generate").run(missing, "--prompt=a cat")
  sound = tmp_path / "short.wav"
  write_wav(sound, np.zeros(TRAINED.samples - 1, np.float32))
  with pytest.raises(SystemExit):
    call(listener, tmp_path, "--task=a2v", f"--audio={sound}")
  assert "0.67 s" in capsys.readouterr().err
  write_wav(sound, np.zeros(TRAINED.samples, np.float32))  # exactly enough
  call(listener, tmp_path, "--task=a2v", f"--audio={sound}")


def test_progress_is_one_for_each_step(monkeypatch, tmp_path, capsys):
  listener = listening(monkeypatch)
  made = listener.generate

  def generate(task, prompts, *, progress, sampling, **given):
    for i in range(sampling.steps):
      progress(i)
    return made(task, prompts, sampling=sampling, **given)

  listener.generate = types.MethodType(
    lambda self, *a, **k: generate(*a, **k), listener
  )
  call(listener, tmp_path, "--steps=4")
  assert "4/4" in capsys.readouterr().err
