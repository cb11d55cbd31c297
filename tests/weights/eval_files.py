"""Small checkpoints of the metrics' networks, as they are released."""

import json

import numpy as np
from flax import traverse_util

from ccl_jax.weights import imagebind, synchformer
from ccl_jax.weights.entries import Entry
from ccl_jax.weights.reader import Weights
from ccl_jax.weights.rules import expected_tensors

SYNCHFORMER = {
  "width": 192,
  "hidden": 40,
  "heads": 3,
  "depths": [2, 2, 1],
  "joint_hidden": 24,
  "joint_heads": 2,
  "classes": 21,
  "times": 8,
  "grid": 2,
}
IMAGEBIND = {
  "vision": {"width": 160, "heads": 2, "hidden": 24, "depth": 2, "out": 16},
  "audio": {"width": 128, "heads": 2, "hidden": 20, "depth": 1, "out": 16},
  "grid": 2,
}
UNREAD = {
  "synchformer": {
    "vfeat_extractor.patch_embed.proj.weight": (192, 3, 16, 16),
    "vfeat_extractor.patch_embed.proj.bias": (192,),
  },
  "imagebind": {
    "modality_preprocessors.text.mask": (7, 7),
    "modality_trunks.text.blocks.0.norm_1.weight": (8,),
    "modality_preprocessors.thermal.rgbt_stem.proj.weight": (8, 1, 4, 4),
    "modality_trunks.depth.blocks.0.attn.bias_k": (1, 1, 8),
    "modality_heads.imu.3.weight": (16, 8),
    "modality_postprocessors.depth.1.log_logit_scale": (),
  },
}
KINDS = {"synchformer": (synchformer, SYNCHFORMER), "imagebind": (imagebind, IMAGEBIND)}


def eval_tensors(kind, sizes=None, seed=0) -> dict[str, np.ndarray]:
  """Random tensors under the released names, those that are left unread among them."""
  module, small = KINDS[kind]
  matches = expected_tensors(module.NATIVE, module.shapes_of(sizes or small))
  shapes = {m.name: m.shape for m in matches} | UNREAD[kind]
  rng = np.random.default_rng(seed)
  out = {}
  for name, shape in shapes.items():
    x = rng.standard_normal(shape, np.float32)
    if len(shape) > 1:
      x /= np.float32(np.prod(shape[1:]) ** 0.5)
    out[name] = np.asarray(x, np.float32)
  return out


def random_tree(shapes, seed=0):
  """Parameters of these shapes that keep a signal's size."""
  rng = np.random.default_rng(seed)

  def draw(path, shape):
    x = rng.standard_normal(shape)
    if path.endswith("scale"):
      x = 1 + 0.1 * x
    elif path.endswith("kernel"):
      x /= shape[-2] ** 0.5
    return np.asarray(x, np.float32)

  flat = {path: draw(path, x.shape) for path, x in shapes.items()}
  return traverse_util.unflatten_dict(flat, sep="/")


class Names(Weights):
  """A checkpoint of which only the header is here: keys.json of a golden case."""

  def __init__(self, path):
    shapes = json.loads(path.read_text())
    dtype = np.dtype(np.float32)
    super().__init__(
      path, {k: Entry(path, 0, dtype, tuple(s)) for k, s in shapes.items()}
    )
