"""Checkpoints come back bit for bit, on any mesh, and damage never goes unseen."""

import asyncio
import contextlib
import gc
import itertools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding

from ccl_jax.checkpoints import checkpointer as checkpointing
from ccl_jax.checkpoints.checkpointer import Checkpointer, make_meta, restore_params
from ccl_jax.errors import UsageError

ROOT = pathlib.Path(__file__).parents[2]
# After a failed read TensorStore's threads come back to a loop that is closed.
pytestmark = pytest.mark.filterwarnings(
  "ignore::pytest.PytestUnraisableExceptionWarning"
)


def _sharding(shape=(8,), names=("fsdp",), spec=("fsdp",)):
  mesh = jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(shape))
  return lambda x: NamedSharding(mesh, PartitionSpec(*spec[: x.ndim]))


def _state(seed, width=48, sharding=None):
  """A train state of many dtypes, with frozen (momentless) parameters.

  `codes` is incompressible: its bytes lie in a data file as they are.
  """
  rng = np.random.default_rng(seed)
  params = {
    "cca": {"kernel": rng.standard_normal((16, width)).astype(np.float32)},
    "text": {
      "codes": rng.integers(0, 2**32, (64, 64), dtype=np.uint32),
      "embed": rng.standard_normal((24, 8)).astype(jnp.bfloat16),
    },
  }
  optimizer = optax.masked(optax.scale_by_adam(), {"cca": True, "text": False})
  state = {
    "params": params,
    "opt": optimizer.init(jax.tree.map(jnp.asarray, params)),
    "ema": jax.tree.map(lambda x: (x * 3).astype(x.dtype), params),
    "key": rng.integers(0, 2**32, (8, 2), dtype=np.uint32),
    "step": np.asarray(seed, np.int32),
  }
  sharding = sharding or _sharding()
  return jax.tree.map(lambda x: jax.device_put(x, sharding(x)), state)


def _abstract(state, sharding=None):
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding(x) if sharding else x.sharding
    ),
    state,
  )


def _assert_same_bits(got, expected):
  assert jax.tree.structure(got) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@contextlib.contextmanager
def _open(folder, keep=3, **kwargs):
  checkpointer = Checkpointer(folder, keep=keep, **kwargs)
  try:
    yield checkpointer
  finally:
    checkpointer.close()


def _run(folder, steps, **kwargs):
  with _open(folder, **kwargs) as c:
    for step in steps:
      c.save(step, _state(step), {"global_next_index": 8 * step}, {"size": "tiny"})


@pytest.fixture(scope="module")
def good_run(tmp_path_factory):
  folder = tmp_path_factory.mktemp("run")
  _run(folder, (10, 20, 30))
  return folder


@pytest.fixture
def run(good_run, tmp_path):
  """A copy of a run with the steps 10, 20 and 30, to be damaged."""
  shutil.copytree(good_run, tmp_path / "run")
  return tmp_path / "run"


def _restore(folder, state=None):
  with _open(folder) as c:
    return c.restore(_abstract(_state(0) if state is None else state))


def _files(folder):
  return sorted(p for p in folder.rglob("*") if p.is_file())


def _largest(folder):
  return max(_files(folder), key=lambda p: p.stat().st_size)


def _flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 0x10
  path.write_bytes(bytes(data))


def test_round_trip(good_run):
  step, state, data, metadata = _restore(good_run)
  assert (step, data, metadata) == (30, {"global_next_index": 240}, {"size": "tiny"})
  _assert_same_bits(state, _state(30))
  kernel = state["params"]["cca"]["kernel"]
  assert kernel.sharding == _state(0)["params"]["cca"]["kernel"].sharding


def test_empty_folder(tmp_path):
  with _open(tmp_path / "new") as c:
    assert c.latest_step is None
    assert c.restore(_abstract(_state(0))) is None


