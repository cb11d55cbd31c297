"""The training state (parameters, optimizer, moving average, step) and shardings."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ccl_jax.sharding import parameter_axes, path_of, spec

PyTree = Any


class TrainState(NamedTuple):
  """All arrays that a step changes.

  Attributes:
    step: updates done, int32.
    params: of the model.
    opt_state: of the optimizer, its moments shaped like the parameters.
    ema: the moving average: a second set of parameters.
  """

  step: jax.Array
  params: PyTree
  opt_state: PyTree
  ema: PyTree


def new_state(params: PyTree, optimizer: optax.GradientTransformation) -> TrainState:
  """The state before the first step: the average is a copy of the parameters."""
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=optimizer.init(params),
    # A copy: donated states must not share a buffer.
    ema=jax.tree.map(jnp.copy, params),
  )


def state_shardings(state: TrainState, mesh: Mesh) -> TrainState:
  """Shardings of a state (or of its shapes): what mirrors a parameter follows it.

  A leaf whose path ends in a parameter's path is its moment or average; all others are
  on every device.
  """
  params = {path_of(p) for p, _ in jax.tree_util.tree_leaves_with_path(state.params)}

  def leaf(key_path, x):
    path = path_of(key_path)
    # opt_state/0/mu/blocks/... ends in blocks/..., the parameter it mirrors.
    owner = next((p for p in _suffixes(path) if p in params), None)
    if owner is None:
      return NamedSharding(mesh, P())
    return NamedSharding(mesh, spec(parameter_axes("/" + owner, x.ndim), x.shape, mesh))

  return jax.tree_util.tree_map_with_path(leaf, state)


def _suffixes(path: str):
  parts = path.split("/")
  return ("/".join(parts[i:]) for i in range(len(parts)))


def abstract_state(state: TrainState, mesh: Mesh) -> TrainState:
  """The shapes of a state with its shardings, to restore or compile with."""
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    state,
    state_shardings(state, mesh),
  )
