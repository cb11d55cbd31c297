"""Patches of a latent: (b, t, h, w, c) to tokens (b, t, s, patch * c) and back.

Wan2.1's patch is (1, 2, 2): frames stay frames, four latent pixels make a token.
Within a token the order is (pt, ph, pw, c), channels fastest.
"""

import numpy as np
from einops import rearrange, reduce
from jaxtyping import Array, Bool, Float

Patch = tuple[int, int, int]


def patchify(x: Float[Array, "b t h w c"], patch: Patch) -> Float[Array, "b f s e"]:
  """Cuts a latent into tokens of e = pt ph pw c numbers, s = h w / (ph pw) to a frame.

  Args:
    patch: (pt, ph, pw), which must divide (t, h, w).
  """
  pt, ph, pw = patch
  return rearrange(
    x, "b (t pt) (h ph) (w pw) c -> b t (h w) (pt ph pw c)", pt=pt, ph=ph, pw=pw
  )


def unpatchify(
  x: Float[Array, "b f s e"], patch: Patch, rows: int
) -> Float[Array, "b t h w c"]:
  """Puts tokens back into a latent: the inverse of `patchify`.

  Args:
    rows: token rows of a frame, h / ph; columns follow from s.
  """
  pt, ph, pw = patch
  return rearrange(
    x,
    "b t (h w) (pt ph pw c) -> b (t pt) (h ph) (w pw) c",
    h=rows, pt=pt, ph=ph, pw=pw,
  )  # fmt: skip


def in_tokens(
  mask: Bool[np.ndarray, "b t h w"], patch: Patch
) -> Bool[np.ndarray, "b f p q"]:
  """Which tokens hold any of a mask's latent pixels.

  Args:
    patch: (pt, ph, pw), which must divide (t, h, w).
  """
  pt, ph, pw = patch
  return reduce(mask, "b (t pt) (h ph) (w pw) -> b t h w", "max", pt=pt, ph=ph, pw=pw)
