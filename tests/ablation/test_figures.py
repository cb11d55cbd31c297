"""Figures show the means and intervals of the results, each at its place."""

import numpy as np
import pytest
from PIL import Image

from ccl_jax.ablation import figures
from ccl_jax.ablation.readings import by_variant
from ccl_jax.errors import UsageError
from tests.ablation.stored import SIGMAS, result

T = 12.7062  # of one degree of freedom, which two seeds have


def pair(low, high):
  """Mean and half the interval of two seeds' numbers."""
  return pytest.approx(((low + high) / 2, T * (high - low) / 2), rel=1e-4)


def bars(ax):
  """The (x, mean, half) of error bars, by their labels."""
  found = {}
  for container in ax.containers:
    line, _, (lines,) = container
    segments = lines.get_segments()
    along = 0 if container.has_xerr else 1
    halves = [np.ptp(s[:, along]) / 2 for s in segments]
    found.setdefault(container.get_label(), []).extend(zip(*line.get_data(), halves))
  return found


def looks(sigma, front, back):
  ci = [front - back - 0.01, front - back + 0.03]
  return {f"{sigma}": {"foreground": front, "background": back, "ci": ci}}


@pytest.fixture
def attended():
  """Two runs of ccl with all that is stored of attention, and one of gate with maps."""
  rng = np.random.default_rng(0)
  runs = []
  for seed in (0, 1):
    contrast = looks(0.9, 0.2 + 0.1 * seed, 0.1) | looks(0.3, 0.4, 0.4)
    moved = {"0.3": {"mass": [0.1, 0.2 + 0.1 * seed], "norm": [0.5, 0.6]}}
    measures = {"foreground_background": contrast, "mass_norm": moved}
    every = {k: {"video": x, "audio": x} for k, x in measures.items()}
    maps = {"0.9": rng.random((2, 3, 4, 4)), "0.3": np.full((2, 3, 4, 4), 0.5)}
    runs.append(
      result("ccl", seed, attention=every | {"context_share": {"video": maps}})
    )
  keys = {"video": {"0.3": rng.random((3, 11))}, "audio": {"0.3": rng.random((11, 3))}}
  return [*runs, result("gate", 0, attention={"keys": keys})]


def test_only_what_there_are_numbers_of_is_drawn(attended):
  always = ["training", "loss", "loss_by_task", "steady", "information", "guidance"]
  bare = result("gate", 0)
  made = lambda runs: figures.made(by_variant(runs))
  assert list(made([bare])) == always
  assert list(made(attended)) == [*always, "foreground", "blocks", "maps", "keys"]
  loss = {"step": [], "loss": [], "by_task": {}}
  bare |= {"loss": loss, "information": {}, "stability": {}, "guidance": {}}
  assert made([bare]) == {}


def test_curves_are_thinned_by_means():
  curve = {float(k): float(v) for k, v in ((2, 4), (4, 6), (6, 1), (8, 2), (10, 9))}
  assert figures.thinned(curve, 2) == {5.0: 5.0, 10.0: 4.0}
  assert figures.thinned(curve, 9) == curve
  assert figures.thinned({}) == {}


def test_a_resumed_run_has_the_spans_of_one_that_was_not():
  """Its losses stand at 24, 49, 74, 78, 103, ... 199."""
  whole = {float(step): 1.0 for step in range(24, 200, 25)}
  resumed = {24.0: 2.0, 49.0: 4.0, 74.0: 3.0, 78.0: 5.0, 103.0: 1.0, 128.0: 2.0,
             153.0: 3.0, 178.0: 4.0, 199.0: 6.0}  # fmt: skip
  spans = [50.0, 100.0, 149.0, 199.0]
  assert list(figures.thinned(whole, 4)) == spans
  assert figures.thinned(resumed, 4) == dict(zip(spans, (3.0, 4.0, 1.5, 13 / 3)))


def test_curves_meet_where_all_seeds_have_them():
  points = figures.over_seeds({0: {1.0: 2.0, 2.0: 4.0}, 1: {2.0: 6.0, 3.0: 1.0}, 2: {}})
  assert list(points) == [2] and points[2][:2] == pair(4.0, 6.0)


