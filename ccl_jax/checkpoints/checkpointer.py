"""Checkpoints that notice damage: asynchronous atomic saves, verified restores.

A step is the folder `<directory>/<step>`, which appears by one rename when all of it
has been written:
  state  the train state's arrays (Orbax; each process writes and reads its own shards)
  meta   JSON: the data iterator's state, the caller's metadata, and for every array its
         shape, dtype and fingerprint; a digest covers the whole

Storage returns flipped bits without a word, so a restore trusts nothing: the digest
and every fingerprint must agree, or the step counts as damaged and the one before it is
tried. Arrays of another *shape* than asked for are no damage but a user's mistake.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import sys
from collections.abc import Mapping

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from jaxtyping import PyTree
from orbax.checkpoint.checkpoint_managers import preservation_policy

from ccl_jax.checkpoints.fingerprint import fingerprints, leaf_paths
from ccl_jax.errors import UsageError


class Checkpointer:
  """Writes and resumes the checkpoints of one run; every process calls every method.

  Keeps the newest `keep` steps, and each multiple of `keep_every` for good. What a
  killed save left behind is swept at the start, so only the training job that owns
  `directory` may hold one; others read with `restore_params`.
  """

  def __init__(
    self, directory: str | os.PathLike, *, keep: int, keep_every: int | None = None
  ):
    if keep < 1:
      raise UsageError(f"keep={keep}: a run must keep at least 1 checkpoint")
    self._directory = _absolute(directory)
    preserve = [preservation_policy.LatestN(keep)]
    if keep_every is not None:
      preserve.append(preservation_policy.EveryNSteps(keep_every))
    try:
      self._manager = ocp.CheckpointManager(
        self._directory,
        options=ocp.CheckpointManagerOptions(
          preservation_policy=preservation_policy.AnyPreservationPolicy(preserve),
          cleanup_tmp_directories=True,
        ),
      )
    except OSError as e:
      raise UsageError(
        f"cannot keep checkpoints in {self._directory}: {e.strerror}; give a folder"
        " that can be written"
      ) from e
    self._last: int | None = None  # the step this run saved or restored last

  @property
  def latest_step(self) -> int | None:
    """The newest step on disk or being saved, good or not."""
    return self._manager.latest_step()

  def save(self, step: int, state: PyTree, data_state: dict, metadata: dict) -> None:
    """Starts to save `state` (arrays) and two JSON dicts; waits for an unfinished save.

    Returns once the arrays have left the devices: they may be donated then. Saving one
    step twice does nothing the second time. PRNG keys go as their raw key data.
    """
    if step == self._last:
      return
    newest = self.latest_step
    if newest is not None and step <= newest:
      raise UsageError(
        f"{self._directory} already holds step {newest}, cannot save step {step}:"
        " resume from it, or give an empty folder"
      )
    meta = make_meta(leaf_paths(state), fingerprints(state), data_state, metadata)
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        meta=ocp.args.JsonSave(meta),
      ),
      force=True,
    )
    self._last = step

  def restore(self, abstract_state: PyTree) -> tuple[int, PyTree, dict, dict] | None:
    """(step, state, data_state, metadata) of the newest good step; None where none is.

    `abstract_state` holds a ShapeDtypeStruct with its sharding per array; mesh and
    shardings may differ from those of the save. Newer steps found damaged are set aside
    as `<step>.damaged`, so that the run can save those steps again.
    """
    self.wait()
    steps = self._manager.all_steps()
    if not steps:
      return None
    step, state, meta, damaged = _newest_good(self._directory, steps, abstract_state)
    if damaged:
      if jax.process_index() == 0:
        for bad in damaged:
          _set_aside(self._directory / str(bad))
      multihost_utils.sync_global_devices("ccl_jax:damaged_steps_set_aside")
      self._manager.reload()
    self._last = step
    return step, state, meta["data"], meta["metadata"]

  def wait(self) -> None:
    """Waits until a running save is on disk; raises what went wrong in it."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    self._manager.close()


def restore_params(
  directory: str | os.PathLike, name: str, abstract: PyTree, *, step: int | None = None
) -> tuple[int, PyTree, dict]:
  """(step, params, metadata): one subtree of the state ("ema", "params"), no more.

  Reads and verifies only that subtree, of the newest good step or the one asked for,
  into the shardings and dtypes of `abstract`. Writes nothing: safe beside a running
  job.
  """
  folder = _absolute(directory)
  steps = _steps(folder, step)
  step, tree, meta, _ = _newest_good(folder, steps, {name: abstract}, partial=True)
  cast = jax.tree.map(lambda x, a: x.astype(a.dtype), tree[name], abstract)
  return step, cast, meta["metadata"]


def read_metadata(directory: str | os.PathLike, step: int | None = None) -> dict:
  """The metadata saved with a step, of the newest that can be read if none is named.

  Raises:
    UsageError: there is none.
  """
  folder = _absolute(directory)
  found = _steps(folder, step)
  for number in sorted(found, reverse=True):
    with contextlib.suppress(ValueError, KeyError, OSError):
      return read_meta(folder / str(number) / "meta")["metadata"]
  raise UsageError(f"{folder}: the metadata of steps {found} cannot be read")


