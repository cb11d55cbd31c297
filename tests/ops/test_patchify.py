"""Patches: order of the channels, and the way back."""

import jax.numpy as jnp
import numpy as np

from ccl_jax.ops.patchify import patchify, unpatchify


def test_order_is_frames_rows_columns_channels():
  x = np.arange(2 * 3 * 4 * 6 * 5, dtype=np.float32).reshape(2, 3, 4, 6, 5)
  tokens = patchify(jnp.asarray(x), (1, 2, 2))
  assert tokens.shape == (2, 3, 6, 20)
  # Token 4 of a frame is row 1, column 1: pixels 2..3 x 2..3.
  np.testing.assert_array_equal(tokens[1, 2, 4], x[1, 2, 2:4, 2:4].reshape(-1))
  np.testing.assert_array_equal(unpatchify(tokens, (1, 2, 2), 2), x)
