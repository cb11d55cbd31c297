"""Damaged and invented weight files: each is read, or refused by one line.

Seconds here; CCL_FUZZ_SECONDS=600 runs each test for that long.
"""

import functools
import io
import json
import os
import pickle
import struct
import time
import zipfile

import hypothesis
import ml_dtypes
import numpy as np
import pytest
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ccl_jax.errors import UsageError
from ccl_jax.weights.pickle_machine import Machine
from ccl_jax.weights.pickles import plain_values
from ccl_jax.weights.reader import open_weights
from tests.weights.wan_files import save_legacy, save_pth

SECONDS = float(os.environ.get("CCL_FUZZ_SECONDS", 0))
TENSORS = {
  "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
  "b": np.arange(4, dtype=np.float16),
  "c.bias": np.ones((2, 2, 2), np.float32),
  "d": np.ones((), np.float32),
}


def fuzzed(*strategies):
  """Runs a test on a folder and drawn values, once or until the time is over."""
  settings = hypothesis.settings(
    max_examples=60, deadline=None, database=None, derandomize=not SECONDS
  )

  def decorate(test):
    def run(tmp_path):
      on_drawn = hypothesis.given(st.tuples(*strategies))(lambda x: test(tmp_path, *x))
      on_drawn, end = settings(on_drawn), time.monotonic() + SECONDS
      while on_drawn() or time.monotonic() < end:
        pass

    run.__doc__ = test.__doc__
    return run

  return decorate


def read_all(place, raw, name):
  """Whether a file of these bytes is read; its errors are one line that names it."""
  path = place / name
  path.write_bytes(raw)
  readers = [lambda: [*map((w := open_weights(path)).read, w.names())]]
  if name.endswith("pth"):
    readers.append(lambda: plain_values(path))
  good = True
  for read in readers:
    try:
      read()
    except UsageError as e:
      good = False
      assert str(path) in str(e) and "\n" not in str(e) and len(str(e)) < 1000, e
  return good


def file_of(save):
  path = io.BytesIO()
  save(path)
  return path.getvalue()


def legacy_file(tmp):
  save_legacy(tmp / "legacy", TENSORS)
  return (tmp / "legacy").read_bytes()


@st.composite
def damages(draw, length):
  """A list of (where, bytes that go, bytes that come)."""
  place = st.integers(0, length - 1)
  edit = st.tuples(place, st.integers(0, 4), st.binary(max_size=6))
  return draw(st.lists(edit, min_size=1, max_size=4))


def damaged(raw, edits):
  for at, gone, come in edits:
    raw = raw[:at] + come + raw[at + gone :]
  return raw


ZIPPED = file_of(functools.partial(save_pth, tensors=TENSORS, extra={"e": {"f": [1]}}))
PLAIN = save(TENSORS)
with zipfile.ZipFile(io.BytesIO(ZIPPED)) as z:
  PICKLE = z.read("archive/data.pkl")


@fuzzed(damages(len(ZIPPED)))
def test_a_damaged_archive(place, edits):
  read_all(place, damaged(ZIPPED, edits), "a.pth")


def archive(pickled):
  out = io.BytesIO()
  with zipfile.ZipFile(io.BytesIO(ZIPPED)) as old, zipfile.ZipFile(out, "w") as new:
    for info in old.infolist():
      new.writestr(
        info.filename, pickled if info.filename.endswith("pkl") else old.read(info)
      )
  return out.getvalue()


@fuzzed(damages(len(PICKLE)))
def test_a_damaged_pickle_in_a_whole_archive(place, edits):
  read_all(place, archive(damaged(PICKLE, edits)), "a.pth")


@fuzzed(damages(2000))
def test_a_damaged_file_of_the_old_format(place, edits):
  read_all(place, damaged(legacy_file(place), edits), "a.pth")


OPCODES = [
  b"N", b"K\1", b"K\2", b"(", b"t", b")", b"\x85", b"\x86", b"\x87", b"]", b"a", b"e",
  b"}", b"s", b"u", b"q\0", b"q\1", b"h\0", b"h\1", b"R", b"b", b"Q", b"0", b"1",
  b"\x81", b"\x93", b"\x94", b"2", b"X\1\0\0\0x", b"\x8c\1y", b"\x8a\1\xff", b"\x88",
  b"ccollections\nOrderedDict\n", b"ctorch\nFloatStorage\n", b"ctorch._utils\n_rebuild_"
  b"tensor_v2\n", b"ctorch._utils\n_rebuild_parameter\n", b"c__torch__.m\nA\n",
  b"ctorch.jit._pickle\nbuild_intlist\n", b"X\7\0\0\0storage", b"G" + bytes(8),
  b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuK\6tQ",
]  # fmt: skip


@fuzzed(st.lists(st.sampled_from(OPCODES), max_size=60))
def test_any_sequence_of_opcodes(place, opcodes):
  read_all(place, archive(b"\x80\2" + b"".join(opcodes) + b"."), "a.pth")


KEYS = st.one_of(st.text(max_size=5), st.integers(-(2**62), 2**62), st.none())
VALUES = st.recursive(
  st.one_of(
    st.none(), st.booleans(), st.integers(-(2**2000), 2**2000), st.text(max_size=300),
    st.floats(allow_nan=False),
  ),
  lambda x: st.one_of(
    st.lists(x, max_size=6), st.lists(x, max_size=6).map(tuple),
    st.dictionaries(KEYS, x, max_size=6), x.map(lambda y: [y, y, (y,)]),
  ),
)  # fmt: skip


