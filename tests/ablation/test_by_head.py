"""Attention by block and head: against the network's own shares, and as it is drawn."""

import json
import types

import numpy as np
import pytest

from ccl_jax.ablation import figures, score
from ccl_jax.ablation.__main__ import main
from ccl_jax.ablation.by_head import by_head, heads_figure
from ccl_jax.ablation.measures import attention
from ccl_jax.ablation.results import read
from tests.ablation.stored import result
from tests.ablation.test_figures import bars
from tests.ablation.test_measures import data, params_of, small

__all__ = ["data"]
SIGMA = "0.5"


def test_heads_are_on_average_what_the_network_says(data):
  """It tells the mean over heads of what the context tokens get."""
  latents, text, masks = data
  model = small()
  params = params_of(model)
  mean = attention(model, params, latents, text, masks, [0.5])
  found = by_head(model, params, latents, text, masks, [0.5])
  for s in latents:
    maps = np.array(found[s][SIGMA]["maps"])
    context = np.array(mean["context_share"][s][SIGMA])
    assert maps.shape == (2, 2, *context.shape[1:])
    np.testing.assert_allclose(maps.mean(1), 1 - context, rtol=1e-4)
    assert np.ptp(maps, axis=1).max() > 1e-3  # heads differ
    cells = [c for line in found[s][SIGMA]["contrast"] for c in line]
    row = mean["foreground_background"][s][SIGMA]
    for place in ("foreground", "background"):
      assert np.mean([c[place] for c in cells]) == pytest.approx(
        1 - row[place], rel=1e-4
      )
    assert all(c["ci"][0] <= c["foreground"] - c["background"] <= c["ci"][1]
               for c in cells)  # fmt: skip


def stored():
  """One block of two heads, of which one has no foreground in any clip."""
  cell = lambda front, low, high: {
    "foreground": front, "background": 0.1, "ci": [low, high]
  }  # fmt: skip
  row = lambda front: {
    "maps": [[[[[0.0, front]], [[0.2, front]]], [[[0.5, 0.5]], [[0.5, 0.5]]]]],
    "contrast": [[cell(front, 0.1, 0.5), None]],
  }
  rows = {"0.9": row(0.2), "0.3": row(0.4), "0.6": row(0.3)}
  return {
    "run": "a-run", "steps": 9, "clips": 3, "attention": {"video": rows, "audio": rows}
  }  # fmt: skip


def test_the_figure():
  """Maps at the middle noise level, means over frames; differences in %."""
  figure = heads_figure(stored())
  maps = [ax for ax in figure.axes if ax.images]
  np.testing.assert_allclose(maps[0].images[0].get_array(), [[0.1, 0.3]])
  np.testing.assert_allclose(maps[1].images[0].get_array(), [[0.5, 0.5]])
  video, audio = [ax for ax in figure.axes if not ax.images]
  assert [x.get_text() for x in video.get_yticklabels()] == ["0.0", "0.1"]
  found = bars(video)
  assert list(found) == ["sigma 0.3", "sigma 0.6", "sigma 0.9"]
  # From 10 to 50: no interval has its mean in the middle.
  assert found["sigma 0.3"] == [pytest.approx((30.0, -0.22, 20.0))]
  assert found["sigma 0.9"] == [pytest.approx((10.0, 0.22, 20.0))]
  assert bars(audio) == found


def test_it_is_drawn_where_it_is_stored(tmp_path):
  (tmp_path / "gate-0.json").write_text(json.dumps(result("gate", 0)))
  (tmp_path / "heads.json").write_text(json.dumps(stored()))
  assert len(read(tmp_path)) == 1
  with pytest.raises(SystemExit) as e:
    main(["plots", "--results", str(tmp_path)])
  assert e.value.code == 0 and (tmp_path / "heads.png").is_file()
  assert "heads" in figures.ABOUT


def test_the_command(tmp_path, monkeypatch, capsys):
  """Of the sampled clips, with their masks in tokens."""
  clip = {"video_mask": np.ones((3, 4, 4)), "audio_mask": np.ones(5)}
  seen = []

  def measure(model, params, latents, text, masks, sigmas):
    seen.append((len(text), {s: m.shape for s, m in masks.items()}, sigmas))
    return {"video": {0.3: np.float32(0.123456789)}}

  stream = types.SimpleNamespace(patch=(1, 2, 2))
  pipeline = types.SimpleNamespace(
    model=types.SimpleNamespace(streams=(("video", stream),)), params=None
  )
  config = types.SimpleNamespace(steps=7, report=types.SimpleNamespace(clips=2))
  clips = [clip] * 4
  run = lambda _: score.Run("quick", config, pipeline, clips, [], [])
  monkeypatch.setattr(score, "open_run", run)
  latents = {"video": np.zeros((4, 1)), "audio": np.zeros((4, 1))}
  monkeypatch.setattr(score, "encoded", lambda run: (latents, np.zeros((4, 2, 2))))
  monkeypatch.setattr(score, "by_head", measure)
  argv = ["score", "--what=heads", "--workdir=quick", f"--results={tmp_path}"]
  with pytest.raises(SystemExit) as e:
    main(argv)
  assert e.value.code == 0
  assert seen == [(2, {"video": (2, 3, 2, 2), "audio": (2, 5)}, score.ATTENTION_SIGMAS)]
  assert json.loads((tmp_path / "heads.json").read_text()) == {
    "run": "quick", "steps": 7, "clips": 2, "attention": {"video": {"0.3": 0.12346}}
  }  # fmt: skip
  del clip["audio_mask"]
  with pytest.raises(SystemExit) as e:
    main(argv)
  said = capsys.readouterr().err
  assert e.value.code == 2 and "have no masks of the foreground" in said
