"""Measures the audio codec's speed: the VAE, and the vocoder beside `bigvgan`.

  python -m ccl_jax.bench vocoder
  python -m ccl_jax.bench vocoder --preset=44k

Both vocoders have the same random weights, plain kernels and as many threads as there
are cores. In every round each is run once, so that whatever else the machine does falls
on all. Prints, per way of running, the median of the rounds in seconds per second of
sound (the real-time factor: below 1 is faster than it sounds), its ratio to torch's,
the seconds of the first call, which compiles, and the largest difference from torch's
wave relative to its deviation. Of the VAE of the same mode, with random weights,
folded, the factors of encoding and of decoding a mel; the ratio is to torch's vocoder
too. Needs torch and bigvgan (`pip install --no-deps bigvgan`).
"""

import os
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import traverse_util

from ccl_jax import cli
from ccl_jax.errors import UsageError
from ccl_jax.models import audio_vae
from ccl_jax.models.vocoder import PRESETS, Generator, init_params, sizes_of, synthesize
from ccl_jax.weights.bigvgan import NATIVE, config_of, shapes_of
from ccl_jax.weights.rules import unload

PRESET = flags.DEFINE_enum(
  "preset", "16k", list(PRESETS), "Preset of the network's sizes."
)
SECONDS = flags.DEFINE_float("seconds", 4.0, "Seconds of sound.", 0.1)
CHUNK = flags.DEFINE_integer("chunk", 128, "Mel frames per chunk.", 1)
ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed runs per network.", 1)

RATES = {"16k": 16000, "44k": 44100}  # samples per second of the presets


class Row(NamedTuple):
  """The figures of one way of running.

  Attributes:
    name: of the way.
    real_time_factor: median seconds per second of sound.
    ratio: of that to torch's.
    first: seconds of the first call.
    difference: from torch's wave, at most, relative to its deviation; None of what
      has no counterpart there.
  """

  name: str
  real_time_factor: float
  ratio: float
  first: float
  difference: float | None


def run(
  preset: str = "16k",
  *,
  seconds: float = 4.0,
  chunk: int = 128,
  rounds: int = 5,
  hidden: int | None = None,
  **sizes,
) -> list[Row]:
  """Figures of torch, of the whole mel at once, of chunks, and of the VAE's two ways.

  Args:
    preset: of the vocoder and the VAE.
    seconds: of sound.
    chunk: mel frames at a time.
    rounds: of timed runs.
    hidden: width of the VAE in place of the preset's.
    sizes: fields of `Generator` in place of the preset's.

  Raises:
    UsageError: torch or bigvgan is not installed.
  """
  generator = Generator(**PRESETS[preset] | sizes)
  params = _drawn(generator)
  # An even number of frames: the VAE makes a latent of two.
  frames = max(2, round(seconds * RATES[preset] / generator.hop / 2) * 2)
  rng = np.random.default_rng(0)
  mel = rng.standard_normal((1, frames, generator.bands)).astype(np.float32)
  ways = {"torch": _torch(generator, params, mel)}
  for name, pieces in (("whole", None), (f"chunks of {chunk}", chunk)):
    ways[name] = _jax(generator, params, mel, pieces)
  compared = set(ways)
  widths = audio_vae.PRESETS[preset] | ({} if hidden is None else {"hidden": hidden})
  ways |= _vae(widths, mel)
  first, times, waves = {}, {name: [] for name in ways}, {}
  for name, call in ways.items():
    # The first call compiles: it is reported on its own.
    first[name], waves[name] = _timed(call)
  for _ in range(rounds):
    for name, call in ways.items():
      times[name].append(_timed(call)[0])
  sound = frames * generator.hop / RATES[preset]
  median = {name: statistics.median(t) / sound for name, t in times.items()}
  expected = waves["torch"]
  return [
    Row(
      name,
      factor,
      factor / median["torch"],
      first[name],
      float(np.abs(waves[name] - expected).max() / expected.std())
      if name in compared
      else None,
    )
    for name, factor in median.items()
  ]


def _timed(call: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
  start = time.perf_counter()
  wave = call()
  return time.perf_counter() - start, wave


def _drawn(generator: Generator):
  """Random parameters that give a wave of the usual loudness."""
  shapes = jax.eval_shape(lambda k: init_params(k, generator), jax.random.key(0))
  rng = np.random.default_rng(0)

  def draw(path, x):
    noise = rng.standard_normal(x.shape, np.float32)
    if path[-1].key != "kernel":
      return jnp.asarray(0.1 * noise)
    # 1 / sqrt(fan in) keeps the scale; the last layer must not leave the wave at 0.
    gain = 5 if path[0].key == "last" else 0.5
    return jnp.asarray(gain * np.prod(x.shape[:-1]) ** -0.5 * noise)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def _jax(generator, params, mel, chunk) -> Callable[[], np.ndarray]:
  call = jax.jit(lambda params, mel: synthesize(generator, params, mel, chunk))
  return lambda: np.asarray(call(params, mel))


def _vae(widths, mel) -> dict[str, Callable[[], np.ndarray]]:
  """Calls of the audio VAE by name: mel to latent, and latent to mel."""
  params = audio_vae.folded(audio_vae.init_params(jax.random.key(0), **widths))
  mean = jax.jit(lambda params, mel: audio_vae.encode_mel(params, mel)[0])
  decode = jax.jit(audio_vae.decode)
  latent = mean(params, mel)
  return {
    "VAE encode": lambda: np.asarray(mean(params, mel)),
    "VAE decode": lambda: np.asarray(decode(params, latent)),
  }


def _torch(generator, params, mel) -> Callable[[], np.ndarray]:
  try:
    import torch
    from bigvgan.bigvgan import BigVGAN
    from bigvgan.env import AttrDict
  except ImportError as e:
    raise UsageError(
      f"the comparison needs {e.name}: pip install torch, and pip install --no-deps "
      "bigvgan"
    ) from e
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  sizes = sizes_of(generator)
  model = BigVGAN(AttrDict(config_of(sizes, "native"))).eval()
  model.remove_weight_norm()
  flat = traverse_util.flatten_dict(params, sep="/")
  state = unload(NATIVE, shapes_of(sizes), lambda path, _: np.asarray(flat[path]))
  tensors = {name: torch.tensor(np.ascontiguousarray(x)) for name, x in state}
  # The low-pass filters, which an export lacks, are constants of the model.
  model.load_state_dict(tensors, strict=False)
  x = torch.tensor(np.moveaxis(mel, 1, 2))
  return torch.no_grad()(lambda: model(x)[:, 0].numpy())


def main():
  """Measures by the flags, on the CPU, and prints a table."""
  jax.config.update("jax_platforms", "cpu")
  rows = run(
    PRESET.value, seconds=SECONDS.value, chunk=CHUNK.value, rounds=ROUNDS.value
  )
  print(f"{'':16} {'real time':>9} {'ratio':>6} {'first':>7} {'difference':>10}")
  for row in rows:
    difference = "" if row.difference is None else f"{row.difference:10.1e}"
    print(
      f"{row.name:16} {row.real_time_factor:9.4f} {row.ratio:6.2f} {row.first:6.1f}s "
      f"{difference}"
    )


if __name__ == "__main__":
  cli.run(main)