@fuzzed(VALUES, st.sampled_from([2, 4]))
def test_plain_values_are_what_pickle_makes_of_them(place, value, protocol):
  raw = pickle.dumps(value, protocol)
  assert Machine().load(raw) == (pickle.loads(raw), len(raw))


def library_reads(path):
  try:
    with safe_open(path, framework="np"):
      return True
  except SafetensorError:
    return False


@fuzzed(damages(len(PLAIN)))
def test_damaged_safetensors(place, edits):
  """What is read here, the safetensors library reads too."""
  good = read_all(place, damaged(PLAIN, edits), "a.safetensors")
  assert library_reads(place / "a.safetensors") or not good


SIZE = st.one_of(st.integers(-1, 3), st.sampled_from([True, 1.0, "1", None, 2**63, []]))
OFFSET = st.one_of(st.integers(-1, 40), st.sampled_from([None, "4", 4.0, 2**64]))
ODD = st.fixed_dictionaries(
  {
    "dtype": st.sampled_from(["F32", "F16", "BOOL", "F8_E5M2", "F4", 3, None, []]),
    "shape": st.one_of(st.lists(SIZE, max_size=3), st.just("2")),
    "data_offsets": st.lists(OFFSET, min_size=1, max_size=3),
  }
)
SOUND = st.tuples(
  st.lists(st.integers(0, 3), max_size=3), st.sampled_from(["F32", "U8"])
)


@fuzzed(st.dictionaries(st.text(max_size=3), ODD, max_size=3), st.integers(0, 40))
def test_odd_headers(place, header, size):
  raw = json.dumps(header).encode()
  raw = struct.pack("<Q", len(raw)) + raw + bytes(size)
  good = read_all(place, raw, "a.safetensors")
  assert library_reads(place / "a.safetensors") or not good


@fuzzed(st.lists(SOUND, max_size=5), st.randoms(), st.sampled_from([0, 0, 0, -4, 4]))
def test_sound_headers_are_read_where_the_library_reads_them(
  place, tensors, random, shift
):
  """Tensors in any order, and one of them perhaps at another place."""
  header, end = {}, 0
  for i, (shape, dtype) in enumerate(tensors):
    size = int(np.prod(shape)) * (4 if dtype == "F32" else 1)
    offsets = [end, end + size]
    header[f"x{i}"] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
    end += size
  names = list(header)
  random.shuffle(names)
  if shift and names:
    header[names[0]]["data_offsets"][1] += shift
  raw = json.dumps({n: header[n] for n in names}).encode()
  good = read_all(
    place, struct.pack("<Q", len(raw)) + raw + bytes(end), "a.safetensors"
  )
  # Of no tensors, the library has no complaint.
  assert good == (library_reads(place / "a.safetensors") and bool(names))


def test_the_bases_are_good(tmp_path):
  for raw, name in ((PLAIN, "a.safetensors"), (legacy_file(tmp_path), "a.pth")):
    assert read_all(tmp_path, raw, name)
  with pytest.raises(UsageError, match="e is no tensor"):  # its settings are extra
    (tmp_path / "b.pth").write_bytes(ZIPPED)
    open_weights(tmp_path / "b.pth")


_F8 = np.dtype(ml_dtypes.float8_e4m3fn)
_SIDE = st.integers(0, 4)
_SHAPES = st.lists(_SIDE, max_size=3).map(tuple)
_KINDS = st.sampled_from([_F8, np.dtype(np.float32), np.dtype(np.uint8)])
_PARTS = st.sampled_from(
  [
    "weight",
    "weight",
    "scale_weight",
    "weight_scale",
    "input_scale",
    "comfy_quant",
    "x",
  ]
)
_TOLD = st.sampled_from(
  ["{", "{}", '{"layers": 3}', '{"layers": {"a": 1}}', '{"format": "float8_e4m3fn"}',
   '{"layers": {"a": {"format": "float8_e4m3fn"}}}', '{"layers": {"": {"format": []}}}']
)  # fmt: skip


@fuzzed(
  st.dictionaries(
    st.tuples(st.sampled_from(["a.", "b.", ""]), _PARTS),
    st.tuples(_KINDS, _SHAPES),
    min_size=1,
    max_size=6,
  ),
  st.none() | _TOLD,
  st.none() | _TOLD,
)
def test_weights_and_scales_of_any_shape(place, drawn, header, told):
  """All fp8 weights have scales that fit, or the file is refused."""
  tensors = {a + b: np.zeros(shape, kind) for (a, b), (kind, shape) in drawn.items()}
  if told:
    tensors["a.comfy_quant"] = np.frombuffer(told.encode(), np.uint8)
  about = {"_quantization_metadata": header} if header else None
  if read_all(place, save(tensors, about), "a.safetensors"):
    for name, x in tensors.items():
      assert x.dtype != _F8 or name.replace("weight", "scale_weight") in tensors or (
        name.replace("weight", "weight_scale") in tensors
      )  # fmt: skip


def test_whole_weights_with_scales_are_read(tmp_path):
  """Of what the test above draws."""
  tensors = {"a.weight": np.zeros((4, 2), _F8), "a.weight_scale": np.ones((4, 1), "f4")}
  assert read_all(tmp_path, save(tensors), "a.safetensors")
