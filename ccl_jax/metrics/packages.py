"""Imports packages that only some metrics need, where they are used."""

import importlib
from types import ModuleType

from ccl_jax.metrics.base import Unscorable


def need(module: str, package: str) -> ModuleType:
  """The module of an optional package.

  Raises:
    Unscorable: it is not installed, or does not import.
  """
  try:
    return importlib.import_module(module)
  except ImportError as e:
    extra = "whisper" if package in ("torch", "transformers") else "eval"
    raise Unscorable(
      f"{package} is not usable here ({e}): pip install 'ccl_jax[{extra}]'"
    ) from e
