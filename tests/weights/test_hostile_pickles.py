"""Pickles and zips that are made to crash a reader, to fill the memory or to change it.

Each is refused by one line that names the file, at once and in little memory.
"""

import json
import pickle
import struct
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest

from ccl_jax import convert
from ccl_jax.errors import UsageError
from ccl_jax.weights.pickle_machine import Machine
from ccl_jax.weights.pickles import plain_values
from ccl_jax.weights.reader import open_weights
from tests.weights import release_files
from tests.weights.test_round_trip import SIZES
from tests.weights.wan_files import save_legacy, save_pth

PROTO, STOP = b"\x80\x02", b"."


def text(value):
  raw = value.encode()
  return b"X" + struct.pack("<I", len(raw)) + raw


def name(module, attribute):
  return f"c{module}\n{attribute}\n".encode()


def number(value):
  return b"\x8a\x08" + struct.pack("<q", value)


STORAGE = (
  b"(" + text("storage") + name("torch", "FloatStorage") + text("0") + text("cpu")
  + b"K\x04tQ"
)  # fmt: skip


def tensor(shape=(4,), strides=(1,), first=0, storage=STORAGE):
  sizes = lambda x: b"(" + b"".join(map(number, x)) + b"t"
  rebuild = name("torch._utils", "_rebuild_tensor_v2")
  return (
    rebuild + b"(" + storage + number(first) + sizes(shape) + sizes(strides)
    + b"\x89}tR"
  )  # fmt: skip


def a_dict(*items):
  return b"}(" + b"".join(k + v for k, v in items) + b"u"


def archive(path, body, entries=(), data=bytes(16), compress=zipfile.ZIP_STORED):
  """A file of torch.save with this pickle."""
  files = {"archive/data.pkl": PROTO + body + STOP, "archive/data/0": data}
  with zipfile.ZipFile(path, "w", compress) as z:
    for entry, raw in (files | dict(entries)).items():
      z.writestr(entry, raw)
  return path


GOOD = a_dict((text("x"), tensor()))
SELF = name("__torch__", "A").replace(b"__torch__", b"__torch__.m") + b")\x81q\x00"
HOLDS_ITSELF = SELF + a_dict((text("a"), b"h\x00"), (text("x"), tensor())) + b"b"
# One of two under each of 40 objects: a million million names of one tensor.
SHARED = b"".join(
  SELF[:-1] + bytes([i])
  + a_dict(*[(text(a), b"h" + bytes([i - 1])) for a in "ab" if i]) + b"b0"
  for i in range(40)
) + b"h\x27"  # fmt: skip


def copies(pairs, times):
  """One list of pairs, and so many dicts that are made of it."""
  return (
    b"](" + b"K\x01K\x01\x86" * pairs + b"e\x85q\x000]("
    + (name("collections", "OrderedDict") + b"h\x00R") * times + b"e"
  )  # fmt: skip


