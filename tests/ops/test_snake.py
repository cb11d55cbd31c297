"""sin^2 as exact as float32 goes, its gradient, and Snake with its logarithms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.ops.snake import sin_squared, snake

squared = jax.jit(sin_squared)


@pytest.mark.parametrize("largest", [0.8, 30, 1e4])
def test_sin_squared_is_exact(largest):
  x = np.linspace(-largest, largest, 200_001, dtype=np.float32)
  error = np.abs(np.asarray(squared(x)) - np.sin(x.astype(np.float64)) ** 2)
  assert error.max() < 1e-7


def test_small_angles_are_exact_relative_to_their_square():
  x = np.geomspace(1e-15, 0.7, 10_001).astype(np.float32)
  expected = np.sin(x.astype(np.float64)) ** 2
  np.testing.assert_allclose(squared(x), expected, rtol=2.5e-7)
  assert squared(jnp.zeros(3)).tolist() == [0, 0, 0]


def test_the_gradient_is_sin_of_twice_the_angle():
  x = np.linspace(-12, 12, 10_001, dtype=np.float32)
  got = jax.jit(jax.grad(lambda x: sin_squared(x).sum()))(x)
  assert np.abs(got - np.sin(2 * x.astype(np.float64))).max() < 1e-6


def test_snake_is_its_formula_per_channel():
  rng = np.random.default_rng(0)
  x, alpha, beta = rng.normal(size=(2, 9, 3)), rng.normal(size=3), rng.normal(size=3)
  expected = x + np.sin(np.exp(alpha) * x) ** 2 / (np.exp(beta) + 1e-9)
  got = jax.jit(snake)(*(jnp.float32(a) for a in (x, alpha, beta)))
  np.testing.assert_allclose(got, expected, atol=1e-6)
