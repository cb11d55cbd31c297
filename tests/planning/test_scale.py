"""A run on paper: Young, Daly, what breaks first, and the simulation beside them."""

import math
import types

import numpy as np
import pytest

from ccl_jax.benchmarks import scale as bench
from ccl_jax.planning import scale
from ccl_jax.planning.scale import Rates, daly, lost, young

RATES = Rates(
  prepare=5.0, read=200.0, step=10.0, batch=64, chips=64, plan_bytes=500.0,
  index_bytes=1000.0, row_bytes=2000.0, startup=600.0, save=5.0, write=60.0,
  host_days=100.0,
)  # fmt: skip


def test_young_and_daly_by_hand():
  """A save of 8 s and a failure every 10^4 s: sqrt(2 * 8 * 10^4) = 400 s."""
  assert young(8.0, 1e4) == 400.0
  # 8/400 + (200 + 30 + 100) / 10^4
  assert lost(400.0, 8.0, 30.0, 100.0, 1e4) == pytest.approx(0.02 + 0.033)
  # Without failures to speak of, only saves cost.
  assert daly(1000.0, 100.0, 5.0, 50.0, 1e9) == pytest.approx(1050.0, rel=1e-5)
  by_hand = 1e3 * math.exp(0.1) * (math.exp(0.408) - 1) * 4e3 / 400
  assert daly(4e3, 400.0, 8.0, 100.0, 1e3) == pytest.approx(by_hand)
  around = [daly(1.0, 400.0 * f, 8.0, 100.0, 1e4) for f in (0.5, 1, 2)]
  assert around[1] == min(around)


def test_a_row_by_hand():
  """256 chips are 64 hosts, four times the batch; hosts of 100 cores."""
  row = scale.row(10**6, 256, RATES, 100, 4e11)
  assert row.prepare == pytest.approx(10**6 / (5 * 100 * 64) / 3600)
  assert row.epoch == pytest.approx(10**6 / 256 * 10 / 3600)
  assert row.terabytes == pytest.approx(5.2)
  assert row.read == pytest.approx(25.6 / (64 * 200))
  mean = 100 * 86400 / 64
  assert row.every == pytest.approx(math.sqrt(2 * 5 * mean) / 60)
  assert row.first == ""


@pytest.mark.parametrize(
  ("clips", "changes", "first"),
  [
    (8 * 10**6, {}, ""),
    (9 * 10**6, {}, "plan.json"),  # 500 bytes a clip, of 2^32
    (10**7, {"plan_bytes": 1.0, "index_bytes": 1700.0}, ""),  # of 2^26
    (10**7, {"plan_bytes": 1.0, "index_bytes": 1800.0}, "index.json"),
    (10**7, {"plan_bytes": 1.0, "row_bytes": 1e6}, "table of captions"),
    (10**6, {"read": 0.3}, "read records"),
    (10**6, {"host_days": 0.05}, "more is lost"),
    (50, {}, "fewer clips"),
  ],
)
def test_what_breaks_first(clips, changes, first):
  row = scale.row(clips, 64, RATES._replace(**changes), 100, 4e11)
  assert row.first.startswith(first) or first in row.first
  assert bool(row.first) == bool(first)


def test_the_simulation_is_daly_s():
  """Saves that are whole at once, where Daly's time is exact: within four deviations
  of the mean of 40 runs; and work is lost as the interval says.
  """
  step, save, restart, mean, steps = 10.0, 20.0, 120.0, 7200.0, 8640
  for minutes in (5.0, 15.0, 60.0):
    times = [
      bench.simulate(steps, step, minutes, save, 0.0, restart, mean, seed)
      for seed in range(40)
    ]
    every = 60 * minutes - save
    expected = daly(steps * step, every, save, restart, mean)
    error = np.std(times, ddof=1) / math.sqrt(len(times))
    assert abs(np.mean(times) - expected) < 4 * error + 0.005 * expected, minutes


def test_without_preemptions_saves_alone_cost():
  time = bench.simulate(1000, 10.0, 10.0, 5.0, 30.0, 60.0, 1e12, 0)
  # 600 s are 5 s and 59.5 steps: every 59 or 60 steps, 16 saves.
  assert time == pytest.approx(10_000 + 16 * 5, abs=5)


def test_the_bench_counts_bytes_and_names_its_rates(monkeypatch):
  monkeypatch.setattr(bench, "COUNTED", 512)
  monkeypatch.setattr(bench, "FOLDER", types.SimpleNamespace(value=""))
  found = bench.measured()
  # A name of 48 letters twice, a caption of 400, and some punctuation.
  assert 500 < found["plan_bytes"] < 600 and 400 < found["index_bytes"] < 2000
  assert found["row_bytes"] > 500
  given = bench._rates(["step=36", "batch=8"])
  assert given.step == 36 and given.batch == 8 and given.read == bench.KNOWN["read"]
  for wrong in ("stepp=3", "step", "step=0", "step=x"):
    with pytest.raises(bench.UsageError, match="--rates"):
      bench._rates([wrong])
