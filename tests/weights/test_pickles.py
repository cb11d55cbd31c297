"""Torch's files: views into storages, what is refused, and files that are damaged."""

import collections
import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest

from ccl_jax.errors import UsageError
from ccl_jax.weights.pickles import pickle_entries, plain_values
from ccl_jax.weights.reader import open_weights

torch = pytest.importorskip("torch")
both_formats = pytest.mark.parametrize("zipped", [True, False])


def save(path, held, zipped=True):
  torch.save(held, path, _use_new_zipfile_serialization=zipped)
  return path


@both_formats
def test_views_of_one_storage(tmp_path, zipped):
  base = torch.arange(60, dtype=torch.float32).reshape(5, 12)
  held = {
    "rows": base[1:3],
    "columns": base[:, 2:9:3],
    "turned": base.t()[3:, 1:],
    "last": base[4, 11],
    "repeated": base[0, :4].expand(3, 4),
    "none": base[2:2],
    "whole": base,
    "unfolded": base.reshape(-1).unfold(0, 8, 4),
  }
  weights = open_weights(save(tmp_path / "a.pt", held, zipped))
  for name, x in held.items():
    got = weights.read(name)
    assert got.shape == tuple(x.shape), name
    np.testing.assert_array_equal(got, x.numpy(), err_msg=name)
    assert got.flags.c_contiguous


@both_formats
@pytest.mark.parametrize(
  "dtype", ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16",
            "int8", "uint8", "bool"],
)  # fmt: skip
def test_every_type(tmp_path, dtype, zipped):
  x = torch.tensor([[0, 1, 2], [3, 100, 7]]).to(getattr(torch, dtype))
  weights = open_weights(save(tmp_path / "a.pt", {"x": x[1]}, zipped))
  got = weights.read("x")
  assert got.dtype.name == dtype
  np.testing.assert_array_equal(got.astype(np.float64), x[1].double().numpy())


@both_formats
def test_parameters_are_their_tensors(tmp_path, zipped):
  held = {"x": torch.nn.Parameter(torch.ones(2, 3))}
  weights = open_weights(save(tmp_path / "a.pt", held, zipped))
  np.testing.assert_array_equal(weights.read("x"), np.ones((2, 3)))


class Call:
  """Something that pickle calls when it is read."""

  def __init__(self, function, *args):
    self.call = function, args

  def __reduce__(self):
    return self.call


@both_formats
@pytest.mark.parametrize("where", ["value", "key", "nested", "argument", "alone"])
def test_nothing_is_called_wherever_it_stands(tmp_path, where, zipped):
  evil = Call(os.mkdir, str(tmp_path / "run"))
  x = torch.ones(2)
  held = {
    "value": {"x": x, "y": evil},
    "key": {"x": x, "y": {("k", Call(str, 3)): evil}},
    "nested": {"model": {"x": x}, "optimizer": {"state": [1, (2, {"a": evil})]}},
    "argument": {"x": Call(collections.OrderedDict, {"a": evil})},
    "alone": evil,
  }[where]
  path = save(tmp_path / "a.pt", held, zipped)
  for read in (open_weights, plain_values):
    with pytest.raises(UsageError, match="asks for .*, which is refused"):
      read(path)
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  "function", [eval, exec, open, getattr, __import__, torch.load, np.dtype, print]
)
def test_only_tensors_names_are_known(tmp_path, function):
  path = save(tmp_path / "a.pt", {"x": Call(function, "1")})
  with pytest.raises(UsageError, match="which is refused"):
    open_weights(path)


def repickled(source, path, change):
  """A zip whose data.pkl holds what `change` makes of its opcodes' bytes."""
  with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
    for info in old.infolist():
      data = old.read(info.filename)
      if info.filename.endswith("data.pkl"):
        changed = change(data)
        assert changed != data
        data = changed
      new.writestr(info.filename, data)
  return path


