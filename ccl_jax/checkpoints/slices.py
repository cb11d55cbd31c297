"""Reads and writes, slice by slice, parameters that are larger than the memory.

A stacked parameter (depth, ...) of the 14b preset takes 11 GB; one layer of it 0.3 GB.
`SliceWriter` writes a step that `checkpointer.restore_params` reads, sharded, verified
and in any dtype: Orbax's layout of one zarr array per parameter, in pieces no device
has to read far beyond its shard to get. `SliceReader` reads layers of a step.

A slot is an index into the leading axes of a parameter, () all of it. Fingerprints of
slots add up to the parameter's (checkpoints/fingerprint.py).
"""

import math
import os
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore as ts

from ccl_jax.checkpoints.checkpointer import make_meta, read_meta
from ccl_jax.checkpoints.damage import not_read
from ccl_jax.checkpoints.fingerprint import host_fingerprint
from ccl_jax.checkpoints.steps import stored_steps
from ccl_jax.errors import UsageError
from ccl_jax.files import write_json, write_text
from ccl_jax.remote.paths import Place, kvstore, place

NAME = "params"  # the subtree that `restore_params` asks for
_PIECE = 1024  # elements along each axis of a piece, at most
_DTYPES = {
  "float32": "<f4", "float16": "<f2", "bfloat16": "bfloat16",
  "float8_e4m3fn": "float8_e4m3fn",
}  # fmt: skip

Shapes = Mapping[str, jax.ShapeDtypeStruct]  # parameter path -> shape and dtype
Slot = tuple[int, ...]


