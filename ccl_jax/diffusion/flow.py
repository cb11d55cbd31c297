"""Flow matching: a straight path from data to noise, and how noise levels are drawn.

  x_sigma = (1 - sigma) x0 + sigma eps          sigma 0 is data, sigma 1 is noise
  v       = eps - x0 = d x_sigma / d sigma      what the network learns (eq. 7)
  x0      = x_sigma - sigma v                   the data it implies
  shifted = s u / (1 + (s - 1) u)               moves draws towards noise for s > 1

The network is told the timestep 1000 sigma. A noise level is a scalar, one per sample
(b,), or one per sample and frame (b, t); it broadcasts over the axes that follow.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ccl_jax.errors import UsageError

Sigma = Float[Array, ""] | Float[Array, "b"] | Float[Array, "b t"]
SIGMA_KINDS = ("uniform", "logit_normal")


def _expand(sigma, ndim: int):
  # Noise levels lead: (b,) or (b, t) against (b, t, h, w, c).
  return jnp.reshape(sigma, sigma.shape + (1,) * (ndim - sigma.ndim))


def interpolate(
  x0: Float[Array, "b ..."], eps: Float[Array, "b ..."], sigma: Sigma
) -> Float[Array, "b ..."]:
  """The point (1 - sigma) x0 + sigma eps of the straight path from data to noise.

  Args:
    x0, eps: data and noise of one shape.
    sigma: noise level, broadcast over the axes it lacks.
  """
  # x_sigma = (1 - sigma) x0 + sigma eps: rectified flow's straight path.
  sigma = _expand(sigma, x0.ndim)
  return (1 - sigma) * x0 + sigma * eps


def velocity_target(
  x0: Float[Array, "b ..."], eps: Float[Array, "b ..."]
) -> Float[Array, "b ..."]:
  """The velocity eps - x0 that the network learns (paper eq. 7)."""
  return eps - x0


def data_prediction(
  x: Float[Array, "b ..."], v: Float[Array, "b ..."], sigma: Sigma
) -> Float[Array, "b ..."]:
  """The data x0 = x - sigma v that a velocity v at x implies."""
  # From v = eps - x0 and x = x0 + sigma v.
  return x - _expand(sigma, x.ndim) * v


def shift_sigma(
  u: Float[Array, "..."] | Float[np.ndarray, "..."], shift: float
) -> Float[Array, "..."] | Float[np.ndarray, "..."]:
  """Moves noise levels u in [0, 1] towards noise: s u / (1 + (s - 1) u).

  Args:
    u: levels, NumPy or JAX; 0 and 1 stay where they are.
    shift: s; 1 changes nothing, Wan2.1 has 5.
  """
  # Esser et al., arXiv 2403.03206, eq. 23, whose sqrt(m / n) is s.
  return shift * u / (1 + (shift - 1) * u)


def draw_sigma(
  key: PRNGKeyArray,
  shape: tuple[int, ...],
  kind: str,
  shift: float,
  mean: float = 0.0,
  std: float = 1.0,
) -> Float[Array, "..."]:
  """Noise levels for training: u by `kind`, then shifted.

  Args:
    key: the random key.
    shape: (b,) or (b, t).
    kind: "uniform" on [0, 1), or "logit_normal": sigmoid(mean + std N(0, 1)).
    shift: 1 leaves the draw as it is; Wan's is 5.
    mean: of the logit.
    std: of the logit.

  Raises:
    UsageError: an unknown kind.
  """
  if kind == "uniform":
    u = jax.random.uniform(key, shape, jnp.float32)
  elif kind == "logit_normal":
    # Esser et al., arXiv 2403.03206, section 3.1.
    u = jax.nn.sigmoid(mean + std * jax.random.normal(key, shape, jnp.float32))
  else:
    raise UsageError(
      f"unknown sigma distribution {kind!r}; choose one of {', '.join(SIGMA_KINDS)}"
    )
  return shift_sigma(u, shift)
