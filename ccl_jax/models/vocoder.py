"""BigVGAN: log-mel spectrograms to sound (arXiv 2206.04658), in float32.

  x = first(mel)                          a convolution of 7 frames
  x = mean_j block_j(up(x))               per rate: more samples, half the channels
  wave = bound(last(act(x)))              a convolution of 7 samples

  block(x): for each dilation d           act is SnakeBeta at twice the rate
    x = x + conv_1(act(conv_d(act(x))))   (ops/snake.py, ops/antialias.py)

A frame is hop = product of the rates samples, and m frames make m hop samples: nothing
is delayed, sample n belongs to frame n // hop. bound is tanh, or, in version 2, a clip.
Frames are seen `reach` frames away and no farther, so a long mel can be taken in pieces
that overlap by as much: `synthesize(..., chunk=...)` gives the same numbers.

Kernels are plain. Training with weight norm, as the published weights were, is a change
of the parameter tree around the network: ops/weight_norm.py.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import lax
from jaxtyping import Array, Float

from ccl_jax.errors import UsageError
from ccl_jax.ops.antialias import REACH, antialiased
from ccl_jax.ops.snake import snake

PyTree = Any
EXACT = lax.Precision.HIGHEST  # float32 products on every accelerator
# Kernels keep about half of their input's size, whatever the width, and the last one
# less. BigVGAN draws all of them with deviation 0.01, which is as much at its widths
# and leaves a narrow network silent for thousands of steps.
GAIN, LAST_GAIN = 0.5, 0.05
ENDS = 7  # samples of the first and the last convolution
PRESETS = {
  # MMAudio's, from Make-An-Audio 2: version 1 at 16 kHz
  "16k": {"bands": 80},
  # nvidia/bigvgan_v2_44khz_128band_512x
  "44k": {
    "bands": 128,
    "rates": (8, 4, 2, 2, 2, 2),
    "kernels": (16, 8, 4, 4, 4, 4),
    "bias": False,
    "tanh": False,
  },
}


def conv(features: int, size: int, name: str, gain: float = GAIN, **kwargs) -> nn.Conv:
  """A centred convolution of `size` samples, with zeros beyond the ends.

  Args:
    gain: deviation of the results of normal inputs, at the start.
    kwargs: of `nn.Conv`.
  """
  kwargs |= {"precision": EXACT, "kernel_init": _drawn(gain)}
  return nn.Conv(features, (size,), name=name, **kwargs)


class Snake(nn.Module):
  """SnakeBeta with parameters for each channel, at twice the rate."""

  @nn.compact
  def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
    zeros = lambda name: self.param(name, nn.initializers.zeros, (x.shape[-1],))
    alpha, beta = zeros("alpha"), zeros("beta")
    return _snake(x, alpha, beta)


@jax.jit  # traced once for the 18 layers of a shape: a network has 109 of them
def _snake(x, alpha, beta):
  return antialiased(lambda u: snake(u, alpha, beta), x)


class Block(nn.Module):
  """Residual convolutions of `size` samples, two for each dilation."""

  size: int
  dilations: tuple[int, ...]

  @nn.compact
  def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
    if self.size % 2 == 0:
      raise UsageError(f"got a block of size {self.size}, expected an odd one")
    for i, d in enumerate(self.dilations):
      wide = conv(x.shape[-1], self.size, f"conv1_{i}", kernel_dilation=d)
      y = wide(Snake(name=f"snake_{2 * i}")(x))
      y = Snake(name=f"snake_{2 * i + 1}")(y)
      # x = x + conv_1(act(conv_d(act(x))))
      x = x + conv(x.shape[-1], self.size, f"conv2_{i}")(y)
    return x


class Up(nn.Module):
  """A transposed convolution: `rate` samples for each, of `size` that overlap.

  Sample rate q + r of the whole is sum_j x[q - j] kernel[rate j + r]; what the whole
  has too many is cropped at both ends alike. It is computed as one product: gradients
  of transposed convolutions take XLA ten times as long on a CPU.

  Attributes:
    features: channels of the result.
    size: samples of the kernel.
    rate: samples for each.
  """

  features: int
  size: int
  rate: int

  @nn.compact
  def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b u d"]:
    (_, length, channels), features, rate = x.shape, self.features, self.rate
    init = _drawn(GAIN * rate**0.5, in_axis=-1, out_axis=-2)  # size / rate are met
    kernel = self.param("kernel", init, (self.size, features, channels))
    bias = self.param("bias", nn.initializers.zeros, (features,))
    taps = -(-self.size // rate)
    kernel = jnp.pad(kernel, ((0, taps * rate - self.size), (0, 0), (0, 0)))
    # Rows are (tap, channel in), columns (place within a step, channel out).
    kernel = rearrange(kernel, "(j r) d c -> (j c) (r d)", j=taps)
    x = jnp.pad(x, ((0, 0), (taps - 1, taps - 1), (0, 0)))
    last = length + taps - 1
    before = [x[:, taps - 1 - j :][:, :last] for j in range(taps)]
    y = jnp.matmul(jnp.concatenate(before, -1), kernel, precision=EXACT)
    y = rearrange(y, "b q (r d) -> b (q r) d", r=rate)
    padding = _padding(rate, self.size)
    return y[:, padding : padding + rate * length] + bias[None, None]


class Generator(nn.Module):
  """Log-mel to a wave in [-1, 1].

  Attributes:
    bands: of the mel.
    channels: after the first convolution; each rate halves them.
    rates: samples for one, and `kernels`, sizes of the convolutions that make them.
    blocks: (size, dilations) of the blocks that are averaged.
    bias: whether the last convolution has one.
    tanh: how the wave is bounded; False: clipped.
  """

  bands: int
  channels: int = 1536
  rates: tuple[int, ...] = (4, 4, 2, 2, 2, 2)
  kernels: tuple[int, ...] = (8, 8, 4, 4, 4, 4)
  blocks: tuple[tuple[int, tuple[int, ...]], ...] = (
    (3, (1, 3, 5)),
    (7, (1, 3, 5)),
    (11, (1, 3, 5)),
  )
  bias: bool = True
  tanh: bool = True

  @property
  def hop(self) -> int:
    """Samples of a mel frame: the product of the rates."""
    return math.prod(self.rates)

  @property
  def reach(self) -> tuple[int, int]:
    """Frames before and after its own that a sample is made of.

    From the samples of frame 0 back through the layers, each of which widens what is
    seen. A transposed convolution of k samples, p of them cropped, makes sample n of
    the inputs i with 0 <= n + p - rate i < k.
    """
    first, last = 0, self.hop - 1
    widen = ENDS // 2 + REACH
    for rate, kernel in reversed(list(zip(self.rates, self.kernels))):
      widen += max(
        sum(2 * REACH + size // 2 * (1 + d) for d in dilations)
        for size, dilations in self.blocks
      )
      padding = _padding(rate, kernel)
      # The ends of the inputs i with 0 <= n + p - rate i < k, for the first sample and
      # for the last.
      first = -((kernel - 1 - padding - (first - widen)) // rate)
      last = (last + widen + padding) // rate
      widen = 0
    return ENDS // 2 - first, last + ENDS // 2

  @nn.compact
  def __call__(self, mel: Float[Array, "b m bands"]) -> Float[Array, "b n"]:
    x, channels = conv(self.channels, ENDS, "first")(mel), self.channels
    for i, (rate, kernel) in enumerate(zip(self.rates, self.kernels)):
      channels //= 2
      x = Up(channels, kernel, rate, name=f"up_{i}")(x)
      blocks = [
        Block(size, dilations, name=f"block_{len(self.blocks) * i + j}")
        for j, (size, dilations) in enumerate(self.blocks)
      ]
      # x = mean_j block_j(up(x))
      x = sum(block(x) for block in blocks) / len(blocks)
    last = conv(1, ENDS, "last", LAST_GAIN, use_bias=self.bias)
    x = last(Snake(name="snake")(x))[..., 0]
    return jnp.tanh(x) if self.tanh else jnp.clip(x, -1, 1)


def sizes_of(generator: Generator) -> dict[str, Any]:
  """The fields of a generator by name, as JSON can hold them: its sizes."""
  names = (field.name for field in dataclasses.fields(generator))
  return {n: getattr(generator, n) for n in names if n not in ("parent", "name")}


def frozen(value: Any) -> Any:
  """A field that may have been through JSON: lists become tuples, at any depth."""
  return tuple(map(frozen, value)) if isinstance(value, list | tuple) else value


def init_params(key: Array, generator: Generator) -> PyTree:
  """Random parameters, with which the network is nearly silent."""
  return generator.init(key, jnp.zeros((1, 1, generator.bands)))["params"]


def synthesize(
  generator: Generator,
  params: PyTree,
  mel: Float[Array, "b m c"],
  chunk: int | None = None,
) -> Float[Array, "b n"]:
  """The wave of a log-mel, n = m hop samples in [-1, 1].

  Args:
    generator, params: the network.
    mel: log-mel of its bands, as it was trained on.
    chunk: frames at a time, for memory that does not grow with m but for the wave
      itself; each piece takes the `reach` around it along. None: all at
      once.

  Raises:
    UsageError: a chunk below 1.
  """
  call = lambda mel: generator.apply({"params": params}, mel)
  if chunk is None:
    return call(mel)
  if chunk < 1:
    raise UsageError(f"chunk counts mel frames, got {chunk}: use 1 or more, or None")
  frames, hop, reach = mel.shape[1], generator.hop, max(generator.reach)
  window = chunk + 2 * reach
  if frames <= window:
    return call(mel)
  # A window at an end of the mel ends there too: beyond it are zeros in every layer.
  count = -(-frames // chunk)
  # The last piece ends with the mel, so that all pieces have one shape.
  wanted = np.minimum(np.arange(count) * chunk, frames - chunk)
  starts = np.clip(wanted - reach, 0, frames - window)

  def piece(at):
    start, skip = at
    wave = call(lax.dynamic_slice_in_dim(mel, start, window, axis=1))
    return lax.dynamic_slice_in_dim(wave, skip * hop, chunk * hop, axis=1)

  pieces = lax.map(piece, (jnp.asarray(starts), jnp.asarray(wanted - starts)))
  rest = frames - (count - 1) * chunk  # of the last piece, which begins early
  whole = jnp.moveaxis(pieces[:-1], 0, 1).reshape(len(mel), -1)
  return jnp.concatenate([whole, pieces[-1][:, -rest * hop :]], 1)


def _drawn(gain: float, **axes: int):
  """Kernels of normal numbers, of deviation gain / sqrt(numbers that make one)."""
  return nn.initializers.variance_scaling(gain**2, "fan_in", "normal", **axes)


def _padding(rate: int, kernel: int) -> int:
  """Samples to crop at each end, so that one becomes `rate` exactly."""
  if kernel < rate or (kernel - rate) % 2:
    raise UsageError(
      f"got an upsampling kernel of {kernel} for the rate {rate}, expected one larger "
      "by an even number, so that sound and mel stay aligned"
    )
  return (kernel - rate) // 2
