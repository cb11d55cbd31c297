"""What the loop refuses: transfers nobody asked for, and updates that exploded."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ccl_jax.checkpoints.checkpointer import Checkpointer
from ccl_jax.errors import UsageError
from ccl_jax.training import loop
from ccl_jax.training.log import MetricLog, StepTimer
from ccl_jax.training.profile import Profile
from ccl_jax.training.step import make_train_step
from tests.training.conftest import RECIPE


class Batches:
  """Ones, for ever."""

  def __next__(self):
    return {"x": np.ones(3, np.float32)}

  def get_state(self):
    return {}


class Saves(Checkpointer):
  """Keeps what is saved, by step."""

  def __init__(self):
    self.saved = {}

  def save(self, step, state, data_state, metadata):
    self.saved[step] = jax.device_get(state)

  def wait(self):
    pass


def train(saves, run, encode, steps=4):
  return loop.train(
    jnp.zeros(3),
    step_of=lambda step, batch: ("step", run),
    batches=Batches(),
    encode=encode,
    checkpointer=saves,
    metadata={},
    save_every=1,
    log=MetricLog("unused", steps, enabled=False),
    log_every=2,
    timer=StepTimer(),
    tasks=(),
    first_step=0,
    total_steps=steps,
    work_of=lambda batch: (1, 1.0),
    profile=Profile(pathlib.Path("unused")),
  )


@jax.jit
def add(state, batch):
  metrics = {
    "loss": state.sum(),
    "grad_norm": jnp.ones(()),
    "update_norm": jnp.ones(()),
  }
  return state + batch["x"], metrics


def test_explicit_transfers_are_free():
  saves = Saves()
  state, done = train(saves, add, jax.device_put)
  assert done and sorted(saves.saved) == [1, 2, 3, 4]
  np.testing.assert_array_equal(state, [4, 4, 4])


@pytest.mark.parametrize(
  ("run", "encode"),
  [
    (add, lambda batch: batch),  # the host's batch, into the step
    (add, jax.jit(lambda batch: batch)),  # or into the encoder
    (lambda state, batch: add(state, {"x": np.ones(3)}), jax.device_put),
    (lambda state, batch: add(state + 1, batch), jax.device_put),  # a constant
  ],
)
def test_an_implicit_transfer_raises(run, encode):
  with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device"):
    train(Saves(), run, encode)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_an_exploded_update_reaches_no_checkpoint(value):
  """Of step 2, whose loss and gradient were finite."""

  @jax.jit
  def run(state, batch):
    update = jnp.where(state[0] == 2, value, batch["x"])
    finite = {"loss": state.sum(), "grad_norm": jnp.ones(())}
    return state + update, finite | {"update_norm": optax.global_norm(update)}

  saves = Saves()
  words = "step 2: the loss is 6.0, its gradient's norm 1.0, in update_norm; expected"
  with pytest.raises(UsageError, match=words):
    train(saves, run, jax.device_put)
  assert sorted(saves.saved) == [1, 2]
  assert np.isfinite(list(saves.saved.values())).all()


def test_the_step_measures_its_update(small, batch):
  """Plain descent moves by the rate times the gradient; at an infinite rate loss and
  gradient are what they were, and the update alone tells.
  """
  model, _, state = small
  measured = {}
  for rate in (0.5, np.inf):
    optimizer = optax.sgd(rate)
    step = jax.jit(make_train_step(model, optimizer, RECIPE, seed=0))
    fresh = state._replace(opt_state=optimizer.init(state.params))
    measured[rate] = step(fresh, batch)[1]
  slow, fast = measured.values()
  np.testing.assert_allclose(slow["update_norm"], 0.5 * slow["grad_norm"], rtol=1e-5)
  assert fast["loss"] == slow["loss"] and fast["grad_norm"] == slow["grad_norm"]
  assert not np.isfinite(fast["update_norm"])
