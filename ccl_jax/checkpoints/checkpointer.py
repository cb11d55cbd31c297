"""Checkpoints that notice damage: asynchronous atomic saves, verified restores.

A step is the folder `<directory>/<step>`, which appears by one rename when all of it
has been written; in a bucket, by its last object, `commit_success.txt`:
  state  the train state's arrays (Orbax; each process writes and reads its own shards)
  meta   JSON: the step, the data iterator's state, the caller's metadata, and for every
         array its shape, dtype and fingerprint; a digest covers the whole

Storage returns flipped bits without a word, so a restore trusts nothing: the digest
and every fingerprint must agree, or the step counts as damaged and the one before it is
tried. Only proof counts (damage.py): a step that cannot be read for another reason, say
a disk that does not answer, stops the run and stays where it is. Arrays of another
*shape* than asked for are no damage but a user's mistake.

A save is looked at when it is on the disk: its meta must be whole, and every array must
be there to be opened. Only then may older steps go.
"""

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Mapping

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from etils import epath
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from ccl_jax.checkpoints.damage import (
  Damaged,
  hush_echoes,
  proves_damage,
  reason,
  unknown,
)
from ccl_jax.checkpoints.fingerprint import fingerprints, leaf_paths
from ccl_jax.checkpoints.steps import (
  folder_of,
  require_steps,
  set_aside,
  stored_steps,
  sweep_unfinished,
)
from ccl_jax.errors import UsageError, system_error
from ccl_jax.places import require_plain
from ccl_jax.processes import first_process
from ccl_jax.remote.locks import require_held
from ccl_jax.remote.paths import BucketPath, Place, kvstore
from ccl_jax.remote.stores import Unreachable


