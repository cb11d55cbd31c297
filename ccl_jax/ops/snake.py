"""Snake, the periodic activation of vocoders (arXiv 2006.08195), with two parameters.

  snake(x) = x + sin^2(e^alpha x) / (e^beta + 1e-9)

alpha is the logarithm of its frequency in radians, beta of the inverse of its height.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# pi / 2 in three parts; n times the first and the second are exact for n < 2^13.
QUARTER = (1.5703125, 4.837512969970703125e-4, 7.549789954891882e-8)
# sin^2 r = r^2 + sum_i SERIES[i] r^(2 i + 4), to 1e-9 r^2 for |r| <= pi / 4.
SERIES = (-0.333333292, 0.0444437865, -0.00317136899, 0.00013480558)


def sin_squared(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
  """sin^2 x by reduction to a quarter turn: a polynomial of the rest, or 1 less that.

  Its error is below 1e-7 up to |x| = 10^4. `jnp.sin(x) ** 2` is no more exact and under
  XLA on a CPU takes six times as long, as it calls a scalar function.
  """
  quarters = jnp.round(x * (2 / np.pi))
  # Cody and Waite: pi / 2 taken off in parts, so that no digit of x is lost.
  for part in QUARTER:
    x = x - quarters * part
  square, series = x * x, SERIES[-1]
  # Horner's rule.
  for coefficient in SERIES[-2::-1]:
    series = coefficient + square * series
  even = square + square * (square * series)
  # After an odd number of quarter turns it is cos^2 = 1 - sin^2 of the rest.
  odd = quarters - 2 * jnp.floor(quarters / 2)
  return odd + (1 - 2 * odd) * even


def snake(
  x: Float[Array, "b t c"], alpha: Float[Array, " c"], beta: Float[Array, " c"]
) -> Float[Array, "b t c"]:
  """Applies snake with a frequency and a height of its own to each channel.

  Args:
    alpha: logarithm of the frequency, in radians per unit of x.
    beta: logarithm of the inverse of the height.
  """
  height = 1 / (jnp.exp(beta)[None, None] + 1e-9)
  return x + height * sin_squared(jnp.exp(alpha)[None, None] * x)
