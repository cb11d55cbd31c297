"""Seeds: any integer, the same keys as ever below 2^32, and other ones above."""

import jax
import numpy as np
import pytest

from ccl_jax.errors import UsageError
from ccl_jax.seeds import noise_key

data = lambda seed: np.asarray(jax.random.key_data(noise_key(seed))).tolist()


@pytest.mark.parametrize("seed", [0, 7, 2**31 - 1, 2**31, 2**32 - 1])
def test_small_seeds_are_those_of_jax(seed):
  assert data(seed) == jax.random.key_data(jax.random.key(seed)).tolist()
  draw = lambda key: np.asarray(jax.random.normal(key, (3,)))
  np.testing.assert_array_equal(draw(noise_key(seed)), draw(jax.random.key(seed)))


def test_no_two_seeds_share_a_key():
  assert data(2**32 + 7) == [1, 7]
  assert data(2**63) == [2**31, 0]
  assert data(2**64 - 1) == [2**32 - 1, 2**32 - 1]


@pytest.mark.parametrize("kind", [np.int32, np.uint8, np.int64, np.asarray])
def test_any_integer_is_a_seed(kind):
  assert data(kind(7)) == data(7)


@pytest.mark.parametrize(
  "seed", [-1, 2**64, 1.0, np.float32(1), True, np.True_, "1", None]
)
def test_what_is_no_seed(seed):
  with pytest.raises(UsageError, match="from 0 to 2\\^64 - 1"):
    noise_key(seed)