class Checkpointer:
  """Writes and resumes the checkpoints of one run; every process calls every method.

  Keeps the newest `keep` steps, and each multiple of `keep_every` for good. What a
  killed save left behind is swept at the start, so only the training job that owns
  `directory` may hold one; others read with `restore_params`.

  Raises:
    UsageError: `keep` is below 1, or the directory cannot be written, or its path has
      signs that Orbax takes for a pattern.
  """

  def __init__(
    self, directory: str | os.PathLike, *, keep: int, keep_every: int | None = None
  ):
    if keep < 1:
      raise UsageError(f"keep={keep}: a run must keep at least 1 checkpoint")
    require_plain(directory, arrays=True)
    self._directory = folder_of(directory)
    self._keep, self._keep_every = keep, keep_every
    remote = isinstance(self._directory, BucketPath)
    if remote:
      first_process(lambda: sweep_unfinished(self._directory))
    try:
      # It keeps every step: those that may go are removed in `wait`, by their proof.
      self._manager = ocp.CheckpointManager(
        epath.Path(str(self._directory)),
        options=ocp.CheckpointManagerOptions(cleanup_tmp_directories=not remote),
      )
    except OSError as e:
      raise UsageError(
        f"cannot keep checkpoints in {self._directory}: {e.strerror or e}; give a "
        "folder that can be written"
      ) from e
    self._require_seen()
    self._last: int | None = None  # the step this run saved or restored last
    self._unproven: int | None = None  # the step that is being saved

  def _require_seen(self) -> None:
    """Checks that Orbax has seen every step: a store that gives it no answer is an
    empty one to it.

    Raises:
      UsageError: it has not.
    """
    if isinstance(self._directory, BucketPath):
      seen = self._manager.all_steps()
      if unseen := set(stored_steps(self._directory)) - set(seen):
        raise UsageError(
          f"{self._directory} has step {max(unseen)}, which was not seen at first: the "
          "store does not always answer, run the same command again"
        )

  @property
  def latest_step(self) -> int | None:
    """The newest step on disk or being saved, good or not."""
    return self._manager.latest_step()

  def save(self, step: int, state: PyTree, data_state: dict, metadata: dict) -> None:
    """Starts to save `state` (arrays) and two JSON dicts; waits for an unfinished save.

    Returns once the arrays have left the devices: they may be donated then. Saving one
    step twice does nothing the second time. PRNG keys go as their raw key data.

    Raises:
      UsageError: the directory holds this step or a later one already, or see `wait`.
    """
    # A stop at a step that was due anyway asks for it twice.
    if step == self._last:
      return
    newest = self.latest_step
    if newest is not None and step <= newest:
      raise UsageError(
        f"{self._directory} already holds step {newest}, cannot save step {step}:"
        " resume from it, or give an empty folder"
      )
    self.wait()
    if isinstance(self._directory, BucketPath):
      require_held(self._directory)
    prints = fingerprints(state)
    meta = make_meta(step, leaf_paths(state), prints, data_state, metadata)
    self._unproven = step
    with self._one_line(step):
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
    shardings may differ from those of the save. Newer steps proven damaged are set
    aside as `<step>.damaged` (`<step>.damaged.1`, ... where that is taken), so that the
    run can save those steps again; nothing is ever removed.

    Raises:
      UsageError: no step is good, one cannot be read though it is not proven damaged,
        or its arrays are others than those asked for. Then nothing was changed.
    """
    self.wait()
    steps = self._manager.all_steps()
    if not steps:
      return None
    step, state, meta, damaged = _newest_good(self._directory, steps, abstract_state)
    if damaged:
      error = set_aside(self._directory, damaged) if jax.process_index() == 0 else None
      if _worst(int(error is not None)):
        cause = reason(error) if error else "see process 0"
        raise UsageError(
          f"damaged steps {damaged} of {self._directory} cannot be renamed ({cause}): "
          "move them away"
        ) from error
      self._manager.reload()
    self._last = step
    return step, state, meta["data"], meta["metadata"]

  def wait(self) -> None:
    """Waits until a running save is on disk and proves that it can be read; then older
    steps go, but for the newest `keep` and multiples of `keep_every`.

    Raises:
      UsageError: the step could not be written, or cannot be read; nothing older went.
    """
    step, self._unproven = self._unproven, None
    with self._one_line(step):
      self._manager.wait_until_finished()
    if step is None:
      return
    folder, error = self._directory / str(step), None
    if jax.process_index() == 0:
      try:
        _check_readable(folder)
      except Exception as e:
        error = e
    if _worst(int(error is not None)):
      cause = reason(error) if error else "see process 0"
      raise UsageError(
        f"checkpoint step {step} in {self._directory} was not written whole ({cause}): "
        "older steps are kept; look at the disk, then run the same command again"
      ) from error
    steps = sorted(self._manager.all_steps())
    for old in steps[: -self._keep]:
      if self._keep_every is None or old % self._keep_every:
        self._manager.delete(old)

  @contextlib.contextmanager
  def _one_line(self, step: int | None):
    """What the system refused while a step was written, as a user's error."""
    try:
      yield
    except Exception as e:
      remote = isinstance(self._directory, BucketPath) and not isinstance(e, UsageError)
      if (error := system_error(e)) is None and not remote:
        raise
      told = UsageError(
        f"cannot write checkpoint step {step} in {self._directory}: "
        f"{error.strerror if error else reason(e)}; older steps are kept: mend that, "
        "then run the same command again"
      )
      # A store that took no checkpoint now may do so later.
      told.exit_code = 2 if error else 1
      raise told from e

  def close(self) -> None:
    """Waits for a running save, as `wait`, and ends Orbax's threads."""
    try:
      self.wait()
    finally:
      with self._one_line(self._last):
        self._manager.close()


