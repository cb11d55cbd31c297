"""Patches: order of the channels, and the way back."""

import jax.numpy as jnp
import numpy as np

from ccl_jax.ops.patchify import in_tokens, patchify, unpatchify


def test_order_is_frames_rows_columns_channels():
  x = np.arange(2 * 3 * 4 * 6 * 5, dtype=np.float32).reshape(2, 3, 4, 6, 5)
  tokens = patchify(jnp.asarray(x), (1, 2, 2))
  assert tokens.shape == (2, 3, 6, 20)
  # Token 4 of a frame is row 1, column 1: pixels 2..3 x 2..3.
  np.testing.assert_array_equal(tokens[1, 2, 4], x[1, 2, 2:4, 2:4].reshape(-1))
  np.testing.assert_array_equal(unpatchify(tokens, (1, 2, 2), 2), x)


def test_a_patch_of_time_comes_first_in_its_token():
  """Patches of 2 frames, 1 row and 3 columns, of pixels that are numbered t h w."""
  x = np.arange(4 * 2 * 6, dtype=np.float32).reshape(1, 4, 2, 6, 1)
  tokens = patchify(jnp.asarray(x), (2, 1, 3))
  assert tokens.shape == (1, 2, 4, 6)
  # Frames 2 and 3, row 1, columns 3 to 5.
  assert tokens[0, 1, 3].tolist() == [33, 34, 35, 45, 46, 47]
  np.testing.assert_array_equal(unpatchify(tokens, (2, 1, 3), 2), x)


def test_a_token_is_in_a_mask_where_any_of_its_pixels_is():
  mask = np.zeros((2, 4, 2, 6), bool)
  mask[1, 3, 0, 2] = mask[0, 0, 1, 5] = True
  tokens = in_tokens(mask, (2, 1, 3))
  assert tokens.shape == (2, 2, 2, 2)
  assert np.argwhere(tokens).tolist() == [[0, 0, 1, 1], [1, 1, 0, 0]]
  assert (in_tokens(mask, (1, 1, 1)) == mask).all()
