import dataclasses
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from ccl_jax.diffusion.samplers import METHODS, sample, solver_rows
from ccl_jax.diffusion.schedules import Schedule, make_schedule
from ccl_jax.errors import UsageError
from tests.trajectory import trajectory


def _noise():
  a, b = jax.random.split(jax.random.key(3))
  return {
    "video": jax.random.normal(a, (2, 3, 4, 5)),
    "audio": jax.random.normal(b, (2, 7, 6)),
  }


def _gaussian_velocity(latents, timestep, mean=0.7, std=0.5):
  """E[eps - x0 | x] for x0 ~ N(mean, std^2)."""
  s = timestep / 1000
  slope = (s - (1 - s) * std**2) / ((1 - s) ** 2 * std**2 + s**2)
  return jax.tree.map(lambda x: -mean + slope * (x - (1 - s) * mean), latents)


def _gaussian_path(z, s, mean=0.7, std=0.5):
  """The solution through z at sigma 1: the standardised state never changes."""
  return (1 - s) * mean + np.sqrt((1 - s) ** 2 * std**2 + s**2) * z


def _coupled_velocity(latents, timestep):
  """Nonlinear, and each stream depends on the other."""
  push = jnp.tanh(latents["audio"].mean() - latents["video"].mean())
  wave = jnp.sin(3 * timestep / 1000)
  return {k: jnp.tanh(x) + push - wave for k, x in latents.items()}


CASES = {"unipc_20_s5": "unipc", "unipc_50_s3": "unipc", "dpmpp_20_s5": "dpmpp"}


@pytest.mark.shared
@pytest.mark.parametrize("name", CASES)
def test_the_reference_trajectories(shared, name):
  folder = shared / "parity" / "wan_schedules"
  golden = load_file(folder / "schedules.safetensors")
  cases = json.loads((folder / "config.json").read_text())["cases"]
  case = next(c for c in cases if c["name"] == name)
  a, want = golden["A"], golden[f"{name}.traj"]

  def velocity(x, t):
    return {"video": x["video"] @ a.T + 0.5 * jnp.sin(3 * t / 1000)}

  schedule = make_schedule(CASES[name], case["steps"], case["shift"])
  noise = {"video": jnp.asarray(golden["x_init"])}
  got = trajectory(velocity, noise, schedule, CASES[name])["video"]
  assert got.shape == want.shape
  error = np.abs(got - want).max() / want.std()
  assert error <= 1e-5, error
  final = sample(velocity, noise, schedule, CASES[name])["video"]
  assert np.abs(final - want[-1]).max() / want.std() <= 1e-5


def _even_schedule(steps, first=0.98, last=0.05):
  """Even in log-SNR, between two noise levels, then the final 0."""
  log_snr = np.linspace(np.log(1 / first - 1), np.log(1 / last - 1), steps + 1)
  sigmas = 1 / (1 + np.exp(log_snr))
  return Schedule(np.append(sigmas, 0.0), 1000 * sigmas)


@pytest.mark.parametrize(
  "method,order",
  # The corrector raises UniPC's order by one.
  [("euler", 1), ("dpmpp", 2), ("unipc", 3)],
)
def test_order_of_convergence(method, order):
  z = np.linspace(-2, 2, 9)

  def error(steps):
    schedule = _even_schedule(steps)
    first, last = schedule.sigmas[0], schedule.sigmas[-2]
    noise = {"video": jnp.asarray(_gaussian_path(z, first), jnp.float32)}
    states = trajectory(_gaussian_velocity, noise, schedule, method)["video"]
    return np.abs(states[-2] - _gaussian_path(z, last)).max()

  errors = np.array([error(n) for n in (20, 40, 80)])
  assert errors[0] < 0.1 and errors[-1] > 2e-5  # above rounding
  np.testing.assert_allclose(-np.diff(np.log2(errors)), order, atol=0.15)


def test_a_whole_run_ends_at_the_exact_data():
  z = jnp.linspace(-2, 2, 9)
  error = {}
  for method in METHODS:
    schedule = make_schedule("euler", 40, 1.0)
    got = sample(_gaussian_velocity, {"video": z}, schedule, method)["video"]
    error[method] = float(np.abs(got - _gaussian_path(z, 0.0)).max())
  assert error["unipc"] < 3e-3 and error["dpmpp"] < 6e-3 and error["euler"] < 0.05


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["unipc", "euler"])
@pytest.mark.parametrize("steps", [1, 2, 3, 9])
def test_a_certain_prediction_gives_a_straight_path(method, name, steps):
  """With infinite log-SNR at both ends, and from one step on, for every pairing."""
  schedule = make_schedule(name, steps, 5.0)
  exact = dataclasses.replace(schedule, timesteps=1000 * schedule.sigmas[:-1])
  for row in solver_rows(schedule.sigmas, method).values():
    assert np.all(np.isfinite(row))
  noise, data = _noise(), jax.tree.map(lambda x: jnp.cos(3 * x), _noise())

  def velocity(latents, timestep):
    s = timestep / 1000
    return jax.tree.map(lambda x, x0: (x - x0) / s, latents, data)

  got = trajectory(velocity, noise, exact, method)
  s = schedule.sigmas / schedule.sigmas[0]
  want = jax.tree.map(
    lambda x, x0: jnp.stack([x0 + np.float32(r) * (x - x0) for r in s]), noise, data
  )
  chex.assert_trees_all_close(got, want, atol=2e-5)


def test_one_evaluation_a_step_at_the_told_timestep_and_progress():
  schedule = make_schedule("unipc", 6, 5.0)
  told, steps = [], []

  def velocity(latents, timestep):
    jax.debug.callback(lambda t: told.append(float(t)), timestep)
    return _coupled_velocity(latents, timestep)

  sample(velocity, _noise(), schedule, progress=lambda i: steps.append(int(i)))
  jax.effects_barrier()
  assert sorted(steps) == list(range(6))
  assert sorted(told, reverse=True) == schedule.timesteps.tolist()


def test_the_state_is_single_precision():
  noise = jax.tree.map(lambda x: x.astype(jnp.bfloat16), _noise())
  seen = []

  def velocity(latents, timestep):
    seen.extend(x.dtype for x in latents.values())
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16), latents)

  got = sample(velocity, noise, make_schedule("unipc", 3, 5.0))
  assert {x.dtype for x in got.values()} | set(seen) == {jnp.dtype("float32")}


def test_an_unknown_method_is_named_with_the_known_ones():
  with pytest.raises(UsageError, match=r"'heun'.*unipc, dpmpp, euler"):
    sample(_gaussian_velocity, _noise(), make_schedule("euler", 4, 5.0), "heun")
