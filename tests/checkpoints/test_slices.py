"""Slices make the checkpoint that whole arrays would, and come back as they went."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ccl_jax.checkpoints import slices as streamed
from ccl_jax.checkpoints.checkpointer import Checkpointer, restore_params
from ccl_jax.checkpoints.fingerprint import fingerprint
from ccl_jax.checkpoints.slices import SliceReader, SliceWriter
from ccl_jax.errors import UsageError


@pytest.fixture
def arrays():
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  return {
    "blocks/q/kernel": normal(3, 5, 4),
    "blocks/q/bias": normal(3, 4).astype(jnp.bfloat16),
    "stem/kernel": normal(7, 8).astype(np.float16),
    "stem/bias": np.zeros(8, np.float32),
  }


def shapes_of(arrays):
  return {p: jax.ShapeDtypeStruct(x.shape, x.dtype) for p, x in arrays.items()}


def slots_of(path, x, axes=1):
  return list(np.ndindex(x.shape[: axes if path.startswith("blocks") else 0]))


def write(folder, arrays, metadata=None):
  writer = SliceWriter(folder, shapes_of(arrays))
  for path, x in arrays.items():
    for slot in reversed(slots_of(path, x)):
      writer.write(path, slot, np.asarray(x[slot]))
  writer.finish(metadata or {})


def abstract(arrays, dtype=None):
  mesh = jax.make_mesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
  leaf = lambda x: jax.ShapeDtypeStruct(
    x.shape,
    dtype or x.dtype,
    sharding=NamedSharding(mesh, P(*[None] * (x.ndim - 1), "x")),
  )
  tree = {path: leaf(x) for path, x in arrays.items()}
  return traverse_util.unflatten_dict(tree, sep="/")


def test_a_number_without_axes(tmp_path):
  write(tmp_path, {"gain": np.array(0.37, np.float32)})
  for got in (
    SliceReader(tmp_path).read("gain", ()),
    restore_params(tmp_path, "params", {"gain": jnp.zeros(())})[1]["gain"],
  ):
    assert got.shape == () and got == np.float32(0.37)


@pytest.mark.parametrize("piece", [1024, 3])
def test_training_restores_slices(tmp_path, arrays, monkeypatch, piece):
  """Sharded over four devices, whatever the pieces on disk."""
  monkeypatch.setattr(streamed, "_PIECE", piece)
  write(tmp_path, arrays, {"kind": "test"})
  step, tree, metadata = restore_params(tmp_path, "params", abstract(arrays))
  assert step == 0 and metadata == {"kind": "test"}
  flat = traverse_util.flatten_dict(tree, sep="/")
  for path, x in arrays.items():
    assert len(flat[path].addressable_shards) == 4
    assert np.asarray(flat[path]).tobytes() == x.tobytes(), path


def test_slices_add_up_to_the_fingerprint(tmp_path, arrays):
  write(tmp_path, arrays)
  meta = json.loads((tmp_path / "0" / "meta" / "metadata").read_text())
  for path, x in arrays.items():
    got = meta["leaves"][f"params/{path}"]["fingerprint"]
    assert got == int(fingerprint(jnp.asarray(x))), path


def test_pieces_are_small_and_of_one_layer(tmp_path, monkeypatch):
  """At most `_PIECE` along an axis, as equal as can be; layers are never together."""
  assert streamed._PIECE == 1024
  monkeypatch.setattr(streamed, "_PIECE", 4)
  arrays = {"blocks/a": np.ones((3, 9, 4), np.float32), "b": np.ones(5, np.float32)}
  write(tmp_path, arrays)
  about = lambda name: json.loads(
    (tmp_path / "0" / "state" / f"params.{name}" / ".zarray").read_text()
  )
  assert about("blocks.a")["chunks"] == [1, 3, 4] and about("b")["chunks"] == [3]
  assert about("b")["compressor"] is None and about("b")["dtype"] == "<f4"
  zeros = {"z": np.zeros(3, np.float32)}
  write(tmp_path / "zeros", zeros)  # are written too: a missing piece is damage
  assert (tmp_path / "zeros/0/state/params.z/0").is_file()


def test_a_slice_is_written_as_it_is_announced(tmp_path, arrays):
  writer = SliceWriter(tmp_path, shapes_of(arrays))
  kernel = arrays["blocks/q/kernel"]
  for slot, wrong in (
    ((0,), kernel[0].T),
    ((0,), kernel[0].astype(np.float64)),
    ((), kernel[0]),
    ((0, 0), kernel[0]),
  ):
    with pytest.raises(AssertionError):
      writer.write("blocks/q/kernel", slot, wrong)
  with pytest.raises(AssertionError, match="not written"):
    writer.finish({})


def test_the_last_step_or_the_one_that_is_named(tmp_path):
  for step, value in ((9, 1.0), (10, 2.0)):
    x = np.full(2, value, np.float32)
    writer = SliceWriter(tmp_path, shapes_of({"x": x}), step)
    writer.write("x", (), x)
    writer.finish({})
  read = lambda **options: SliceReader(tmp_path, **options).read("x", ())[0]
  assert (read(), read(step=9), read(step=10)) == (2, 1, 2)
  with pytest.raises(UsageError, match="no checkpoint of step 11"):
    read(step=11)


def test_a_slot_read_twice_counts_once(tmp_path, arrays):
  """The fingerprint is compared when all slots were read, each of them once."""
  write(tmp_path, arrays)
  reader = SliceReader(tmp_path)
  reader._prints["blocks/q/bias"] += 1  # as if other numbers had been saved
  for slot in (0, 1, 1, 0):
    reader.read("blocks/q/bias", (slot,))
  with pytest.raises(UsageError, match="damaged"):
    reader.read("blocks/q/bias", (2,))


@pytest.mark.parametrize("axes", [0, 1, 2])
def test_the_reader_gives_back_the_slices(tmp_path, arrays, axes):
  """Also larger or smaller ones than were written."""
  write(tmp_path, arrays, {"a": 1})
  reader = SliceReader(tmp_path)
  assert reader.metadata == {"a": 1} and reader.shapes == shapes_of(arrays)
  for path, x in arrays.items():
    for slot in slots_of(path, x, axes):
      got = reader.read(path, slot)
      assert got.shape == x[slot].shape and got.tobytes() == x[slot].tobytes()


def test_the_reader_reads_what_training_saves(tmp_path, arrays):
  tree = traverse_util.unflatten_dict(arrays, sep="/")
  checkpointer = Checkpointer(tmp_path, keep=2)
  checkpointer.save(3, {"params": tree, "ema": jax.tree.map(jnp.asarray, tree)}, {}, {})
  checkpointer.close()
  reader = SliceReader(tmp_path, name="ema")
  assert reader.shapes == shapes_of(arrays)
  got = reader.read("blocks/q/kernel", (2,))
  np.testing.assert_array_equal(got, arrays["blocks/q/kernel"][2])
  with pytest.raises(UsageError, match="no checkpoint of step 4"):
    SliceReader(tmp_path, step=4)


def test_the_newest_step_is_read(tmp_path):
  for step in (3, 12):
    array = np.full(2, step, np.float32)
    writer = SliceWriter(tmp_path, shapes_of({"gain": array}), step)
    writer.write("gain", (), array)
    writer.finish({"of": step})
  assert SliceReader(tmp_path).read("gain", ()).tolist() == [12, 12]
  older = SliceReader(tmp_path, step=3)
  assert older.metadata == {"of": 3} and older.read("gain", ())[0] == 3


def test_the_last_slice_is_waited_for(tmp_path):
  """What goes wrong in it ends the writing, and no checkpoint is there."""
  array = np.zeros(2, np.float32)
  writer = SliceWriter(tmp_path, shapes_of({"gain": array}))
  writer.write("gain", (), array)

  class Failed:
    def result(self):
      raise ValueError("no space left")

  writer._pending.result()
  writer._pending = Failed()
  with pytest.raises(OSError, match="no space left"):
    writer.finish({})
  assert not (tmp_path / "0" / "meta").exists()


def test_every_slice_must_be_written(tmp_path, arrays):
  writer = SliceWriter(tmp_path, shapes_of(arrays))
  for slot in range(2):
    writer.write("blocks/q/kernel", (slot,), arrays["blocks/q/kernel"][slot])
  with pytest.raises(AssertionError, match="not written.*blocks/q/kernel"):
    writer.finish({})


def test_the_one_slice_that_is_missing_is_named(tmp_path, arrays):
  writer = SliceWriter(tmp_path, shapes_of(arrays))
  for path, x in arrays.items():
    for slot in slots_of(path, x):
      if (path, slot) != ("blocks/q/bias", (1,)):
        writer.write(path, slot, np.asarray(x[slot]))
  with pytest.raises(AssertionError, match=r"not written: \['blocks/q/bias'\]"):
    writer.finish({})
  writer.write("blocks/q/bias", (1,), arrays["blocks/q/bias"][1])
  writer.finish({})
  np.testing.assert_array_equal(SliceReader(tmp_path).read("stem/bias", ()), 0)


def test_an_interrupted_writer_waits_for_what_is_on_its_way(
  tmp_path, arrays, monkeypatch
):
  """Else an array that is being made comes back after its folder was removed."""
  waited = []

  class Begun:
    def result(self):
      raise KeyboardInterrupt

    def exception(self):
      waited.append(self)

  monkeypatch.setattr(streamed.ts, "open", lambda spec: Begun())
  path, shapes = "blocks/q/kernel", shapes_of(arrays)
  with pytest.raises(KeyboardInterrupt), SliceWriter(tmp_path, shapes) as writer:
    writer.write(path, (0,), arrays[path][0])
  assert len(waited) == 1


# Orbax leaves reads that nobody waits for where another one has failed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("how", ["flip", "remove", "meta"])
def test_damage_is_noticed(tmp_path, arrays, how):
  write(tmp_path, arrays)
  step = tmp_path / "0"
  piece = step / "state" / "params.blocks.q.kernel" / "1.0.0"
  if how == "flip":
    raw = bytearray(piece.read_bytes())
    raw[9] ^= 4
    piece.write_bytes(raw)
  elif how == "remove":
    piece.unlink()
  else:
    meta = step / "meta" / "metadata"
    meta.write_text(meta.read_text().replace("float16", "float32"))
  with pytest.raises(UsageError, match="damaged"):
    reader = SliceReader(tmp_path)
    for slot in range(3):
      reader.read("blocks/q/kernel", (slot,))
  with pytest.raises(UsageError, match="damaged"):
    restore_params(tmp_path, "params", abstract(arrays))


def test_no_checkpoint(tmp_path):
  for folder in (tmp_path, tmp_path / "nothing"):
    with pytest.raises(UsageError, match="holds no checkpoint"):
      SliceReader(folder)
