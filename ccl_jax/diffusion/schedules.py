"""Noise levels of a sampling run: N + 1 sigmas from noise down to 0, N timesteps.

Each schedule shifts an even grid, sigma = s u / (1 + (s - 1) u), and appends 0:

  schedule   u_0 .. u_{N-1}                    timestep the network receives
  unipc      linspace(0.999, 0, N + 1)[:-1]    floor(1000 sigma)    Wan2.1's default
  dpmpp      linspace(1, 0, N + 1)[:-1]        floor(1000 sigma)    Wan2.1's other one
  euler      linspace(1, 0, N + 1)[:-1]        1000 sigma

Wan2.1 tells the network a whole timestep while its solver steps between exact sigmas;
weights from there expect the same.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from ccl_jax.diffusion.flow import shift_sigma
from ccl_jax.errors import UsageError


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
  """The noise levels of N steps, on the host in float64.

  Attributes:
    sigmas: strictly decreasing; the first at most 1, the last 0.
    timesteps: what the network is told at sigmas[:-1].
  """

  sigmas: Float[np.ndarray, "levels"]
  timesteps: Float[np.ndarray, "steps"]

  @property
  def steps(self) -> int:
    """N, the number of evaluations of the network."""
    return len(self.timesteps)


# The reference keeps the largest sigma of its training grid in single precision.
_UNIPC_FIRST = float(np.float32(0.999))

TIMESTEPS = 1000  # that there are, and so steps at most

# name -> (first u, whole timesteps)
SCHEDULES = {
  "unipc": (_UNIPC_FIRST, True),
  "dpmpp": (1.0, True),
  "euler": (1.0, False),
}


def make_schedule(name: str, steps: int, shift: float) -> Schedule:
  """The schedule `name` with `steps` evaluations of the network.

  Args:
    name: one of SCHEDULES.
    steps: N, at least 1. Wan2.1: 50 for text to video, 40 for image to video.
    shift: s, above 0. Wan2.1: 5; 3 for image to video at 480p.

  Raises:
    UsageError: an unknown name, no step, or a shift that is not above 0 and finite, or
      so far from 1 that no levels are left.
  """
  if name not in SCHEDULES:
    raise UsageError(f"unknown schedule {name!r}; choose one of {', '.join(SCHEDULES)}")
  if steps < 1:
    raise UsageError(f"{steps} sampling steps; expected at least 1")
  if not 0 < shift < np.inf:
    raise UsageError(f"timestep shift {shift}; expected a finite number above 0")
  first, whole = SCHEDULES[name]
  sigmas = shift_sigma(np.linspace(first, 0.0, steps + 1)[:-1], shift)
  if not (np.diff(sigmas, append=0.0) < 0).all():
    raise UsageError(
      f"timestep shift {shift}: {steps} noise levels cannot be told apart; expected a "
      "number nearer to 1, such as 5"
    )
  timesteps = 1000 * sigmas
  return Schedule(
    sigmas=np.append(sigmas, 0.0),
    timesteps=np.floor(timesteps) if whole else timesteps,
  )
