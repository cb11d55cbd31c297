"""Correlations and lags of curves whose delay is known."""

import numpy as np
import pytest

from ccl_jax.metrics import synchrony as module
from ccl_jax.metrics.synchrony import (
  LAGS,
  PARTS,
  R,
  correlogram,
  lag_of,
  means,
  pooled_lags,
  summary,
  synchrony,
  with_lags,
)

bump = lambda t, *at: sum(np.exp(-(((t - a) / 0.06) ** 2)) for a in at)
FRAMES, CLOCK = np.arange(50) / 25, np.arange(401) / 200


def test_r_is_the_correlation_at_every_lag():
  """By numpy's, of the frames that have sound: at 25 fps a frame is 8 steps of the
  voice's curve, and a lag of 10 ms two. 30 frames; their thirds have ten each.
  """
  rng = np.random.default_rng(0)
  mouth, voice = rng.uniform(0, 1, 30), rng.uniform(0, 1, 241)
  got = correlogram(mouth, voice, 25)
  assert got.shape == (4, 81)
  np.testing.assert_allclose(LAGS, np.arange(-40, 41) / 100, atol=1e-12)
  parts = [range(30), range(10), range(10, 20), range(20, 30)]
  for part, row in zip(parts, got):
    for i, lag in enumerate(range(-40, 41)):
      pairs = [(k, 8 * k + 2 * lag) for k in part if 0 <= 8 * k + 2 * lag <= 240]
      m, v = mouth[[k for k, _ in pairs]], voice[[p for _, p in pairs]]
      want = np.corrcoef(m, v)[0, 1] if 2 * len(pairs) >= len(part) else 0
      assert row[i] == pytest.approx(want, abs=1e-9), (part, lag)


@pytest.mark.parametrize("late", [0.08, -0.08, 0.13, -0.2])
def test_a_lag_is_above_zero_where_the_sound_is_late(late):
  at = np.array([0.5, 0.9, 1.3])
  row = synchrony(bump(FRAMES, *at), bump(CLOCK, *at + late), 25)
  got = with_lags(row)
  assert got["sync_lag_ms"] == pytest.approx(1000 * late, abs=2)
  assert R not in got and got["sync_r0"] < 0.7
  assert with_lags(synchrony(bump(FRAMES, *at), bump(CLOCK, *at), 25)) == {
    "sync_r0": pytest.approx(1),
    **{name: pytest.approx(0, abs=2) for name in PARTS},
  }


def test_a_drift_shows_in_the_thirds():
  """Early in the first third of two seconds, then on time, late in the last."""
  row = synchrony(bump(FRAMES, 0.3, 1.0, 1.7), bump(CLOCK, 0.22, 1.0, 1.82), 25)
  got = with_lags(row)
  expected = {"lag_first_ms": -80, "lag_middle_ms": 0, "lag_last_ms": 120}
  for name, lag in expected.items():
    assert got[name] == pytest.approx(lag, abs=4), name


def test_what_does_not_move_has_no_lag():
  still, moves = np.full(50, 0.3), bump(FRAMES, 1.0)
  for mouth, voice in (
    (still, bump(CLOCK, 1.0)),
    (moves, np.zeros(401)),
    (moves, 0.1 + 0.003 * bump(CLOCK, 1.0)),  # its deviation is below 0.004
  ):
    assert with_lags(synchrony(mouth, voice, 25)) == {"sync_r0": 0.0}


@pytest.mark.parametrize(
  ("r", "lag"),
  [
    # A parabola's summit lies where it is, between two lags or on either side of 0.
    (lambda x: 1 - (x - 0.123) ** 2, 123),
    (lambda x: 1 - (x + 0.227) ** 2, -227),
    (lambda x: np.where(abs(x - 0.1) < 0.001, 0.7, 0.2), 100),
    (lambda x: 0.1001 - x**2, 0),
    # No summit inside, or one that chance reaches.
    (lambda x: x, None),
    (lambda x: -x, None),
    (lambda x: 0.099 - x**2, None),
    (lambda x: 0 * x, None),
  ],
)
def test_the_summit_of_a_known_curve(r, lag):
  assert lag_of(r(LAGS)) == (lag if lag is None else pytest.approx(lag, abs=0.01))


def test_a_set_s_lag_is_that_of_the_mean_of_r():
  """Parabolas of one width: the summit of their mean is the mean of their summits."""
  at = np.array([0.02, 0.05, 0.11])
  r = np.stack([np.stack([1 - (LAGS - a) ** 2] * 4) for a in at])
  r[:, 3] = LAGS  # no summit
  got = pooled_lags(r)
  assert set(got) == set(PARTS[:3])
  # Without one of three: 80, 65 and 35 ms, whose squared deviations from 60 add up.
  sem = (2 / 3 * (20**2 + 5**2 + 25**2)) ** 0.5
  for row in got.values():
    assert row["mean"] == pytest.approx(60, abs=0.1)
    assert row["sem"] == pytest.approx(sem, abs=0.1) and row["n"] == 3
  assert pooled_lags(r[:1])["sync_lag_ms"]["sem"] == 0
  # Where leaving one clip out leaves no summit there is no lag.
  flat = np.zeros((3, 4, 81))
  flat[0] = 0.6 * r[0]
  assert flat.mean(0)[0].max() > 0.1 and pooled_lags(flat) == {}


def test_means_are_of_the_rows_that_have_a_score():
  rows = [{"a": 1.0, "b": 2.0}, {"a": 4.0}, {}]
  assert means(rows) == {"a": 2.5, "b": 2.0} and means([]) == {}
  r = np.arange(8.0).reshape(2, 4)
  np.testing.assert_array_equal(means([{R: r}, {R: 3 * r}, {}])[R], 2 * r)
  got = summary([{"a": 1.0}, {"a": 4.0}, {"b": 7.0}])
  assert got["a"] == {"mean": 2.5, "sem": 1.5, "n": 2}
  assert got["b"] == {"mean": 7.0, "sem": 0.0, "n": 1}


def test_a_set_of_late_clips():
  """Of 12 clips the sound of each is 80 ms late, but that of one by 300."""
  rng = np.random.default_rng(1)
  rows = []
  for i in range(12):
    at = np.sort(rng.uniform(0.2, 1.5, 3))
    late = 0.3 if i == 5 else 0.08
    rows.append(synchrony(bump(FRAMES, *at), bump(CLOCK, *at + late), 25))
  got = summary(rows)
  assert got["sync_lag_ms"]["mean"] == pytest.approx(80, abs=8)
  assert 0 < got["sync_lag_ms"]["sem"] < 12 and got["sync_lag_ms"]["n"] == 12
  assert module.LEAST_R == 0.1
