"""The losses of BigVGAN's training (arXiv 2206.04658), of what `Discriminators` give.

  L_D = sum_k mean (1 - D_k(x))^2 + mean D_k(y)^2              x real, y generated
  L_G = sum_k mean (1 - D_k(y))^2                              `adversarial`
      + 2 sum_k sum_l mean |D_k^l(x) - D_k^l(y)|               `feature_matching`
      + 45 mean |log mel(x) - log mel(y)|                      `mel_distance`

Least squares push the scores D_k to 1 for real and to 0 for generated sound; D_k^l is
map l of discriminator k. In a step the discriminators come first, on a y without
gradient, and then the generator.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from ccl_jax.models.discriminators import Output
from ccl_jax.ops.stft import log_mel

MATCHING, MEL = 2.0, 45.0  # weights of the terms


def discrimination(
  real: Sequence[Output], generated: Sequence[Output]
) -> Float[Array, ""]:
  """L_D, the discriminators' loss: scores 1 for real and 0 for generated sound."""
  return sum(
    jnp.mean((1 - x) ** 2) + jnp.mean(y**2) for (x, _), (y, _) in zip(real, generated)
  )


def adversarial(generated: Sequence[Output]) -> Float[Array, ""]:
  """First term of L_G: how far the scores of generated sound are from 1."""
  return sum(jnp.mean((1 - y) ** 2) for y, _ in generated)


def feature_matching(
  real: Sequence[Output], generated: Sequence[Output]
) -> Float[Array, ""]:
  """Second term of L_G: distance of the maps of all layers, without the factor 2."""
  return sum(
    jnp.mean(jnp.abs(x - y))
    for (_, xs), (_, ys) in zip(real, generated)
    for x, y in zip(xs, ys)
  )


def mel_distance(
  wave: Float[Array, "b n"], target: Float[Array, "b n"], **mode: Any
) -> Float[Array, ""]:
  """Third term of L_G: mean distance of the log-mels, without the factor 45.

  Args:
    wave, target: generated and real sound.
    mode: keywords of `ops.stft.log_mel`; the logarithm is natural if none is named.
  """
  # BigVGAN's mel loss is in natural logarithms.
  mel = lambda x: log_mel(x, **{"log": jnp.log} | mode)
  return jnp.mean(jnp.abs(mel(wave) - mel(target)))


def generation(
  wave: Float[Array, "b n"],
  target: Float[Array, "b n"],
  real: Sequence[Output],
  generated: Sequence[Output],
  **mode: Any,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
  """L_G, for the generator, and its three terms.

  Args:
    wave, target: generated and real sound.
    real, generated: what the discriminators give for them.
    mode: of the mel.
  """
  terms = {
    "adversarial": adversarial(generated),
    "feature_matching": feature_matching(real, generated),
    "mel": mel_distance(wave, target, **mode),
  }
  weights = {"adversarial": 1.0, "feature_matching": MATCHING, "mel": MEL}
  return sum(weights[name] * term for name, term in terms.items()), terms
