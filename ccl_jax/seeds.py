"""Seeds: every whole number of 64 bits, and no two the same."""

import operator
from typing import Any

import jax
import numpy as np

from ccl_jax.errors import Rule, UsageError


def whole_seed(seed: Any) -> int:
  """A seed as an int: any integer, NumPy's too, from 0 to 2^64 - 1.

  Raises:
    UsageError: it is no such number. True and False are none.
  """
  try:
    whole = -1 if isinstance(seed, bool | np.bool_) else operator.index(seed)
  except TypeError:
    whole = -1
  if not 0 <= whole < 2**64:
    raise UsageError(f"seed {seed!r}: expected a whole number from 0 to 2^64 - 1")
  return whole


def _is_seed(value: Any) -> bool:
  try:
    whole_seed(value)
  except UsageError:
    return False
  return True


SEED = Rule(_is_seed, "a whole number from 0 to 2^64 - 1")  # of a setting


def noise_key(seed: Any) -> jax.Array:
  """The random key of a seed: its high and its low 32 bits, so that no two seeds share
  one. `jax.random.key` is the same below 2^32 and forgets the high bits above.

  Raises:
    UsageError: see `whole_seed`.
  """
  return key_of_bits(seed_bits(seed))


def seed_bits(seed: Any) -> np.ndarray:
  """The high and the low 32 bits of a seed.

  Raises:
    UsageError: see `whole_seed`.
  """
  return np.array(divmod(whole_seed(seed), 2**32), np.uint32)


def key_of_bits(bits: Any) -> jax.Array:
  """The random key of a seed's two words; see `noise_key`."""
  return jax.random.wrap_key_data(bits, impl="threefry2x32")
