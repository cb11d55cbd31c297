"""A pipeline of codecs of a few lines, and a sampler that only records."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ccl_jax.codecs.bundle import Codecs
from ccl_jax.data.spec import ClipSpec
from ccl_jax.generation.pipeline import LoadedModel
from ccl_jax.generation.sampling import Sampling
from tests.stubs import recording

SPEC = ClipSpec(9, 32, 48, 25.0)  # 3 x 4 x 6 latents, 11 tokens of sound
VIDEO, AUDIO = (3, 4, 6, 16), (11, 4)


class Pixels(struct.PyTreeNode):
  """A latent is x / 2 + 1/4 of the pixel in its corner: mid-grey is 1/4."""

  channels, stride = 16, (4, 8, 8)

  def encode(self, pixels):
    _, frames, height, width, _ = pixels.shape
    assert (frames % 4, height % 8, width % 8) == (1, 0, 0)  # as a VAE asks
    corner = pixels[:, ::4, ::8, ::8, :1] / 2 + 0.25
    return jnp.repeat(corner, 16, -1)

  def decode(self, latent):
    x = (latent[..., :1] - 0.25) * 2
    for axis, n in ((2, 8), (3, 8), (4, 3)):
      x = jnp.repeat(x, n, axis)
    return jnp.concatenate([x[:, :1], jnp.repeat(x[:, 1:], 4, 1)], 1)


class Waves(struct.PyTreeNode):
  """A latent is the first of its 512 samples and 1/8: silence is 1/8."""

  channels, hop = 4, 512

  def encode(self, wave):
    return jnp.repeat(wave[:, ::512, None] + 0.125, 4, -1)

  def decode(self, latent):
    return jnp.repeat(latent[..., 0] - 0.125, 512, 1)


class Bytes(struct.PyTreeNode):
  length, dim = 6, 3

  def tokenize(self, texts):
    ids = np.zeros((len(texts), 6), np.int32)
    for row, text in zip(ids, texts):
      row[: len(text)] = list(text.encode())
    return ids, ids > 0

  def encode(self, ids, mask):
    return jnp.repeat((ids * mask)[..., None].astype(jnp.float32), 3, -1)


class Clip(struct.PyTreeNode):
  """Nine tokens of the picture's mean."""

  def encode(self, pixels):
    mean = pixels.mean((1, 2, 3))[:, None, None]
    return jnp.broadcast_to(mean, (len(pixels), 9, 1280))


CODECS = Codecs(Pixels(), Waves(), Bytes(), Clip())


def rows_of(*texts):
  return np.asarray(CODECS.text.encode(*map(jnp.asarray, CODECS.text.tokenize(texts))))


@dataclasses.dataclass
class Call:
  """The arguments of the sampler."""

  task: object
  noise: dict
  conditions: dict
  sampling: Sampling
  options: dict


def pipeline(*, channels=False, codecs=CODECS, spec=SPEC, **options):
  model, _ = recording(lambda params, told: {}, channels=channels)
  return LoadedModel(model, {}, codecs, spec, **options)


def generate(made, task, prompts, **options):
  with jax.disable_jit():
    return made.generate(task, prompts, **{"sampling": Sampling()} | options)


def pictures(*values, frames=()):
  """One flat picture (or film) of each value."""
  shape = (*frames, 32, 48, 3)
  return np.stack([np.full(shape, v, np.uint8) for v in values])
