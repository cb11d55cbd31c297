"""What `generate` does with each of its flags, told by a pipeline that only listens."""

import hashlib
import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from ccl_jax import processes
from ccl_jax.data.media.decode import probe, read_audio, read_clip
from ccl_jax.data.spec import ClipSpec
from ccl_jax.generation.release import Release
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
  ([], "sampling.schedule", None),
  (["--schedule=causvid"], "sampling.schedule", "causvid"),
  # A schedule has all of these of its own.
  (["--schedule=lightx2v"], "sampling.steps", 4),
  (["--schedule=lightx2v"], "sampling.shift", 5.0),
  (["--schedule=lightx2v"], "sampling.solver", "euler"),
  (["--schedule=lightx2v", "--solver=renoise"], "sampling.solver", "renoise"),
  (["--schedule=fastwan"], "sampling.guidance", "none"),
  (["--schedule=fastwan", "--guidance=none"], "sampling.shift", 1.0),
  (["--schedule=rcm"], "sampling.solver", "renoise"),
  (["--schedule=rcm"], "sampling.steps", 4),
  (["--schedule=rcm", "--steps=2"], "sampling.steps", 2),
  ([], "sampling.guidance_interval", None),
  (["--guidance_interval=0.25,0.9"], "sampling.guidance_interval", (0.25, 0.9)),
  ([], "sampling.guidance_every", None),
  (["--guidance_every=3"], "sampling.guidance_every", 3),
  ([], "sampling.cache", None),
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
  ([], "sampling.skip_block", -1),
  (["--skip_block=1"], "sampling.skip_block", 1),
  (["--skip_block=-1"], "sampling.skip_block", -1),
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
  (["--size=64x16"], "spec", ClipSpec(17, 16, 64, 25.0)),  # WxH
  ([], "sampling.window", None),
  (["--frames=37", "--window=17"], "sampling.window", 17),
  ([], "sampling.overlap", None),
  (["--frames=37", "--window=17", "--overlap=4"], "sampling.overlap", 4),
  (["--seconds=1.3"], "spec", ClipSpec(33, 32, 48, 25.0)),  # of 29, 33: 32.5 is nearer
  (["--seconds=1.2"], "spec", ClipSpec(29, 32, 48, 25.0)),  # of 30 frames
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
  ({"variant": "fusion"}, "joint", "text", {}),
]


@pytest.mark.parametrize(("model", "task", "guidance", "scales"), MODELS)
def test_guidance_if_none_is_named(
  monkeypatch, tmp_path, model, task, guidance, scales
):
  told = call(listening(monkeypatch, **model), tmp_path, f"--task={task}")
  assert told["sampling"].guidance == guidance
  assert told["sampling"].scales == scales


def test_a_release_states_its_guidance(monkeypatch, tmp_path):
  """Its form, its scales of this form, and the block that negative evaluations lack."""
  listener = listening(monkeypatch, variant="fusion")
  scales = {"video": (4.5,), "audio": (2.5,)}
  listener.guidance = {"form": "text", "scales": scales, "skip_block": 2}
  own = {"video": {"s": 4.5}, "audio": {"s": 2.5}}
  for argv, form, expected, skip in (
    ([], "text", own, 2),
    (["--scale_audio=6"], "text", {"video": {"s": 4.5}, "audio": {"s": 6.0}}, 2),
    (["--skip_block=-1"], "text", own, -1),
    (["--skip_block=0"], "text", own, 0),
    (["--guidance=none"], "none", {}, -1),
    (["--guidance=multimodal2"], "multimodal2", {}, 2),
  ):
    told = call(listener, tmp_path, "--task=joint", *argv)["sampling"]
    assert (told.guidance, told.scales, told.skip_block) == (form, expected, skip)
  about = json.loads((tmp_path / "out" / "joint_0_0.json").read_text())
  settings = f"--settings={tmp_path / 'out' / 'joint_0_0.json'}"
  assert about["skip_block"] == 2
  command("generate").run(settings, f"--out={tmp_path / 'out'}")
  assert listener.calls[-1]["sampling"].skip_block == 2
  # No block was skipped: none is again, whatever the release does.
  call(listener, tmp_path, "--task=joint", "--skip_block=-1", "--seed=7")
  settings = f"--settings={tmp_path / 'out' / 'joint_7_0.json'}"
  command("generate").run(settings, f"--out={tmp_path / 'out'}")
  assert listener.calls[-1]["sampling"].skip_block == -1
  command("generate").run(settings, f"--out={tmp_path / 'out'}", "--skip_block=1")
  assert listener.calls[-1]["sampling"].skip_block == 1


