"""Schedules and solvers against the reference, state by state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.diffusion.samplers import sample
from ccl_jax.diffusion.schedules import make_schedule
from tests.reference import solvers
from tests.trajectory import trajectory

SHAPES = {"video": (2, 3, 4), "audio": (2, 7)}


def velocity(lib):
  """Not linear, different by stream and timestep, each stream driven by the other."""

  def v(x, timestep):
    push = lib.tanh(x["audio"].mean() - x["video"].mean())
    wave = lib.sin(3 * timestep / 1000)
    scale = {"video": 1.0, "audio": 0.6}
    return {s: lib.tanh(scale[s] * x[s]) + push - wave for s in x}

  return v


@pytest.fixture(scope="module")
def noise():
  rng = np.random.default_rng(0)
  return {s: rng.standard_normal(n).astype(np.float32) for s, n in SHAPES.items()}


@pytest.mark.parametrize("name", ["unipc", "dpmpp", "euler"])
@pytest.mark.parametrize(("steps", "shift"), [(1, 5.0), (6, 1.0), (50, 3.0)])
def test_schedules(name, steps, shift):
  got = make_schedule(name, steps, shift)
  sigmas, told = solvers.schedule(name, steps, shift)
  np.testing.assert_allclose(got.sigmas, sigmas, atol=5e-8)
  np.testing.assert_allclose(got.timesteps, told, atol=5e-5)
  assert got.steps == steps


@pytest.mark.parametrize("name", ["unipc", "dpmpp", "euler"])
@pytest.mark.parametrize(("steps", "shift"), [(1, 5.0), (2, 3.0), (3, 3.0), (7, 5.0)])
def test_every_state_of_a_run(noise, name, steps, shift):
  schedule = make_schedule(name, steps, shift)
  start = jax.tree.map(jnp.asarray, noise)
  states = trajectory(velocity(jnp), start, schedule, name)
  end = sample(velocity(jnp), start, schedule, name)

  expected, exact = [], velocity(np)

  def watched(x, timestep):  # an evaluation is where a state shows
    expected.append(x)
    return exact(x, timestep)

  x = {s: np.float64(n) for s, n in noise.items()}
  expected.append(solvers.solve(name, watched, x, steps, shift))
  assert len(expected) == steps + 1
  for s in noise:
    want = np.stack([x[s] for x in expected])
    np.testing.assert_allclose(states[s], want, atol=5e-6)
    np.testing.assert_allclose(end[s], want[-1], atol=5e-6)