def _steps(folder: epath.Path, step: int | None) -> list[int]:
  """The steps of a folder, or the one that is asked for.

  Raises:
    UsageError: it is not there.
  """
  steps = ocp.utils.checkpoint_steps(folder) if folder.exists() else []
  if not steps or step not in (None, *steps):
    raise UsageError(
      f"{folder} holds no checkpoint"
      + ("" if step is None else f" of step {step}")
      + (f", only of steps {sorted(steps)}" if steps else "")
    )
  return steps if step is None else [step]


def make_meta(
  leaves: Mapping[str, jax.ShapeDtypeStruct | jax.Array],
  prints: Mapping[str, int],
  data_state: dict,
  metadata: dict,
) -> dict:
  """The `meta` of a step: shapes, dtypes and fingerprints of its arrays by path, the
  two dicts of `Checkpointer.save`, and the digest of all that.
  """
  meta = {
    "data": data_state,
    "metadata": metadata,
    "leaves": {
      path: {
        "shape": list(leaf.shape),
        "dtype": np.dtype(leaf.dtype).name,
        "fingerprint": prints[path],
      }
      for path, leaf in leaves.items()
    },
  }
  meta = json.loads(json.dumps(meta))  # no longer the caller's: it is written later
  return {"digest": _digest(meta)} | meta


def read_meta(folder: epath.Path | pathlib.Path) -> dict:
  """What `make_meta` made, without the digest, from a step's folder `meta`.

  Raises:
    ValueError: it is not what was written; or whatever else an unreadable file raises.
  """
  meta = ocp.JsonCheckpointHandler().restore(folder)
  digest = meta.pop("digest")
  if digest != _digest(meta):
    raise ValueError(f"{folder} does not match its digest")
  return meta


class _Damaged(Exception):
  """This step cannot be trusted; the message says why."""


def _newest_good(directory, steps, abstract, partial=False):
  """(step, tree, meta, newer damaged steps), trying the newest step first."""
  damaged = []
  for step in sorted(steps, reverse=True):
    try:
      tree, meta = _load(directory / str(step), abstract, partial)
    except _Damaged as e:
      print(f"checkpoint step {step} is damaged: {e}", file=sys.stderr, flush=True)
      damaged.append(step)
    else:
      return step, tree, meta, damaged
  raise UsageError(
    f"no checkpoint in {directory} can be restored (damaged: {damaged}); put back a"
    " good copy, or start in an empty folder"
  )


def _load(folder, abstract, partial):
  tree, meta, reason = None, None, ""
  try:
    meta = read_meta(folder / "meta")
    _check_structure(folder, meta["leaves"], abstract, partial)
    tree = _read_state(folder / "state", meta["leaves"], abstract, partial)
  except UsageError:
    raise
  except Exception as e:  # any failure to read is damage, whatever its type
    reason = f"{type(e).__name__}: {e}".splitlines()[0][:300]
  # One process alone may fail to read; all must then turn away from this step. Arrays
  # of one process are that one's business: the others may not be reading.
  shared = any(
    x.sharding is not None and not x.sharding.is_fully_addressable
    for x in jax.tree.leaves(abstract)
  )
  if _anywhere(bool(reason)) if shared else reason:
    raise _Damaged(reason or "another process could not read it")
  for path, value in fingerprints(tree).items():
    if value != meta["leaves"][path]["fingerprint"]:
      raise _Damaged(f"the values of {path} are not those that were saved")
  return tree, meta


def _read_state(folder, leaves, abstract, partial):
  # The bare handler, for CheckpointManager.restore ends in a barrier at which the other
  # processes would hang when one fails to read.
  item = jax.tree.structure(abstract).unflatten(
    jax.ShapeDtypeStruct(
      leaf.shape, np.dtype(leaves[path]["dtype"]), sharding=leaf.sharding
    )
    for path, leaf in leaf_paths(abstract).items()
  )
  return ocp.PyTreeCheckpointHandler().restore(
    folder,
    args=ocp.args.PyTreeRestore(
      item=item,
      restore_args=ocp.checkpoint_utils.construct_restore_args(item),
      partial_restore=partial,
    ),
  )


def _check_structure(folder, stored, abstract, partial):
  """The arrays asked for are those stored; a part may be cast, a whole state not."""
  advice = "restore with the settings that wrote it, or give another folder"
  wanted = leaf_paths(abstract)
  for path, leaf in wanted.items():
    if path not in stored:
      raise UsageError(f"{folder} holds no {path}; {advice}")
    got, expected = tuple(stored[path]["shape"]), tuple(leaf.shape)
    if got != expected:
      raise UsageError(
        f"{folder}: {path} has shape {got}, expected {expected}; {advice}"
      )
    got, expected = stored[path]["dtype"], leaf.dtype.name
    if got != expected and not partial:
      raise UsageError(f"{folder}: {path} is {got}, expected {expected}; {advice}")
  top = {path.split("/")[0] for path in wanted}
  for path in stored:
    if path not in wanted and not (partial and path.split("/")[0] not in top):
      raise UsageError(f"{folder} holds {path}, which was not expected; {advice}")


def _set_aside(folder):
  target = folder.parent / f"{folder.name}.damaged"
  if target.exists():
    target.rmtree()
  folder.rename(target)


def _digest(meta: dict) -> str:
  return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _anywhere(flag: bool) -> bool:
  """Whether `flag` is set in any process."""
  if jax.process_count() == 1:
    return flag
  return bool(multihost_utils.process_allgather(np.array(flag)).any())


def _absolute(directory):
  text = os.fspath(directory)
  remote = "://" in text
  return epath.Path(text if remote else os.path.abspath(os.path.expanduser(text)))
