"""Flags of `generate` that say how long and how large clips are by what they are made
from: what the pipeline is told, and what is written.
"""

import dataclasses
import json

import numpy as np
import pytest

from ccl_jax.data.media.decode import read_video
from ccl_jax.data.spec import ClipSpec
from ccl_jax.viz.media import write_mp4, write_png, write_wav
from tests.flags.command import command
from tests.flags.listener import TRAINED, Told, call, listening


def sound(path, seconds):
  write_wav(path, np.full(round(16000 * seconds), 0.1, np.float32))
  return path


def film(path, frames, *, audio=True, size=(32, 48)):
  video = np.full((frames, *size, 3), 10, np.uint8)
  n = round(frames / 25 * 16000)
  write_mp4(path, video, 25.0, np.zeros(n, np.float32) if audio else None)
  return path


def refused(capsys, *argv):
  """The one line of a mistake."""
  capsys.readouterr()
  with pytest.raises(SystemExit) as e:
    call(*argv)
  error = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error")]
  assert e.value.code == 2 and len(error) == 1
  return error[0]


def test_a_sound_gives_a_clip_its_length(monkeypatch, tmp_path, capsys):
  """Whole frames of it, 4 k + 1, shorter and longer than in training (17)."""
  listener = listening(monkeypatch)
  for seconds, frames in ((0.5, 9), (0.68, 17), (1.0, 25), (2.1, 49)):
    path = sound(tmp_path / "a.wav", seconds)
    told = call(listener, tmp_path, "--task=a2v", f"--audio={path}")
    spec = ClipSpec(frames, 32, 48, 25.0)
    assert told["spec"] == spec and told["audio"].shape == (1, spec.samples)
  about = json.loads((tmp_path / "out" / "a2v_0_0_4.json").read_text())
  assert about["frames"] == 49
  told = call(listener, tmp_path, "--task=a2v", f"--audio={path}", "--frames=21")
  assert told["spec"].frames == 21
  told = call(listener, tmp_path, "--task=a2v", f"--audio={path}", "--seconds=1")
  assert told["spec"].frames == 25
  a2v = listener, tmp_path, "--task=a2v"
  count = len(listener.calls)
  long = sound(tmp_path / "long.wav", 25)
  words = refused(capsys, *a2v, f"--audio={long}")
  assert "lasts 25 s, and a clip of training 0.68 s: give --seconds" in words
  short = sound(tmp_path / "short.wav", 0.01)
  assert "less than a frame" in refused(capsys, *a2v, f"--audio={short}")
  both = [f"--audio={tmp_path / 'a.wav'}", f"--audio={sound(tmp_path / 'b.wav', 1)}"]
  prompts = "--prompt=a", "--prompt=b"
  assert "clips of 49 frames" in refused(capsys, *a2v, *both, *prompts)
  assert len(listener.calls) == count


def test_a_size_that_an_image_gives(monkeypatch, tmp_path, capsys):
  """Of any model, in as many pixels as in training: 1536, in units of 16."""
  listener = listening(monkeypatch)
  write_png(tmp_path / "tall.png", np.zeros((96, 64, 3), np.uint8))
  image = f"--image={tmp_path / 'tall.png'}"
  assert call(listener, tmp_path, "--task=i2v", image)["spec"] == TRAINED
  told = call(listener, tmp_path, "--task=i2v", image, "--size=auto")
  assert told["spec"] == ClipSpec(17, 48, 32, 25.0)
  assert told["image"].shape == (1, 48, 32, 3)
  words = refused(capsys, listener, tmp_path, "--size=auto")
  assert "--size auto takes the aspect ratio of --image or --last_image" in words
  words = refused(capsys, listener, tmp_path, "--size=auto", "--width=32")
  assert "--size and --width" in words
  for size in ("big", "12", "x"):
    words = refused(capsys, listener, tmp_path, f"--size={size}")
    assert f"--size: got {size}; expected WxH, as 832x480, or auto" in words


def between(monkeypatch):
  """A listener whose model was trained with last frames."""
  listener = listening(monkeypatch)
  plain = listener.describe
  monkeypatch.setattr(
    "ccl_jax.generation.pipeline.describe",
    lambda *a: dataclasses.replace(plain(*a), trained_last=True),
  )
  return listener


