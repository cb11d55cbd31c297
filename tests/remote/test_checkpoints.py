"""Checkpoints and converted weights in a bucket: bit for bit, and damage is seen."""

import contextlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.checkpoints import checkpointer
from ccl_jax.checkpoints.checkpointer import (
  Checkpointer,
  latest_metadata,
  read_metadata,
  restore_params,
)
from ccl_jax.checkpoints.folders import new_folder
from ccl_jax.checkpoints.slices import SliceReader, SliceWriter
from ccl_jax.checkpoints.steps import stored_steps
from ccl_jax.errors import UsageError
from ccl_jax.files import UNFINISHED
from ccl_jax.places import LOCK, hold
from ccl_jax.remote import locks
from ccl_jax.remote.stores import Unreachable
from tests.remote.buckets import emptied

# A failed read leaves Orbax's other reads unfinished.
pytestmark = pytest.mark.filterwarnings(
  "ignore::pytest.PytestUnraisableExceptionWarning"
)


def state_of(seed):
  rng = np.random.default_rng(seed)
  one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  params = {
    "kernel": rng.standard_normal((16, 48)).astype(np.float32),
    "codes": rng.integers(0, 2**32, (64, 64), dtype=np.uint32),
    "embed": rng.standard_normal((24, 8)).astype(jnp.bfloat16),
  }
  return jax.tree.map(lambda x: jax.device_put(x, one), {"ema": params})


def abstract(state):
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
  )


def same(got, expected):
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@contextlib.contextmanager
def opened(folder, keep=2):
  own = Checkpointer(folder, keep=keep)
  try:
    yield own
  finally:
    own.close()


@pytest.fixture(scope="module")
def saved(google_store):
  """A store with a folder of the steps 10 and 20, of states of these seeds."""
  from tests.remote import stores

  run = emptied(google_store) / "run"
  with opened(run) as own:
    for step in (0, 10, 20):
      data = {"next_batch": step}
      own.save(step, state_of(step), data, {"note": f"é {step}"})
  return run, stores.content(google_store.server)


@pytest.fixture
def run(google_store, saved):
  """The folder of `saved`, as it was."""
  from tests.remote import stores

  folder, content = saved
  stores.set_content(google_store.server, content)
  return folder


def test_what_is_restored_is_what_was_saved(run):
  assert sorted(stored_steps(run)) == [10, 20]  # two are kept
  with opened(str(run)) as own:
    assert own.latest_step == 20
    step, state, data, metadata = own.restore(abstract(state_of(0)))
  assert (step, data, metadata) == (20, {"next_batch": 20}, {"note": "é 20"})
  same(state, state_of(20))
  step, params, _ = restore_params(run, "ema", abstract(state_of(0))["ema"], step=10)
  same(params, state_of(10)["ema"])
  assert read_metadata(run, 10) == {"note": "é 10"}
  assert latest_metadata(run) == (20, {"note": "é 20"})
  assert latest_metadata(run.parent / "none") is None
  with pytest.raises(UsageError, match="no checkpoint of step 7, only of steps"):
    read_metadata(run, 7)


def test_a_save_that_was_killed_is_none(run):
  """Without Orbax's last object a step is not there, and the next start removes it."""
  (run / "20" / "commit_success.txt").unlink()
  assert stored_steps(run) == [10] and latest_metadata(run)[0] == 10
  with opened(run) as own:
    assert own.restore(abstract(state_of(0)))[0] == 10
    assert not list((run / "20").walk())
    own.save(20, state_of(21), {}, {})
  same(restore_params(run, "ema", abstract(state_of(0))["ema"])[1], state_of(21)["ema"])


def lacks_meta(step):
  (step / "meta" / "metadata").unlink()


def has_other_meta(step):
  meta = json.loads((step / "meta" / "metadata").read_text())
  meta["metadata"]["note"] = "another"
  (step / "meta" / "metadata").write_bytes(json.dumps(meta).encode())


def largest(step):
  return max((step / "state").walk(), key=lambda p: p.stat().st_size)


def lacks_data(step):
  largest(step).unlink()


def has_other_data(step):
  data = bytearray(largest(step).read_bytes())
  data[len(data) // 2] ^= 1
  largest(step).write_bytes(bytes(data))


def is_cut_short(step):
  data = largest(step).read_bytes()
  largest(step).write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
  "spoil", [lacks_meta, has_other_meta, lacks_data, has_other_data, is_cut_short]
)
def test_a_damaged_step_is_set_aside_and_kept(run, spoil, capsys):
  spoil(run / "20")
  before = [str(p.relative_to(run / "20")) for p in (run / "20").walk()]
  with opened(run) as own:
    step, state, *_ = own.restore(abstract(state_of(0)))
    assert step == 10
    same(state, state_of(10))
    own.save(20, state_of(22), {}, {})
  assert "checkpoint step 20 is damaged" in capsys.readouterr().err
  kept = run / "20.damaged"
  assert [str(p.relative_to(kept)) for p in kept.walk()] == before
  same(restore_params(run, "ema", abstract(state_of(0))["ema"])[1], state_of(22)["ema"])