def restore_params(
  directory: str | os.PathLike, name: str, abstract: PyTree, *, step: int | None = None
) -> tuple[int, PyTree, dict]:
  """(step, params, metadata): one subtree of the state, and no more.

  Verifies what it reads, and writes nothing: safe beside a running job.

  Args:
    directory: of the checkpoints.
    name: of the subtree: "ema" or "params".
    abstract: a `ShapeDtypeStruct` with sharding per array; values get its dtype.
    step: which one; None: the newest good step.

  Raises:
    UsageError: no such step, none that is good, or arrays of other shapes.
  """
  folder = folder_of(directory)
  steps = require_steps(folder, step)
  step, tree, meta, _ = _newest_good(folder, steps, {name: abstract}, partial=True)
  # Fingerprints are of the stored dtype, so values are cast after they are verified.
  cast = jax.tree.map(lambda x, a: x.astype(a.dtype), tree[name], abstract)
  return step, cast, meta["metadata"]


def read_metadata(directory: str | os.PathLike, step: int | None = None) -> dict:
  """The metadata saved with a step; without one, with the newest whose meta is whole.

  Raises:
    UsageError: the step is not there, or its metadata are damaged or cannot be read.
  """
  folder = folder_of(directory)
  steps = require_steps(folder, step)
  for number in sorted(steps, reverse=True):
    try:
      return read_meta(folder / str(number) / "meta")["metadata"]
    except Exception as e:
      if not proves_damage(e):
        raise unknown(f"checkpoint step {number} in {folder}", e) from e
  raise UsageError(f"{folder}: the metadata of steps {steps} are damaged")


def latest_metadata(directory: str | os.PathLike) -> tuple[int, dict] | None:
  """(newest step, its metadata); without a step None. Of a step whose metadata are
  damaged, those of the newest before it that are whole.

  Raises:
    UsageError: none can be read.
  """
  folder = folder_of(directory)
  steps = stored_steps(folder)
  return (max(steps), read_metadata(folder)) if steps else None