def test_a_clip_follows_its_image_where_no_size_is_given(monkeypatch, tmp_path):
  """Of a model whose clips do: a tall picture in the area of the clip."""
  listener = listening(monkeypatch)
  write_png(tmp_path / "tall.png", np.zeros((96, 64, 3), np.uint8))
  i2v = "--task=i2v", f"--image={tmp_path / 'tall.png'}"
  assert call(listener, tmp_path, *i2v)["spec"] == TRAINED
  listener.release = Release(area=32 * 48)
  told = call(listener, tmp_path, *i2v)
  assert told["spec"] == ClipSpec(17, 48, 32, 25.0)
  assert told["image"].shape == (1, 48, 32, 3)
  about = json.loads((tmp_path / "out" / "i2v_0_0_2.json").read_text())
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
  # The prompt, and the negative prompts of the video and the sound.
  expected |= {
    "loras": [],
    "choices": [],
    "texts": ["a cat", "blurred", ""],
    "tile": "auto",
  }
  expected |= {"quantize": None}
  loaded = lambda: {k: v for k, v in listener.loaded.items() if k != "mesh"}
  assert loaded() == expected
  call(listener, tmp_path, "--codecs=bundle", "--weights=params", "--step=6")
  expected |= {"codecs": "bundle", "weights": "params", "step": 6}
  assert loaded() == expected


def test_the_tiles_that_a_video_is_decoded_by(monkeypatch, tmp_path, capsys):
  """Asked for, and told beside the clip."""
  listener = listening(monkeypatch)
  for value in ("64", "off"):
    call(listener, tmp_path, f"--vae_tile={value}")
    assert listener.loaded["tile"] == value
  capsys.readouterr()
  for argv, words in (
    (["--vae_tile=big"], "--vae_tile: got big; expected auto, off, or pixels such as"),
    (["--vae_tile=0"], "--vae_tile: got 0"),
    (["--vae_tile=-256"], "--vae_tile: got -256"),
    (["--task=t2a", "--vae_tile=64"], "--vae_tile does nothing: task t2a makes no"),
  ):
    listener.loaded = None
    with pytest.raises(SystemExit) as e:
      call(listener, tmp_path, *argv)
    error = capsys.readouterr().err
    assert e.value.code == 2 and words in error and error.count("\n") == 1
    assert listener.loaded is None
  listener.made = {"vae_tile": "64"}
  call(listener, tmp_path)
  about = json.loads((tmp_path / "out" / "joint_0_0_2.json").read_text())
  assert about["vae_tile"] == "64"
  settings = f"--settings={tmp_path / 'out' / 'joint_0_0_2.json'}"
  command("generate").run(settings, f"--out={tmp_path / 'again'}")
  assert listener.loaded["tile"] == "64"


def test_the_devices_that_clips_are_made_on(monkeypatch, tmp_path, capsys):
  """All of them, by the rows that are evaluated together, or as the flag says."""
  listener = listening(monkeypatch)
  shape = lambda: tuple(listener.loaded["mesh"].shape.values())
  call(listener, tmp_path)
  said = capsys.readouterr().err
  assert shape() == (2, 2, 2, 1)  # 2 evaluations; 6 tokens of a frame, 4 heads
  assert "mesh of 8 devices: data 2, fsdp 2, context 2, tensor 1" in said
  call(listener, tmp_path, "--sequential", "--prompt=one", "--prompt=two")
  assert shape()[0] == 2
  call(listener, tmp_path, "--mesh=1,-1,2,2")
  assert shape() == (1, 2, 2, 2)
  for value, words in (("1,8", "four sizes"), ("a,1,1,1", "four numbers")):
    with pytest.raises(SystemExit) as e:
      call(listener, tmp_path, f"--mesh={value}")
    assert e.value.code == 2 and words in capsys.readouterr().err


