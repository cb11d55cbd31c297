"""Weight norm around a network: the same function, other gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.ops.weight_norm import join, split


def params():
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
  return {"a": {"kernel": draw(3, 4, 5), "bias": draw(5)}, "b": {"alpha": draw(2)}}


def test_split_and_join_are_inverse():
  before = params()
  train = split(before)
  assert train["a"].keys() == {"direction", "length", "bias"}
  assert train["a"]["length"].shape == (1, 1, 5) and train["b"] == before["b"]
  after = join(train)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), after, before)
  # Only the direction of a direction counts.
  train["a"]["direction"] = train["a"]["direction"] * jnp.arange(1.0, 6)[None, None]
  np.testing.assert_allclose(
    join(train)["a"]["kernel"], before["a"]["kernel"], rtol=1e-6
  )


def test_gradients_are_those_of_torch():
  """For a convolution; its last axis here is torch's first."""
  torch = pytest.importorskip("torch")
  before = params()
  layer = torch.nn.Conv1d(4, 5, 3)
  with torch.no_grad():
    layer.weight.copy_(torch.tensor(np.asarray(before["a"]["kernel"])).permute(2, 1, 0))
  layer = torch.nn.utils.parametrizations.weight_norm(layer)
  (torch.sin(layer.weight) ** 2).sum().backward()
  loss = lambda train: jnp.sum(jnp.sin(join(train)["a"]["kernel"]) ** 2)
  got = jax.grad(loss)(split(before))["a"]
  parts = layer.parametrizations.weight
  expected = {"length": parts.original0, "direction": parts.original1}
  for name, x in expected.items():
    theirs = x.grad.permute(2, 1, 0).numpy()
    np.testing.assert_allclose(got[name], theirs, atol=1e-5)
