"""Files that lie about what is in them, and files written and read by others."""

import json
import struct
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from ccl_jax.errors import UsageError
from ccl_jax.weights.entries import Entry, extent
from ccl_jax.weights.reader import Weights, open_weights, read_config
from ccl_jax.weights.writer import Spec, write_safetensors


def lying(path, header, data=24):
  raw = json.dumps(header).encode() if isinstance(header, dict) else header
  data = bytes(data) if isinstance(data, int) else data
  path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
  return path


def about(shape, first, last, dtype="F32", name="x"):
  return {name: {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}}


def library_reads(path):
  """Whether the safetensors library takes the file."""
  try:
    with safe_open(path, framework="np"):
      return True
  except SafetensorError:
    return False


# A header, the bytes of data, and what is said of it; None: it is right.
UNFIT, NONE = "x .* does not fit its data offsets", "is not a safetensors file"
GAP, MORE = f"{NONE}: there is a gap before x", f"{NONE}: 4 bytes follow the last"
HEADERS = [
  (about([2, 3], 0, 24), 24, None),
  (about([2, 3], 0, 24), 28, MORE),
  (about([2, 3], 4, 28), 28, GAP),
  (about([2, 3], 0, 28), 28, UNFIT),  # more than the shape takes
  (about([2, 3], 0, 20), 20, UNFIT),  # and less
  (about([2, 3], 24, 0), 24, UNFIT),
  (about([2, 3], -4, 20), 24, NONE),
  (about([2, 3], 0, 24, "F64"), 24, UNFIT),
  (about([2, 3], 0, 24, "F16"), 24, UNFIT),
  (about([], 0, 4), 4, None),
  (about([], 0, 0), 0, UNFIT),
  (about([0, 3], 0, 0), 0, None),
  (about([-2, -3], 0, 24), 24, NONE),
  (about([7], 0, 7, "BOOL"), 7, None),
  (about([7], 0, 14, "BF16"), 14, None),
  (about("4", 0, 16), 16, NONE),
  (about(4, 0, 16), 16, NONE),
  (about([4.0], 0, 16), 16, NONE),
  (about([True, 4], 0, 16), 16, NONE),
  (about([4], 0, "16"), 16, NONE),
  (about([4], 0, 16, ["F32"]), 16, NONE),
  (about([4], 0, 16, {"a": 1}), 16, NONE),
  (about([4], 0, 16, None), 16, NONE),
  (about([4], 0, float("inf")), 16, NONE),
  (about([2**64, 0], 0, 0), 0, NONE),
  (about([4], 0, 16) | about([4], 0, 16, name="y"), 16, "bytes of another tensor in y"),
  (about([4], 0, 16) | about([4], 8, 24, name="y"), 24, "bytes of another tensor in y"),
  (about([4], 16, 32) | about([4], 0, 16, name="y"), 32, None),  # in any order
  (about([4], 0, 16) | about([0], 16, 16, name="y"), 16, None),
  (about([4], 4, 20) | about([1], 0, 4, name="y"), 20, None),
  (about([4], 0, 16) | {"__metadata__": {"a": "b"}}, 16, None),
  (about([4], 0, 16) | {"__metadata__": {"a": 3}}, 16, NONE),
  (about([4], 0, 16) | {"__metadata__": ["a"]}, 16, NONE),
  ({"x": None}, 0, NONE),
  ({"x": {}}, 0, NONE),
  (b"[1]", 0, NONE),
  (b"{", 0, NONE),
  (b'{"x": 3}', 0, NONE),
  (b'{"x": {"dtype": "F32", "shape": 3}}', 0, NONE),
  (about("", 0, 4), 4, NONE),  # no text and no object has an axis
  (about({}, 0, 4), 4, NONE),
  (b'{"x": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}', 4, NONE),
  (b'{"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}}', 8, NONE),
  (b'{"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, Infinity]}}', 4, NONE),
  (b'{"x": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 4]}}', 4, NONE),
  (b'{"\\ud83d": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', 4, NONE),
  (b'{"\xff": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', 4, NONE),
  (b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 0, NONE),
]


@pytest.mark.parametrize(("header", "data", "fault"), HEADERS)
def test_headers_as_the_library_has_them(tmp_path, header, data, fault):
  path = lying(tmp_path / "m.safetensors", header, data)
  assert library_reads(path) == (fault is None)
  if fault is None:
    weights = open_weights(path)
    for name in weights.names():
      assert weights.shape(name) == tuple(header[name]["shape"])
      assert weights.read(name).size == np.prod(weights.shape(name))
  else:
    with pytest.raises(
      UsageError, match=f"m.safetensors.* {fault}|m.safetensors {fault}"
    ):
      open_weights(path)