def test_processes_that_make_a_clip_together(monkeypatch, tmp_path, capsys):
  met = []
  monkeypatch.setattr(processes, "join_processes", lambda *where: met.append(where))
  listener = listening(monkeypatch)
  call(listener, tmp_path)
  assert not met
  call(listener, tmp_path, "--distributed")
  where = ["--coordinator=host:99", "--num_processes=4", "--process_id=3"]
  call(listener, tmp_path, "--distributed", *where)
  assert met == [(None, None, None), ("host:99", 4, 3)]
  for argv, words in (
    (where, "add it"),
    (
      ["--distributed", "--process_index=0", "--manifest=x.txt"],
      "leave one of both out",
    ),
  ):
    with pytest.raises(SystemExit) as e:
      call(listener, tmp_path, *argv)
    assert e.value.code == 2 and words in capsys.readouterr().err


def test_a_calibration_is_measured_and_used(monkeypatch, tmp_path, capsys):
  """--calibrate watches the clip's steps and writes what it measures; --cache is told
  with its whole path, and refused for another task or form of guidance.
  """
  listener, file = listening(monkeypatch), tmp_path / "c.json"
  ratios = {"context": {"video": [1.0, 0.5]}, "cond": {"video": [1.0, 0.25]}}

  def watched(*args, watch, **given):
    if watch is not None:
      row = lambda a, b: {"context+cond/video": jnp.array([a, b]).reshape(2, 1, 1, 1)}
      watch(0, row(4.0, 4.0))
      watch(1, row(2.0, 1.0))
    return type(listener).generate(listener, *args, **given)

  monkeypatch.setattr(listener, "generate", watched)
  call(listener, tmp_path, f"--calibrate={file}", "--task=joint")
  about = {"task": "joint", "guidance": "ucg2", "params": "Pa", "ratios": ratios}
  assert json.loads(file.read_text()) == about
  monkeypatch.chdir(tmp_path)
  told = call(listener, tmp_path, "--cache=c.json:0.50")["sampling"]
  assert told.cache == f"{file}:0.5"
  about = json.loads((tmp_path / "out" / "joint_0_0_2.json").read_text())
  assert about["cache"] == f"{file}:0.5"
  digest = hashlib.sha256(file.read_bytes()).hexdigest()
  assert about["fingerprints"][str(file)] == digest
  assert call(listener, tmp_path, "--cache=c.json")["sampling"].cache == f"{file}:0.12"
  capsys.readouterr()
  for argv, words in (
    (["--guidance=sync"], "measured with guidance ucg2, and this is sync"),
    (["--task=t2a"], "measured with task joint, and this is t2a"),
    (["--schedule=rcm"], "--cache does nothing with --schedule rcm"),
    (["--calibrate=d.json"], "--calibrate with --cache"),
  ):
    count = len(listener.calls)
    with pytest.raises(SystemExit) as e:
      call(listener, tmp_path, "--cache=c.json", *argv)
    error = capsys.readouterr().err
    assert e.value.code == 2 and words in error and error.count("\n") == 1
    assert len(listener.calls) == count


