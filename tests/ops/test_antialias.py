"""The filters of twice the rate: the formula, the reference, no delay, no aliases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.ops import antialias
from ccl_jax.ops.antialias import REACH, antialiased, down, extended, low_pass, up
from tests.parity import bigvgan_reference


def noise(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@jax.jit
def doubled(x):
  """`up` with its two halves laid out, (b, 2 t, c)."""
  return jnp.stack(up(x), 2).reshape(len(x), -1, x.shape[-1])


@jax.jit
def halved(u):
  return down(*extended(u[:, 0::2], u[:, 1::2]))


@pytest.mark.parametrize("length", [1, 2, 5, 40])
def test_filters_are_the_formula(length):
  """In float64, sample by sample, the ends repeated as long as it takes."""
  h, x = low_pass().astype(np.float64), noise(2, length, 3)
  u = np.zeros((2, 2 * length, 3))
  for m in range(2 * length):
    for j in range(m // 2 - 8, m // 2 + 9):
      if 0 <= m + 5 - 2 * j < 12:
        u[:, m] += 2 * h[m + 5 - 2 * j] * x[:, np.clip(j, 0, length - 1)]
  np.testing.assert_allclose(doubled(x), u, atol=1e-6)
  u, y = noise(2, 2 * length, 3, seed=1), np.zeros((2, length, 3))
  for i in range(length):
    for k in range(12):
      y[:, i] += h[k] * u[:, np.clip(2 * i + k - 5, 0, 2 * length - 1)]
  np.testing.assert_allclose(halved(u), y, atol=1e-6)


def test_filters_are_the_reference():
  resample = bigvgan_reference.load("alias_free_activation.torch.resample")
  import torch

  x = noise(2, 33, 4)
  theirs = lambda module, x: module(torch.tensor(x).mT).mT.numpy()
  np.testing.assert_allclose(
    doubled(x), theirs(resample.UpSample1d(2, 12), x), atol=1e-6
  )
  module = resample.DownSample1d(2, 12)
  np.testing.assert_allclose(halved(x[:, :32]), theirs(module, x[:, :32]), atol=1e-6)
  assert np.abs(module.lowpass.filter.numpy().ravel() - low_pass()).max() < 1e-7


def test_a_constant_stays_and_time_has_no_direction():
  """So nothing is delayed, not by half a sample of the higher rate either."""
  f = jax.jit(lambda x: antialiased(jnp.tanh, x))
  np.testing.assert_allclose(f(jnp.full((1, 9, 2), 0.7)), np.tanh(0.7), atol=1e-6)
  x = noise(2, 31, 3)
  np.testing.assert_allclose(f(x[:, ::-1]), f(x)[:, ::-1], atol=1e-6)


def test_reach_is_what_an_output_is_made_of():
  x = noise(1, 31, 1)
  seen = jax.jit(jax.grad(lambda x: antialiased(jnp.tanh, x)[0, 15, 0]))(x)[0, :, 0]
  assert np.flatnonzero(seen).tolist() == list(range(15 - REACH, 15 + REACH + 1))


def test_a_tone_is_squared_without_its_alias():
  """The square of a tone at 0.35 of the rate is one at 0.7, which sounds as 0.3: but
  for less than a quarter of it, the filter being short.
  """
  n = np.arange(400)
  tone = jnp.asarray(np.cos(0.7 * np.pi * n)[None, :, None], jnp.float32)
  tune = np.exp(-0.6j * np.pi * n)[50:350]
  alias = lambda y: np.abs(np.mean(np.asarray(y)[0, 50:350, 0] * tune))
  square = lambda x: x * x
  assert alias(square(tone)) == pytest.approx(0.25, rel=1e-3)
  assert alias(jax.jit(lambda x: antialiased(square, x))(tone)) < 0.25 / 4


def test_gradients_are_those_of_differences():
  x, w = noise(1, 12, 2), noise(1, 12, 2, seed=1)
  f = jax.jit(lambda x: (antialiased(jnp.sin, x) * w).sum())
  direction = noise(1, 12, 2, seed=2)
  got = jnp.vdot(jax.jit(jax.grad(f))(x), direction)
  numeric = (f(x + 1e-2 * direction) - f(x - 1e-2 * direction)) / 2e-2
  np.testing.assert_allclose(got, numeric, rtol=1e-2)


def test_the_rate_is_a_quarter_of_the_higher():
  """Half the amplitude at the cutoff, all of it below, none above."""
  k = np.arange(12)
  gain = lambda f: np.abs(np.sum(low_pass() * np.exp(-2j * np.pi * f * k)))
  assert gain(0.05) > 0.99 and 0.4 < gain(antialias.CUTOFF) < 0.6 and gain(0.45) < 0.01
