"""Schedules of step-distilled files: published numbers; solvers in closed form."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.diffusion.distilled import DISTILLED, distilled
from ccl_jax.diffusion.samplers import RENOISE, sample
from ccl_jax.diffusion.schedules import Schedule
from ccl_jax.errors import UsageError

ROOT = pathlib.Path(__file__).parents[2]
# As the authors' programs tell the network.
TOLD = {
  "lightx2v": [1000, 937.5, 833.33, 625],
  "causvid": [1000, 757, 522],
  "fastwan": [1000, 757, 522],
  "rcm": [987.65, 933.78, 852.90, 608.98],
}
SOLVERS = {
  "lightx2v": ("euler", "renoise"),
  "causvid": ("renoise",),
  "fastwan": ("renoise",),
  "rcm": ("renoise",),
}
STEPS = {"lightx2v": (4,), "causvid": (3,), "fastwan": (3,), "rcm": (4, 3, 2, 1)}
A, C = 0.7, -0.4  # of the velocity A x + C


def velocity(latents, timestep):
  return jax.tree.map(lambda x: A * x + C, latents)


def test_every_file_has_its_list_and_no_other():
  assert DISTILLED.keys() == TOLD.keys()
  for name, row in DISTILLED.items():
    for steps in STEPS[name]:
      got = row.schedule(steps)
      np.testing.assert_allclose(got.timesteps, TOLD[name][:steps], rtol=0, atol=0.005)
      np.testing.assert_allclose(got.sigmas, [*(got.timesteps / 1000), 0], rtol=1e-12)
    assert row.takes() == {
      "steps": STEPS[name],
      "shift": (5.0 if name == "lightx2v" else 1.0,),
      "solver": SOLVERS[name],
      "guidance": ("none",),
    }


def test_the_page_says_where_files_are_and_on_what_terms():
  page = (ROOT / "docs" / "speed.md").read_text()
  for name, row in DISTILLED.items():
    (line,) = (x for x in page.splitlines() if x.startswith(f"| `{name}` |"))
    where, told, steps, solver, licence = (x.strip() for x in line.split("|")[2:-1])
    assert row.files[0].split()[0] in where and row.licence in licence
    assert told == ", ".join(f"{t:.2f}".rstrip("0").rstrip(".") for t in TOLD[name])
    assert steps.startswith(str(row.steps[0])) and row.solvers[0] in solver


def test_a_schedule_that_is_none():
  with pytest.raises(UsageError, match="got lcm; expected one of lightx2v, causvid"):
    distilled("lcm")


def noises(schedule, shape=(3, 4), seed=2):
  """Noise before the first step, and after each."""
  return np.random.default_rng(seed).standard_normal((schedule.steps + 1, *shape))


def sampled(schedule, solver, e):
  fresh = lambda i: {"video": jnp.asarray(e, jnp.float32)[i + 1]}
  noise = {"video": jnp.asarray(e[0], jnp.float32)}
  return sample(velocity, noise, schedule, solver, fresh=fresh)["video"]


@pytest.mark.parametrize("name", TOLD)
def test_euler_on_a_linear_velocity(name):
  """The distance to -C / A shrinks by 1 - (sigma_i - sigma_{i+1}) A at every step."""
  schedule = DISTILLED[name].schedule(STEPS[name][0])
  e = noises(schedule)
  shrunk = np.prod(1 + np.diff(schedule.sigmas) * A)
  want = -C / A + (e[0] + C / A) * shrunk
  np.testing.assert_allclose(sampled(schedule, "euler", e), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["lightx2v", "causvid", "rcm"])
def test_renoising_on_a_linear_velocity(name, steps):
  """m_i = g_i x_i + d_i with g_i = 1 - A sigma_i and d_i = -C sigma_i; and from step to
  step x_{i+1} = (1 - sigma_{i+1}) m_i + sigma_{i+1} e_i, from x_0 = sigma_0 e. So the
  noise before step i weighs sigma_i g_i prod_{j > i} (1 - sigma_j) g_j in the result.
  """
  row = DISTILLED[name]
  schedule = dataclasses.replace(row, steps=(steps,)).schedule(steps)
  s, n = schedule.sigmas, schedule.steps
  e, g = noises(schedule), 1 - A * s[:-1]
  after = [np.prod((1 - s[i + 1 : n]) * g[i + 1 :]) for i in range(n)]
  want = sum(after[i] * (g[i] * s[i] * e[i] - C * s[i]) for i in range(n))
  got = sampled(schedule, RENOISE, e)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_a_state_of_renoising_is_data_and_noise_of_its_level():
  """Of a network that is certain of the data: (1 - sigma) x0 + sigma e."""
  schedule, data = DISTILLED["rcm"].schedule(4), 1.5
  e, seen = noises(schedule), []

  def certain(latents, timestep):
    jax.debug.callback(seen.append, latents["video"], ordered=True)
    sigma = timestep / 1000
    return {"video": (latents["video"] - data) / sigma}

  fresh = lambda i: {"video": jnp.asarray(e, jnp.float32)[i + 1]}
  noise = {"video": jnp.asarray(e[0], jnp.float32)}
  got = sample(certain, noise, schedule, RENOISE, fresh=fresh)["video"]
  np.testing.assert_allclose(got, data, atol=1e-6)
  jax.effects_barrier()
  for i in range(1, 4):
    sigma = schedule.sigmas[i]
    np.testing.assert_allclose(seen[i], (1 - sigma) * data + sigma * e[i], atol=1e-5)
  np.testing.assert_allclose(seen[0], 80 / 81 * e[0], atol=1e-5)  # tan u = 80


def test_other_solvers_start_from_noise_itself_and_draw_none():
  """UniPC's first level is just below 1, and its noise not scaled."""
  schedule = Schedule(np.array([0.9, 0.0]), np.array([900.0]))
  e = noises(schedule)
  for solver in ("euler", "unipc", "dpmpp"):
    noise = {"video": jnp.asarray(e[0], jnp.float32)}
    got = sample(velocity, noise, schedule, solver)["video"]
    np.testing.assert_allclose(got, e[0] - 0.9 * (A * e[0] + C), atol=1e-5)
