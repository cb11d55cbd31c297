"""The ceiling that MFU is measured against."""

import pytest

from ccl_jax import train
from ccl_jax.planning.chips import CHIPS


def test_of_a_device_nobody_knows_a_product_is_timed_on_one(monkeypatch):
  """And there are as many devices as there are: eight, in this suite."""
  monkeypatch.setattr(train, "_matmul_rate", lambda: 3e9)
  assert train._peak() == 8 * 3e9


def test_of_a_known_one_the_data_sheet_holds(monkeypatch):
  monkeypatch.setattr(train, "chip_of", lambda kind: CHIPS["v5p"])
  assert train._peak() == 8 * 459e12


def test_the_timed_rate_is_of_one_product(monkeypatch):
  """2 x 1024^3 operations in the shortest of five times."""
  times = iter([0, 4, 10, 11, 20, 20.5, 30, 32, 40, 43])
  monkeypatch.setattr(train.time, "perf_counter", lambda: next(times))
  assert train._matmul_rate() == pytest.approx(2 * 1024**3 / 0.5)
