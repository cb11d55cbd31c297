"""Random parameters with which every part of a network matters."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from ccl_jax.sharding import path_of

# (what a path ends with, mean, deviation): the first that fits. A matrix with deviation
# 1 / sqrt(inputs) keeps the size of what it multiplies; attention averages its values
# and activations halve what goes through them, which larger ones make up for.
PARTS = (
  (r"(cross_attn|audio_to_video|video_to_audio)/o/kernel", 0.0, 4.0),
  (r"self_attn/o/kernel", 0.0, 3.0),
  (r"text_embedding/(in|out)/kernel", 0.0, 2.0),
  (r"kernel", 0.0, 1.0),
  (r"norm_[qk](_img)?/scale", 1.5, 0.3),  # attention that prefers some keys to others
  (r"scale", 1.0, 0.3),
  (r"modulation", 0.0, 0.5),
  (r"context", 0.0, 1.0),  # as the tokens that it stands for
  (r"bias", 0.0, 0.2),
)


def living_params(shapes, seed: int = 0):
  """Parameters of a `JointDiT`, for its tree of shapes: centred, so that no common part
  drowns the others, and as large as lets every part change the output by a tenth of the
  output's deviation and more (`tests.parts.assert_every_part_matters`).
  """
  rng = np.random.default_rng(seed)

  def draw(path, shape):
    mean, std = next(p[1:] for p in PARTS if re.search(p[0] + "$", path))
    if path.endswith("kernel"):
      std /= shape[-2] ** 0.5
    return jnp.asarray(mean + std * rng.standard_normal(shape), jnp.float32)

  return jax.tree_util.tree_map_with_path(
    lambda k, x: draw(path_of(k), x.shape), shapes
  )


def codec_params(shapes, seed: int = 0):
  """Parameters of a codec of convolutions, for its tree of shapes: none is zero, and
  all are about as large as trained ones.
  """
  rng = np.random.default_rng(seed)

  def draw(x):
    noise = rng.standard_normal(x.shape).astype(np.float32)
    if len(x.shape) > 1:
      return jnp.asarray(noise * np.prod(x.shape[:-1]) ** -0.5)
    return jnp.asarray(0.1 * noise + 0.3)

  return jax.tree.map(draw, shapes)
