import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.diffusion import flow
from ccl_jax.errors import UsageError


def _pair(shape=(3, 5, 4, 6, 2)):
  a, b = jax.random.split(jax.random.key(1))
  return jax.random.normal(a, shape), jax.random.normal(b, shape)


@pytest.mark.parametrize("sigma_shape", [(), (3,), (3, 5)])
def test_interpolation_runs_from_data_to_noise(sigma_shape):
  x0, eps = _pair()
  chex.assert_trees_all_equal(flow.interpolate(x0, eps, jnp.zeros(sigma_shape)), x0)
  chex.assert_trees_all_equal(flow.interpolate(x0, eps, jnp.ones(sigma_shape)), eps)


def test_a_noise_level_per_frame_acts_on_its_own_frame():
  x0, eps = _pair((2, 3, 4))
  sigma = jnp.array([[0.0, 0.5, 1.0], [1.0, 0.25, 0.0]])
  got = flow.interpolate(x0, eps, sigma)
  for b in range(2):
    for t in range(3):
      s = float(sigma[b, t])
      np.testing.assert_allclose(
        got[b, t], (1 - s) * x0[b, t] + s * eps[b, t], atol=1e-6
      )


def test_shift_multiplies_the_odds_of_noise():
  u = np.linspace(0, 1, 11)
  np.testing.assert_allclose(flow.shift_sigma(u, 1.0), u, atol=1e-15)
  got = flow.shift_sigma(u, 5.0)
  assert got[0] == 0 and got[-1] == 1
  u, got = u[:-1], got[:-1]
  np.testing.assert_allclose(got / (1 - got), 5 * u / (1 - u), rtol=1e-12)


@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_logit_normal_moments(shift):
  n = 200_000
  sigma = flow.draw_sigma(
    jax.random.key(0), (n,), "logit_normal", shift, mean=-0.4, std=1.3
  )
  assert sigma.min() > 0 and sigma.max() < 1
  logit = np.log(sigma) - np.log1p(-sigma)  # the shift adds log(shift)
  assert logit.mean() == pytest.approx(-0.4 + np.log(shift), abs=4 * 1.3 / n**0.5)
  assert logit.std() == pytest.approx(1.3, rel=4 / (2 * n) ** 0.5)


@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_uniform_moments(shift):
  n = 200_000
  sigma = np.float64(flow.draw_sigma(jax.random.key(0), (n,), "uniform", shift))
  u = sigma / (shift - (shift - 1) * sigma)  # unshifted
  assert u.min() >= 0 and u.max() < 1
  for k in (1, 2, 3):
    assert (u**k).mean() == pytest.approx(1 / (k + 1), abs=4 * 0.3 / n**0.5)


@pytest.mark.parametrize("kind", flow.SIGMA_KINDS)
def test_a_draw_is_a_function_of_its_key(kind):
  def draw(seed):
    return flow.draw_sigma(jax.random.key(seed), (4, 3), kind, 5.0)

  first = draw(7)
  assert first.shape == (4, 3) and first.dtype == jnp.float32
  np.testing.assert_array_equal(first, draw(7))
  np.testing.assert_array_equal(first, jax.jit(draw, static_argnums=0)(7))
  assert not np.any(first == draw(8))


def test_an_unknown_distribution_is_named_with_the_known_ones():
  with pytest.raises(UsageError, match=r"'beta'.*uniform, logit_normal"):
    flow.draw_sigma(jax.random.key(0), (2,), "beta", 5.0)
