"""Shared fixtures: eight virtual CPU devices, strict shapes, the reference material."""

import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Tiny shapes: the compiler is the cost of this suite, not the programs it makes.
jax.config.update("jax_disable_most_optimizations", True)

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
  """The folder with golden numbers and real clips, by CCL_SHARED or beside the repo."""
  path = pathlib.Path(os.environ.get("CCL_SHARED", ROOT.parent / "shared"))
  if not (path / "parity").is_dir():
    pytest.skip(f"no reference material at {path}; set CCL_SHARED to its folder")
  return path