def test_a_curve_is_held_against_that_of_its_seed():
  first = {0: {9.0: 2.0}, 1: {9.0: 4.0}, 2: {9.0: 1.0}}
  points = figures.beyond({0: {9.0: 2.2}, 1: {9.0: 4.8}, 7: {9.0: 9.0}}, first)
  assert points[9.0].n == 2 and points[9.0][:2] == pair(10.0, 20.0)


def test_training():
  """Synchrony with the guidance of each exchange, beside chance and real clips; by seed
  too, in the limits of what they have.
  """
  runs = [result(v, k, s) for v, k, s in (
    ("gate", 0, 0.3), ("gate", 1, 0.5), ("ccl", 0, 0.2), ("ccl", 1, 0.4)
  )]  # fmt: skip
  for run in runs[:2]:
    run["guidance"]["multimodal"] = run["guidance"].pop("ucg2")
  for run in runs:
    run["guidance"]["text"] = result("gate", 0, 0.9)["guidance"]["text"]
  ceiling = {"real, through the codecs": {"sync_r0": {"mean": 0.85}}}
  left, right = figures.training_figure(by_variant(runs), ceiling).axes
  assert [x.get_text() for x in left.get_yticklabels()] == ["gate", "ccl"]
  means = [x for of_label in bars(left).values() for x in of_label]
  expected = {-0.2: (0.3, 0.5), 0.8: (0.2, 0.4), 0.2: (0.15, 0.25), 1.2: (0.1, 0.2)}
  assert {round(y, 1): (x, half) for x, y, half in means} == {
    y: pair(*values) for y, values in expected.items()
  }
  at = {x.get_label(): x.get_xdata()[0] for x in left.lines}
  assert at["chance"] == pytest.approx(0.1) and at["real, through the codecs"] == 0.85
  dots = [tuple(x.get_xdata()) for x in left.lines if x.get_color() == "k"]
  assert dots == list(expected.values())
  assert left.get_xlim() == pytest.approx((-0.05, 0.55))
  # Shares of a tenth and of a fifth of the synchrony, in %.
  assert bars(right)["joint, video"][0][0] == pytest.approx(4.0)
  assert bars(right)["joint, audio"][0][0] == pytest.approx(8.0)


def test_every_figure_says_what_it_shows(attended):
  assert set(figures.made(by_variant(attended))) == set(figures.ABOUT) - {"heads"}


def test_losses():
  step = [10, 20, 30]
  loss = lambda *x: {"loss": {"step": step, "loss": x, "by_task": {"joint/video": x}}}
  runs = [
    result("gate", 1) | loss(4.0, None, 2.0),
    result("ccl", 0) | loss(4.0, 3.0, 2.0),
    result("ccl", 1) | loss(4.4, 3.0, 2.2),
  ]
  runs = dict(sorted(by_variant(runs).items(), reverse=True))  # gate is the first
  left, right = figures.loss_figure(runs).axes
  lines = {x.get_label(): x.get_xydata().tolist() for x in left.lines}
  assert lines["ccl"] == [[10, 4.2], [20, 3.0], [30, pytest.approx(2.1)]]
  assert lines["gate"] == [[10, 4.0], [30, 2.0]]
  (band,) = left.collections  # one seed has none
  low, high = np.sort(band.get_paths()[0].vertices[:, 1])[[0, -1]]
  assert high == pytest.approx(4.2 + T * 0.2, rel=1e-4) and low < 2.1 - T * 0.09
  against = {x.get_label(): x.get_xydata().tolist() for x in right.lines}
  assert against["gate"] == [[10, 0], [30, 0]]
  assert against["ccl"] == [[10, pytest.approx(10)], [30, pytest.approx(10)]]
  (task,) = figures.tasks_figure(runs).axes
  assert task.get_title() == "joint: video"
  assert [x.get_xydata().tolist() for x in task.lines] == list(against.values())


def test_how_steady():
  cosines = lambda x: {"difference_std": 0.02, "gradient_cosine": {"blocks a/b": x}}
  runs = [result("ccl", k, stability=cosines(x)) for k, x in enumerate((0.1, 0.3))]
  deviation, cosine = figures.steady_figure(by_variant([result("gate", 0), *runs])).axes
  assert [x.get_text() for x in deviation.get_yticklabels()] == ["gate", "ccl"]
  assert cosine.get_title() == "cosine, blocks a/b"
  (((mean, y, half),),) = bars(cosine).values()
  assert (mean, half) == pair(0.1, 0.3) and y == 1  # below gate, which has none