@pytest.mark.parametrize(
  "sharding",
  [
    _sharding((2, 4), ("data", "fsdp"), ("fsdp", "data")),
    lambda x: SingleDeviceSharding(jax.devices()[3]),
  ],
  ids=["2x4", "one device"],
)
def test_other_mesh(good_run, sharding):
  abstract = _abstract(_state(0), sharding)
  with _open(good_run) as c:
    _, state, _, _ = c.restore(abstract)
  _assert_same_bits(state, _state(30))
  kernel = state["params"]["cca"]["kernel"]
  assert kernel.sharding == abstract["params"]["cca"]["kernel"].sharding


def test_donation_right_after_save(tmp_path):
  x = jnp.arange(4_000_000, dtype=jnp.float32)
  expected = np.array(x)
  with _open(tmp_path) as c:
    c.save(1, {"x": x}, {}, {})
    clobber = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    y = x
    for _ in range(5):
      y = clobber(y)
    y.block_until_ready()
    _, state, _, _ = c.restore({"x": jax.ShapeDtypeStruct(x.shape, x.dtype)})
  np.testing.assert_array_equal(state["x"], expected)


def test_save_snapshots_the_dicts(tmp_path):
  data = {"global_next_index": 1}
  with _open(tmp_path) as c:
    c.save(1, _state(1), data, {})
    data["global_next_index"] = 99
    assert c.restore(_abstract(_state(0)))[2] == {"global_next_index": 1}
  held = {"rows": [1, (2, 3)]}
  meta = make_meta(1, {}, {}, held, {})
  held["rows"].append(4)  # it is written while the run goes on
  assert meta["data"] == {"rows": [1, [2, 3]]}


def test_keep(tmp_path):
  _run(tmp_path, (1, 2, 3, 4, 5, 6), keep=2, keep_every=3)
  assert sorted(p.name for p in tmp_path.iterdir()) == ["3", "5", "6"]
  with pytest.raises(UsageError, match="keep=0"):
    Checkpointer(tmp_path, keep=0)


def test_damage_to_any_file_is_harmless_or_seen(run):
  """Each file of the newest step in turn, cut short, removed or flipped."""
  abstract, state = _abstract(_state(0)), {30: _state(30), 20: _state(20)}
  damages = itertools.cycle((lambda p: os.truncate(p, 20), pathlib.Path.unlink, _flip))
  fallbacks = 0
  for path in [p for p in _files(run / "30") if p.stat().st_size]:
    good = path.read_bytes()
    next(damages)(path)
    with _open(run) as c:
      step, got, _, _ = c.restore(abstract)
    _assert_same_bits(got, state[step])
    if step == 20:
      (run / "30.damaged").rename(run / "30")
      fallbacks += 1
    path.write_bytes(good)
  assert fallbacks >= 4


def test_flipped_bits_in_the_data(run, capsys):
  # What storage does not notice: the bits of one leaf's values.
  _flip_codes(run / "30" / "state", _state(30)["params"])
  step, state, data, _ = _restore(run)
  assert (step, data) == (20, {"global_next_index": 160})
  _assert_same_bits(state, _state(20))
  err = capsys.readouterr().err
  assert "step 30 is damaged" in err
  assert "the values of params/text/codes are not those that were saved" in err


def _flip_codes(folder, params):
  """One flipped bit in one value of `codes`, where it lies on disk."""
  needle = np.asarray(params["text"]["codes"][17]).tobytes()
  [path] = [p for p in _files(folder) if needle in p.read_bytes()]
  flipped = bytes([needle[0] ^ 1]) + needle[1:]
  path.write_bytes(path.read_bytes().replace(needle, flipped))


@pytest.mark.parametrize(
  "damage",
  [
    lambda step: os.truncate(_largest(step), 100),
    lambda step: _largest(step).unlink(),
    lambda step: shutil.rmtree(step / "state"),
    lambda step: os.truncate(step / "meta" / "metadata", 200),
    lambda step: _edit_data_index(step / "meta" / "metadata"),
  ],
  ids=["truncated", "deleted", "no state", "broken json", "edited json"],
)
def test_other_damage(run, capsys, damage):
  damage(run / "30")
  step, state, _, _ = _restore(run)
  assert step == 20
  _assert_same_bits(state, _state(20))
  assert "step 30 is damaged" in capsys.readouterr().err


