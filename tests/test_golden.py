"""Training and sampling of the smallest preset give the numbers they gave before.

Without the compiler's optimizations metrics move by 1e-7, gradients and latents by 2e-6
of their norms, updates by 7e-5, where a small gradient is divided by its own size; the
tolerances leave room for other versions, and for no bug. See `tests/testdata/README.md`
before writing the numbers anew.
"""

import numpy as np
import pytest

from tests import golden

STEP, LATENTS = golden.stored("golden_step.json"), golden.stored("golden_latents.json")


@pytest.fixture(scope="module")
def step():
  return golden.golden_step()


def test_metrics_of_two_steps(step):
  for got, expected in zip(step["metrics"], STEP["metrics"], strict=True):
    assert set(got) == set(expected)
    for name in expected:
      pair = (np.array(x[name], float) for x in (got, expected))  # None: not a number
      np.testing.assert_allclose(*pair, rtol=2e-5, err_msg=name)
  drawn = np.sum([row["drawn"] for row in STEP["metrics"]], 0)
  assert (drawn > 0).all()  # every task had its say


def test_the_norm_of_an_update_is_how_far_it_moves_the_parameters(step):
  norms = [row["update_norm"] for row in step["metrics"]]
  np.testing.assert_allclose(norms, step["lengths"], rtol=1e-4)
  assert norms[0] != norms[1]


@pytest.mark.parametrize("part, tolerance", [("gradient", 1e-4), ("moved", 3e-4)])
def test_gradients_and_updates_of_every_parameter(step, part, tolerance):
  """Norm and product of every array; what cancels in it counts by its part of all."""
  expected = {k[len(part) + 1 :]: v for k, v in STEP.items() if k.startswith(part)}
  assert set(step[part]) == set(expected)
  whole = sum(norm**2 for norm, _ in expected.values()) ** 0.5
  for name, (norm, product) in expected.items():
    # A direction of standard normal numbers: the product is of the norm's size.
    atol = tolerance * norm + 1e-6 * whole
    np.testing.assert_allclose(
      step[part][name], [norm, product], atol=atol, err_msg=name
    )


@pytest.mark.parametrize("name", golden.CLIPS)
def test_latents_of_a_task_and_a_form_of_guidance(name):
  for stream, got in golden.golden_latents(name).items():
    expected = np.array(LATENTS[f"{name} {stream}"])
    np.testing.assert_allclose(got, expected, atol=1e-4 * expected[0])
