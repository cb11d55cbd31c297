"""Only proof sets a checkpoint aside: all else stops the run and changes nothing."""

import errno
import json
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.checkpoints import checkpointer
from ccl_jax.checkpoints.checkpointer import Checkpointer, read_meta, restore_params
from ccl_jax.checkpoints.damage import Damaged, proves_damage
from ccl_jax.checkpoints.find import read_config
from ccl_jax.checkpoints.slices import SliceReader
from ccl_jax.errors import UsageError

# A failed read leaves Orbax's other reads unfinished.
pytestmark = pytest.mark.filterwarnings(
  "ignore::pytest.PytestUnraisableExceptionWarning"
)


def state(seed):
  return {"params": {"x": jnp.arange(40, dtype=jnp.float32) * seed}}


ABSTRACT = jax.eval_shape(lambda: state(1))


@pytest.fixture(scope="module")
def good_run(tmp_path_factory):
  folder = tmp_path_factory.mktemp("run")
  c = Checkpointer(folder, keep=2)
  for step in (10, 20):
    c.save(step, state(step), {}, {})
  c.close()
  return folder


@pytest.fixture
def run(good_run, tmp_path):
  """A copy of a run with the steps 10 and 20."""
  shutil.copytree(good_run, tmp_path / "run")
  return tmp_path / "run"


def restore(folder):
  c = Checkpointer(folder, keep=2)
  try:
    return c.restore(ABSTRACT)
  finally:
    c.close()


def files(folder):
  return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refuse(error):
  def read(*args, **kwargs):
    raise error

  return read


def of_tensorstore(code, text="Error reading local file"):
  """As TensorStore raises it, bare; and as Orbax passes it on from a read."""
  wrapped = Exception("Encountered error while reading array index: 0")
  wrapped.__cause__ = ValueError(f"{code}: {text} [tensorstore_spec='{{}}']")
  return wrapped


SYSTEM = [
  OSError(errno.EIO, "Input/output error"),
  OSError(errno.ENOSPC, "No space left on device"),
  OSError(errno.ESTALE, "Stale file handle"),
  PermissionError(errno.EACCES, "Permission denied"),
  ConnectionResetError("reset by peer"),
  TimeoutError("read timed out"),
  MemoryError("no memory"),
  jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"),
  ValueError("DEADLINE_EXCEEDED: Error reading bucket"),
  ValueError("PERMISSION_DENIED: Error reading local file"),
  # As TensorStore words what pread returned for EIO, EINVAL and ENXIO.
  ValueError("UNKNOWN: Failed to read from file: Input/output [os_error_code='5']"),
  ValueError("Failed to read from file: Invalid argument [os_error_code='22']"),
  ValueError("NOT_FOUND: Failed to read from file: No such device or address"),
  of_tensorstore("UNAVAILABLE"),
  of_tensorstore("RESOURCE_EXHAUSTED"),
  RuntimeError("of a kind not known"),
  AssertionError("a defect of the program's"),
]


@pytest.mark.parametrize("error", SYSTEM, ids=repr)
@pytest.mark.parametrize("function", ["read_meta", "_read_state", "fingerprints"])
def test_what_does_not_prove_damage_stops_the_run(run, monkeypatch, function, error):
  before = files(run)
  monkeypatch.setattr(checkpointer, function, refuse(error))
  with pytest.raises(UsageError, match="step 20 in .*nothing was changed") as e:
    restore(run)
  assert "\n" not in str(e.value)
  kind = error.__cause__ or error
  assert type(kind).__name__ in str(e.value)
  assert str(kind).split(" [tensorstore")[0] in str(e.value)
  assert files(run) == before
  monkeypatch.undo()
  assert restore(run)[0] == 20


def test_an_interrupt_is_passed_on(run, monkeypatch):
  before = files(run)
  monkeypatch.setattr(checkpointer, "_read_state", refuse(KeyboardInterrupt()))
  with pytest.raises(KeyboardInterrupt):
    restore(run)
  assert files(run) == before


@pytest.mark.parametrize(
  "error",
  [
    FileNotFoundError("meta/metadata"),
    json.JSONDecodeError("Expecting value", "", 0),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    KeyError("value_type"),
    of_tensorstore("DATA_LOSS"),
    of_tensorstore("OUT_OF_RANGE"),
    of_tensorstore("NOT_FOUND"),
    ValueError('Error opening "zarr" driver: Error decoding b-tree node'),
  ],
  ids=repr,
)
def test_proof(error):
  assert proves_damage(error)


