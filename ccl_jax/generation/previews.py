"""Previews of latents while they are sampled, without a decoder.

A video codec's latents are nearly linear in the colours that they stand for: a map of
the channels to RGB is fitted once, by least squares, to a picture of coloured squares
that the codec encodes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, UInt8

from ccl_jax.codecs.images import to_unit

SQUARES, SIDE = 8, 4  # squares of a side, latents of a square's side
RANGE = 3.0  # standard deviations of a sound's latents from black to white

# By stream, pictures of all clips; the number of a step from 1, that of all, and these.
Pictures = dict[str, UInt8[np.ndarray, "b ..."]]
Listener = Callable[[int, int, Pictures], None]


def squares(stride: int) -> UInt8[np.ndarray, "1 1 H W 3"]:
  """A picture of 64 squares, each of another colour, as a film of one frame.

  Args:
    stride: pixels of a latent's side.
  """
  values = np.array([0, 85, 170, 255], np.uint8)
  colours = np.stack(np.meshgrid(values, values, values), -1).reshape(-1, 3)
  # Neighbours differ in all three channels.
  colours = colours[np.arange(len(colours)) * 23 % len(colours)]
  grid = colours.reshape(SQUARES, SQUARES, 3)
  return grid.repeat(SIDE * stride, 0).repeat(SIDE * stride, 1)[None, None]


def encoded(codec: Any, pixels: UInt8[Any, "b F H W 3"]) -> Float[Any, "b t h w c"]:
  """The latents of a film of a few pixels, by a video codec; to be jitted."""
  return codec.encode(to_unit(pixels))


def colour_map(
  latent: Float[np.ndarray, "1 1 h w c"], picture: UInt8[np.ndarray, "1 1 H W 3"]
) -> Float32[np.ndarray, "k 3"]:
  """The linear map of a latent's channels and a constant to RGB, k = c + 1.

  Args:
    latent: of `picture`.
    picture: of `squares`.
  """
  # The middle of each square: edges stand for two colours.
  inner = np.arange(latent.shape[2]) % SIDE
  inner = np.flatnonzero((inner > 0) & (inner < SIDE - 1))
  stride = picture.shape[2] // latent.shape[2]
  cells = np.ix_(inner, inner)
  x = np.asarray(latent[0, 0], np.float64)[cells].reshape(-1, latent.shape[-1])
  y = picture[0, 0, ::stride, ::stride].astype(np.float64)[cells].reshape(-1, 3)
  found, *_ = np.linalg.lstsq(np.pad(x, [(0, 0), (0, 1)], constant_values=1), y)
  return found.astype(np.float32)


def pictures(
  latents: Mapping[str, Any], colours: Float32[np.ndarray, "k 3"] | None
) -> Pictures:
  """What latents look like: `video` (b, t, h, w, 3), a pixel for each latent, and
  `audio` (b, c, a), grey, a row for each channel and a column for each token.

  Args:
    latents: by stream, on the host.
    colours: of `colour_map`, where there is a video.
  """
  out = {}
  if "video" in latents:
    x = np.asarray(latents["video"], np.float32) @ colours[:-1] + colours[-1]
    out["video"] = np.round(x.clip(0, 255)).astype(np.uint8)
  if "audio" in latents:
    x = np.asarray(latents["audio"], np.float32).swapaxes(1, 2)
    out["audio"] = np.round((x / RANGE + 1).clip(0, 2) * 127.5).astype(np.uint8)
  return out


def heard_by(callback: Listener, several: bool) -> Listener:
  """A listener to a pipeline that tells a caller what the caller asked for.

  Args:
    callback: called with (step, steps, pictures): of one clip without its axis b.
    several: the caller asked for a list of clips.
  """
  if several:
    return callback
  return lambda step, steps, seen: callback(
    step, steps, {s: x[0] for s, x in seen.items()}
  )
