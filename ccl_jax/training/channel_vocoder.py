"""Parameters for a vocoder to begin with: those of a channel vocoder.

A network of random weights spends its first thousands of steps on two things that are
known: that loudness is the exponential of a log-mel, over four decades, and that a band
sounds at its own frequency. Here both are set, inside BigVGAN's layout, and training
goes on from sound instead of silence:

  t   = log-mel's band / 8                 `first` and `up_0`
  u   = quadratic of t, nearly 10^t        block 0, by its four activations, because
  10^mel ~ ((u^2)^2)^2                     x + 64^2 sin^2(x / 64) ~ (x + 1/2)^2 - 1/4
  wave = sum_frames sum_bands 10^mel r_b   the upsampling convolutions

r_b is a chirp of 33 ms in band b: least squares by two transposed convolutions, of
which the second makes windowed sines of `ATOMS` frequencies. Channels that have no part
in this are random, the branches that would disturb it have length 0 (weight norm), and
all learn.

The generator must have rates (1, ..., 1, r, r') with at least two ones, blocks of one
size with two dilations, and room: 3 bands of channels after the first rate, one after
the last 1, 2 ATOMS after r.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ccl_jax.errors import UsageError
from ccl_jax.models.vocoder import Generator, init_params
from ccl_jax.ops.stft import MODES, log_mel, mel_filters
from ccl_jax.ops.weight_norm import DIRECTION, split

PyTree = Any
MODE = MODES["16k"]
ATOMS = 16  # frequencies of the last upsampling
SMOOTH = 1 / 64  # alpha of the snakes that square: so small that sin x is x
RANGE = (-5.0, 1.0)  # of log-mels
SPREAD = 0.5  # of a chirp, in frames


def start(key: Array, generator: Generator) -> PyTree:
  """Directions and lengths of the kernels, and the rest.

  Raises:
    UsageError: the generator has no room for it.
  """
  _check(generator)
  bands, flat = generator.bands, len(generator.rates) - 2
  fresh = jax.jit(init_params, static_argnums=1)(key, generator)
  fresh = jax.tree_util.tree_map_with_path(_scaled, jax.tree.map(np.array, fresh))
  params = jax.tree.map(np.copy, fresh)
  _exponential(params, bands)
  for i in range(1, flat):  # the bands go on in front
    kernel = params[f"up_{i}"]["kernel"]
    begin = 2 * bands if i == 1 else 0
    kernel[:, :bands] = 0
    middle = kernel.shape[0] // 2
    kernel[middle, range(bands), range(begin, begin + bands)] = 1
  _carriers(params, generator)
  for _ in range(2):  # to the loudness of the mel it is given
    params[f"up_{flat}"]["kernel"][:, :, :bands] *= np.asarray(_lack(generator, params))
  out = jax.tree_util.tree_map_with_path(_directed, split(params), split(fresh))
  for i in range(1, len(generator.rates)):
    for name in ("conv2_0", "conv2_1"):
      out[f"block_{i}"][name]["length"] *= 0
  return out


def _scaled(path, x):
  """Kernels that keep magnitudes, in place of ones of deviation 0.01."""
  if path[-1].key != "kernel":
    return x
  inputs = x.shape[0] * x.shape[2 if path[0].key.startswith("up_") else 1]
  return 100 * x * inputs**-0.5


def _directed(path, x, random):
  """Filters of length 0 need a direction all the same, for them to grow in."""
  if path[-1].key != DIRECTION:
    return jnp.asarray(x)
  return jnp.where(jnp.any(x != 0, (0, 1), keepdims=True), x, random)


def _exponential(params, bands):
  """10^mel of every band in the channels from 2 bands on of block 0."""
  first, up, block = params["first"], params["up_0"], params["block_0"]
  low, high = RANGE
  t = np.linspace(low, high, 400) / 8
  c2, c1, c0 = np.polyfit(t, 10**t, 2, w=10**-t)
  # t is kept as s with snake(s) = (s + 1/2)^2 - 1/4: c2 (t + p)^2 + rest.
  p = c1 / (2 * c2)
  here = range(bands)
  spread = (high - low) / 4
  first["kernel"][:] /= spread  # the other channels see standardised bands
  first["bias"][:] = -first["kernel"].sum((0, 1)) * (low + high) / 2
  first["kernel"][:, :, :bands] = 0
  first["kernel"][first["kernel"].shape[0] // 2, here, here] = 1 / 8
  first["bias"][:bands] = p - 0.5
  up["kernel"][:, :bands] = 0
  up["kernel"][up["kernel"].shape[0] // 2, here, here] = 1
  # (input, output) of each convolution, its factor, and the constant of the square.
  middle = block["conv1_0"]["kernel"].shape[0] // 2
  places = {
    "conv1_0": (0, 0, c2, c0 - c2 * p**2 + c2 / 4 - 0.5),
    "conv2_0": (0, 1, 1.0, 0.25 - 0.5),
    "conv1_1": (1, 1, 1.0, 0.25 - 0.5),
    "conv2_1": (1, 2, 1.0, 0.25),
  }
  for i, (name, (source, target, factor, constant)) in enumerate(places.items()):
    rows = slice(target * bands, (target + 1) * bands)
    conv, snake = block[name], block[f"snake_{i}"]
    conv["kernel"][:, :, rows] = 0
    if name.startswith("conv2"):
      conv["kernel"][:, :, : 3 * bands] = 0
      conv["kernel"][:, :, 3 * bands :] *= 0.1
    inside = np.arange(source * bands, (source + 1) * bands)
    conv["kernel"][middle, inside, np.arange(rows.start, rows.stop)] = factor
    conv["bias"][rows] = constant
    snake["alpha"][inside], snake["beta"][inside] = np.log(SMOOTH), 2 * np.log(SMOOTH)
  up1 = params["up_1"]["kernel"]
  up1[:, bands:, 2 * bands : 3 * bands] *= 0.1  # loudness, for the random channels
  # where nothing arrives from `up_0`
  up["kernel"][:, bands : 3 * bands] = 0


def _carriers(params, generator):
  """Chirps of all bands, as least squares of windowed sines."""
  fine, flat = generator.rates[-1], len(generator.rates) - 2
  long, short = (params[f"up_{flat + i}"]["kernel"] for i in range(2))
  bands, hop = generator.bands, generator.hop
  size, atom = long.shape[0], short.shape[0]
  length = (size - 1) * fine + atom
  time = np.arange(length) - (length - 1) / 2
  filters = mel_filters(MODE["sample_rate"], MODE["n_fft"], bands)
  bins = np.arange(len(filters))[:, None]
  shape = filters / filters.max(0) / filters.sum(0)
  turn = 2 * np.pi / MODE["n_fft"]
  delay = SPREAD * hop * (bins / len(filters) - 0.5)
  phase = turn * np.cumsum(delay, 0)
  wanted = np.cos(turn * bins * time - phase).T @ shape
  # Twice in a window of the STFT; louder, they would be in the bend of tanh.
  wanted *= np.hanning(length)[:, None] / MODE["n_fft"]
  frequency = (np.arange(ATOMS) + 0.5) * np.pi / ATOMS
  angle = np.arange(atom)[:, None] * frequency
  window = np.hanning(atom + 1)[:-1, None]
  atoms = np.concatenate([np.cos(angle), np.sin(angle)], 1) * window
  basis = np.zeros((length, size, 2 * ATOMS))
  for k in range(size):
    basis[k * fine : k * fine + atom, k] = atoms
  found = np.linalg.lstsq(basis.reshape(length, -1), wanted, rcond=1e-6)[0]
  found = found.reshape(size, 2 * ATOMS, bands)
  long[:, : 2 * ATOMS, :], long[:, 2 * ATOMS :, :] = 0, 0.01 * long[:, 2 * ATOMS :, :]
  long[:, : 2 * ATOMS, :bands] = found
  # Neighbouring frequencies share a channel, and each channel has its negative: what
  # the last activation adds to both is the same.
  half = short.shape[1] // 2
  short[:, :, : 2 * ATOMS] = 0
  for i in range(2 * ATOMS):
    place = (i % ATOMS) * half // ATOMS
    short[:, place, i], short[:, half + place, i] = atoms[:, i], -atoms[:, i]
  last = params["last"]["kernel"]
  last[:] = 0
  last[len(last) // 2, :half], last[len(last) // 2, half : 2 * half] = 0.5, -0.5


@functools.partial(jax.jit, static_argnums=0)
def _lack(generator, params):
  """The gain that each band needs, by mels of noise and of what is made of them."""
  noise = 0.05 * jax.random.normal(jax.random.key(0), (1, 1 << 14))
  mel = log_mel(noise, **MODE)
  wave = generator.apply({"params": params}, mel)
  return 10 ** (mel - log_mel(wave, **MODE)).mean((0, 1))


def _check(generator):
  rates, channels = generator.rates, generator.channels
  ones = [rate for rate in rates[:-2] if rate == 1]
  widths = [channels >> (i + 1) for i in range(len(rates))]
  fits = (
    len(ones) == len(rates) - 2 >= 2
    and [len(dilations) for _, dilations in generator.blocks] == [2]
    and widths[0] >= 3 * generator.bands
    and widths[len(ones) - 1] >= generator.bands
    and widths[-2] >= 2 * ATOMS
  )
  if not fits:
    raise UsageError(
      f"a channel vocoder has no room in rates {rates} of {channels} channels: see "
      "training/channel_vocoder.py, or take start=random"
    )