def test_a_store_that_does_not_answer_proves_nothing(run):
  from tests.remote.stores import answering

  before = [(str(p), p.stat().mark) for p in run.walk()]
  with opened(run) as own:
    with answering(403), pytest.raises(UsageError) as e:
      own.restore(abstract(state_of(0)))
    assert "does not prove it damaged" in str(e.value) and "20" in str(e.value)
  with answering(403):
    for read in (stored_steps, latest_metadata, read_metadata):
      with pytest.raises(Unreachable, match="no rights"):
        read(run)
  assert [(str(p), p.stat().mark) for p in run.walk()] == before


def test_damage_is_looked_at_twice(run, monkeypatch):
  """Where a store gives no answer Orbax may say that a file is not there."""
  read, calls = checkpointer._read_state, []

  def seldom(*args):
    calls.append(args)
    if len(calls) == 1:
      raise FileNotFoundError("manifest.ocdbt")
    return read(*args)

  monkeypatch.setattr(checkpointer, "_read_state", seldom)
  with opened(run) as own:
    step, state, *_ = own.restore(abstract(state_of(0)))
  assert step == 20 and len(calls) == 2
  same(state, state_of(20))


def test_steps_that_orbax_does_not_see_are_missed(run, monkeypatch):
  """To Orbax a store that does not answer is empty: a run would begin anew."""
  import orbax.checkpoint as ocp

  monkeypatch.setattr(ocp.CheckpointManager, "all_steps", lambda self: [10])
  with pytest.raises(UsageError, match="has step 20, which was not seen at first"):
    Checkpointer(run, keep=2)


def test_a_run_that_was_taken_over_saves_no_more(run, monkeypatch):
  monkeypatch.setattr(locks, "BEAT", 1000)
  with hold(run.parent), opened(run) as own:
    locks._held[run.parent / LOCK].lost = "process 7 on far"
    with pytest.raises(UsageError, match="taken over by process 7 on far"):
      own.save(30, state_of(30), {}, {})
  assert sorted(stored_steps(run)) == [10, 20]


def test_orbax_writes_no_s3():
  for use in (
    lambda: Checkpointer("s3://bucket/run", keep=1),
    lambda: restore_params("s3://bucket/run", "ema", {}),
    lambda: new_folder("s3://bucket/run", 1).__enter__(),
  ):
    with pytest.raises(UsageError, match="Orbax writes no checkpoints to s3://"):
      use()


SHAPES = {"blocks/kernel": (2, 8, 4), "head": (5,)}


def weights(folder):
  """Converted weights, slice by slice, with values that say where they belong."""
  shapes = {p: jax.ShapeDtypeStruct(x, jnp.float32) for p, x in SHAPES.items()}
  values = {
    p: np.arange(np.prod(x), dtype=np.float32).reshape(x) for p, x in SHAPES.items()
  }
  with SliceWriter(folder / "checkpoints", shapes) as writer:
    for layer in (1, 0):
      writer.write("blocks/kernel", (layer,), values["blocks/kernel"][layer])
    writer.write("head", (), values["head"])
    writer.finish({"note": "mine"})
  return values


def test_weights_are_written_slice_by_slice(bucket):
  with new_folder(bucket / "w", 1) as fresh:
    assert fresh == bucket / "w" and (fresh / UNFINISHED).exists()
    values = weights(fresh)
  assert not (fresh / UNFINISHED).exists()
  reader = SliceReader(bucket / "w" / "checkpoints")
  assert reader.metadata == {"note": "mine"}
  np.testing.assert_array_equal(
    reader.read("blocks/kernel", (1,)), values["blocks/kernel"][1]
  )
  one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  tree = {
    "blocks": {"kernel": jax.ShapeDtypeStruct((2, 8, 4), jnp.float32, sharding=one)},
    "head": jax.ShapeDtypeStruct((5,), jnp.float32, sharding=one),
  }
  _, params, _ = restore_params(bucket / "w" / "checkpoints", "params", tree)
  np.testing.assert_array_equal(params["head"], values["head"])
  np.testing.assert_array_equal(params["blocks"]["kernel"], values["blocks/kernel"])
  with pytest.raises(UsageError, match="w is there already"):
    new_folder(bucket / "w", 1).__enter__()


def test_an_error_leaves_nothing_and_a_kill_what_the_next_one_removes(bucket):
  with pytest.raises(UsageError, match="NaN"), new_folder(bucket / "w", 1) as fresh:
    weights(fresh)
    raise UsageError("NaN")
  assert not list(bucket.walk())
  (bucket / "w" / UNFINISHED).write_bytes(b"")
  (bucket / "w" / "checkpoints" / "0" / "x").write_bytes(b"half")
  with new_folder(bucket / "w", 1) as fresh:
    assert [p.name for p in fresh.walk()] == [UNFINISHED]
    weights(fresh)
  assert SliceReader(bucket / "w" / "checkpoints").metadata == {"note": "mine"}
