"""Of several clips the best: films whose sound is late, early or with the picture."""

import json
import math

import numpy as np
import pytest

from ccl_jax.errors import UsageError
from ccl_jax.generation.best import SCORES, Judge, best_of, judge_of
from ccl_jax.metrics.base import Metric, Unscorable
from ccl_jax.viz.media import write_mp4
from tests.flags.command import command
from tests.flags.listener import TRAINED, call, listening


def judge(name, scores):
  """A judge whose metric gives clips scores by their names."""

  def score(clip):
    if isinstance(scores[clip.name], str):
      raise Unscorable(scores[clip.name])
    return {SCORES[name].value: scores[clip.name], "prompt": clip.fields["prompt"]}

  return Judge(Metric(name, {}, lambda: score, needs=()), SCORES[name])


@pytest.mark.parametrize(
  ("name", "best"), [("talking", "b"), ("sync", "b"), ("desync", "c"), ("ib", "b")]
)
def test_the_best_has_most_or_is_least_off(name, best, tmp_path):
  scores = {"a": 0.5, "b": 0.9, "c": 0.1, "d": 0.9}
  paths = [tmp_path / f"{x}.mp4" for x in scores]
  found = best_of(judge(name, scores), paths, "a cat")
  assert found.best == tmp_path / f"{best}.mp4"
  assert list(found.scores.values()) == [0.5, 0.9, 0.1, 0.9]
  marked = [line for line in found.lines() if line.endswith("  best")]
  label = SCORES[name].label
  assert marked == [f"{found.best}  {label} {scores[best]:.3f}  best"]


def test_a_clip_without_a_score_is_not_the_best(tmp_path):
  scores = {"a": "no face", "b": math.nan, "c": -0.5}
  paths = [tmp_path / f"{x}.mp4" for x in scores]
  found = best_of(judge("film", scores), paths, "a cat")
  assert found.best == paths[2]
  assert found.lines()[0] == f"{paths[0]}  no face"
  found.write(tmp_path / "best.json")
  assert json.loads((tmp_path / "best.json").read_text()) == {
    "score": "Motion r",
    "clips": {"a.mp4": None, "b.mp4": None, "c.mp4": -0.5},
    "reasons": {"a.mp4": "no face", "b.mp4": "no Motion r of such a clip"},
    "best": "c.mp4",
  }
  found.require_best()
  none = best_of(judge("film", scores), paths[:1], "a cat")
  assert none.best is None
  with pytest.raises(UsageError, match=r"a\.mp4 has one: no face"):
    none.require_best()


def test_what_is_written_is_what_is_scored(tmp_path):
  """By metrics of `eval`: the sound that comes with the motion wins."""
  paths = []
  for name, delay in (("late", 0.2), ("right", 0.0), ("early", -0.2)):
    paths.append(tmp_path / f"{name}.mp4")
    frames, sound = film(0, delay)
    write_mp4(paths[-1], frames, TRAINED.fps, sound, TRAINED.sample_rate)
  found = best_of(judge_of("film", ()), paths, "a cat")
  assert found.best == paths[1] and found.scores[paths[1]] > 0.5


def test_weights_that_are_not_there_are_said_by_the_flag():
  with pytest.raises(UsageError, match="--score desync: .*no --score_weights given"):
    judge_of("desync", ())
  with pytest.raises(UsageError, match="--score: got 'nice'; expected one of talking"):
    judge_of("nice", ())
  with pytest.raises(UsageError, match="^--score_weights: no folder none"):
    judge_of("talking", ("none",))


def film(seed, delay):
  """A noisy picture of which a burst is bright; the sound is on `delay` s later."""
  rng = np.random.default_rng(seed)
  t = np.arange(TRAINED.frames) / TRAINED.fps
  time = np.arange(TRAINED.samples) / TRAINED.sample_rate
  on = lambda t: ((t > 0.24) & (t < 0.42)).astype(float)
  noise = rng.standard_normal((TRAINED.frames, TRAINED.height, TRAINED.width, 3))
  frames = 128 + 60 * on(t)[:, None, None, None] * noise
  sound = 0.3 * on(time - delay) * rng.standard_normal(len(time))
  return frames.clip(0, 255).astype(np.uint8), sound.astype(np.float32)