def test_an_unreadable_older_step_keeps_the_damaged_newest_where_it_is(
  run, monkeypatch
):
  (run / "20" / "meta" / "metadata").unlink()
  before = files(run)
  read = checkpointer._read_state
  monkeypatch.setattr(
    checkpointer,
    "_read_state",
    lambda folder, *rest: (
      refuse(TimeoutError("late"))() if "10" in str(folder) else read(folder, *rest)
    ),
  )
  with pytest.raises(UsageError, match=r"step 10 in .*late"):
    restore(run)
  assert files(run) == before


@pytest.mark.parametrize("length", [0, 20, -1])
def test_every_file_cut_short(run, length):
  """Each file of the newest step: what restores is whole, or the step before."""
  fell_back = 0
  for path, good in files(run / "20").items():
    if not good:
      continue
    os.truncate(path, length % len(good))
    step, got, _, _ = restore(run)
    np.testing.assert_array_equal(got["params"]["x"], state(step)["params"]["x"])
    if step == 10:
      (run / "20.damaged").rename(run / "20")
      fell_back += 1
    path.write_bytes(good)
  assert fell_back >= 3


def test_a_step_damaged_again_is_kept_beside_the_first(run):
  """Nothing that was set aside is lost."""
  held = []
  for value in (20, 21, 22):
    meta = run / "20" / "meta" / "metadata"
    meta.write_text(meta.read_text() + "x")
    held.append(files(run / "20"))
    c = Checkpointer(run, keep=2)
    assert c.restore(ABSTRACT)[0] == 10
    c.save(20, state(value), {}, {})
    c.close()
  for name, before in zip(("20.damaged", "20.damaged.1", "20.damaged.2"), held):
    now = files(run / name)
    assert sorted(now.values()) == sorted(before.values())
  assert restore(run)[0] == 20


def test_a_step_under_another_number_is_damaged(run, capsys):
  (run / "20").rename(run / "30")
  step = restore(run)[0]
  assert step == 10 and (run / "30.damaged").is_dir()
  assert "is that of step 20" in capsys.readouterr().err
  with pytest.raises(Damaged, match="step 20"):
    read_meta(run / "30.damaged" / "meta")


@pytest.mark.parametrize(
  ("mine", "others", "words"),
  [
    (None, checkpointer._BAD, "damaged"),
    (None, checkpointer._UNKNOWN, "another process"),
    (Damaged("not the digest"), checkpointer._UNKNOWN, "another process"),
    (TimeoutError("late"), checkpointer._BAD, "late"),
  ],
)
def test_all_processes_come_to_the_worst_of_their_ends(
  run, monkeypatch, mine, others, words
):
  """With a second process that reports `others` of step 20: the same in both."""
  before = files(run)
  worst = lambda verdict: max(verdict, others)
  if mine is not None:
    monkeypatch.setattr(checkpointer, "_read_state", refuse(mine))
  monkeypatch.setattr(checkpointer, "_worst", worst)
  mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))

  class Elsewhere(jax.sharding.NamedSharding):
    is_fully_addressable = False

  sharding = Elsewhere(mesh, jax.P("x"))
  abstract = jax.tree.map(lambda x: x.update(sharding=sharding), ABSTRACT)
  with pytest.raises(UsageError, match=words):
    restore_params(run, "params", abstract["params"], step=20)
  assert files(run) == before


def test_a_folder_that_cannot_be_renamed_stops_the_run(run, monkeypatch):
  (run / "20" / "meta" / "metadata").unlink()
  before = files(run)
  denied = OSError(errno.EROFS, "Read-only file system")
  monkeypatch.setattr(pathlib.Path, "rename", refuse(denied))
  with pytest.raises(UsageError, match=r"steps \[20\] .*Read-only"):
    restore(run)
  assert files(run) == before


@pytest.mark.parametrize(
  ("error", "words"),
  [
    (TimeoutError("late"), "late.*nothing"),
    (ValueError("DATA_LOSS: crc"), "is damaged"),
  ],
)
def test_slices_tell_the_two_apart(run, monkeypatch, error, words):
  monkeypatch.setattr("ccl_jax.checkpoints.slices.read_meta", refuse(error))
  with pytest.raises(UsageError, match=words):
    SliceReader(run)
  monkeypatch.undo()
  reader = SliceReader(run)
  monkeypatch.setattr("ccl_jax.checkpoints.slices.ts.open", refuse(error))
  with pytest.raises(UsageError, match=words):
    reader.read("x", ())


def test_a_config_that_cannot_be_read_is_not_one_that_is_not_there(tmp_path):
  assert read_config(tmp_path) == {}
  (tmp_path / "config.json").symlink_to("config.json")  # ELOOP, for root too
  with pytest.raises(UsageError, match="config.json: cannot be read"):
    read_config(tmp_path)
