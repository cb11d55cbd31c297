"""Small networks of lip sync under their released names: random, or made to measure."""

import functools
import pathlib
import tempfile

import numpy as np
from safetensors.numpy import save_file

from ccl_jax.weights.load import load_network

WIDTHS, HIDDEN, OUT = (4, 5, 3, 4, 6, 7), 5, 8
VGG = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]


def syncnet_tensors(seed: int = 0) -> dict[str, np.ndarray]:
  """Random tensors under the released names, training's counters too: most units are
  alive, so that what is seen and heard shows in the vectors.
  """
  kernels = {
    "aud": [(3, 3)] * 5 + [(5, 4)],
    "lip": [(5, 7, 7), (1, 5, 5), *[(1, 3, 3)] * 3, (1, 6, 6)],
  }
  rng, out = np.random.default_rng(seed), {}

  normal = lambda *shape: rng.standard_normal(shape, np.float32)

  def layer(name, *shape):
    out[f"{name}.weight"] = normal(*shape) * np.float32((2 / np.prod(shape[1:])) ** 0.5)
    out[f"{name}.bias"] = np.float32(0.2) * normal(shape[0])

  def norm(name, width):
    out[f"{name}.weight"] = 1 + np.float32(0.2) * normal(width)
    out[f"{name}.bias"] = np.float32(0.5) + np.float32(0.2) * normal(width)
    out[f"{name}.running_mean"] = np.float32(0.2) * normal(width)
    out[f"{name}.running_var"] = rng.uniform(0.5, 2, width).astype(np.float32)
    out[f"{name}.num_batches_tracked"] = np.array(7)

  for tower, shapes in kernels.items():
    before = 3 if tower == "lip" else 1
    for place, width, kernel in zip((0, 4, 8, 11, 14, 18), WIDTHS, shapes):
      layer(f"netcnn{tower}.{place}", width, before, *kernel)
      norm(f"netcnn{tower}.{place + 1}", width)
      before = width
    layer(f"netfc{tower}.0", HIDDEN, before)
    norm(f"netfc{tower}.1", HIDDEN)
    layer(f"netfc{tower}.3", OUT, HIDDEN)
  return out


def s3fd_tensors(seed: int = 0) -> dict[str, np.ndarray]:
  """Random tensors under the released names."""
  widths = [2, 2, 3, 3, 4, 4, 4, 5, 5, 5, 6, 6, 6]
  rng, out, before = np.random.default_rng(seed), {}, 3

  def layer(name, width, before, kernel=3):
    shape = (width, before, kernel, kernel)
    out[f"{name}.weight"] = rng.standard_normal(shape, np.float32)
    out[f"{name}.bias"] = rng.standard_normal(width, np.float32)

  for place, width in zip(VGG, widths):
    layer(f"vgg.{place}", width, before)
    before = width
  layer("vgg.31", 7, 6)
  layer("vgg.33", 7, 7, 1)
  for i, width in ((3, 4), (4, 5), (5, 6)):
    out[f"L2Norm{i}_3.weight"] = rng.uniform(5, 10, width).astype(np.float32)
  before = 7
  for i, (width, kernel) in enumerate(((2, 1), (4, 3), (3, 1), (5, 3))):
    layer(f"extras.{i}", width, before, kernel)
    before = width
  for i, width in enumerate((4, 5, 6, 7, 4, 5)):
    layer(f"loc.{i}", 4, width)
    layer(f"conf.{i}", 2 if i else 4, width)
  return out


def blob_tensors() -> dict[str, np.ndarray]:
  """A detector that takes what is bright for a face of 32 pixels, in its own scale."""
  out = {name: np.zeros_like(x) for name, x in s3fd_tensors().items()}
  for place in VGG:  # channel 0 is the brightness, less the mean, where positive
    out[f"vgg.{place}.weight"][0, 0, 1, 1] = 1
  out["L2Norm4_3.weight"][:] = 10
  for i in range(6):
    out[f"conf.{i}.bias"][0] = 5
  out["conf.1.weight"][1, 0, 1, 1] = 1
  return out


def opened(kind, tensors):
  with tempfile.TemporaryDirectory() as tmp:
    path = pathlib.Path(tmp) / "weights.safetensors"
    save_file(tensors, path)
    return load_network(kind, path)


@functools.cache
def blob_detector():
  return opened("s3fd", blob_tensors())


@functools.cache
def small_syncnet(seed: int = 0):
  return opened("syncnet", syncnet_tensors(seed))