def test_a_tensor_beyond_its_storage(tmp_path):
  """Sizes 5 and stride 1 of a storage of 5: each number made larger by one."""
  source = save(tmp_path / "a.pt", {"x": torch.arange(5.0)})
  size, storage = b"K\x05\x85", b"K\x05t"  # of the tensor, of its storage
  for old, new, good in (
    (size, b"K\x04\x85", True),
    (size, b"K\x06\x85", False),
    (storage, b"K\x04t", False),
    (b"K\x00K\x05\x85", b"K\x01K\x04\x85", True),  # from the second on
    (b"K\x00K\x05\x85", b"K\x01K\x05\x85", False),
    (b"K\x01\x85", b"K\x02\x85", False),  # every other one
  ):
    path = repickled(source, tmp_path / "b.pt", lambda d: d.replace(old, new, 1))
    if good:
      first = 1 if new[:2] == b"K\x01" else 0
      np.testing.assert_array_equal(
        open_weights(path).read("x"), np.arange(first, first + 4)
      )
    else:
      with pytest.raises(UsageError, match="x does not fit its storage"):
        open_weights(path)


def test_a_storage_that_is_not_there(tmp_path):
  source = save(tmp_path / "a.pt", {"x": torch.arange(5.0)})
  with zipfile.ZipFile(source) as old, zipfile.ZipFile(tmp_path / "b.pt", "w") as new:
    for info in old.infolist():
      if "/data/" not in info.filename:
        new.writestr(info.filename, old.read(info.filename))
  with pytest.raises(UsageError, match="truncated: the bytes of x are not in it"):
    open_weights(tmp_path / "b.pt")


def test_compressed_and_big_endian_files(tmp_path):
  source = save(tmp_path / "a.pt", {"x": torch.arange(500.0)})
  with zipfile.ZipFile(source) as old:
    files = {n: old.read(n) for n in old.namelist()}
  packed, big = tmp_path / "packed.pt", tmp_path / "big.pt"
  with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
    for name, data in files.items():
      new.writestr(name, data)
  with pytest.raises(UsageError, match="is compressed: save it again"):
    open_weights(packed)
  with zipfile.ZipFile(big, "w") as new:
    for name, data in files.items():
      new.writestr(name, b"big" if name.endswith("byteorder") else data)
  with pytest.raises(UsageError, match="is big-endian"):
    open_weights(big)


def legacy(path, *, magic=0x1950A86A20F9469CFC6C, protocol=1001, little=True, more=0):
  """Torch's old format with one part of it wrong."""
  out = io.BytesIO()
  save(tmp := path.with_suffix(".tmp"), {"x": torch.arange(5.0)}, zipped=False)
  with open(tmp, "rb") as f:
    for _ in range(3):
      pickle.load(f)
    rest = f.read()
  for value in (magic, protocol, {"little_endian": little}):
    pickle.dump(value, out, protocol=2)
  if more:  # the length before the bytes
    old = struct.pack("<q", 5)
    rest = rest.replace(old, struct.pack("<q", 5 + more))
  path.write_bytes(out.getvalue() + rest)
  return path


def test_the_old_formats_head(tmp_path):
  path = tmp_path / "a.pt"
  np.testing.assert_array_equal(open_weights(legacy(path)).read("x"), np.arange(5))
  for wrong in ({"protocol": 1000}, {"little": False}):
    with pytest.raises(UsageError, match="expected torch's protocol 1001, little"):
      open_weights(legacy(path, **wrong))
  for wrong in ({"magic": 7}, {"more": 1}):
    with pytest.raises(UsageError, match="cannot be read as a torch pickle"):
      open_weights(legacy(path, **wrong))


@both_formats
def test_the_first_of_the_names_for_tensors_counts(tmp_path, zipped):
  one, two = {"x": torch.ones(1)}, {"y": torch.ones(2)}
  read = lambda held: [n for n, _ in pickle_entries(save(tmp_path / "a", held, zipped))]
  assert read({"model": one, "state_dict": two}) == ["y"]
  assert read({"generator": two, "model": one}) == ["x"]
  assert read({"generator": two, "model": "a name"}) == ["y"]
  with pytest.raises(UsageError, match="ema is no tensor"):
    read({"ema": one})
  with pytest.raises(UsageError, match="holds a list, expected tensors by name"):
    read([torch.ones(1)])
  held = {"model": one, "model_cfg": {"a": [1, 2]}, "x": torch.ones(1)}
  assert plain_values(save(tmp_path / "a", held, zipped)) == {
    "model_cfg": {"a": [1, 2]}
  }
  assert plain_values(save(tmp_path / "a", [1], zipped)) == {}