class SliceWriter:
  """Writes the parameters of one step, each slice once, in any order.

  However its context ends, no write is still on its way to the disk then: the folder
  may be removed, and stays away.

  Args:
    checkpoints: the folder that gets the step.
    shapes: of all parameters, by path.
    step: its number.
  """

  def __init__(self, checkpoints: str | os.PathLike, shapes: Shapes, step: int = 0):
    self._folder = place(checkpoints).absolute() / str(step)
    self._shapes, self._arrays = shapes, {}
    self._written = {path: _Slots(x.shape) for path, x in shapes.items()}
    self._pending = None  # what is on its way to disk while the next slice is made
    (self._folder / "state").mkdir(parents=True)

  def __enter__(self) -> "SliceWriter":
    return self

  def __exit__(self, *error) -> None:
    if self._pending is not None:
      self._pending.exception()  # waits, and is not what ended the context

  def write(self, path: str, slot: Slot, array: np.ndarray) -> None:
    """Starts to write a slot of parameter `path`, once the slice before is written.

    All slots of one parameter have the same number of indices.

    Raises:
      OSError: the slice before could not be written.
    """
    shape, dtype = self._shapes[path].shape, self._shapes[path].dtype
    assert array.shape == shape[len(slot) :], (path, slot, array.shape)
    assert array.dtype == dtype, (path, array.dtype)
    array = np.asarray(array, order="C")  # ascontiguousarray adds an axis to ()
    self._wait()
    if path not in self._arrays:
      self._arrays[path] = self._create(path, axes=len(slot))
    self._pending = self._arrays[path][slot].write(array)
    self._written[path].add(slot, array)

  def finish(self, metadata: dict) -> None:
    """Writes the files that make a checkpoint of the arrays, once all are written.

    Args:
      metadata: as of `Checkpointer.save`.
    """
    self._wait()
    unwritten = [path for path, slots in self._written.items() if not slots.complete]
    assert not unwritten, f"not written: {unwritten}"
    leaves = {f"{NAME}/{path}": x for path, x in self._shapes.items()}
    prints = {f"{NAME}/{p}": slots.fingerprint for p, slots in self._written.items()}
    meta = make_meta(int(self._folder.name), leaves, prints, {}, metadata)
    write_json(self._folder / "meta" / "metadata", meta)
    write_json(self._folder / "state" / "_METADATA", _orbax_tree(self._shapes))
    write_json(self._folder / "_CHECKPOINT_METADATA", {"custom_metadata": {}})
    write_text(self._folder / "commit_success.txt", "whole\n")  # asked for on buckets

  def _wait(self):
    try:
      if self._pending is not None:
        self._pending.result()
    except ValueError as e:
      raise OSError(f"{str(e)[:200]}") from e

  def _create(self, path, axes):
    shape, dtype = self._shapes[path].shape, np.dtype(self._shapes[path].dtype).name
    # Equal pieces of at most _PIECE along each axis.
    pieces = [-(-n // -(-n // _PIECE)) for n in shape]
    pieces[:axes] = [1] * axes
    metadata = {
      "shape": list(shape),
      "chunks": pieces,
      "dtype": _DTYPES[dtype],
      "compressor": None,  # weights are noise to it
      "dimension_separator": ".",
    }
    spec = _spec(self._folder / "state", path) | {
      "metadata": metadata,
      "create": True,
      "store_data_equal_to_fill_value": True,
    }
    self._pending = ts.open(spec)
    return self._pending.result()


class SliceReader:
  """Reads parameters of one step, of `SliceWriter` or of a training run.

  Args:
    checkpoints: the folder of the steps.
    name: of the subtree.
    step: which one; None: the newest.

  Attributes:
    shapes: of all parameters by path.
    metadata: what was saved with them.

  Raises:
    UsageError: there is no such step, or its meta cannot be read.
  """

  def __init__(
    self,
    checkpoints: str | os.PathLike,
    *,
    name: str = NAME,
    step: int | None = None,
  ):
    folder = place(checkpoints).absolute()
    steps = stored_steps(folder)
    if not steps or step not in (None, *steps):
      raise UsageError(
        f"{folder} holds no checkpoint" + f" of step {step}" * bool(step)
      )
    self._folder = folder / str(max(steps) if step is None else step)
    try:
      meta = read_meta(self._folder / "meta")
    except Exception as e:
      raise not_read(f"the meta of {self._folder}", e) from e
    self.metadata = meta["metadata"]
    self._name, self._arrays = name, {}
    leaves = {
      path.removeprefix(name + "/"): leaf
      for path, leaf in meta["leaves"].items()
      if path.startswith(name + "/")
    }
    self.shapes = {
      path: jax.ShapeDtypeStruct(tuple(x["shape"]), jnp.dtype(x["dtype"]))
      for path, x in leaves.items()
    }
    self._prints = {path: x["fingerprint"] for path, x in leaves.items()}
    self._read = {path: _Slots(x.shape) for path, x in self.shapes.items()}

  def read(self, path: str, slot: Slot) -> np.ndarray:
    """The array of a slot of parameter `path`.

    All slots of one parameter have the same number of indices.

    Raises:
      UsageError: it cannot be read; or with this slot, all of the parameter has been
        read, and it is not what was saved.
    """
    try:
      if path not in self._arrays:
        state = self._folder / "state"
        self._arrays[path] = ts.open(_spec(state, path, self._name)).result()
      array = np.asarray(self._arrays[path][slot].read().result())
    except (ValueError, OSError) as e:
      raise not_read(f"{path} of {self._folder}", e) from e
    slots = self._read[path]
    slots.add(slot, array)
    if slots.complete and slots.fingerprint != self._prints[path]:
      raise UsageError(f"{self._folder} is damaged: {path} is not what was saved")
    return array


class _Slots:
  """Slices of a parameter seen so far, and the sum of their fingerprints."""

  def __init__(self, shape):
    self._shape, self._sums, self._count = shape, {}, None

  def add(self, slot, array):
    self._count = math.prod(self._shape[: len(slot)])
    # Row-major index of the slot's first element in the whole parameter.
    start = sum(n * math.prod(self._shape[i + 1 :]) for i, n in enumerate(slot))
    self._sums[slot] = host_fingerprint(array, start)

  @property
  def complete(self) -> bool:
    return len(self._sums) == self._count

  @property
  def fingerprint(self) -> int:
    return sum(self._sums.values()) % 2**32


def _spec(state: Place, path: str, name: str = NAME) -> dict:
  """The tensorstore spec that opens a parameter, in either of Orbax's layouts."""
  key = f"{name}.{path.replace('/', '.')}"
  if (state / "manifest.ocdbt").exists():
    store = {"driver": "ocdbt", "base": kvstore(state), "path": f"{key}/"}
  else:
    store = kvstore(state / key)
  return {"driver": "zarr", "kvstore": store}


def _orbax_tree(shapes: Shapes) -> dict:
  """The structure of the tree, as Orbax notes it beside the arrays."""
  tree = {}
  for path in shapes:
    keys = (NAME, *path.split("/"))
    tree[str(keys)] = {
      "key_metadata": [{"key": k, "key_type": 2} for k in keys],  # 2: of a dict
      "value_metadata": {"value_type": "jax.Array", "skip_deserialize": False},
    }
  return {
    "tree_metadata": tree,
    "use_ocdbt": False,
    "use_zarr3": False,
    "store_array_data_equal_to_fill_value": True,
    "custom_metadata": None,
  }