def test_loras_are_added_and_told(monkeypatch, tmp_path, capsys):
  """Each --lora with its strength, 1 where none is said, by its whole path."""
  listener = listening(monkeypatch)
  for name in ("a", "b"):
    save_file({"x.lora_A.weight": np.zeros((1, 1))}, tmp_path / f"{name}.safetensors")
  monkeypatch.chdir(tmp_path)
  a, b = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
  call(listener, tmp_path, "--lora=a.safetensors:0.50", f"--lora={b}")
  assert listener.loaded["loras"] == [f"{a}:0.5", f"{b}:1.0"]
  about = json.loads((tmp_path / "out" / "joint_0_0.json").read_text())
  assert about["lora"] == [f"{a}:0.5", f"{b}:1.0"]
  digest = hashlib.sha256(a.read_bytes()).hexdigest()
  assert about["fingerprints"][str(a)] == digest
  call(listener, tmp_path)  # without them, another clip
  about = json.loads((tmp_path / "out" / "joint_0_0_2.json").read_text())
  assert "lora" not in about
  a.write_bytes(a.read_bytes()[:-1])
  capsys.readouterr()
  for wrong, said in (("a.safetensors", "truncated"), ("c:1", "no file or folder c"),
                      ("b.safetensors:much", "expected FILE:STRENGTH")):  # fmt: skip
    listener.loaded = None
    with pytest.raises(SystemExit) as e:
      call(listener, tmp_path, f"--lora={wrong}")
    error = capsys.readouterr().err
    assert e.value.code == 2 and said in error and error.count("\n") == 1
    assert listener.loaded is None


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
      "batched": True, "skip_block": -1, "frames": 17, "height": 32, "width": 64,
      "fps": 25.0, "audio_rate": None,
      "sample_rate": 16000, "stride": 8, "negative_prompt_video": "blurred",
      "negative_prompt_audio": "", "ckpt": str(tmp_path),
      "codecs": None, "step": 9, "weights": "ema",
      "fingerprints": {"params": "Pa", "codecs": "Co"}, "vae_tile": "off",
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
  voice = f"--audio={media / 'voice.wav'}", "--frames=17"  # it lasts 25
  told = call(listener, tmp_path, "--task=a2v", *voice, *two)
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
  # All that these clips are made of, before the first of them; the lines with an image
  # are made first.
  assert listener.loaded["texts"] == ["two", "four", "dull", "dull"]
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
  (["--schedule=lcm"], "--schedule: got lcm; expected one of lightx2v, causvid"),
  (
    ["--schedule=rcm", "--steps=5"],
    "--steps 5 contradicts --schedule rcm, which has 4",
  ),
  (["--schedule=lightx2v", "--steps=3"], "which has 4: leave --steps out"),
  (["--schedule=causvid", "--guidance=text"], "--guidance text contradicts --schedule"),
  (["--schedule=causvid", "--solver=unipc"], "which has renoise: leave --solver out"),
  (["--schedule=lightx2v", "--shift=8"], "--shift 8.0 contradicts --schedule lightx2v"),
  (["--schedule=rcm", "--scale_video=4"], "guidance none has no scales"),
  (["--schedule=rcm", "--negative_prompt=x"], "none evaluates no negative prompt"),
  (["--schedule=rcm", "--guidance_every=2"], "nothing with guidance none"),
  (["--solver=renoise"], "--solver renoise needs the --schedule"),
  (["--guidance_every=0"], "--guidance_every: got 0"),
  (["--guidance=none", "--guidance_interval=0,1"], "nothing with guidance none"),
  (["--guidance_interval=0.5"], "--guidance_interval: got 0.5; expected LOW,HIGH"),
  (["--guidance_interval=0.9,0.2"], "--guidance_interval: got 0.9,0.2; expected LOW"),
  (["--guidance_interval=-1,0.2"], "--guidance_interval: got -1.0,0.2; expected LOW"),
  (["--guidance_interval=low,1"], "--guidance_interval: got low,1"),
  (
    ["--steps=2", "--shift=1", "--guidance_interval=0.1,0.2"],
    "has none of the 2 steps, whose noise levels are 0.999, 0.5: widen it",
  ),
  (["--cache=none.json"], "none.json"),
  (["--cache=none.json:0"], "expected FILE:THRESHOLD"),
  (["--calibrate=c.json", "--guidance_every=2"], "--calibrate with --guidance_every"),
  (["--calibrate=c.json", "--schedule=rcm"], "--calibrate with --schedule"),
  (["--manifest=x.jsonl", "--calibrate=c.json"], "--calibrate with --manifest"),
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
    call(listener, tmp_path, "--task=a2v", f"--audio={sound}", "--frames=17")
  assert "0.67 s" in capsys.readouterr().err
  told = call(listener, tmp_path, "--task=a2v", f"--audio={sound}")
  assert told["spec"].frames == 13
  write_wav(sound, np.zeros(TRAINED.samples, np.float32))  # exactly enough
  told = call(listener, tmp_path, "--task=a2v", f"--audio={sound}")
  assert told["spec"] == TRAINED


def test_guidance_of_the_report_is_the_default(monkeypatch, tmp_path):
  """A form or a scale that a flag names wins; another form has scales of its own."""
  listener = listening(monkeypatch)
  listener.guidance = {"form": "ucg2", "scales": {"video": [2.0], "audio": [2.5]}}
  own = {"video": {"s": 2.0}, "audio": {"s": 2.5}}
  for argv, form, scales in (
    ([], "ucg2", own),
    (["--scale_video=4"], "ucg2", own | {"video": {"s": 4.0}}),
    (["--guidance=ucg2"], "ucg2", own),
    (["--guidance=sync"], "sync", {}),
    (["--guidance=sync", "--scale_audio=1"], "sync", {"audio": {"s": 1.0}}),
  ):
    told = call(listener, tmp_path, *argv)["sampling"]
    assert (told.guidance, told.scales) == (form, scales), argv


