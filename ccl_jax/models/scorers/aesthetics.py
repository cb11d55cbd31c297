"""AudioBox Aesthetics: four scores of a sound, from WavLM's states.

For each axis, with S_l the states of WavLM's layers and the mean over frames of sound,

  e     = mean_t sum_l softmax(w)_l S_l
  score = MLP(e / |e|)                  dense, (norm,) gelu, ..., dense to one number

CE content enjoyment, CU content usefulness, PC production complexity, PQ production
quality. The scores are normalised; a release says with which mean and deviation.

Tjandra et al. (2025), arXiv 2502.05139.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float

from ccl_jax.models.scorers.wavlm import EXACT, WavLM, dense, gelu, norm

AXES = ("CE", "CU", "PC", "PQ")
LEAST = 1e-12  # a length that is divided by


class Head(nn.Module):
  """One axis's score of an embedding.

  Attributes:
    dense: the dense layers' numbers in the release, which counts all its layers.
    norms: whether a norm follows every dense layer but the last.
  """

  dense: tuple[int, ...]
  norms: bool

  @nn.compact
  def __call__(self, x: Float[Array, "b c"]) -> Float[Array, " b"]:
    for i in self.dense[:-1]:
      x = dense(x.shape[-1], name=f"dense_{i}")(x)
      x = gelu(norm(name=f"norm_{i + 1}")(x) if self.norms else x)
    return dense(1, name=f"dense_{self.dense[-1]}")(x)[:, 0]


class AestheticsNet(nn.Module):
  """Sound to normalised scores.

  Attributes:
    wavlm: the encoder.
    dense, norms: of every `Head`.
    unit: whether embeddings are scaled to length 1.
  """

  wavlm: WavLM = WavLM()
  dense: tuple[int, ...] = (0,)
  norms: bool = False
  unit: bool = True

  @nn.compact
  def __call__(
    self, wave: Float[Array, "b n"], valid: Bool[Array, "b n"]
  ) -> dict[str, Float[Array, " b"]]:
    states, mask = self.wavlm(wave, valid)
    # Weights of a mean over the frames of sound; padding has none.
    share = mask / jnp.maximum(mask.sum(1, keepdims=True), 1)
    # The mean over time first: layers and frames commute, and this is smaller.
    means = jnp.einsum("lbtc,bt->lbc", states, share, precision=EXACT)
    scores = {}
    for axis in AXES:
      ones = nn.initializers.ones
      weights = jax.nn.softmax(self.param(f"layers_{axis}", ones, len(states)))
      e = jnp.einsum("lbc,l->bc", means, weights, precision=EXACT)
      if self.unit:
        length = jnp.sqrt(jnp.sum(e * e, -1, keepdims=True))
        # score = MLP(e / |e|)
        e = e / jnp.maximum(length, LEAST)
      scores[axis] = Head(self.dense, self.norms, name=f"head_{axis}")(e)
    return scores


class Aesthetics(struct.PyTreeNode):
  """A release's network with its parameters and the scale of its scores.

  Attributes:
    params: of `net`.
    net: the network.
    scale: (mean, deviation) of every axis, in the order of `AXES`.
  """

  params: Any  # not typed as arrays: transformations put shapes, shardings here
  net: AestheticsNet = struct.field(pytree_node=False)
  scale: tuple[tuple[float, float], ...] = struct.field(pytree_node=False)

  def __call__(
    self, wave: Float[Array, "b n"], valid: Bool[Array, "b n"]
  ) -> Float[Array, "axes b"]:
    """Scores of windows, where `valid` marks the samples that are sound."""
    scores = self.net.apply({"params": self.params}, wave, valid)
    mean, std = np.asarray(self.scale, np.float32).T[..., None]
    return jnp.stack([scores[axis] for axis in AXES]) * std + mean