def test_what_the_library_leaves_open(tmp_path):
  """The format says that names are unique, and numpy that shapes are of 64 axes."""
  one = json.dumps(about([1], 0, 4))[1:-1]
  raw = f"{{{one}, {one.replace('[1]', '[1, 1]')}}}".encode()
  with pytest.raises(UsageError, match=NONE):
    open_weights(lying(tmp_path / "m.safetensors", raw, 4))
  with pytest.raises(UsageError, match=NONE):
    open_weights(lying(tmp_path / "n.safetensors", about([1] * 65, 0, 4), 4))
  with pytest.raises(UsageError, match="a shape that no array can have"):
    open_weights(lying(tmp_path / "o.safetensors", about([0, 2**62], 0, 0), 0))


def test_a_huge_header_is_not_read(tmp_path):
  """4 GiB that the file does have, as a hole."""
  path = tmp_path / "m.safetensors"
  with open(path, "wb") as f:
    f.write(struct.pack("<Q", 4 * 2**30) + b"{")
    f.truncate(5 * 2**30)
  tracemalloc.start()
  with pytest.raises(
    UsageError, match="a header of 4294967296 bytes, expected 1000000"
  ):
    open_weights(path)
  assert tracemalloc.get_traced_memory()[1] < 2**20
  tracemalloc.stop()
  assert not library_reads(path)


@pytest.mark.parametrize("name", ["a\nb", "\u202ex", "x" * 501])
def test_names_that_cannot_be_shown(tmp_path, name):
  path = lying(tmp_path / "m.safetensors", about([1], 0, 4, name=name), 4)
  with pytest.raises(UsageError, match="expected names of printable text") as e:
    open_weights(path)
  assert "\n" not in str(e.value) and len(str(e.value)) < 400


def test_a_tensor_beyond_the_end(tmp_path):
  header = about([2, 3], 40, 64) | about([10], 0, 40, name="y")
  path = lying(tmp_path / "m.safetensors", header, 63)
  size = path.stat().st_size
  with pytest.raises(
    UsageError, match=f"truncated: got {size} bytes, expected {size + 1}"
  ):
    open_weights(path)
  lying(path, header, 64)
  weights = open_weights(path)
  path.write_bytes(path.read_bytes()[:-5])  # after it was opened
  with pytest.raises(UsageError, match="x ends after 19 bytes, expected 24"):
    weights.read("x")
  path.unlink()
  with pytest.raises(UsageError, match="cannot read x: No such file"):
    weights.read("x")


def test_a_header_longer_than_the_file(tmp_path):
  path = tmp_path / "m.safetensors"
  raw = json.dumps(about([], 0, 4)).encode()
  path.write_bytes(struct.pack("<Q", len(raw) + 1) + raw)
  with pytest.raises(UsageError, match="truncated.*expected a header of"):
    open_weights(path)


def test_one_tensor_in_two_shards(tmp_path):
  x = np.arange(3, dtype=np.float32)
  name = lambda i: tmp_path / f"m-0000{i}-of-00002.safetensors"
  save_file({"a": x, "b": x}, name(1))
  save_file({"b": x, "c": x}, name(2))
  with pytest.raises(UsageError, match="b is both in .*00001-of.* and in .*00002-of"):
    open_weights(tmp_path)
  # An index says which of them counts.
  index = {"weight_map": {"a": name(1).name, "b": name(2).name, "c": name(2).name}}
  (tmp_path / "m.safetensors.index.json").write_text(json.dumps(index))
  weights = open_weights(tmp_path)
  assert weights.names() == ["a", "b", "c"] and weights.file_of("b") == name(2)
  assert open_weights(name(1)).names() == ["a", "b", "c"]  # any of them means all


@pytest.mark.parametrize("text", ["{}", '{"weight_map": []}', "[1]", "no"])
def test_an_index_that_is_none(tmp_path, text):
  (tmp_path / "m.safetensors.index.json").write_text(text)
  with pytest.raises(UsageError, match=r"index\.json is (no index|not)"):
    open_weights(tmp_path)


def test_two_names_that_become_one(tmp_path):
  x = np.zeros(2, np.float32)
  save_file({"module.a": x, "a": x}, tmp_path / "m.safetensors")
  with pytest.raises(UsageError, match="two tensors are both a"):
    open_weights(tmp_path)