def make_meta(
  step: int,
  leaves: Mapping[str, jax.ShapeDtypeStruct | jax.Array],
  prints: Mapping[str, int],
  data_state: dict,
  metadata: dict,
) -> dict:
  """The `meta` of a step, as JSON.

  Args:
    step: its number.
    leaves: the state's arrays, or their shapes, by path.
    prints: their fingerprints, by path.
    data_state, metadata: the two dicts of `Checkpointer.save`.

  Returns:
    All of these, with a digest that covers them.
  """
  meta = {
    "step": step,
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


def read_meta(folder: Place) -> dict:
  """The `meta` of a step without its digest, from the step's folder `meta`.

  Raises:
    Damaged: it is not what was written, or was written as another step; or whatever
      else an unreadable file raises (see damage.py).
  """
  meta = json.loads((folder / "metadata").read_text())
  if not isinstance(meta, dict) or meta.pop("digest", None) != _digest(meta):
    raise Damaged(f"{folder} does not match its digest")
  step = folder.parent.name
  if str(meta.get("step", step)) != step:  # earlier versions did not store it
    raise Damaged(f"{folder} is that of step {meta['step']}")
  return meta


def _check_readable(folder: Place) -> None:
  """Checks that a step's meta is whole, and that each of its arrays can be opened.

  Raises:
    Damaged: one cannot; or whatever else an unreadable file raises.
  """
  leaves = read_meta(folder / "meta")["leaves"]
  _check_names(folder / "state", leaves)
  base = kvstore(folder / "state")
  store = ts.KvStore.open({"driver": "ocdbt", "base": base}).result()
  # A key is ARRAY/PIECE, or ARRAY/.zarray, which has the shape of the whole.
  stored = {key.decode().rpartition("/")[0] for key in store.list().result()}
  missing = {path.replace("/", ".") for path in leaves} - stored
  if missing:
    raise Damaged(f"{folder / 'state'} lacks {min(missing)}")


def _newest_good(directory, steps, abstract, partial=False):
  """(step, tree, meta, newer damaged steps), trying the newest step first."""
  damaged = []
  for step in sorted(steps, reverse=True):
    try:
      tree, meta = _load(directory / str(step), abstract, partial)
    except Damaged as e:
      print(f"checkpoint step {step} is damaged: {e}", file=sys.stderr, flush=True)
      damaged.append(step)
    else:
      return step, tree, meta, damaged
  raise UsageError(
    f"no checkpoint in {directory} can be restored (damaged: {damaged}); put back a"
    " good copy, or start in an empty folder"
  )


def _load(folder, abstract, partial):
  """(tree, meta) of a step, verified; every process comes to the same end.

  Raises:
    Damaged: it is proven that the step is not what was saved.
    UsageError: it could not be read, or is not what was asked for.
  """
  tree, meta, error = None, None, None
  # Where a store gives no answer Orbax may say that a file is missing: such a proof is
  # asked for twice, the second time after a store that gives none has said so.
  for _ in range(2 if isinstance(folder, BucketPath) else 1):
    try:
      meta = read_meta(folder / "meta")
      _check_structure(folder, meta["leaves"], abstract, partial)
      _check_names(folder / "state", meta["leaves"])
      tree = _read_state(folder / "state", meta["leaves"], abstract, partial)
      error = None
    except Exception as e:
      error = e
      hush_echoes()
    if error is None or not proves_damage(error):
      break
  verdict = _GOOD if error is None else _BAD if proves_damage(error) else _UNKNOWN
  # One process alone may fail to read; all must then turn away from this step, or stop.
  # Arrays of one process are that one's business: the others may not be reading.
  if any(
    x.sharding is not None and not x.sharding.is_fully_addressable
    for x in jax.tree.leaves(abstract)
  ):
    verdict = _worst(verdict)
  what = f"checkpoint step {folder.name} in {folder.parent}"
  if verdict == _UNKNOWN:
    if isinstance(error, UsageError) and not isinstance(error, Unreachable):
      raise error
    if error is None or proves_damage(error):
      raise UsageError(f"{what}: another process stopped at it; nothing was changed")
    raise unknown(what, error) from error
  if verdict == _BAD:
    text = "another process could not read it" if error is None else reason(error)
    raise Damaged(text) from error
  try:
    prints = fingerprints(tree)
  except Exception as e:  # as out of memory
    raise unknown(what, e) from e
  for path, value in prints.items():
    if value != meta["leaves"][path]["fingerprint"]:
      raise Damaged(f"the values of {path} are not those that were saved")
  return tree, meta


_GOOD, _BAD, _UNKNOWN = range(3)  # what became of a step, from good to worst


def _read_state(folder, leaves, abstract, partial):
  # The bare handler, for CheckpointManager.restore ends in a barrier at which the other
  # processes would hang when one fails to read.
  item = jax.tree.structure(abstract).unflatten(
    jax.ShapeDtypeStruct(
      leaf.shape, np.dtype(leaves[path]["dtype"]), sharding=leaf.sharding
    )
    for path, leaf in leaf_paths(abstract).items()
  )
  # What Orbax notes of its arrays a second time is not needed, and could be damaged.
  registry = ocp.type_handlers.create_type_handler_registry(
    (jax.Array, ocp.type_handlers.ArrayHandler(array_metadata_store=None)),
    (np.ndarray, ocp.type_handlers.NumpyHandler()),
  )
  return ocp.PyTreeCheckpointHandler(type_handler_registry=registry).restore(
    epath.Path(str(folder)),
    args=ocp.args.PyTreeRestore(
      item=item,
      restore_args=ocp.checkpoint_utils.construct_restore_args(item),
      partial_restore=partial,
    ),
  )


def _check_names(state, leaves):
  """Orbax's own list of the arrays has all that `meta` has: its file has no digest."""
  listed = json.loads((state / "_METADATA").read_text())["tree_metadata"].values()
  keys = ((key["key"] for key in entry["key_metadata"]) for entry in listed)
  missing = set(leaves) - set(map("/".join, keys))
  if missing:
    raise Damaged(f"{state}/_METADATA does not list {min(missing)}")


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


def _digest(meta: dict) -> str:
  return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _worst(verdict: int) -> int:
  """The largest of all processes' verdicts, in each of them."""
  if jax.process_count() == 1:
    return verdict
  return int(multihost_utils.process_allgather(np.array(verdict)).max())
