"""Reads where the tensors of a torch pickle lie, without torch, and runs nothing of it.

A .pth is a pickled dict whose tensors name storages, raw bytes kept outside the pickle:

  zip format     ARCHIVE/data.pkl, and ARCHIVE/data/KEY for every storage, uncompressed
  legacy format  magic, protocol, system info, the dict, the storage keys; then for each
                 storage its length (int64) and bytes

The dict may also hold the dict of tensors, among settings, as model, state_dict or
generator. An archive of TorchScript is the zip format with an object in the dict's
place, whose attributes are tensors and more such objects; its code is not looked at.

A pickle can ask for any function to be called. This one is refused all but the names
that tensors need, and those are stand-ins of ours: no tensor is made, only its storage,
offset, shape and strides noted; no object is, only its attributes.
"""

import collections
import math
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Iterator
from typing import NamedTuple

import ml_dtypes
import numpy as np

from ccl_jax.errors import UsageError
from ccl_jax.weights.entries import Entry, extent

# Where tensors may be, one level down; "app" holds such a dict in its turn.
NESTED = ("state_dict", "model", "generator", "module", "app")
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_STORAGES = {
  "DoubleStorage": np.float64, "FloatStorage": np.float32, "HalfStorage": np.float16,
  "BFloat16Storage": ml_dtypes.bfloat16, "LongStorage": np.int64,
  "IntStorage": np.int32, "ShortStorage": np.int16, "CharStorage": np.int8,
  "ByteStorage": np.uint8, "BoolStorage": np.bool_,
}  # fmt: skip


class _Storage(NamedTuple):
  key: str
  dtype: np.dtype
  numel: int


class _Tensor(NamedTuple):
  storage: _Storage
  first: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


class _Object:
  """Any object of TorchScript: what it holds, by attribute."""


def _rebuild_tensor(storage, first, shape, strides, *_):
  return _Tensor(storage, first, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor, *_):
  return tensor


_ALLOWED = {
  ("collections", "OrderedDict"): collections.OrderedDict,
  ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,  # before 0.4
  ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
  ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
  ("torch.jit._pickle", "build_intlist"): list,
  ("torch.jit._pickle", "build_doublelist"): list,
  ("torch.jit._pickle", "build_boollist"): list,
  ("torch.jit._pickle", "build_tensorlist"): list,
  ("torch.jit._pickle", "restore_type_tag"): lambda value, _: value,
} | {("torch", name): name for name in _STORAGES}


class _Refused(Exception):
  pass


class _Unpickler(pickle.Unpickler):
  def __init__(self, file):
    super().__init__(file)
    self.storages = {}  # every storage named, by key

  def find_class(self, module, name):
    # Classes of TorchScript's own code: any of them is a bag of attributes.
    if module.startswith("__torch__."):
      return _Object
    if (module, name) not in _ALLOWED:
      raise _Refused(f"{module}.{name}")
    return _ALLOWED[module, name]

  def persistent_load(self, pid):
    # (kind, type, key, device, elements, view): a view would share bytes.
    kind, storage, key, _, numel, *view = pid
    if kind != "storage" or storage not in _STORAGES or any(view):
      raise _Refused(f"the storage {pid!r}")
    record = _Storage(str(key), np.dtype(_STORAGES[storage]), int(numel))
    return self.storages.setdefault(record.key, record)


def pickle_entries(path: pathlib.Path) -> Iterator[tuple[str, Entry]]:
  """(name, entry) of every tensor in a file of torch.save.

  Raises:
    UsageError: it is damaged, or holds more than a dict of tensors.
  """
  content, offsets = _read(path)
  tensors = _tensors(content)
  if not isinstance(tensors, dict):
    raise UsageError(
      f"{path} holds a {type(tensors).__name__}, expected tensors by name"
    )
  size = path.stat().st_size
  for name, t in tensors.items():
    if not isinstance(t, _Tensor):
      raise UsageError(f"{path}: {name} is no tensor; expected a dict of tensors only")
    if t.storage.key not in offsets:
      raise UsageError(f"{path} is truncated: the bytes of {name} are not in it")
    yield name, _entry(path, name, t, offsets[t.storage.key], size)


def plain_values(path: pathlib.Path) -> dict:
  """The settings that a file of torch.save holds beside its tensors, by name.

  Raises:
    UsageError: as `pickle_entries`.
  """
  content, _ = _read(path)
  if not isinstance(content, dict):
    return {}
  return {k: v for k, v in content.items() if k not in NESTED and not _is_tensor(v)}


