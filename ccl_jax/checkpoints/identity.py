"""Which parameters are in a checkpoint: told from its metadata, reading no array."""

import hashlib
import json
import os

from etils import epath

from ccl_jax.checkpoints.checkpointer import read_meta


def identity(directory: str | os.PathLike, name: str, step: int) -> str:
  """A hash of the shapes and fingerprints of one subtree ("ema", "params") of a step:
  another step, or another run, has another.

  Args:
    directory: of the checkpoints; the step is one that `restore_params` has read.
  """
  leaves = read_meta(epath.Path(directory) / str(step) / "meta")["leaves"]
  values = {
    path: [leaf["shape"], leaf["fingerprint"]]
    for path, leaf in leaves.items()
    if path.startswith(f"{name}/")
  }
  return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