def test_the_command(monkeypatch, tmp_path, capsys):
  """--best_of, --score: seeds from --seed on, each prompt's own; the best is named."""
  listener = listening(monkeypatch)
  delays = {5: 0.2, 6: 0.0, 7: -0.2, 30: 0.0, 31: 0.2, 32: 0.2}

  def generate(task, prompts, *, seed, **given):
    listener.calls.append(seed)
    clips = [film(x, delays[x]) for x in seed]
    return {"video": np.stack([c[0] for c in clips]),
            "audio": np.stack([c[1] for c in clips])}  # fmt: skip

  monkeypatch.setattr(listener, "generate", generate)
  asked = "--best_of=3", "--score=film", "--prompt=a cat", "--prompt=a dog"
  call(listener, tmp_path, *asked, "--seed=5", "--seed=30")
  assert listener.calls == [[5, 30], [6, 31], [7, 32]]
  out = tmp_path / "out"
  lines = capsys.readouterr().out.splitlines()
  names = [f"joint_{x}_{i}" for i, first in enumerate((5, 30)) for x in (0, 1, 2)
           for x in [first + x]]  # fmt: skip
  assert [line.split()[0] for line in lines] == [str(out / f"{n}.mp4") for n in names]
  best = [line.split()[0] for line in lines if line.endswith("best")]
  assert best == [str(out / "joint_6_0.mp4"), str(out / "joint_30_1.mp4")]
  for first, i, name in ((5, 0, "joint_6_0.mp4"), (30, 1, "joint_30_1.mp4")):
    told = json.loads((out / f"best_joint_{first}_{i}.json").read_text())
    assert told["best"] == name and len(told["clips"]) == 3
  assert all((out / f"{name}.json").is_file() for name in names)


def test_the_score_s_networks(monkeypatch, tmp_path, capsys):
  """--score_weights is where they are looked for, before anything is made."""
  listener = listening(monkeypatch)
  (tmp_path / "nets").mkdir()
  for argv, words in (
    ([], "no --score_weights given"),
    ([f"--score_weights={tmp_path}/nets"], "not in nets"),
    ([f"--score_weights={tmp_path}/none"], "no folder"),
  ):
    with pytest.raises(SystemExit) as e:
      call(listener, tmp_path, "--best_of=2", "--score=sync", *argv)
    assert e.value.code == 2 and words in capsys.readouterr().err
  assert not listener.calls


@pytest.mark.parametrize(
  ("argv", "words"),
  [
    (["--score=film"], "--score does nothing without --best_of"),
    (["--score_weights=x"], "--score_weights does nothing without --best_of"),
    (["--best_of=1", "--score=film"], "--best_of: got 1; expected at least 2"),
    (["--best_of=2"], "--best_of needs --score"),
    (["--best_of=2", "--score=nice"], "--score: got 'nice'"),
    (["--best_of=2", "--score=film", "--task=t2v"], "t2v has no picture with a sound"),
    (["--best_of=2", "--score=film", "--task=t2a"], "t2a has no picture with a sound"),
    (["--best_of=2", "--score=film", "--manifest=x.txt"], "--best_of with --manifest"),
    (["--best_of=2", "--score=film", f"--seed={2**64 - 1}"], "the last seed would be"),
    (["--best_of=2", "--score=film", "--calibrate=c.json"], "--calibrate with --best"),
  ],
)
def test_mistakes(argv, words, monkeypatch, tmp_path, capsys):
  listener = listening(monkeypatch)
  with pytest.raises(SystemExit) as e:
    call(listener, tmp_path, *argv)
  error = capsys.readouterr().err
  assert e.value.code == 2 and words in error and len(error.splitlines()) == 1
  assert not listener.calls


def test_settings_make_one_clip_again(monkeypatch, tmp_path, capsys):
  listener = listening(monkeypatch)
  call(listener, tmp_path)
  settings = f"--settings={tmp_path / 'out' / 'joint_0_0.json'}"
  with pytest.raises(SystemExit):
    command("generate").run(
      settings, f"--out={tmp_path / 'out'}", "--best_of=2", "--score=film"
    )
  assert "--best_of with --settings" in capsys.readouterr().err