def _read(path):
  """The unpickled object, and the offset in the file of the bytes of each storage."""
  with open(path, "rb") as f:
    zipped = f.read(2) == b"PK"
  try:
    return (_read_zip if zipped else _read_legacy)(path)
  except UsageError:
    raise
  except _Refused as e:
    raise UsageError(
      f"{path} asks for {e}, which is refused: expected a dict of tensors and nothing "
      "else; save it as safetensors where it comes from"
    ) from e
  except (EOFError, struct.error, zipfile.BadZipFile) as e:
    raise UsageError(f"{path} is truncated or damaged: download it again") from e
  except (OSError, MemoryError) as e:  # of the system: the file may be fine
    raise UsageError(f"cannot read {path}: {str(e) or type(e).__name__}") from e
  except Exception as e:  # whatever a pickle that is none leads to
    raise UsageError(
      f"{path} is not a weight file: it cannot be read as a torch pickle"
    ) from e


def _tensors(content):
  """The tensors by name, wherever they are in what was pickled."""
  if isinstance(content, _Object):
    return dict(_attributes(content))
  if isinstance(content, dict) and not any(map(_is_tensor, content.values())):
    inner = next((k for k in NESTED if isinstance(content.get(k), dict)), None)
    if inner == "app":
      return _tensors(content[inner])
    return content if inner is None else content[inner]
  return content


def _attributes(content: _Object, prefix: str = "") -> Iterator[tuple[str, _Tensor]]:
  for name, value in vars(content).items():
    if isinstance(value, _Object):
      yield from _attributes(value, f"{prefix}{name}.")
    elif _is_tensor(value):
      yield prefix + name, value


def _is_tensor(value) -> bool:
  return isinstance(value, _Tensor)


def _entry(path, name, t: _Tensor, start: int, size: int) -> Entry:
  # In elements of the storage: the offset, then the span of the strided view.
  needed = t.first + extent(t.shape, t.strides)
  if t.first < 0 or min(t.strides, default=0) < 0 or needed > t.storage.numel:
    raise UsageError(f"{path}: {name} does not fit its storage")
  width = t.storage.dtype.itemsize
  if start + needed * width > size:
    raise UsageError(
      f"{path} is truncated: got {size} bytes, expected {start + needed * width} for "
      f"{name}; download it again"
    )
  strides = None if t.strides == _dense(t.shape) else t.strides
  return Entry(path, start + t.first * width, t.storage.dtype, t.shape, strides)


def _dense(shape: tuple[int, ...]) -> tuple[int, ...]:
  """The strides of a tensor without gaps."""
  return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def _read_zip(path):
  """The dict, and where in the file the bytes of each storage start."""
  with zipfile.ZipFile(path) as z, open(path, "rb") as f:
    (root,) = (n[: -len("data.pkl")] for n in z.namelist() if _is_pickle(n))
    if root + "byteorder" in z.namelist() and z.read(root + "byteorder") != b"little":
      raise UsageError(f"{path} is big-endian; expected a little-endian file")
    offsets = {}
    for info in z.infolist():
      if not info.filename.startswith(root + "data/"):
        continue
      if info.compress_type != zipfile.ZIP_STORED:
        raise UsageError(f"{path} is compressed: save it again with torch.save")
      # The central directory lacks the length of the local header.
      f.seek(info.header_offset + 26)
      name, extra = struct.unpack("<HH", f.read(4))
      start = info.header_offset + 30 + name + extra
      offsets[info.filename.removeprefix(root + "data/")] = start
    with z.open(root + "data.pkl") as pickled:
      return _Unpickler(pickled).load(), offsets


def _is_pickle(name: str) -> bool:
  return name.rpartition("/")[2] == "data.pkl"


def _read_legacy(path):
  with open(path, "rb") as f:
    if _Unpickler(f).load() != _MAGIC:
      raise ValueError("no torch file")
    if _Unpickler(f).load() != _PROTOCOL or not _Unpickler(f).load()["little_endian"]:
      raise UsageError(f"{path}: expected torch's protocol {_PROTOCOL}, little-endian")
    reader = _Unpickler(f)
    tensors = reader.load()
    offsets = {}
    for key in map(str, _Unpickler(f).load()):
      # The storages follow the keys, in their order: a length, then the bytes.
      (numel,) = struct.unpack("<q", f.read(8))
      storage = reader.storages[key]
      if numel != storage.numel:
        raise ValueError(f"storage {key} has {numel} elements, not {storage.numel}")
      offsets[key] = f.tell()
      f.seek(numel * storage.dtype.itemsize, 1)
  return tensors, offsets