def _edit_data_index(path):
  meta = json.loads(path.read_text())
  meta["data"]["global_next_index"] += 1
  path.write_text(json.dumps(meta))


def test_two_damaged_steps_then_saved_again(run, capsys):
  _flip(run / "30" / "meta" / "metadata")
  _largest(run / "20").unlink()
  with _open(run) as c:
    step, _, _, _ = c.restore(_abstract(_state(0)))
    assert step == c.latest_step == 10
    err = capsys.readouterr().err
    assert "step 30 is damaged" in err
    assert "step 20 is damaged" in err
    for step in (20, 30):
      c.save(step, _state(step + 1), {"global_next_index": step}, {})
    step, state, data, _ = c.restore(_abstract(_state(0)))
  assert (step, data) == (30, {"global_next_index": 30})
  _assert_same_bits(state, _state(31))
  assert (run / "30.damaged" / "state").is_dir()


def test_reads_that_fail_beside_the_first_are_silent(run, monkeypatch, caplog, capsys):
  """Orbax reads all arrays at once: the tasks it leaves say nothing, at any time."""

  async def read():
    raise ValueError("DATA_LOSS: cut short")

  async def read_all(*args, **kwargs):
    reads = [asyncio.ensure_future(read()) for _ in range(3)]
    await asyncio.sleep(0)
    return await reads[0]

  def restore(self, folder, args):
    loop = asyncio.new_event_loop()
    try:
      return (
        loop.run_until_complete(read_all())
        if "/30/" in f"{folder}"
        else good(self, folder, args=args)
      )
    finally:
      loop.close()

  good = ocp.PyTreeCheckpointHandler.restore
  monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", restore)
  assert _restore(run)[0] == 20
  gc.collect()
  assert caplog.records == []
  assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_step_that_is_damaged_again_is_set_aside_again(run, capsys):
  """Beside what was set aside before: nothing is removed."""
  (run / "30.damaged").mkdir()
  (run / "30.damaged" / "old").write_text("")
  for i in range(2):
    _flip(run / "30" / "meta" / "metadata")
    with _open(run) as c:
      assert c.restore(_abstract(_state(0)))[0] == c.latest_step == 20
      c.save(30, _state(31 + i), {"global_next_index": i}, {})
    aside = run / f"30.damaged.{i + 1}"
    assert {p.name for p in aside.iterdir()} >= {"state", "meta"}
  assert [p.name for p in (run / "30.damaged").iterdir()] == ["old"]
  step, state, data, _ = _restore(run)
  assert (step, data) == (30, {"global_next_index": 1})
  _assert_same_bits(state, _state(32))


def test_all_damaged(run):
  for step in (10, 20, 30):
    _flip(run / str(step) / "meta" / "metadata")
  with pytest.raises(UsageError, match=str(run)):
    _restore(run)
  assert {"10", "20", "30"} <= {p.name for p in run.iterdir()}  # nothing is moved


def test_another_models_shapes(good_run):
  with pytest.raises(UsageError, match=r"ema/cca/kernel .*\(16, 48\).*\(16, 96\)"):
    _restore(good_run, _state(0, width=96))
  state = _state(0)
  state["params"]["new"] = state["step"]
  with pytest.raises(UsageError, match="no params/new"):
    _restore(good_run, state)
  del state["params"]["new"], state["params"]["cca"]
  with pytest.raises(UsageError, match="params/cca/kernel"):
    _restore(good_run, state)
  state = _state(0)
  state["ema"] = jax.tree.map(lambda x: x.astype(jnp.bfloat16), state["ema"])
  with pytest.raises(UsageError, match="ema/cca/kernel is float32"):
    _restore(good_run, state)


