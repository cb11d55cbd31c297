"""`generate --settings NAME.json`: the same clip again, but for the flags beside it."""

import json
import types

import numpy as np
import pytest
from safetensors.numpy import save_file

from ccl_jax.data.media.decode import read_clip
from ccl_jax.data.spec import ClipSpec
from ccl_jax.viz.media import write_wav
from tests.flags.command import command
from tests.flags.listener import call, listening

SPEC = ClipSpec(9, 16, 64, 25.0)
FLAGS = (
  "--task=a2v", "--prompt=a dog", "--prompt=a cat", "--seed=8", "--seed=5",
  "--steps=6", "--shift=4", "--solver=dpmpp", "--sequential", "--guidance=ucg3",
  "--scale_video=2,4", "--negative_prompt_video=dull", "--negative_prompt_audio=hum",
  "--negative_prompt_audio=hiss", "--frames=9", "--height=16",
  "--width=64", "--weights=params", "--codecs=bundle", "--step=7",
)  # fmt: skip


@pytest.fixture
def made(monkeypatch, tmp_path):
  """Two clips that were made together: `again(*flags)` is what the pipeline is told by
  the settings of the second one and by flags; its clips are in `out`.
  """
  sounds = [tmp_path / f"{i}.wav" for i in range(3)]
  for i, path in enumerate(sounds):
    write_wav(path, np.full(16000, 0.1 * (i + 1), np.float32))
  listener = listening(monkeypatch)
  monkeypatch.chdir(tmp_path)  # settings hold wherever one is
  save_file({"x.lora_A.weight": np.zeros((1, 1))}, tmp_path / "x.safetensors")
  given = [f"--audio={path.name}" for path in sounds[:2]]
  given.append("--lora=x.safetensors:0.25")
  first = call(listener, tmp_path, *FLAGS, *given)
  loaded, clips, out = listener.loaded, tmp_path / "out", tmp_path / "again"
  monkeypatch.chdir("/")

  def again(*flags):
    settings = f"--settings={clips / 'a2v_5_1.json'}"
    command("generate").run(settings, f"--out={out}", *flags)
    return listener.calls[-1]

  return types.SimpleNamespace(
    again=again, first=first, loaded=loaded, clips=clips, out=out, sounds=sounds,
    listener=listener,
  )  # fmt: skip


def plain(told):
  """What a pipeline is told, but for arrays."""
  return {k: v for k, v in told.items() if k != "audio"}


def test_settings_make_the_clip_again(made):
  """With the one it was made with beside it, of which nothing is written."""
  told = made.again()
  assert plain(told) == plain(made.first) and told["spec"] == SPEC
  assert told["seed"] == [8, 5] and told["prompts"] == ["a dog", "a cat"]
  np.testing.assert_array_equal(told["audio"], made.first["audio"])
  assert told["audio"].shape == (2, SPEC.samples)
  np.testing.assert_allclose(told["audio"].mean(1), [0.1, 0.2], rtol=0.01)
  assert told["sampling"].scales == {"video": {"s_m": 2.0, "s_t": 4.0}}
  expected = {"ckpt": str(made.clips.parent), "weights": "params", "step": 7}
  lora = [f"{made.clips.parent / 'x.safetensors'}:0.25"]
  expected |= {"codecs": "bundle", "loras": lora, "choices": [], "quantize": None}
  assert made.loaded["tile"] == "auto" and made.listener.loaded["tile"] == "off"
  assert made.listener.loaded | {"tile": "auto"} == made.loaded
  other = ("mesh", "texts", "tile")
  assert {k: v for k, v in made.loaded.items() if k not in other} == expected
  assert told["negative"] == {"video": ["dull"], "audio": ["hum", "hiss"]}
  assert sorted(p.name for p in made.out.iterdir()) == ["a2v_5_1.json", "a2v_5_1.mp4"]
  for name in ("a2v_5_1.json", "a2v_5_1.mp4"):
    assert (made.out / name).read_bytes() == (made.clips / name).read_bytes()
  video, _ = read_clip(made.out / "a2v_5_1.mp4", SPEC)
  assert abs(video.mean() - 80) < 3  # the second clip's


