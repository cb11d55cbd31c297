"""Reads where the tensors of a torch pickle lie, without torch, and runs nothing of it.

A .pth is a pickled dict whose tensors name storages, raw bytes kept outside the pickle:

  zip format     ARCHIVE/data.pkl, and ARCHIVE/data/KEY for every storage, uncompressed,
                 each with a CRC-32
  legacy format  magic, protocol, system info, the dict, the storage keys; then for each
                 storage its length (int64) and bytes

The dict may also hold the dict of tensors, among settings, as model, state_dict or
generator. An archive of TorchScript is the zip format with an object in the dict's
place, whose attributes are tensors and more such objects; its code is not looked at.

A pickle can ask for any function to be called. weights/pickle_machine.py knows the
names that tensors need, and calls none: no tensor is made, only its storage, offset,
shape and strides noted; no object is, only its attributes.
"""

import io
import math
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from ccl_jax.errors import UsageError
from ccl_jax.weights.entries import NAME, Entry, Stored, extent, shown
from ccl_jax.weights.pickle_machine import (
  BYTES,
  DEPTH,
  Machine,
  Object,
  Refused,
  Tensor,
)

# Where tensors may be, one level down; "app" holds such a dict in its turn.
NESTED = ("state_dict", "model", "generator", "module", "app")
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_DIRECTORY = 16 * 2**20  # bytes of a zip's table of contents, at most
_LOCAL = struct.Struct("<4s22xHH")  # a zip's header before an entry


class Content(NamedTuple):
  """What a file of torch.save holds.

  Attributes:
    value: what was pickled.
    stored: the bytes of each storage, by key; crc is None in the legacy format.
    steps: opcodes of the pickle: a bound for the number of its tensors.
  """

  value: object
  stored: dict[str, Stored]
  steps: int


def pickle_entries(path: pathlib.Path) -> Iterator[tuple[str, Entry]]:
  """(name, entry) of every tensor in a file of torch.save.

  Raises:
    UsageError: it is damaged, or holds more than a dict of tensors.
  """
  content = _read(path)
  tensors = _tensors(path, content)
  if not isinstance(tensors, dict):
    raise UsageError(
      f"{path} holds a {type(tensors).__name__}, expected tensors by name"
    )
  size = path.stat().st_size
  for name, t in tensors.items():
    if not isinstance(t, Tensor):
      raise UsageError(
        f"{path}: {shown(name)} is no tensor; expected a dict of tensors only"
      )
    if t.storage.key not in content.stored:
      raise UsageError(f"{path} is truncated: the bytes of {shown(name)} are not in it")
    yield name, _entry(path, name, t, content.stored[t.storage.key], size)


def plain_values(path: pathlib.Path) -> dict:
  """The settings that a file of torch.save holds beside its tensors, by name.

  Raises:
    UsageError: as `pickle_entries`.
  """
  value = _read(path).value
  if not isinstance(value, dict):
    return {}
  return {k: v for k, v in value.items() if k not in NESTED and not _is_tensor(v)}