def test_steps_of_another_run_are_not_overwritten(run):
  with _open(run) as c, pytest.raises(UsageError, match="already holds step 30"):
    c.save(20, _state(20), {}, {})
  with _open(run) as c:
    c.restore(_abstract(_state(0)))
    c.save(30, _state(1), {}, {})  # the step just restored: nothing to do
    assert c.restore(_abstract(_state(0)))[2] == {"global_next_index": 240}


def test_unusable_folder(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UsageError, match="file"):
    Checkpointer(tmp_path / "file" / "run", keep=1)


def test_restore_params(run, capsys):
  expected = _state(30)["ema"]
  sharding = _sharding((2, 4), ("data", "fsdp"), ("fsdp",))
  abstract = _abstract(_state(0)["ema"], sharding)
  step, ema, metadata = restore_params(run, "ema", abstract)
  assert (step, metadata) == (30, {"size": "tiny"})
  _assert_same_bits(ema, expected)
  assert ema["cca"]["kernel"].sharding == abstract["cca"]["kernel"].sharding

  kernel = abstract["cca"]["kernel"]
  abstract["cca"]["kernel"] = kernel.update(dtype=jnp.bfloat16)
  _, ema, _ = restore_params(run, "ema", abstract, step=30)
  expected["cca"]["kernel"] = expected["cca"]["kernel"].astype(jnp.bfloat16)
  _assert_same_bits(ema, expected)
  assert ema["cca"]["kernel"].sharding == kernel.sharding

  with pytest.raises(UsageError, match="of step 15"):
    restore_params(run, "ema", abstract, step=15)
  with pytest.raises(UsageError, match="no checkpoint"):
    restore_params(run / "nowhere", "ema", abstract)
  with pytest.raises(UsageError, match="no average/cca"):
    restore_params(run, "average", abstract)
  with pytest.raises(UsageError, match="ema/text/embed, which"):
    restore_params(
      run, "ema", {**abstract, "text": {"codes": abstract["text"]["codes"]}}
    )


def test_restore_params_of_an_older_step(good_run):
  step, ema, _ = restore_params(good_run, "ema", _abstract(_state(0)["ema"]), step=20)
  assert step == 20
  _assert_same_bits(ema, _state(20)["ema"])


def test_restore_params_notices_only_its_own_damage(run, capsys):
  before = {p.name for p in run.iterdir()}
  abstract = _abstract(_state(0)["ema"])
  for name, step in (("params", 30), ("ema", 20)):
    _flip_codes(run / "30" / "state", _state(30)[name])
    got, ema, _ = restore_params(run, "ema", abstract)
    assert got == step
    _assert_same_bits(ema, _state(step)["ema"])
  assert "ema/text/codes" in capsys.readouterr().err
  assert {p.name for p in run.iterdir()} == before


KILLED_IN_MID_SAVE = """
import sys
import jax.numpy as jnp
from ccl_jax.checkpoints.checkpointer import Checkpointer

c = Checkpointer(sys.argv[1], keep=3)
c.save(1, {"x": jnp.full(100, 1.0)}, {}, {})
c.wait()
print("saving", flush=True)
c.save(2, {f"x{i}": jnp.full(4_000_000, 2.0) for i in range(15)}, {}, {})
c.wait()
print("saved", flush=True)
"""


def test_kill_in_mid_save(tmp_path):
  process = subprocess.Popen(
    [sys.executable, "-c", KILLED_IN_MID_SAVE, str(tmp_path)],
    stdout=subprocess.PIPE,
    text=True,
    cwd=ROOT,
  )
  try:
    assert process.stdout.readline() == "saving\n"
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob("*.orbax-checkpoint-tmp")):
      assert time.monotonic() < deadline
      time.sleep(0.001)
  finally:
    process.send_signal(signal.SIGKILL)
  assert process.communicate()[0] == ""  # it did not finish
  assert (tmp_path / "2.orbax-checkpoint-tmp").is_dir()
  with _open(tmp_path) as c:
    step, state, _, _ = c.restore({"x": jax.ShapeDtypeStruct((100,), jnp.float32)})
    assert step == 1
    np.testing.assert_array_equal(state["x"], 1.0)
    c.save(2, {"x": jnp.full(100, 3.0)}, {}, {})
  assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2"]


