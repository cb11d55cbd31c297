"""Golden case of BigVGAN's generator: the wave of a mel."""

import pathlib

import jax
import numpy as np
from safetensors.numpy import load_file

from ccl_jax.models.vocoder import synthesize
from ccl_jax.weights.bigvgan import generator_of
from ccl_jax.weights.load import load_params

LIMIT = 1e-4


def is_bigvgan(folder: pathlib.Path) -> bool:
  return (folder / "bigvgan_case.safetensors").is_file()


def cases_bigvgan(
  folder: pathlib.Path, chunk: int | None = None
) -> list[tuple[str, np.ndarray, np.ndarray, float]]:
  """(name, got, expected, limit) per output; by pieces of `chunk` frames."""
  case = load_file(folder / "bigvgan_case.safetensors")
  params, sizes = load_params("vocoder", folder / "bigvgan_weights.safetensors")
  generator = generator_of(sizes)
  call = jax.jit(lambda params, mel: synthesize(generator, params, mel, chunk))
  wave = call(params, np.moveaxis(case["mel"], 1, -1))
  return [("wav", np.asarray(wave)[:, None], case["wav"], LIMIT)]
