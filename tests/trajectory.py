"""The states of a sampler, seen where it evaluates the velocity."""

import jax
import numpy as np

from ccl_jax.diffusion.samplers import sample


def trajectory(velocity, noise, schedule, method="unipc"):
  """All states of `sample`, from the noise to the data, on a new first axis (N + 1)."""
  states = []

  def watched(x, timestep):
    jax.debug.callback(states.append, x, ordered=True)
    return velocity(x, timestep)

  end = sample(watched, noise, schedule, method)
  jax.effects_barrier()
  return jax.tree.map(lambda *xs: np.stack(xs), *states, end)