def test_prefixes_are_left_out_each_once(tmp_path):
  x = np.zeros(2, np.float32)
  names = ["model.diffusion_model.module.a", "module.b", "module.module.c", "modules.d"]
  save_file(dict.fromkeys(names, x), tmp_path / "m.safetensors")
  got = sorted(open_weights(tmp_path).names())
  assert got == ["a", "b", "module.c", "modules.d"]


def test_the_config_beside_a_checkpoint(tmp_path):
  assert read_config(tmp_path) == {}
  (tmp_path / "vae").mkdir()
  (tmp_path / "vae" / "config.json").write_text('{"a": 2}')
  assert read_config(tmp_path, ("", "vae")) == {"a": 2}
  assert read_config(tmp_path / "vae" / "x.safetensors", ("", "no")) == {"a": 2}
  (tmp_path / "config.json").write_text('{"a": 1}')
  assert read_config(tmp_path, ("", "vae")) == {"a": 1}
  (tmp_path / "config.json").write_text("version https://git-lfs.github.com")
  with pytest.raises(UsageError, match="is not JSON .a Git LFS pointer"):
    read_config(tmp_path)


@pytest.mark.parametrize(
  ("shape", "strides", "elements"),
  [((), (), 1), ((3, 4), (4, 1), 12), ((4, 3), (1, 4), 12), ((3, 2), (10, 1), 22),
   ((3, 2), (0, 0), 1), ((3, 0), (9, 9), 0), ((2, 3, 2), (100, 10, 1), 122)],
)  # fmt: skip
def test_extents(shape, strides, elements):
  assert extent(shape, strides) == elements


def test_strides_that_repeat_and_skip(tmp_path):
  base = np.arange(30, dtype=np.int16)
  (tmp_path / "raw").write_bytes(b"ab" + base.tobytes())
  for offset, shape, strides in ((3, (3, 4), (7, 2)), (5, (2, 3), (0, 1))):
    entry = Entry(tmp_path / "raw", 2 + 2 * offset, base.dtype, shape, strides)
    weights = Weights(tmp_path, {"x": entry})
    expected = [
      [base[offset + i * strides[0] + j * strides[1]] for j in range(shape[1])]
      for i in range(shape[0])
    ]
    np.testing.assert_array_equal(weights.read("x"), expected)
    assert weights.nbytes("x") == 2 * shape[0] * shape[1]


TENSORS = {
  "a": np.arange(6, dtype=np.float32).reshape(2, 3),  # 24 bytes
  "b": np.arange(4, dtype=np.float16),  # 8
  "c": np.array(5, np.int64),  # 8
  "d": np.arange(3).astype(ml_dtypes.bfloat16),  # 6
  "e": np.zeros((0, 3), np.float32),
  "f": np.arange(8, dtype=np.float32).reshape(4, 2).T,  # 32, not contiguous
}


@pytest.mark.parametrize(
  ("limit", "expected"),
  [
    (10**9, ["abcdef"]),
    (78, ["abcdef"]),
    (77, ["abcde", "f"]),
    (40, ["abc", "def"]),  # three that fill it exactly
    (39, ["ab", "cde", "f"]),
    (20, ["a", "bc", "de", "f"]),  # one too large has a shard of its own
  ],
)
def test_shards_hold_as_much_as_they_may(tmp_path, limit, expected):
  """As safetensors reads them."""
  specs = [Spec(n, x.shape, x.dtype) for n, x in TENSORS.items()]
  files = write_safetensors(tmp_path, "m", specs, iter(TENSORS.values()), limit)
  shards = [f for f in files if f.suffix == ".safetensors"]
  names = [sorted(json_header(f)) for f in shards]
  assert ["".join(n) for n in names] == expected
  got = {}
  for file in shards:
    (length,) = struct.unpack("<Q", file.read_bytes()[:8])
    assert length % 8 == 0
    got |= load_file(file)
  for name, x in TENSORS.items():
    assert (got[name].shape, got[name].dtype) == (x.shape, x.dtype)
    np.testing.assert_array_equal(got[name], x)
  assert set(files) == set(tmp_path.iterdir())
  if len(shards) == 1:
    assert shards[0].name == "m.safetensors"
    return
  count = len(shards)
  assert [f.name for f in shards] == [
    f"m-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)
  ]
  index = json.loads(files[-1].read_text())
  assert files[-1].name == "m.safetensors.index.json"
  assert index["metadata"] == {"total_size": 78}
  assert index["weight_map"] == {
    n: shards[i].name for i, part in enumerate(expected) for n in part
  }
  assert open_weights(tmp_path).names() == list(TENSORS)


def json_header(path):
  data = path.read_bytes()
  header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
  assert header.pop("__metadata__") == {"format": "pt"}
  return header