@pytest.mark.parametrize(
  ("flags", "changes"),
  [
    (["--steps=3"], {"steps": 3}),
    (["--shift=2"], {"shift": 2.0}),
    (["--solver=euler"], {"solver": "euler"}),
    (["--nosequential"], {"batched": True}),
    (["--scale_video=1"], {"scales": {"video": {"s_m": 1.0, "s_t": 1.0}}}),
    # Another form has scales of other names.
    (["--guidance=ucg2"], {"guidance": "ucg2", "scales": {}}),
    (
      ["--guidance=ucg2", "--scale_video=3"],
      {"guidance": "ucg2", "scales": {"video": {"s": 3.0}}},
    ),
  ],
)
def test_flags_beside_settings_win(made, flags, changes):
  told, first = made.again(*flags), made.first
  sampling = vars(first["sampling"]) | changes
  assert vars(told["sampling"]) == sampling
  assert {**plain(told), "sampling": 0} == {**plain(first), "sampling": 0}
  assert [p.name for p in made.out.glob("*.mp4")] == ["a2v_5_1.mp4"]


@pytest.mark.parametrize(
  ("flags", "seed", "prompt", "level"),
  [
    (["--seed=4"], 4, "a cat", 0.2),
    (["--prompt=a cow"], 5, "a cow", 0.2),
    (["--audio={}"], 5, "a cat", 0.3),
  ],
)
def test_a_clip_of_its_own_has_no_other_beside_it(made, flags, seed, prompt, level):
  told = made.again(*(flag.format(made.sounds[2]) for flag in flags))
  assert (told["seed"], told["prompts"]) == ([seed], [prompt])
  np.testing.assert_allclose(told["audio"].mean(1), [level], rtol=0.01)
  assert told["sampling"] == made.first["sampling"] and told["spec"] == SPEC
  about = json.loads((made.out / f"a2v_{seed}_0.json").read_text())
  assert "batch" not in about and about["steps"] == 6


@pytest.mark.parametrize(
  ("flags", "negative"),
  [
    (["--negative_prompt=x"], {"video": ["x"], "audio": ["x"]}),  # of both streams
    (["--negative_prompt_video=x"], {"video": ["x"], "audio": ["hum", "hiss"]}),
    (
      ["--negative_prompt=x", "--negative_prompt_audio=y"],
      {"video": ["x"], "audio": ["y"]},
    ),
    (["--seed=4"], {"video": ["dull"], "audio": ["hiss"]}),  # the second clip's own
  ],
)
def test_negative_prompts_beside_settings_win(made, flags, negative):
  assert made.again(*flags)["negative"] == negative


def test_settings_of_one_negative_prompt_are_of_both_streams(made):
  """As they were written before streams had their own."""
  path = made.clips / "a2v_5_1.json"
  about = json.loads(path.read_text()) | {"negative_prompt": "old"}
  for part in (about, about["batch"]):
    del part["negative_prompt_video"], part["negative_prompt_audio"]
  path.write_text(json.dumps(about))
  assert made.again()["negative"] == {"video": ["old"], "audio": ["old"]}


def test_settings_are_those_of_clips_alone(made):
  """Who hands on a file of settings says neither who is connected to nor what else is
  read or written.
  """
  path = made.clips / "a2v_5_1.json"
  others = {
    "distributed": True, "coordinator": "127.0.0.1:1", "num_processes": 2,
    "process_id": 1, "manifest": "/etc/passwd", "out": str(made.clips / "elsewhere"),
    "flagfile": "/etc/passwd", "mesh": ["2", "1", "1", "1"], "batch_size": 3,
  }  # fmt: skip
  path.write_text(json.dumps(json.loads(path.read_text()) | others))
  assert plain(made.again()) == plain(made.first)
  assert (made.out / "a2v_5_1.mp4").exists()
  assert not (made.clips / "elsewhere").exists()


def test_another_checkpoint_must_be_asked_for(made, monkeypatch, capsys):
  count = len(made.listener.calls)
  monkeypatch.setattr(type(made.listener), "prints", {"params": "New", "codecs": "Co"})
  with pytest.raises(SystemExit):
    made.again()
  error = capsys.readouterr().err
  assert "the params of" in error and "got New, expected Pa" in error
  assert len(made.listener.calls) == count and not made.out.exists()
  for flag in ("--ckpt=other", "--step=8", "--weights=ema", "--codecs=others"):
    made.again(flag)
    assert "note: the params of" in capsys.readouterr().err
  assert made.listener.loaded["codecs"] == "others"


