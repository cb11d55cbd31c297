"""Equal up to rounding, in units of what is compared."""

import jax
import numpy as np


def assert_close(got, expected, limit: float):
  """Every array of a tree, no number farther off than `limit` times the array's rms;
  an array of zeros is zeros.
  """

  def check(path, a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape, (jax.tree_util.keystr(path), a.shape, b.shape)
    error, size = np.abs(a - b).max(), np.sqrt(np.mean(b * b))
    assert error <= limit * size, (jax.tree_util.keystr(path), error / size)

  assert jax.tree.structure(got) == jax.tree.structure(expected)
  jax.tree_util.tree_map_with_path(check, got, expected)


def difference(got, expected) -> float:
  """The deviation of a change, in units of the deviation of what is changed."""
  return float(np.std(np.asarray(got) - expected) / np.std(expected))
