"""Panels show the right numbers at their places, whatever a clip's length."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from ccl_jax.viz.panels import attention_panel, contact_sheet, loss_curves


@pytest.fixture
def drawn(monkeypatch):
  """The figures that were saved."""
  figures = []
  monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: figures.append(self))
  return figures


@pytest.mark.parametrize("t", [1, 2, 9])
def test_attention(tmp_path, t):
  rng = np.random.default_rng(0)
  frames = rng.integers(0, 255, (t, 32, 48, 3), np.uint8)
  groups = {"video": (0.4, 0.6), "audio": (0.3, 0.5)}
  path = tmp_path / "attention.png"
  shares = rng.random((t, 2, 3)), rng.random(11)
  attention_panel(path, frames, *shares, groups)
  picture = np.asarray(Image.open(path).convert("RGB"))
  assert picture.shape[1] >= 600 and picture.std() > 20


def test_maps_share_a_scale_and_bars_are_the_means(tmp_path, drawn):
  frames = np.arange(9, dtype=np.uint8)[:, None, None, None] * np.ones((4, 6, 3), "u1")
  video = np.arange(9 * 6).reshape(9, 2, 3) / 100
  groups = {"video": (0.4, 0.6), "audio": (0.3, 0.5)}
  attention_panel(tmp_path / "a.png", frames, video, np.arange(5) / 10, groups)
  (figure,) = drawn
  pictures = [ax.images[0] for ax in figure.axes if ax.images]
  shown = [0, 1, 3, 4, 6, 8]  # six of nine, evenly, the ends included
  assert [int(x.get_array()[0, 0, 0]) for x in pictures[:6]] == shown
  for image, i in zip(pictures[6:12], shown):
    np.testing.assert_array_equal(image.get_array(), video[i])
    assert image.get_clim() == (0, 0.53)
  line = next(ax for ax in figure.axes if ax.get_xlabel() == "audio token")
  np.testing.assert_array_equal(line.lines[0].get_ydata(), np.arange(5) / 10)
  bars = next(ax for ax in figure.axes if len(ax.patches) == 4)
  heights = [bar.get_height() for bar in bars.patches]
  assert heights == [0.4, 0.3, 0.6, 0.5]  # the foregrounds, then the backgrounds
  assert [x.get_text() for x in bars.get_legend().get_texts()] == [
    "foreground", "background"
  ]  # fmt: skip
  assert bars.get_ylim()[0] == 0 and bars.get_ylim()[1] > 0.6


def test_losses_have_a_line_for_each_task_in_their_streams_plot(tmp_path, drawn):
  rows = [
    {"step": 10, "loss": 9.0, "loss/joint/video": 1.0, "loss/v2a/audio": 3.0},
    {"step": 20, "loss": 9.0, "loss/joint/video": None, "loss/joint/audio": 2.0},
    {"step": 30, "loss": 9.0, "loss/joint/video": 0.5, "loss/v2a/audio": 1.5},
  ]
  loss_curves(tmp_path / "loss.png", rows)
  ((video, audio),) = [figure.axes for figure in drawn]
  lines = lambda ax: {x.get_label(): x.get_xydata().tolist() for x in ax.lines}
  assert lines(video) == {"joint": [[10, 1], [30, 0.5]]}
  assert lines(audio) == {"joint": [[20, 2]], "v2a": [[10, 3], [30, 1.5]]}
  assert video.get_title().startswith("video") and audio.get_yscale() == "log"


def test_frames_and_sound_of_a_clip_lie_on_one_axis(tmp_path, drawn):
  video = np.arange(25, dtype=np.uint8)[:, None, None, None] * np.ones((2, 3, 3), "u1")
  audio = np.linspace(-1, 1, 50).astype(np.float32)
  clips = [{"video": video, "audio": audio}, {"video": video[:1]}, {"audio": audio}]
  titles, seconds = ["a", "b", "c"], [2.0, 4.0, 5.0]
  contact_sheet(tmp_path / "s.png", clips, titles, seconds, frames=4)
  axes = drawn[0].axes
  strip = axes[0].images[0]
  assert strip.get_array()[0, ::3, 0].tolist() == [0, 8, 16, 24]
  assert strip.get_extent() == [0, 2, 0, 1] and axes[0].get_xlim() == (0, 2)
  time, wave = axes[1].lines[0].get_data()
  np.testing.assert_allclose(time, np.arange(50) * 2 / 50)
  np.testing.assert_array_equal(wave, audio)
  assert axes[2].images[0].get_extent() == [0, 1, 0, 1]  # a still is one of four
  assert axes[2].get_xlim() == (0, 4) and not axes[3].lines
  assert not axes[4].images and axes[5].lines[0].get_xdata()[-1] == 4.9
  assert [axes[i].get_title() for i in (0, 2, 4)] == titles
