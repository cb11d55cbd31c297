"""Intervals over seeds, by printed tables of Student's law and by hand."""

import pytest

from ccl_jax.ablation.seeds import difference, estimate, t_quantile


@pytest.mark.parametrize(
  "degrees, t",
  # table of Student's law, two-sided 95 %
  [
    (1, 12.7062),
    (2, 4.3027),
    (3, 3.1824),
    (4, 2.7764),
    (5, 2.5706),
    (9, 2.2622),
    (30, 2.0423),
    (120, 1.9799),
  ],
)
def test_quantiles(degrees, t):
  assert t_quantile(degrees) == pytest.approx(t, abs=6e-5)


def test_another_probability():
  assert t_quantile(4, 0.99) == pytest.approx(4.6041, abs=6e-5)
  assert t_quantile(1, 0.5) == pytest.approx(1.0)  # Cauchy's quartile


def test_an_interval_by_hand():
  # mean 4, deviations -2, 0, 2: s = 2, half = 4.3027 * 2 / sqrt(3)
  mean, half, n = estimate([2.0, 4.0, 6.0])
  assert (mean, n) == (4.0, 3)
  assert half == pytest.approx(4.9683, abs=1e-4)


def test_curves_have_an_interval_at_each_point():
  mean, half, _ = estimate([[2.0, 1.0], [4.0, 1.0], [6.0, 1.0]])
  assert mean.tolist() == [4.0, 1.0]
  assert half.tolist() == pytest.approx([4.9683, 0.0], abs=1e-4)


def test_one_seed_has_no_interval_and_none_no_mean():
  assert estimate([0.25]) == (0.25, None, 1)
  assert estimate([]) is None


def test_a_difference_is_by_seed():
  """What a seed adds to both rows cancels: 0.1, 0.1, 0.4 of seeds 1, 2 and 5."""
  above = {0: 9.0, 1: 1.0, 2: 5.0, 5: 3.0}
  row = {5: 3.4, 1: 1.1, 2: 5.1, 7: 0.0}
  mean, half, n = difference(above, row)
  assert mean == pytest.approx(0.2) and n == 3
  assert half == pytest.approx(
    4.3027 * 0.1, abs=1e-5
  )  # s^2 = (.01 + .01 + .04) / 2 / 3


def test_a_difference_of_no_common_seed():
  assert difference({0: 1.0}, {1: 2.0}) is None