IDLE = [
  (["--guidance=none", "--scale_video=5"], "guidance none has no scales"),
  (["--task=t2v", "--scale_audio=5"], "task t2v makes no sound"),
  (["--task=t2a", "--scale_video=5"], "makes a picture: joint, ti2av, t2v, i2v, a2v"),
  (["--task=t2v", "--negative_prompt_audio=hum"], "makes sound: joint, ti2av, t2a"),
  (["--guidance=modality", "--negative_prompt=hum"], "evaluates no negative prompt"),
  (["--task=t2a", "--size=64x64"], "--size does nothing"),
  (["--task=t2a", "--height=64"], "--height does nothing"),
  (["--batch=2"], "--batch does nothing without --manifest"),
  (["--process_index=0"], "--process_index does nothing without --manifest"),
  (["--seconds=1", "--frames=17"], "--seconds and --frames: expected one"),
  (["--size=64x64", "--width=64"], "--size and --width: expected one"),
  (["--size=64"], "--size: got 64; expected WxH"),
  (["--seconds=-1"], "--seconds: got -1"),
  (["--seconds=nan"], "--seconds: got nan"),
  (["--shift=inf"], "--shift: got inf"),
  (["--scale_video=nan"], "--scale_video: got nan"),
]


@pytest.mark.parametrize(("argv", "words"), IDLE)
def test_a_flag_that_would_do_nothing_is_refused(
  monkeypatch, tmp_path, capsys, argv, words
):
  """Before anything is loaded."""
  listener = listening(monkeypatch)
  with pytest.raises(SystemExit) as e:
    call(listener, tmp_path, *argv)
  error = capsys.readouterr().err
  assert e.value.code == 2 and words in error and error.count("\n") == 1, error
  assert listener.loaded is None and not (tmp_path / "out").exists()


def test_no_clip_takes_the_place_of_another(monkeypatch, tmp_path, capsys):
  """Another prompt or another setting gets a number; the same clip stays one."""
  listener = listening(monkeypatch)
  for argv in (["--prompt=a dog"], ["--prompt=a cat"], ["--prompt=a cat", "--steps=3"]):
    for _ in range(2):
      call(listener, tmp_path, *argv)
  out = tmp_path / "out"
  told = {
    p.stem: [json.loads(p.read_text())[k] for k in ("prompt", "steps")]
    for p in out.glob("*.json")
  }
  assert told == {
    "joint_0_0": ["a dog", 50],
    "joint_0_0_2": ["a cat", 50],
    "joint_0_0_3": ["a cat", 3],
  }
  assert sorted(p.stem for p in out.glob("*.mp4")) == sorted(told)
  assert capsys.readouterr().out.split()[-1] == str(out / "joint_0_0_3.mp4")


def test_a_list_of_prompts(monkeypatch, tmp_path, capsys):
  """A .txt has a prompt a line: blank lines are none, --seed is that of all."""
  listener = listening(monkeypatch)
  path = tmp_path / "prompts.txt"
  path.write_text('a dog\n\n a cat says "hi" \n')
  given = [f"--manifest={path}", "--seed=5"]
  call(listener, tmp_path, *given)
  assert [(c["prompts"], c["seed"]) for c in listener.calls] == [
    (["a dog"], [5]), (['a cat says "hi"'], [5])
  ]  # fmt: skip
  out = tmp_path / "out"
  assert sorted(p.name for p in out.glob("*.mp4")) == ["joint_5_1.mp4", "joint_5_3.mp4"]
  call(listener, tmp_path, *given)
  assert len(listener.calls) == 2  # they are there
  path.write_text("a cow\n")  # line 1 is another clip now
  with pytest.raises(SystemExit):
    call(listener, tmp_path, *given)
  error = capsys.readouterr().err
  assert "joint_5_1.mp4 was made otherwise (prompt a dog there, a cow here)" in error
  with pytest.raises(SystemExit):
    call(listener, tmp_path, f"--manifest={path}", "--image=x.png")
  assert "a .txt list has prompts only" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["a2v", "v2a"])
def test_sounds_and_films_of_a_manifest(monkeypatch, tmp_path, media, task):
  """As the two messages say that send one there."""
  name, file = {"a2v": ("audio", "voice.wav"), "v2a": ("video", "film.mp4")}[task]
  path = media / f"{task}.jsonl"
  path.write_text(json.dumps({"id": "x", "prompt": "a cat", name: file}) + "\n")
  listener = listening(monkeypatch)
  told = call(listener, tmp_path, f"--task={task}", f"--manifest={path}")
  assert told["task"] == task and len(told[name]) == 1
  assert (tmp_path / "out/x.mp4").is_file()