MANY_COPIES = copies(20_000, 20_000)
REFUSED = {
  "a key of nested tuples": (
    b"}" + b")" + b"\x85" * 10 + b"K\x01s", "a dict whose keys are no texts",
  ),
  "a key of a long tuple": (
    b"}(" + b"K\x01" * 100 + b"tK\x01s", "a dict whose keys are no texts",
  ),
  "a key that is a list": (b"}]K\x01s", "a dict whose keys are no texts"),
  "a key of 250 bytes": (
    b"}\x8a\xfa" + b"\x01" * 250 + b"K\x01s", "a dict whose keys are no texts",
  ),
  "nested lists": (
    a_dict((text("model"), GOOD), (text("a"), b"]" * 200 + b"a" * 199)),
    "nested more than 100 deep",
  ),
  "nested dicts": (
    b"}K\x01" * 200 + b"N" + b"s" * 200, "nested more than 100 deep",
  ),
  "a huge memo": (b"}r\xff\xff\xff\x7f", "memo 2147483647 after"),
  "changes of a function": (
    name("torch._utils", "_rebuild_tensor_v2") + b"N"
    + a_dict((text("__defaults__"), b"K\x01\x85")) + b"\x86b",
    "changes a Name",
  ),
  "changes of a class": (
    name("__torch__.m", "A") + b"N" + a_dict((text("x"), b"K\x01")) + b"\x86b",
    "changes a Name",
  ),
  "changes of a list": (b"]}b", "changes a list"),
  "an attribute that is no text": (
    SELF + a_dict((b"K\x01", tensor())) + b"b", "an attribute whose name is no text",
  ),
  "an object that holds itself": (HOLDS_ITSELF, "objects that hold themselves"),
  "names without end": (SHARED, "objects that hold themselves|too many objects"),
  "copies of a long list": (copies(50, 20), "dicts of more items than it has opcodes"),
  "an extension": (b"\x82\x01", "the pickle opcode EXT1"),
  "an old call": (b"(ios\nsystem\n", "the pickle opcode INST"),
  "an object by keywords": (name("__torch__.m", "A") + b")}\x92", "opcode NEWOBJ_EX"),
  "a buffer": (b"\x97", "the pickle opcode NEXT_BUFFER"),
  "a call of a type": (name("torch", "float32") + b")R", "a call of torch.float32"),
  "a name of two lines": (
    text("os") + text("system\nx") + b"\x93", r"asks for 'os.system\\nx'",
  ),
  "another type's bytes": (
    a_dict((text("x"), tensor()), (text("y"), tensor(
      storage=STORAGE.replace(b"Float", b"Half")))),
    "names the storage 0 in two ways",
  ),
  "fewer than no elements": (
    a_dict((text("x"), tensor(storage=STORAGE.replace(b"K\x04", number(-4))))),
    "a storage without key or size",
  ),
  "a name that is a number": (a_dict((b"K\x01", tensor())), "a tensor named a int"),
  "a name that is none": (a_dict((b"N", tensor())), "a tensor named a NoneType"),
  "a name of two lines again": (
    a_dict((text("a\nerror: b"), tensor())), r"a tensor named 'a\\nerror: b'",
  ),
  "elements without end": (
    a_dict((text("x"), tensor((10**12,), (0,)))), "has more bytes than its file",
  ),
  "a negative stride": (
    a_dict((text("x"), tensor((4,), (-1,), 3))), "x does not fit its storage",
  ),
  "a negative shape": (a_dict((text("x"), tensor((-1,)))), "x does not fit its stor"),
  "an array of no shape": (
    a_dict((text("x"), tensor((0, 2**62, 2**62), (0, 0, 0)))), "no array can have",
  ),
  "shapes of floats": (
    a_dict((text("x"), tensor().replace(number(4), b"G" + bytes(8)))), "not a weight f",
  ),
  "fewer values than it takes": (b"\x87", "not a weight file"),
  "values of another mark": (b"](a", "not a weight file"),
  "no end": (b"}" + b"N0" * 10 + b"\x8c\xff", "truncated or damaged"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_a_pickle_that_is_refused(tmp_path, kind):
  body, expected = REFUSED[kind]
  path = archive(tmp_path / "a.pth", body)
  with pytest.raises(UsageError, match=expected) as e:
    open_weights(path)
  assert str(e.value).startswith(str(path)) and "\n" not in str(e.value)


CHILD = """
import pathlib, resource, sys, time
from ccl_jax.errors import UsageError
from ccl_jax.weights.reader import open_weights

used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, -1))
for path in sys.argv[1:]:
  start = time.monotonic()
  try:
    open_weights(path)
  except UsageError as e:
    print(e)
  assert time.monotonic() - start < 60
"""


def test_large_ones_in_little_memory(tmp_path):
  """In a process of their own, which may take 256 MB more than it starts with."""
  large = {
    b"}" + b")" + b"\x85" * 100_000 + b"K\x01s": "a dict whose keys are no texts",
    b"}" + b"K\x01}" * 100_000 + b"N" + b"s" * 100_000: "not a weight file",
    b"N" + b"\x85" * 100_000: "nested more than 100 deep",
    b"}r\xff\xff\xff\x7f": "memo 2147483647",
    MANY_COPIES: "dicts of more items than it has opcodes",
    b"}" * 1_000_000: "a pickle of more than 1000000 opcodes",
    b"\x8e" + struct.pack("<Q", 2**40): "truncated or damaged",
    b"\x95" + struct.pack("<Q", 2**40) + b"}": "holds no tensors",
  }
  paths = [archive(tmp_path / f"{i}.pth", body) for i, body in enumerate(large)]
  for i, entry in enumerate(("data.pkl", "byteorder")):
    packed = {f"archive/{entry}": bytes(2**26)}
    paths.append(
      archive(tmp_path / f"z{i}.pth", GOOD, packed, compress=zipfile.ZIP_DEFLATED)
    )
  out = subprocess.run(
    [sys.executable, "-c", CHILD, *map(str, paths)], capture_output=True, text=True
  )
  assert out.returncode == 0, out.stderr
  for line, path, expected in zip(
    out.stdout.splitlines(),
    paths,
    [*large.values(), *["is compressed"] * 2],
    strict=True,
  ):
    assert line.startswith(str(path)) and expected in line


def test_the_bodies_that_were_changed_are_good(tmp_path):
  weights = open_weights(
    archive(tmp_path / "a.pth", GOOD, data=np.arange(4.0, dtype="f4").tobytes())
  )
  np.testing.assert_array_equal(weights.read("x"), np.arange(4))
  one = SELF + a_dict((text("x"), tensor())) + b"b"
  assert open_weights(archive(tmp_path / "b.pth", one)).names() == ["x"]


def test_a_file_changes_nothing_for_the_next(tmp_path):
  """After every file above, a good one has the tensors that it had before."""
  for i, (body, _) in enumerate(REFUSED.values()):
    with pytest.raises(UsageError):
      open_weights(archive(tmp_path / f"{i}.pth", body))
    with pytest.raises(UsageError):
      plain_values(archive(tmp_path / f"{i}.pth", body + b"\x82\x01"))
  test_the_bodies_that_were_changed_are_good(tmp_path)


def test_a_list_that_holds_itself_is_a_setting_like_others(tmp_path):
  body = a_dict((text("model"), GOOD), (text("l"), b"]q\x00h\x00a"))
  path = archive(tmp_path / "a.pth", body)
  assert open_weights(path).names() == ["x"]
  (value,) = plain_values(path)["l"]
  assert value[0] is value


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_values_are_those_of_pickle(protocol):
  value = {
    "a": [1, -2, 2**31, 2**70, -(2**90), 1.5, float("inf"), None, True, False],
    "b": ("c", ("d",), (), [], {}, (1, 2, 3), "é\n", "x" * 300),
    ("k", 1): {0: [[1], [2]], None: b"ab" if protocol > 2 else 3},
  }
  value["same"] = value["a"]
  raw = pickle.dumps(value, protocol)
  got, length = Machine().load(raw + b"more")
  assert (got, length) == (value, len(raw)) and got["same"] is got["a"]


ZIPS = {
  "a compressed pickle": (
    {"archive/data.pkl": bytes(2**20)}, zipfile.ZIP_DEFLATED, "is compressed",
  ),
  "a compressed byte order": (
    {"archive/byteorder": bytes(2**20)}, zipfile.ZIP_DEFLATED, "is compressed",
  ),
  "a long byte order": (
    {"archive/byteorder": b"little" * 100}, zipfile.ZIP_STORED,
    "600 bytes of archive/byteorder, more than 64",
  ),
  "a long pickle": (
    {"archive/data.pkl": bytes(16 * 2**20 + 1)}, zipfile.ZIP_STORED,
    "16777217 bytes of archive/data.pkl, more than 16777216",
  ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ZIPS)
def test_an_archive_that_is_refused(tmp_path, kind):
  entries, compress, expected = ZIPS[kind]
  path = archive(tmp_path / "a.pth", GOOD, entries, compress=compress)
  with pytest.raises(UsageError, match=expected):
    open_weights(path)


def test_too_many_opcodes(tmp_path, monkeypatch):
  monkeypatch.setattr("ccl_jax.weights.pickle_machine.OPCODES", 1000)
  path = archive(tmp_path / "a.pth", b"N0" * 600 + GOOD)
  with pytest.raises(UsageError, match="a pickle of more than 1000 opcodes"):
    open_weights(path)


def test_a_long_pickle_of_the_old_format(tmp_path, monkeypatch):
  monkeypatch.setattr("ccl_jax.weights.pickles.BYTES", 1000)
  path = tmp_path / "a.pth"
  save_legacy(path, {f"x{i}": np.ones(3, np.float32) for i in range(20)})
  with pytest.raises(UsageError, match="a pickle of more than 1000 bytes"):
    open_weights(path)


def test_entries_of_one_name_and_places_that_are_none(tmp_path):
  path = archive(tmp_path / "a.pth", GOOD)
  with zipfile.ZipFile(path, "a") as z, pytest.warns(UserWarning, match="Duplicate"):
    z.writestr("archive/data/0", bytes(16))
  with pytest.raises(UsageError, match="holds two entries of one name"):
    open_weights(path)
  path = archive(tmp_path / "b.pth", GOOD)
  raw = bytearray(path.read_bytes())
  raw[raw.index(b"PK\3\4", 10)] = 0  # the second local header
  path.write_bytes(raw)
  with pytest.raises(UsageError, match="truncated or damaged"):
    open_weights(path)


def test_a_table_of_contents_of_any_size(tmp_path):
  """17 MB of it, in a file with a hole."""
  end = b"PK\5\6" + struct.pack("<4H2LH", 0, 0, 1, 1, 2**25, 2, 0)
  path = tmp_path / "a.pth"
  with open(path, "wb") as f:
    f.write(b"PK")
    f.seek(2**25 + 2)
    f.write(end)
  with pytest.raises(UsageError, match="a table of contents of 33554432 bytes"):
    open_weights(path)


class TestChecksums:
  """A zip has the CRC-32 of every storage, and of the pickle."""

  def test_every_flipped_byte_is_told(self, tmp_path):
    data = np.arange(4, dtype=np.float32).tobytes()
    path = archive(tmp_path / "a.pth", GOOD, data=data)
    raw = path.read_bytes()
    first, pickled = raw.index(data), raw.index(GOOD)
    for at in range(first, first + 16):
      path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
      with pytest.raises(UsageError, match="a.pth is damaged: the bytes of x are not"):
        open_weights(path).read("x")
    for at in range(pickled, pickled + len(GOOD)):
      path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
      with pytest.raises(UsageError, match="a.pth is truncated or damaged"):
        open_weights(path)

  def test_views_have_the_checksum_of_their_storage(self, tmp_path):
    """Of a storage of 4 bytes: the damage may be in another view."""
    views = {"a": ((1,), (1,), 0), "b": ((2, 2), (1, 2), 0), "c": ((2,), (0,), 3)}
    body = a_dict(*[(text(n), tensor(*view)) for n, view in views.items()])
    data = np.arange(4, dtype=np.float32)
    path = archive(tmp_path / "a.pth", body, data=data.tobytes())
    weights = open_weights(path)
    assert weights.read("a") == [0] and weights.read("c").tolist() == [3, 3]
    assert weights.read("b").tolist() == [[0, 2], [1, 3]]
    raw = path.read_bytes()
    path.write_bytes(
      raw.replace(data.tobytes(), (data + [0, 0, 1, 0]).astype("f4").tobytes())
    )
    for n in views:
      with pytest.raises(UsageError, match=f"damaged: the bytes of {n} are not"):
        open_weights(path).read(n)

  def test_a_storage_is_summed_once(self, tmp_path, monkeypatch):
    calls = []
    real = zlib.crc32
    body = a_dict(*[(text(str(i)), tensor((1,), (1,), i)) for i in range(4)])
    weights = open_weights(archive(tmp_path / "a.pth", body))
    monkeypatch.setattr(
      "ccl_jax.weights.reader.zlib.crc32", lambda *a: calls.append(a) or real(*a)
    )
    for i in range(4):
      weights.read(str(i))
    assert len(calls) == 1

  def test_a_file_that_was_saved_without(self, tmp_path):
    torch = pytest.importorskip("torch")
    torch.serialization.set_crc32_options(False)
    try:
      torch.save({"x": torch.arange(4.0)}, tmp_path / "a.pth")
    finally:
      torch.serialization.set_crc32_options(True)
    assert open_weights(tmp_path / "a.pth").read("x").tolist() == [0, 1, 2, 3]

  def test_through_the_command(self, tmp_path, capsys):
    """One bit, in the last tensor."""
    tensors = release_files.tensors("umt5", SIZES["umt5"], "native")
    path = tmp_path / "models_t5.pth"
    save_pth(path, tensors)
    raw = bytearray(path.read_bytes())
    last = list(tensors.values())[-1].tobytes()
    raw[raw.index(last) + len(last) // 2] ^= 4
    path.write_bytes(raw)
    with pytest.raises(SystemExit) as e:
      convert.main(
        ["umt5", "--src", str(path), "--dst", str(tmp_path / "umt5"), "--verify"]
      )
    out = capsys.readouterr().err
    assert e.value.code == 2 and "models_t5.pth is damaged" in out
    assert not (tmp_path / "umt5").exists()


@pytest.mark.parametrize(
  "file", ["../b.safetensors", "/etc/b.safetensors", "a/../../b.safetensors", "..", "",
           3, None, ["b.safetensors"], "C:\\b.safetensors", "..\\b", "b\0c", "a\nb"],
)  # fmt: skip
def test_an_index_names_files_of_its_folder(tmp_path, file):
  from safetensors.numpy import save_file

  (tmp_path / "w").mkdir()
  save_file({"x": np.ones(2, np.float32)}, tmp_path / "b.safetensors")
  index = tmp_path / "w" / "model.safetensors.index.json"
  index.write_text(json.dumps({"weight_map": {"x": file}}))
  with pytest.raises(
    UsageError, match="index.json expects x in .*; expected the name of"
  ):
    open_weights(tmp_path / "w")


def test_an_index_of_links_as_a_cache_of_downloads_has_them(tmp_path):
  """The files of a snapshot are links into a folder of blobs."""
  from safetensors.numpy import save_file

  for folder in ("blobs", "snapshot/part"):
    (tmp_path / folder).mkdir(parents=True)
  save_file({"x": np.ones(2, np.float32)}, tmp_path / "blobs" / "0a1b")
  (tmp_path / "snapshot/part/m.safetensors").symlink_to(tmp_path / "blobs" / "0a1b")
  index = tmp_path / "snapshot" / "model.safetensors.index.json"
  index.write_text(json.dumps({"weight_map": {"x": "part/m.safetensors"}}))
  assert open_weights(index).read("x").tolist() == [1, 1]


@pytest.mark.parametrize(
  "raw", [b"[" * 100_000, b'{"a": 1, "a": 2}', b'{"a": NaN}', b'{"\xff": 1}', b"\xff"]
)
def test_an_index_that_is_no_json(tmp_path, raw):
  (tmp_path / "model.safetensors.index.json").write_bytes(raw)
  with pytest.raises(UsageError, match="index.json is not JSON"):
    open_weights(tmp_path)
