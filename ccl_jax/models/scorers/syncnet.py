"""SyncNet: two towers that put lips and sound near each other where they are in step.

  lips    5 frames of 224 x 224, BGR, 0 to 255 as they are    -> e numbers
  sound   20 rows of 13 mel cepstra (metrics/mfcc.py), 0.2 s  -> e numbers

A tower is six convolutions and two dense layers, normed by the statistics of its
training and rectified all but the last:

  norm(x) = (x - mean) / sqrt(var + 1e-5) scale + bias

Chung and Zisserman, "Out of time: automated lip sync in the wild", 2016, as released
with syncnet_python. Only the first layer of the lips sees more than one frame, and all
five at once: here they are its 15 channels, colour by colour, and nothing is 3-D.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from flax import struct
from jaxtyping import Array, Float, UInt8

FRAMES, SIDE = 5, 224  # that a lip embedding sees
ROWS, CEPSTRA = 20, 13  # that a sound embedding sees
EPS = 1e-5
EXACT = jax.lax.Precision.HIGHEST  # float32 products on every accelerator


class Layer(NamedTuple):
  """A convolution, padded by `pad`, and the strides of the 3 x 3 pool after it."""

  kernel: tuple[int, int] = (3, 3)
  stride: int = 1
  pad: int = 1
  pool: tuple[int, int] | None = None
  pool_pad: int = 0


LIPS = (
  Layer((7, 7), stride=2, pad=0, pool=(2, 2)),
  Layer((5, 5), stride=2, pool=(2, 2), pool_pad=1),
  Layer(),
  Layer(),
  Layer(pool=(2, 2)),
  Layer((6, 6), pad=0),
)
SOUND = (  # (cepstra, rows)
  Layer(),
  Layer(pool=(1, 2)),
  Layer(),
  Layer(),
  Layer(pool=(2, 2)),
  Layer((5, 4), pad=0),
)


class StoredNorm(nn.Module):
  """Batch norm by the statistics that training stored, never by the batch's."""

  @nn.compact
  def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    ones, zeros = nn.initializers.ones, nn.initializers.zeros
    inits = {"scale": ones, "bias": zeros, "mean": zeros, "var": ones}
    shape = (1,) * (x.ndim - 1) + (x.shape[-1],)
    scale, bias, mean, var = (
      self.param(name, init, shape[-1:]).reshape(shape) for name, init in inits.items()
    )
    # The statistics' factor is made first: one product per element.
    return (x - mean) * (jax.lax.rsqrt(var + EPS) * scale) + bias


class Tower(nn.Module):
  """One of the two sides: six convolutions and two dense layers.

  Attributes:
    layers: `LIPS` or `SOUND`.
    widths: channels of the convolutions.
    hidden, out: of the dense layers.
  """

  layers: tuple[Layer, ...]
  widths: tuple[int, ...]
  hidden: int
  out: int

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b e"]:
    for i, (layer, width) in enumerate(zip(self.layers, self.widths, strict=True)):
      conv = nn.Conv(
        width,
        layer.kernel,
        layer.stride,
        padding=layer.pad,
        precision=EXACT,
        name=f"conv_{i}",
      )
      x = nn.relu(StoredNorm(name=f"norm_{i}")(conv(x)))
      if layer.pool:
        x = nn.max_pool(x, (3, 3), layer.pool, [(layer.pool_pad,) * 2] * 2)
    x = nn.Dense(self.hidden, precision=EXACT, name="hidden")(x.reshape(len(x), -1))
    x = nn.relu(StoredNorm(name="hidden_norm")(x))
    return nn.Dense(self.out, precision=EXACT, name="out")(x)


class SyncNet(struct.PyTreeNode):
  """Both towers with their parameters, an argument of jitted functions.

  Attributes:
    params: {"lips": ..., "sound": ...} of `Tower`; its sizes are theirs.
  """

  params: Any  # not typed as arrays: transformations put shapes, shardings here

  def _tower(self, name: str, layers: tuple[Layer, ...], x: Array) -> Array:
    tower = Tower(layers, **tower_sizes(self.params[name]))
    return tower.apply({"params": self.params[name]}, x)

  def lips(self, windows: Float[Array, "b 5 h w 3"]) -> Float[Array, "b e"]:
    """Embeddings of windows of frames, BGR, 0 to 255."""
    # The 3-D kernel spans all five frames: a 2-D one over their colours is the same.
    x = rearrange(windows, "b t h w c -> b h w (c t)")
    return self._tower("lips", LIPS, x)

  def sound(self, windows: Float[Array, "b 13 20"]) -> Float[Array, "b e"]:
    """Embeddings of windows of cepstra, by (cepstrum, time)."""
    return self._tower("sound", SOUND, windows[..., None])

  def lips_of(self, frames: UInt8[Array, "n h w 3"]) -> Float[Array, "b e"]:
    """Embeddings of all b = n - 4 windows of RGB frames that follow each other."""
    # The release reads its frames by OpenCV: blue first, and not scaled.
    bgr = frames[..., ::-1].astype(jnp.float32)
    count = len(frames) - FRAMES + 1
    return self.lips(jnp.stack([bgr[i : i + count] for i in range(FRAMES)], 1))


def tower_sizes(params: Any) -> dict[str, Any]:
  """The fields of a `Tower` whose parameters these are."""
  last = lambda name: params[name]["kernel"].shape[-1]
  return {
    "widths": tuple(last(f"conv_{i}") for i in range(len(LIPS))),
    "hidden": last("hidden"),
    "out": last("out"),
  }