@pytest.mark.parametrize("name", ["x[05]", "x*", "a?/run"])
def test_a_path_that_orbax_takes_for_a_pattern_is_refused(tmp_path, name):
  """It would find no arrays there to put together, and no step could be restored."""
  with pytest.raises(UsageError, match="pattern"):
    Checkpointer(tmp_path / name, keep=1)
  assert not list(tmp_path.iterdir())


def _spoil_when_written(monkeypatch, spoil):
  """Spoils the newest step as soon as it is on the disk."""
  wait = checkpointing.ocp.CheckpointManager.wait_until_finished

  def waited(self):
    wait(self)
    if self.all_steps():
      spoil(pathlib.Path(self.directory) / str(max(self.all_steps())))

  monkeypatch.setattr(
    checkpointing.ocp.CheckpointManager, "wait_until_finished", waited
  )


SPOILS = {
  "no arrays put together": lambda f: (f / "state" / "manifest.ocdbt").unlink(),
  "no meta": lambda f: (f / "meta" / "metadata").unlink(),
  "half a meta": lambda f: os.truncate(f / "meta" / "metadata", 100),
  "no list of arrays": lambda f: (f / "state" / "_METADATA").unlink(),
}


@pytest.mark.parametrize("how", SPOILS)
def test_older_steps_stay_until_a_newer_one_is_proven(tmp_path, monkeypatch, how):
  _run(tmp_path, (1,), keep=1)
  with _open(tmp_path, keep=1) as c:
    c.save(2, _state(2), {}, {})
    _spoil_when_written(monkeypatch, SPOILS[how])
    with pytest.raises(UsageError, match=r"step 2 .* was not written whole .* kept"):
      c.wait()
    monkeypatch.undo()
  step, state, _, _ = _restore(tmp_path)
  assert step == 1
  _assert_same_bits(state, _state(1))


def test_a_step_that_lacks_an_array_is_not_whole(tmp_path, monkeypatch):
  """All files are in their places, but one array is in none of them."""
  leaf_paths = checkpointing.leaf_paths
  _run(tmp_path, (1,), keep=1)
  with _open(tmp_path, keep=1) as c:
    told = lambda tree: leaf_paths(tree) | {"params/more": np.zeros(2, np.float32)}
    prints = checkpointing.fingerprints
    monkeypatch.setattr(checkpointing, "leaf_paths", told)
    monkeypatch.setattr(
      checkpointing, "fingerprints", lambda tree: prints(tree) | {"params/more": 0}
    )
    monkeypatch.setattr(checkpointing, "_check_names", lambda *_: None)
    c.save(2, _state(2), {}, {})
    with pytest.raises(UsageError, match=r"lacks params\.more"):
      c.wait()
  assert {"1", "2"} <= {p.name for p in tmp_path.iterdir()}


def test_a_full_disk_is_one_line_and_keeps_what_is_there(tmp_path, monkeypatch):
  """As TensorStore says it, from the thread that writes."""
  _run(tmp_path, (1,), keep=1)
  with _open(tmp_path, keep=1) as c:
    full = ValueError("RESOURCE_EXHAUSTED: Error writing: No space left on device [..]")

    def fails(self):
      raise full

    c.save(2, _state(2), {}, {})
    with monkeypatch.context() as patch:
      name = "wait_until_finished"
      patch.setattr(checkpointing.ocp.CheckpointManager, name, fails)
      with pytest.raises(
        UsageError, match=r"cannot write checkpoint step 2 .*: No space left on device;"
      ):
        c.wait()
  assert {"1", "2"} <= {p.name for p in tmp_path.iterdir()}


def test_a_copy_of_a_step_under_another_number_is_damaged(run, capsys):
  shutil.copytree(run / "30", run / "40")
  step, state, _, _ = _restore(run)
  assert step == 30
  _assert_same_bits(state, _state(30))
  assert "step 40 is damaged" in capsys.readouterr().err
  assert (run / "40.damaged").is_dir()
