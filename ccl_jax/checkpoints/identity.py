"""Identifies the parameters of a checkpoint by its metadata alone."""

import hashlib
import json
import os

from ccl_jax.checkpoints.checkpointer import read_meta
from ccl_jax.remote.paths import place


def identity(directory: str | os.PathLike, name: str, step: int) -> str:
  """A hash of one subtree's shapes and fingerprints: other parameters have another.

  Args:
    directory: of the checkpoints.
    name: of the subtree: "ema" or "params".
    step: one that `restore_params` has read.
  """
  leaves = read_meta(place(directory) / str(step) / "meta")["leaves"]
  values = {
    path: [leaf["shape"], leaf["fingerprint"]]
    for path, leaf in leaves.items()
    if path.startswith(f"{name}/")
  }
  return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