def _read(path: pathlib.Path) -> Content:
  with open(path, "rb") as f:
    zipped = f.read(2) == b"PK"
  try:
    return (_read_zip if zipped else _read_legacy)(path)
  except UsageError:
    raise
  except Refused as e:
    raise UsageError(
      f"{path} {e}, which is refused: expected a dict of tensors and nothing "
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


def _tensors(path, content: Content):
  """The tensors by name, wherever they are in what was pickled."""
  if isinstance(content.value, Object):
    return _attributes(path, content)
  value = content.value
  for _ in range(2):  # {"app": {"model": tensors}} is the deepest that is known
    if not isinstance(value, dict) or any(map(_is_tensor, value.values())):
      break
    value = next((value[k] for k in NESTED if isinstance(value.get(k), dict)), value)
  return value


def _attributes(path, content: Content) -> dict[str, Tensor]:
  """The tensors of an object and the objects in it, by their dotted names."""
  found, left, seen = {}, [("", content.value, 0)], 0
  while left:
    prefix, value, depth = left.pop()
    seen += 1
    # One object under many names makes many: more than opcodes is no network.
    if depth > DEPTH or seen > content.steps:
      raise UsageError(f"{path} has objects that hold themselves; expected a network")
    for name, inner in value.attributes.items():
      if isinstance(inner, Object):
        left.append((f"{prefix}{name}.", inner, depth + 1))
      elif _is_tensor(inner):
        found[prefix + name] = inner
    if len(prefix) > NAME or len(found) > content.steps:
      raise UsageError(f"{path} has too many objects, or names: expected a network")
  return found


def _is_tensor(value) -> bool:
  return isinstance(value, Tensor)


def _entry(path, name, t: Tensor, stored: Stored, size: int) -> Entry:
  # In elements of the storage: the offset, then the span of the strided view.
  needed = t.first + extent(t.shape, t.strides)
  width = t.storage.dtype.itemsize
  fits = needed <= t.storage.numel and needed * width <= stored.size
  if not fits or min((t.first, *t.shape, *t.strides)) < 0:
    raise UsageError(f"{path}: {shown(name)} does not fit its storage")
  end = stored.offset + needed * width
  if end > size:
    raise UsageError(
      f"{path} is truncated: got {size} bytes, expected {end} for {shown(name)}; "
      "download it again"
    )
  strides = None if t.strides == _dense(t.shape) else t.strides
  first = stored.offset + t.first * width
  checked = stored if stored.crc is not None else None
  return Entry(path, first, t.storage.dtype, t.shape, strides, checked)


def _dense(shape: tuple[int, ...]) -> tuple[int, ...]:
  """The strides of a tensor without gaps."""
  return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


class _Bounded(io.FileIO):
  """A file of which `zipfile` reads no table of contents of any size."""

  def read(self, size: int = -1) -> bytes:
    if size > _DIRECTORY:
      raise Refused(f"has a table of contents of {size} bytes")
    return super().read(size)


def _read_zip(path) -> Content:
  with _Bounded(path) as f, zipfile.ZipFile(f) as z:
    entries = {info.filename: info for info in z.infolist()}
    if len(entries) < len(z.infolist()):
      raise Refused("holds two entries of one name")
    (root,) = (n[: -len("data.pkl")] for n in entries if _is_pickle(n))
    # torch can leave checksums out: they are all 0 then.
    checked = any(info.CRC for info in entries.values())
    order = entries.get(root + "byteorder")
    if order and _small(path, f, order, 64, checked) != b"little":
      raise UsageError(f"{path} is big-endian; expected a little-endian file")
    pickled = _small(path, f, entries[root + "data.pkl"], BYTES, checked)
    stored = {}
    for name, info in entries.items():
      if name.startswith(root + "data/"):
        place = _place(path, f, info)
        crc = info.CRC if checked else None
        stored[name.removeprefix(root + "data/")] = place._replace(crc=crc)
  machine = Machine()
  value, _ = machine.load(pickled)
  return Content(value, stored, machine.steps)


def _is_pickle(name: str) -> bool:
  return name.rpartition("/")[2] == "data.pkl"


def _place(path, f, info: zipfile.ZipInfo) -> Stored:
  """Where the bytes of an entry lie, which must be stored as they are."""
  if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
    raise UsageError(f"{path} is compressed: save it again with torch.save")
  # The central directory lacks the length of the local header.
  if info.header_offset < 0:
    raise zipfile.BadZipFile("an entry before the file")
  f.seek(info.header_offset)
  magic, name, extra = _LOCAL.unpack(f.read(_LOCAL.size))
  if magic != b"PK\3\4":
    raise zipfile.BadZipFile("no entry where one should be")
  start = info.header_offset + _LOCAL.size + name + extra
  return Stored(start, info.file_size, info.CRC)


def _small(path, f, info: zipfile.ZipInfo, most: int, checked: bool) -> bytes:
  """The bytes of an entry of at most so many."""
  place = _place(path, f, info)
  if place.size > most:
    raise Refused(f"has {place.size} bytes of {shown(info.filename)}, more than {most}")
  f.seek(place.offset)
  raw = f.read(place.size)
  if len(raw) < place.size or (checked and zlib.crc32(raw) != place.crc):
    raise zipfile.BadZipFile("an entry that is not what was written")
  return raw


def _read_legacy(path) -> Content:
  size, machine = path.stat().st_size, Machine()

  def load(f):
    start = f.tell()
    raw = f.read(BYTES)
    try:
      value, length = machine.load(raw)
    except EOFError:
      if len(raw) < BYTES:
        raise
      raise Refused(f"is a pickle of more than {BYTES} bytes") from None
    f.seek(start + length)
    return value

  with open(path, "rb") as f:
    if load(f) != _MAGIC:
      raise ValueError("no torch file")
    if load(f) != _PROTOCOL or not load(f)["little_endian"]:
      raise UsageError(f"{path}: expected torch's protocol {_PROTOCOL}, little-endian")
    tensors, stored = load(f), {}
    for key in map(str, load(f)):
      # The storages follow the keys, in their order: a length, then the bytes.
      (numel,) = struct.unpack("<q", f.read(8))
      storage = machine.storages[key]
      if numel != storage.numel:
        raise ValueError(f"storage {key} has {numel} elements, not {storage.numel}")
      place = Stored(f.tell(), numel * storage.dtype.itemsize, None)
      stored[key] = place
      f.seek(min(place.offset + place.size, size))
  return Content(tensors, stored, machine.steps)
