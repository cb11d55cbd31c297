"""Writes networks of our own training as `convert` writes published ones.

Parameters go out under the published names and come in again through the converter, so
that a folder of ours is in no way different from one of theirs: same layout, same
hashes, every tensor accounted for. Only the licence is another.
"""

from typing import Any

import numpy as np
from flax import traverse_util

from ccl_jax.checkpoints.converted import read_description
from ccl_jax.errors import UsageError
from ccl_jax.files import put, scratch_folder, write_json
from ccl_jax.remote.paths import Place
from ccl_jax.weights.rules import expected_tensors
from ccl_jax.weights.transfer import import_weights
from ccl_jax.weights.upstream import get_upstream
from ccl_jax.weights.writer import Spec, write_safetensors

LICENCE = "your own training: the terms are yours, as far as those of your data allow"


def write_network(
  kind: str, sizes: dict[str, Any], params: Any, dst: Place, name: str
) -> dict[str, Any]:
  """Writes a network into the folder `dst`; returns its config.json.

  Args:
    kind: a command of `convert`.
    sizes: what its upstream reads from a checkpoint.
    params: of the network.
    dst: a new folder, or one with an earlier network of the kind, which is replaced.
    name: of the source.

  Raises:
    UsageError: `dst` holds something else.
  """
  if dst.exists() and read_description(dst)["kind"] != kind:
    raise UsageError(f"{dst} holds another network: name another folder")
  upstream = get_upstream(kind)
  form, rows = next(iter(upstream.tables.items()))
  shapes = upstream.shapes(sizes)
  flat = traverse_util.flatten_dict(params, sep="/")
  matches = expected_tensors(rows, shapes)
  specs = [Spec(m.name, m.shape, np.dtype(np.float32)) for m in matches]
  tensors = (
    np.asarray(m.transform.backward(np.asarray(flat[m.path])), np.float32, order="C")
    for m in matches
  )
  with scratch_folder(dst) as scratch:
    source, fresh = scratch / name, scratch / "fresh"
    source.mkdir()
    write_safetensors(source, upstream.stem_of(sizes), specs, tensors)
    config = upstream.config(sizes, form)
    if config:
      write_json(source / "config.json", config)
    description = import_weights(kind, source, fresh, licence=LICENCE)
    put(fresh, dst)
  return description
