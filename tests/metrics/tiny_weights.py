"""A folder of small random networks of all metrics, in files as they are released."""

import json
import pathlib

import numpy as np
from safetensors.numpy import save_file

from ccl_jax.models.scorers.aesthetics import AXES
from ccl_jax.weights import aesthetics, i3d, vggish
from ccl_jax.weights.rules import expected_tensors
from tests.metrics.sync_nets import blob_tensors, syncnet_tensors
from tests.weights.eval_files import IMAGEBIND, SYNCHFORMER, eval_tensors

SCALES = {axis: {"mean": 5.0 + i, "std": 1.0} for i, axis in enumerate(AXES)}
AESTHETICS = {
  "wavlm": {
    "channels": 6, "kernels": [10, 3, 3, 3, 3, 2, 2], "width": 16, "ffn": 24,
    "heads": 2, "depth": 2, "buckets": 16, "taps": 8, "groups": 4,
  },
  "dense": [0], "norms": False, "unit": True, "scale": [[5.0, 1.0]] * 4,
}  # fmt: skip
I3D = {"stem": [4, 3, 4], "mixed": [[2, 2, 2, 2, 2, 2]] * 9, "classes": 5}
VGGISH = {"convs": [2, 2, 3, 3, 4, 4], "dense": [8, 8, 6]}


def random_tensors(module, sizes) -> dict[str, np.ndarray]:
  """Random tensors of a network under its released names."""
  rng, out = np.random.default_rng(0), {}
  for match in expected_tensors(module.NATIVE, module.shapes_of(sizes)):
    x = rng.standard_normal(match.shape, np.float32)
    if match.name.endswith("running_var"):
      x = 0.5 + abs(x)
    elif len(match.shape) > 1:
      x /= np.float32(np.prod(match.shape[1:]) ** 0.5)
    out[match.name] = np.asarray(x, np.float32)
  return out


def write_weights(folder: pathlib.Path) -> pathlib.Path:
  """One file or folder per network."""
  tower = {"hidden": 24, "depth": 1, "out": 8}
  small = {"width": 64, "hidden": 24, "heads": 1, "depths": [1, 1, 1], "grid": 14}
  imagebind = IMAGEBIND | {"grid": 16}
  imagebind |= {"vision": {"width": 80, "heads": 1, **tower}}
  files = {
    "syncnet": syncnet_tensors(),
    "s3fd": blob_tensors(),
    "synchformer": eval_tensors("synchformer", SYNCHFORMER | small),
    "imagebind": eval_tensors("imagebind", imagebind | {"audio": {
      "width": 64, "heads": 1, **tower}}),
    "i3d": random_tensors(i3d, I3D),
    "vggish": random_tensors(vggish, VGGISH),
    "aesthetics/model": random_tensors(aesthetics, AESTHETICS),
  }  # fmt: skip
  (folder / "aesthetics").mkdir(parents=True)
  for name, tensors in files.items():
    save_file(tensors, folder / f"{name}.safetensors")
  about = {"normalize_embed": True, "target_transform": SCALES}
  (folder / "aesthetics/config.json").write_text(json.dumps(about))
  return folder


def write_clip(
  path: pathlib.Path, seed: int, seconds: float = 5.0, seen: float = 9.0
) -> pathlib.Path:
  """Clicks, and a bright square for the first `seen` seconds, which the small detector
  takes for a face.
  """
  from ccl_jax.viz.media import write_mp4

  rng, n = np.random.default_rng(seed), round(10 * seconds)
  frames = np.zeros((n, 160, 160, 3), np.uint8)
  light = rng.integers(160, 256, (n, 1, 1, 3), np.uint8)
  face = slice(round(10 * seen))
  frames[face, 64:96, 64:96] = light[face]
  frames[np.arange(n), 130 + np.arange(n) % 9 * 3, 20:60] = 255
  wave = 0.02 * rng.standard_normal(round(16000 * seconds))
  for time in rng.uniform(0.2, seconds - 0.3, 6):
    start = round(16000 * time)
    wave[start : start + 800] += 0.5 * rng.standard_normal(800)
  write_mp4(path, frames, 10.0, wave.astype(np.float32))
  return path
