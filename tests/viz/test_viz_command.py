"""`python -m ccl_jax.viz`: what is drawn of what, and mistakes that are a line."""

import json
import pathlib

import numpy as np
import pytest
from matplotlib.figure import Figure

from ccl_jax.generation.attention_maps import Maps
from ccl_jax.viz.__main__ import main
from ccl_jax.viz.media import write_mp4, write_wav


@pytest.fixture
def drawn(monkeypatch):
  """The figures that were saved, by the name of their file."""
  figures = {}
  plain = Figure.savefig

  def savefig(self, path, **options):
    figures[str(path)] = self
    plain(self, path, **options)

  monkeypatch.setattr(Figure, "savefig", savefig)
  return figures


def unseen(figures):
  """What takes the place of `savefig`: the figure is kept, and its file is empty."""

  def savefig(figure, path, **options):
    figures[str(path)] = figure
    pathlib.Path(path).touch()

  return savefig


def run(*argv):
  with pytest.raises(SystemExit) as e:
    main([*map(str, argv)])
  return e.value.code


def one(drawn):
  (figure,) = drawn.values()
  return figure


def workdir(path, losses, held_out=None):
  path.mkdir()
  rows = [{"step": 10 * i, "loss": x, "loss/joint/video": 2 * x,
           "loss/joint/audio": None} for i, x in enumerate(losses)]  # fmt: skip
  if held_out is not None:
    rows.append({"step": 100, "held_out/joint/video": held_out})
  (path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
  return path


def test_losses_of_runs(tmp_path, drawn, capsys):
  """A plot of all and one a task, and each of the runs has a colour; --smooth is a
  running mean.
  """
  a = workdir(tmp_path / "a", [4.0, 2.0, 1.0, 1.0], held_out=3.0)
  b = workdir(tmp_path / "b", [8.0, 8.0])
  out = tmp_path / "loss.png"
  assert run("loss", a, f"other={b}", "--smooth", 2, "--out", out) == 0
  assert capsys.readouterr().out.strip() == str(out) and out.stat().st_size > 5000
  figure = one(drawn)
  by = {ax.get_title(): ax for ax in figure.axes}
  assert set(by) == {"loss", "joint/audio", "joint/video"}
  lines = [x for x in by["loss"].lines if len(x.get_xdata())]
  np.testing.assert_array_equal(lines[0].get_ydata(), [4, 3, 1.5, 1])
  np.testing.assert_array_equal(lines[1].get_ydata(), [8, 8])
  assert lines[0].get_color() != lines[1].get_color()
  video = by["joint/video"].lines
  np.testing.assert_array_equal(video[0].get_ydata(), [8, 6, 3, 2])
  assert video[1].get_linestyle() == "--" and list(video[1].get_ydata()) == [3.0]
  (legend,) = figure.legends
  assert [x.get_text() for x in legend.get_texts()] == ["a", "other", "held out"]
  assert run("loss", tmp_path, "--out", out) == 2
  assert "has no metrics.jsonl with losses" in capsys.readouterr().err
  assert run("loss", a, a, "--out", out) == 2
  assert "two are called a" in capsys.readouterr().err
  assert run("loss", a, "--smooth", 0, "--out", out) == 2


def clip(folder, name, prompt, level, frames=9, sound=True):
  folder.mkdir(exist_ok=True)
  video = np.full((frames, 32, 48, 3), level, np.uint8)
  tone = np.sin(np.arange(frames * 640) / 5).astype(np.float32)
  write_mp4(folder / f"{name}.mp4", video, 25.0, tone if sound else None)
  (folder / f"{name}.json").write_text(json.dumps({"prompt": prompt}))


def test_clips_side_by_side(tmp_path, drawn, capsys):
  """By prompt and model: what most models have comes first; at most --prompts."""
  a, b = tmp_path / "a", tmp_path / "b"
  clip(a, "x0", "only a", 20)
  clip(a, "x1", "both $x$", 60)
  clip(b, "y0", "both $x$", 180, sound=False)
  write_wav(b / "z.wav", np.zeros(16000, np.float32))
  (b / "z.json").write_text(json.dumps({"prompt": "sound"}))
  out = tmp_path / "sheet.png"
  assert run("sheet", a, f"second={b}", "--out", out) == 0
  figure = one(drawn)
  rows = figure.subfigs
  assert [r.get_suptitle() for r in rows] == [r"both \$x\$", "only a", "sound"]
  first = rows[0].axes
  assert [ax.get_title() for ax in first[:2]] == ["a", "second"]
  shown = [ax.images[0].get_array().mean() for ax in first[:2]]
  assert np.abs(np.array(shown) - [60, 180]).max() < 4
  assert len(first[2].lines) == 1 and not first[3].lines  # the second is mute
  assert rows[1].axes[1].texts[0].get_text() == "no clip"
  drawn.clear()
  assert run("sheet", a, b, "--prompts", 1, "--out", out) == 0
  assert len(one(drawn).subfigs) == 1
  (tmp_path / "empty").mkdir()
  for argv in ((tmp_path / "empty",), (a, "--prompts", 0), (a, "--prompts", 99)):
    assert run("sheet", *argv, "--out", out) == 2
    assert capsys.readouterr().err.count("\n") == 1


def film(path, late, sound=True):
  """A picture that jumps at 0.4, 0.8 and 1.4 s, and beeps that come `late` s after."""
  frames, fps = 50, 25.0
  video = np.zeros((frames, 32, 48, 3), np.uint8)
  wave = np.zeros(int(frames / fps * 16000), np.float32)
  for t in (0.4, 0.8, 1.4):
    video[round(t * fps)] = 200
    at = round((t + late) * 16000)
    wave[at : at + 1280] = 0.5 * np.sin(np.arange(1280) / 4)
  write_mp4(path, video, fps, wave if sound else None)
  return path


def test_a_lag_is_seen(tmp_path, drawn, capsys):
  """Of films, motion and loudness on one axis; the title tells how late a sound is."""
  now, late = film(tmp_path / "now.mp4", 0.0), film(tmp_path / "late.mp4", 0.2)
  out = tmp_path / "lag.png"
  assert run("lag", now, late, "--out", out) == 0
  figure = one(drawn)
  first, second = figure.axes[:2]
  lag = lambda ax: float(ax.get_title(loc="left").split("sound ")[1].split(" ms")[0])
  assert lag(second) - lag(first) == pytest.approx(200, abs=25)
  assert "late" in second.get_title(loc="left")
  curves = {x.get_label(): x for x in figure.axes[3].lines}
  peak = lambda x: x.get_xdata()[np.asarray(x.get_ydata()).argmax()]
  assert first.get_xlim() == figure.axes[2].get_xlim() == (0, 1.96)  # 49 frames
  loud, motion = curves["loudness"], curves["motion"]
  nearest = min(abs(peak(loud) - t) for t in (0.6, 1.0, 1.6))
  assert nearest < 0.1 and min(abs(peak(motion) - t) for t in (0.4, 0.8, 1.4)) < 0.1
  mute = film(tmp_path / "mute.mp4", 0.0, sound=False)
  for path, words in ((mute, "has no sound"), (tmp_path / "none.mp4", "none.mp4")):
    assert run("lag", path, "--out", out) == 2
    assert words in capsys.readouterr().err


@pytest.fixture
def pipeline(monkeypatch):
  """One that makes a clip, and maps that tell their block and head."""
  from ccl_jax.data.spec import ClipSpec
  from ccl_jax.generation import api, attention_maps
  from ccl_jax.models.presets import build_model

  calls = {"made": [], "measured": []}
  spec = ClipSpec(9, 32, 48, 25.0)

  class Stand:
    model, takes_channels, negative = build_model("tiny").clone(depth=2), 0, "dull"
    codecs = type("", (), {"video": type("", (), {"stride": (4, 8, 8)})})

    def __init__(self):
      self.spec = spec

    def shift(self, spec):
      return 5.0

    def generate(self, task, prompt, *, sampling, seed, negative):
      calls["made"].append((task, prompt, sampling.steps, seed))
      video = np.full((1, 9, 32, 48, 3), 90, np.uint8)
      return {"video": video, "audio": np.ones((1, spec.samples), np.float32)}

  def measure(pipe, prompt, video, audio, sigmas, seed):
    calls["measured"].append((prompt, sigmas, seed, video.mean()))
    level = np.arange(2.0)[:, None] + 10 * np.arange(4.0)  # block + 10 head
    of = lambda *shape: level[..., None, None] * np.ones(shape)
    a = spec.audio_tokens
    maps = {"video": Maps(of(3, a), of(3, 6), of(a, 1)),
            "audio": Maps(of(a, 3), of(a, 1), of(3, 6))}  # fmt: skip
    return dict.fromkeys(sigmas, maps)

  monkeypatch.setattr(api, "load_model", lambda ckpt: Stand())
  monkeypatch.setattr(attention_maps, "measure", measure)
  return calls


def test_attention(tmp_path, drawn, pipeline, monkeypatch, capsys):
  """--ckpt, --prompt, --film, --steps, --at, --block, --head, --seed and --out."""
  out = tmp_path / "out"
  base = "attention", "--ckpt", "C", "--out", out
  assert run(*base, "--prompt", "a dog", "--steps", 10, "--seed", 7) == 0
  assert pipeline["made"] == [("joint", "a dog", 10, 7)]
  (prompt, sigmas, seed, _) = pipeline["measured"][0]
  assert (prompt, seed, len(sigmas)) == ("a dog", 7, 3) and sigmas[0] > sigmas[-1]
  # Of unipc, u = 0.999 (1 - step / 10) shifted by 5.
  u = 0.999 * (1 - np.array([1, 5, 9]) / 10)
  np.testing.assert_allclose(sigmas, 5 * u / (1 + 4 * u), rtol=1e-3)
  names = ["attention_steps.png", "attention_into_video.png",
           "attention_into_audio.png"]  # fmt: skip
  assert sorted(p.name for p in out.iterdir()) == sorted(names)
  steps = next(f for name, f in drawn.items() if "steps" in name)
  heat = [ax.images[1] for ax in steps.axes if len(ax.images) == 2]
  assert heat[0].get_array().shape == (2, 3)
  np.testing.assert_allclose(heat[0].get_array(), 0.5 + 10 * 1.5)  # means of all
  assert steps.get_suptitle() == "all blocks, all heads"
  grid = next(f for name, f in drawn.items() if "into_audio" in name)
  cells = [ax.images[0].get_array()[0, 0] for ax in grid.axes if ax.get_title()]
  assert cells == [b + 10 * h for b in range(2) for h in range(4)]
  drawn.clear()
  monkeypatch.setattr(Figure, "savefig", unseen(drawn))
  assert run(*base, "--prompt", "a", "--at", "2,8", "--block", 1, "--head", 3,
             "--steps", 10) == 0  # fmt: skip
  steps = next(f for name, f in drawn.items() if "steps" in name)
  assert steps.get_suptitle() == "block 1, head 3"
  heat = [ax.images[1].get_array() for ax in steps.axes if len(ax.images) == 2]
  np.testing.assert_allclose(heat, 31)
  assert len(pipeline["measured"][1][1]) == 2
  clip(tmp_path / "clips", "x", "a cat", 200)
  made = len(pipeline["made"])
  assert run(*base, "--film", tmp_path / "clips" / "x.mp4") == 0
  prompt, _, _, level = pipeline["measured"][-1]
  assert prompt == "a cat" and abs(level - 200) < 4 and len(pipeline["made"]) == made
  for argv, words in (
    ((), "--prompt is missing"),
    (("--prompt", "a", "--at", "60"), "--at: got '60'; expected numbers below 50"),
    (("--prompt", "a", "--block", 2), "--block: got 2; expected 0 to 1"),
    (("--prompt", "a", "--head", -1), "--head: got -1; expected 0 to 3"),
    (("--prompt", "a", "--steps", 0), "--steps: got 0"),
    (("--prompt", "a", "--seed", 2**64), f"seed {2**64}: expected a whole number"),
    (("--prompt", "a", "--film", tmp_path / "none.mp4"), "--film: "),
  ):
    assert run(*base, *argv) == 2
    assert words in capsys.readouterr().err
