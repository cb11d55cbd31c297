"""Reads the parameters that clips are made with, spread over the devices of a mesh."""

from typing import Any

import jax
from jax.sharding import Mesh

from ccl_jax.checkpoints.checkpointer import restore_params
from ccl_jax.checkpoints.find import Parameters, find_parameters
from ccl_jax.checkpoints.identity import identity
from ccl_jax.errors import UsageError
from ccl_jax.models.adapter import Adapter
from ccl_jax.remote.paths import told
from ccl_jax.sharding import parameter_shardings

PyTree = Any


def read_parameters(
  found: Parameters, weights: str, step: int | None, shapes: PyTree, mesh: Mesh
) -> tuple[int, PyTree, dict[str, Any], str]:
  """(step, parameters, metadata, identity) of a checkpoint, for generation.

  Args:
    found: where it is.
    weights: "ema" or "params", of a run.
    step: None: the newest.
    shapes: of the parameters, in the dtypes that they are held in.
    mesh: over which they are spread.

  Raises:
    UsageError: there is none that is whole; or, of a run that has trained a part of a
      model, the model is gone or has other parameters than then.
  """
  placed = _placed(shapes, mesh)
  if "base" in found.description:
    return _read_part(found, weights, step, placed, mesh)
  return _read_all(found, weights, step, placed)


def _placed(shapes, mesh: Mesh):
  """Shapes of parameters, spread over a mesh as in training."""
  return jax.tree.map(
    lambda x, s: x.update(sharding=s), shapes, parameter_shardings(shapes, mesh)
  )


def _read_all(found: Parameters, weights: str, step: int | None, placed):
  """(step, parameters, metadata, identity) of a model that is there as a whole."""
  name = weights if found.name == "ema" else found.name
  checkpoints = found.folder / "checkpoints"
  step, params, metadata = restore_params(checkpoints, name, placed, step=step)
  return step, params, metadata, identity(checkpoints, name, step)


def _read_part(found: Parameters, weights: str, step: int | None, placed, mesh: Mesh):
  """As `_read_all`, of a run that has trained a part of a model.

  Raises:
    UsageError: the model is gone, or has other parameters than when it was trained.
  """
  base = found.description["base"]
  folder = told(base["folder"], found.folder / "checkpoints")
  whole = find_parameters(folder, base["step"])
  _, params, _, prints = _read_all(whole, "ema", base["step"], placed)
  if prints != base["identity"]:
    raise UsageError(
      f"{base['folder']} has other parameters than those that {found.folder} was "
      "trained of: put them back"
    )
  adapter = Adapter(**found.description["lora"])
  trained = jax.eval_shape(adapter.trained, placed, jax.random.key(0))
  checkpoints = found.folder / "checkpoints"
  step, trained, metadata = restore_params(
    checkpoints, weights, _placed(trained, mesh), step=step
  )
  applied = jax.jit(
    adapter.applied,
    donate_argnums=0,
    out_shardings=jax.tree.map(lambda x: x.sharding, placed),
  )
  params = applied(params, trained)
  return step, params, metadata, f"{identity(checkpoints, weights, step)}-{prints}"
