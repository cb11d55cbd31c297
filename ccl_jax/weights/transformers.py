"""Converted transformers: the network of each, by the command that converts it."""

from collections.abc import Callable, Mapping

import jax.numpy as jnp

from ccl_jax.checkpoints.converted import of_sizes
from ccl_jax.checkpoints.find import Parameters
from ccl_jax.models.joint import JointDiT
from ccl_jax.models.presets import stored_model
from ccl_jax.weights import ovi, wan

# Kind of the config.json -> (sizes, dtype) -> the network.
MODELS: Mapping[str, Callable[..., JointDiT]] = {
  "wan-dit": wan.model_of,
  "ovi-dit": ovi.model_of,
}


def model_of(found: Parameters) -> JointDiT:
  """The network of parameters on disk, converted, joined or of a run.

  Raises:
    UsageError: their description is not one of this version.
  """
  about = found.description
  if about.get("kind") not in MODELS:
    return found.build("model", stored_model)
  build = MODELS[about["kind"]]
  return of_sizes(found.folder, lambda sizes: build(sizes, jnp.bfloat16), about)