def test_a_last_image(monkeypatch, tmp_path, capsys):
  """Read to cover the clip, told beside it, and refused where the model has none."""
  write_png(tmp_path / "a.png", np.full((96, 64, 3), 200, np.uint8))
  last = f"--last_image={tmp_path / 'a.png'}"
  words = refused(capsys, listening(monkeypatch), tmp_path, last)
  assert "last_image: this model was trained without one" in words
  listener = between(monkeypatch)
  told = call(listener, tmp_path, last)
  assert told["last_image"].shape == (1, 32, 48, 3)
  assert (told["last_image"] == 200).all() and "image" not in told
  assert call(listener, tmp_path, last, "--size=auto")["spec"].height == 48
  told = call(listener, tmp_path, "--task=i2v", last, f"--image={tmp_path / 'a.png'}")
  assert told["image"].shape == told["last_image"].shape
  about = json.loads((tmp_path / "out" / "joint_0_0.json").read_text())
  assert about["last_image"] == str(tmp_path / "a.png")
  settings = tmp_path / "out" / "joint_0_0.json"
  command("generate").run(f"--settings={settings}", f"--out={tmp_path / 'again'}")
  assert listener.calls[-1]["last_image"].shape == (1, 32, 48, 3)
  write_png(tmp_path / "a.png", np.zeros((96, 64, 3), np.uint8))
  words = refused(capsys, listener, tmp_path, f"--settings={settings}")
  assert "a.png is not the file that the settings were made with" in words
  words = refused(capsys, listener, tmp_path, "--task=t2a", last)
  assert "task t2a makes no use of last_image" in words


def test_a_film_goes_on(monkeypatch, tmp_path, capsys):
  """The clip begins with the film's last frames; 12 of 17 are new, and --overlap and
  --frames say otherwise. What is written is the film with what is new.
  """
  listener, path = listening(monkeypatch), film(tmp_path / "a.mp4", 20)
  told = call(listener, tmp_path, f"--extend={path}")
  assert told["spec"] == TRAINED  # 4 of overlap, the last one, and 12
  assert told["extend"]["video"].shape == (1, 5, 32, 48, 3)
  assert told["extend"]["audio"].shape == (1, 6 * 512)
  made = tmp_path / "out" / "joint_0_0.mp4"
  spec = dataclasses.replace(TRAINED, frames=25)
  levels = read_video(made, spec).mean((1, 2, 3))
  assert np.abs(levels[:20] - 10).max() < 3 and np.abs(levels[20:] - 40).max() < 3
  about = json.loads(made.with_suffix(".json").read_text())
  assert (about["frames"], about["extend"]) == (13, str(path))
  told = call(listener, tmp_path, f"--extend={path}", "--overlap=8", "--frames=21")
  assert told["extend"]["video"].shape[1] == 9 and told["spec"].frames == 29
  settings = f"--settings={tmp_path / 'out' / 'joint_0_0_2.json'}"
  command("generate").run(settings, f"--out={tmp_path / 'again'}")
  assert listener.calls[-1]["extend"]["video"].shape[1] == 9
  count = len(listener.calls)
  mute = film(tmp_path / "mute.mp4", 20, audio=False)
  big = film(tmp_path / "big.mp4", 20, size=(64, 64))
  write_png(tmp_path / "a.png", np.zeros((32, 48, 3), np.uint8))
  for argv, words in (
    ([f"--extend={mute}"], "has no sound, which this task makes"),
    ([f"--extend={big}"], "give --size 64x64"),
    ([f"--extend={film(tmp_path / 'short.mp4', 3)}"], "lasts 3 frames"),
    (["--extend=none.mp4"], "--extend: no file none.mp4"),
    ([f"--extend={path}", f"--image={tmp_path / 'a.png'}"], "image and extend: what"),
    (["--task=v2a", f"--video={path}", f"--extend={path}"], "makes no use of extend"),
    ([f"--extend={path}", "--frames=20"], "frames must be 4 k + 1"),
    ([f"--extend={path}", "--overlap=5"], "--overlap: got 5"),
    (["--overlap=8"], "--overlap does nothing: a clip of 17 frames is made in one"),
    (["--frames=65", "--window=8"], "--window: got 8; expected 4 k + 1"),
    (["--frames=65", "--window=17", "--overlap=16"], "expected at most 12"),
  ):
    assert words in refused(capsys, listener, tmp_path, *argv), argv
  assert len(listener.calls) == count


def test_what_a_model_of_one_picture_says(monkeypatch, tmp_path, capsys):
  """Of Wan2.1's I2V: neither a last image, nor parts, nor a film that goes on."""
  listener = listening(monkeypatch, image_form="channels")
  write_png(tmp_path / "a.png", np.zeros((32, 48, 3), np.uint8))
  image = f"--image={tmp_path / 'a.png'}"
  last = f"--last_image={tmp_path / 'a.png'}"
  words = refused(capsys, listener, tmp_path, image, last)
  assert "last_image: this model makes videos of a first frame alone" in words
  words = refused(capsys, listener, tmp_path, image, "--frames=65", "--window=17")
  assert "--window: this model begins every part with a picture" in words
  assert call(listener, tmp_path, image, "--frames=65")["spec"].frames == 65
  assert isinstance(listener.describe(tmp_path), Told)