def test_another_lora_must_be_asked_for(made, capsys):
  count, lora = len(made.listener.calls), made.clips.parent / "x.safetensors"
  save_file({"x.lora_A.weight": np.ones((1, 1))}, lora)
  with pytest.raises(SystemExit):
    made.again()
  error = capsys.readouterr().err
  assert f"{lora} is not the file" in error and "with --lora" in error
  assert len(made.listener.calls) == count and not made.out.exists()
  made.again(f"--lora={lora}:2")
  assert made.listener.loaded["loras"] == [f"{lora}:2.0"]
  lora.unlink()
  with pytest.raises(SystemExit):
    made.again()
  assert "no file or folder" in capsys.readouterr().err


def test_another_file_must_be_asked_for(made, capsys):
  count = len(made.listener.calls)
  made.sounds[1].write_bytes(made.sounds[2].read_bytes())
  with pytest.raises(SystemExit):
    made.again()
  assert "1.wav is not the file" in capsys.readouterr().err
  assert len(made.listener.calls) == count and not made.out.exists()
  made.again(f"--audio={made.sounds[1]}")
  assert len(made.listener.calls) == count + 1


FEW = [
  (["--schedule=lightx2v", "--solver=renoise"], {}),
  (["--schedule=rcm", "--steps=2"], {"steps": 2, "shift": 1.0, "solver": "renoise"}),
  (["--guidance_interval=0.1,0.75", "--guidance_every=2", "--steps=8"], {}),
]


@pytest.mark.parametrize(("flags", "about"), FEW)
def test_settings_of_fewer_evaluations(monkeypatch, tmp_path, flags, about):
  """They are told, and make the clip again; another schedule beside them has all of its
  own.
  """
  listener = listening(monkeypatch)
  first = call(listener, tmp_path, *flags)
  path = tmp_path / "out" / "joint_0_0.json"
  told = json.loads(path.read_text())
  assert {name: told[name] for name in about} == about
  names = {"schedule", "guidance_interval", "guidance_every", "cache"}
  given = {flag[2:].partition("=")[0] for flag in flags}
  assert names & told.keys() == names & given
  command("generate").run(f"--settings={path}", f"--out={tmp_path / 'again'}")
  again = listener.calls[-1]["sampling"]
  interval = lambda s: s.guidance_interval and tuple(s.guidance_interval)
  assert interval(again) == interval(first["sampling"])
  same = {"guidance_interval": None}
  assert vars(again) | same == vars(first["sampling"]) | same
  assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_a_schedule_beside_settings_has_all_of_its_own(made):
  told = made.again("--schedule=fastwan")["sampling"]
  own = {
    "steps": 3,
    "shift": 1.0,
    "solver": "renoise",
    "guidance": "none",
    "scales": {},
  }
  assert {name: getattr(told, name) for name in own} == own
  assert not told.batched  # what is no part of a schedule stays


def test_another_calibration_must_be_asked_for(monkeypatch, tmp_path, capsys):
  listener, file = listening(monkeypatch), tmp_path / "c.json"
  about = {"task": "joint", "guidance": "ucg2", "params": None}
  about["ratios"] = {e: {"video": [1.0, 1.0]} for e in ("context", "cond")}
  file.write_text(json.dumps(about))
  call(listener, tmp_path, f"--cache={file}:0.3")
  again = lambda *flags: command("generate").run(
    f"--settings={tmp_path / 'out' / 'joint_0_0.json'}", f"--out={tmp_path}", *flags
  )
  again()
  assert listener.calls[-1]["sampling"].cache == f"{file}:0.3"
  file.write_text(json.dumps(about, indent=1))
  count = len(listener.calls)
  with pytest.raises(SystemExit):
    again()
  error = capsys.readouterr().err
  assert f"{file} is not the file" in error and "with --cache" in error
  assert len(listener.calls) == count
  again(f"--cache={file}:0.2")
  assert listener.calls[-1]["sampling"].cache == f"{file}:0.2"
