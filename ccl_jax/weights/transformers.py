"""Converted transformers: the network of each, by the command that converts it."""

from collections.abc import Callable, Mapping

from ccl_jax.models.joint import JointDiT
from ccl_jax.weights import ovi, wan

# Kind of the config.json -> (sizes, dtype) -> the network.
MODELS: Mapping[str, Callable[..., JointDiT]] = {
  "wan-dit": wan.model_of,
  "ovi-dit": ovi.model_of,
}
