"""Compares this project with numbers of the reference networks.

  python tests/parity/check_case.py CASE_DIR...

A case is a folder with the reference's weights, as they would be downloaded, and inputs
and outputs of the reference in float32. What kind it is shows in config.json and in the
names of its files; sizes are whatever they are. The weights go through the converter,
the inputs through the network, and every output tensor becomes a line: its name and
shape, the largest error relative to the reference's standard deviation, and the limit.
The exit code is 0 if all are within it, 1 if any is not, 2 for a folder that is no case.

A kind of case is a row (recognise, run) of a CASES table here or in a module
`cases_*.py` beside this file:

  recognise(folder: Path, config: dict) -> bool
  run(folder: Path, config: dict) -> iterator of (name, got, expected, limit)

with got and expected in one layout. Kinds are tried in the order of their names.
"""

import argparse
import importlib.util
import json
import pathlib
import sys
import tempfile
from collections.abc import Iterator

import jax

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_default_matmul_precision", "highest")

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from ccl_jax.convert import import_weights
from ccl_jax.diffusion.samplers import trajectory
from ccl_jax.diffusion.schedules import make_schedule
from ccl_jax.errors import UsageError
from ccl_jax.training.checkpoint import restore_params
from ccl_jax.weights import wan

NETWORK, TRANSFORM = 1e-4, 1e-5  # limits: whole networks, single transforms
Result = tuple[str, np.ndarray, np.ndarray, float]


def converted(kind: str, src: pathlib.Path):
  """(config.json, parameters) of `src` after the converter has written and verified it,
  restored as training does."""
  with tempfile.TemporaryDirectory() as folder:
    dst = pathlib.Path(folder) / kind
    config = import_weights(kind, src, dst, verify=True)
    from ccl_jax.weights.upstream import get_upstream

    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = {
      path: jax.ShapeDtypeStruct(x.shape, jnp.float32, sharding=device)
      for path, x in get_upstream(kind).shapes(config["sizes"]).items()
    }
    _, params, _ = restore_params(dst / "checkpoints", "params", unflatten(shapes))
    return config, params


def unflatten(flat):
  from flax import traverse_util

  return traverse_util.unflatten_dict(flat, sep="/")