def test_information():
  runs = by_variant([result("ccl", 0, 0.2), result("ccl", 1, 0.4)])
  video, audio = figures.information_figure(runs).axes
  assert video.get_title() == "joint: video" and audio.get_title() == "joint: audio"
  for sigma, (x, mean, half) in zip(SIGMAS, bars(audio)["ccl"]):  # sync / 5
    assert x == sigma and (mean, half) == pair(4.0, 8.0)
  assert bars(video)["ccl"][0][1] == pytest.approx(3.0)


def test_guidance():
  runs = [result("gate", 0, 0.3), result("ccl", 0, 0.2), result("ccl", 1, 0.4)]
  gate, ccl = figures.guidance_figure(by_variant(runs)).axes[:2]
  assert ccl.get_title() == "ccl: correlation of mouths and voices"
  assert [x.get_text() for x in ccl.get_yticklabels()][:2] == ["text", "ucg2"]
  (mean, y, half), *_ = bars(ccl)["joint"]
  assert (mean, half) == pair(0.2, 0.4) and y == pytest.approx(-0.22)
  (mean, y, half), *_ = bars(ccl)["v2a"]
  assert (mean, half) == pair(0.1, 0.2) and y == pytest.approx(0.22)
  (chance,) = [x for x in gate.lines if x.get_label() == "chance"]
  assert chance.get_xdata() == pytest.approx([0.1, 0.1])


def test_foreground(attended):
  video, _, difference, _ = figures.foreground_figure(by_variant(attended)).axes
  assert video.get_ylabel() == "on context tokens, %"
  front, back = bars(video)["ccl, foreground"], bars(video)["ccl, background"]
  assert [x for x, _, _ in front] == [0.3, 0.9]
  assert front[1][1:] == pair(20.0, 30.0) and back[1][1:] == pair(10.0, 10.0)
  (points,) = bars(difference).values()
  assert points[1][1:] == pair(10.0, 20.0)


def test_one_seed_has_the_interval_over_clips(attended):
  _, _, difference, _ = figures.foreground_figure(by_variant(attended[:1])).axes
  (points,) = bars(difference).values()
  # ci of 9 to 13 % around 10 %
  assert points[1] == pytest.approx((0.9, 10.0, 2.0))


def test_blocks(attended):
  video, audio = figures.blocks_figure(by_variant(attended)).axes
  assert audio.get_title() == "audio tokens, sigma 0.3"
  mass, norm = bars(video)["ccl, attention"], bars(video)["ccl, norm"]
  assert mass[1][0] == 1 and mass[1][1:] == pair(20.0, 30.0)
  assert [mean for _, mean, _ in norm] == pytest.approx([50.0, 60.0])


def test_maps_and_keys(attended):
  runs = by_variant(attended)
  pictures = [ax for ax in figures.maps_figure(runs).get_axes() if ax.images]
  maps = attended[0]["attention"]["context_share"]["video"]
  assert len(pictures) == 2 * 3 + 2 * 2  # noise levels by frames, blocks by levels
  share = maps["0.9"].mean(0)
  np.testing.assert_allclose(pictures[3].images[0].get_array(), share[0])
  assert pictures[3].images[0].get_clim() == (share.min(), share.max())
  np.testing.assert_allclose(pictures[7].images[0].get_array(), maps["0.9"][0].mean(0))
  keys = attended[2]["attention"]["keys"]
  video, audio = [ax for ax in figures.keys_figure(runs).axes if ax.images][:2]
  np.testing.assert_array_equal(video.images[0].get_array(), keys["video"]["0.3"])
  assert video.get_xlabel() == "audio token" and audio.get_xlabel() == "video latent"


def test_the_order_of_results_changes_no_byte(attended, tmp_path):
  first = figures.write_figures(attended, tmp_path / "a")
  figures.write_figures(attended[::-1], tmp_path / "b")
  for path in first:
    assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    picture = np.asarray(Image.open(path))
    assert picture.shape[1:] == (1100, 3) and picture.std() > 10


def test_versions_are_not_mixed(tmp_path):
  with pytest.raises(UsageError, match="differ in version: got 3f2a of gate-0; b77 of"):
    figures.write_figures(
      [result("gate", 0), result("ccl", 0, version="b77")], tmp_path
    )
  assert not list(tmp_path.iterdir())
