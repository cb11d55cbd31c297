import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccl_jax.data.sets.shuffle import key_of, mix, shuffled_index


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 300), st.integers(0, 2**64), st.integers(0, 10**6))
def test_every_epoch_is_a_permutation(count, seed, epoch):
  key = key_of(seed)
  got = [shuffled_index(epoch * count + i, count, key) for i in range(count)]
  assert sorted(got) == list(range(count))


def test_epochs_and_keys_differ():
  """In their first ten elements of 30 already."""
  orders = {
    tuple(shuffled_index(e * 30 + i, 30, key_of(seed)) for i in range(10))
    for e, seed in itertools.product(range(20), range(20))
  }
  assert len(orders) == 400


@pytest.mark.parametrize("count", [2, 3, 7, 64])
def test_every_place_is_as_likely_as_another(count):
  """Where two elements go over many epochs: chi-square against even, 5 deviations."""
  epochs = 2000
  for element in (0, count - 1):
    places = [shuffled_index(e * count + element, count, 1) for e in range(epochs)]
    counts = np.bincount(places, minlength=count)
    chi = ((counts - epochs / count) ** 2 / (epochs / count)).sum()
    free = count - 1
    assert abs(chi - free) < 5 * (2 * free) ** 0.5


def test_neighbours_are_torn_apart():
  order = [shuffled_index(i, 3_000, 3) for i in range(3_000)]
  assert np.abs(np.diff(order)).mean() == pytest.approx(3_000 / 3, rel=0.03)
  assert abs(np.corrcoef(order, range(3_000))[0, 1]) < 0.05


def test_small_permutations_all_occur():
  seen = Counter(
    tuple(shuffled_index(3 * e + i, 3, 0) for i in range(3)) for e in range(600)
  )
  assert len(seen) == 6 and min(seen.values()) > 60


def test_the_numbers_are_these_for_ever():
  """A change of any of them is another order for every run that goes on."""
  assert mix(0) == 0xE220A8397B1DCDAF  # of the published generator
  order = [shuffled_index(i, 10, key_of(0)) for i in range(20)]
  assert order[:10] == [9, 2, 7, 5, 4, 6, 8, 1, 0, 3]
  assert order[10:] == [4, 5, 3, 2, 9, 6, 0, 8, 7, 1]
