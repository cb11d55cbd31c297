"""Reads tensors of published checkpoints one by one; no torch, no pickled code.

  weights = open_weights("Wan2.1-T2V-14B")
  weights.names(); weights.shape(name); weights.dtype(name); weights.read(name)

Opening reads headers only; `read` reads one tensor's bytes from its place in its file,
so memory holds no more than what the caller keeps. A checkpoint is a .safetensors file,
a torch pickle (weights/pickles.py), shards with an index.json, or a folder of one.
"""

import fnmatch
import math
import os
import pathlib
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ccl_jax.errors import UsageError
from ccl_jax.weights.entries import Entry, Stored, ending, extent, sane, shown
from ccl_jax.weights.foreign import foreign_file, foreign_tensors
from ccl_jax.weights.pickles import pickle_entries
from ccl_jax.weights.safetensors_header import safetensors_entries
from ccl_jax.weights.scaled import EXPECTED, dequantised, with_scales
from ccl_jax.weights.strict_json import read_object

# Of single files in ComfyUI's layout, and of networks saved inside DataParallel.
PREFIXES = ("model.diffusion_model.", "module.")
PICKLES = (".pth", ".pt", ".bin")
NAMED_PICKLES = (".model",)  # tokenizers end so too: only if asked for by name
# Names of a LoRA's file in a folder, in order of preference.
ADAPTERS = ("adapter_model*", "pytorch_lora_weights*", "*")
_LFS = b"version https://git-lfs"


class Weights:
  """The tensors of one checkpoint, by name; headers are read, tensors on demand.

  Fp8 weights with scales are read as what they stand for, in float32.

  Attributes:
    path: that the checkpoint was opened by.
    layout: of its scales (weights/scaled.py); None: it has none.
    notes: lines for who reads it.
  """

  def __init__(
    self,
    path: pathlib.Path,
    entries: dict[str, Entry],
    layout: str | None = None,
    notes: Sequence[str] = (),
  ):
    self.path, self._entries = path, entries
    self.layout, self.notes = layout, notes
    self._checked = set()  # (file, bytes) whose checksum was found right

  def names(self) -> list[str]:
    """The names of all tensors, in the order of the file."""
    return list(self._entries)

  def __contains__(self, name: str) -> bool:
    return name in self._entries

  def shape(self, name: str) -> tuple[int, ...]:
    """The shape of a tensor, by the header."""
    return self._entries[name].shape

  def dtype(self, name: str) -> np.dtype:
    """The dtype of a tensor as it is stored; float32 of one with a scale."""
    entry = self._entries[name]
    return entry.dtype if entry.scale is None else np.dtype(np.float32)

  def nbytes(self, name: str) -> int:
    """The number of bytes of a tensor, as `read` gives it."""
    return math.prod(self.shape(name)) * self.dtype(name).itemsize

  def file_of(self, name: str) -> pathlib.Path:
    """The path of the file that holds a tensor."""
    return self._entries[name].file

  def read(self, name: str) -> np.ndarray:
    """The tensor, in memory of its own.

    Raises:
      UsageError: the file is truncated, or cannot be read, or the bytes are not those
        that its checksum is of.
    """
    e = self._entries[name]
    x = self._tensor(name, e)
    if e.scale is None:
      return x
    return dequantised(x, self._tensor(f"the scale of {name}", e.scale))

  def _tensor(self, name: str, e: Entry) -> np.ndarray:
    """What lies in a file at one place."""
    dense = e.strides is None
    count = math.prod(e.shape) if dense else extent(e.shape, e.strides)
    # One read into the array's own memory: a tensor of gigabytes is never held twice.
    flat = np.empty(count, e.dtype)
    try:
      with open(e.file, "rb") as f:
        f.seek(e.offset)
        got = f.readinto(memoryview(flat.view(np.uint8)))
    except OSError as error:
      raise UsageError(f"{e.file}: cannot read {name}: {error.strerror}") from error
    if got != flat.nbytes:
      raise UsageError(
        f"{e.file}: {name} ends after {got} bytes, expected {flat.nbytes}: the file is "
        "truncated, download it again"
      )
    self._check(name, e, flat)
    if dense:
      return flat.reshape(e.shape)
    steps = [s * e.dtype.itemsize for s in e.strides]
    # A view such as a transpose was saved: its elements are put in order.
    return np.ascontiguousarray(np.lib.stride_tricks.as_strided(flat, e.shape, steps))

  def _check(self, name: str, e: Entry, read: np.ndarray) -> None:
    """Compares the checksum of what holds a tensor, once for all tensors in there."""
    if e.stored is None or (e.file, e.stored) in self._checked:
      return
    if (e.offset, read.nbytes) == e.stored[:2]:  # all of it is in memory
      crc = zlib.crc32(read.view(np.uint8))
    else:
      crc = _crc(e.file, e.stored)
    if crc != e.stored.crc:
      raise UsageError(
        f"{e.file} is damaged: the bytes of {name} are not those that were saved (by "
        "their CRC-32); download it again"
      )
    self._checked.add((e.file, e.stored))

  def place(self, name: str) -> Entry:
    """Where a tensor lies: its file and its place there."""
    return self._entries[name]

  def renamed(self, rename: Callable[[str], str]) -> "Weights":
    """The same tensors under other names.

    Raises:
      UsageError: two of them would have one name.
    """
    entries = {}
    for name, entry in self._entries.items():
      if rename(name) in entries:
        raise UsageError(f"{entry.file}: two tensors are both {rename(name)}")
      entries[rename(name)] = entry
    return Weights(self.path, entries, self.layout, self.notes)

  def reshaped(self, name: str, shape: tuple[int, ...]) -> "Weights":
    """The same tensors, one of them in another shape of as many elements."""
    entry = self._entries[name]
    if not entry.is_plain or math.prod(shape) != math.prod(entry.shape):
      raise ValueError(f"{name} of shape {entry.shape} has no shape {shape}")
    entries = self._entries | {name: entry._replace(shape=shape)}
    return Weights(self.path, entries, self.layout, self.notes)


def open_weights(
  path: str | os.PathLike,
  places: Sequence[str] = ("",),
  files: Sequence[str] = ("*",),
  *,
  fp8: bool = False,
) -> Weights:
  """The checkpoint at `path`, under the names its files use, less `PREFIXES`.

  Args:
    path: a file, an index, or a folder.
    places: where in a folder to look, in order; "" is the folder itself.
    files: patterns of file names to look for there; the first that is there counts. A
      whole name also finds what is no weight file by its ending.
    fp8: a plain cast to fp8, without scales, is welcome.

  Raises:
    UsageError: nothing there, or not the weights that it claims to be.
  """
  path = pathlib.Path(path)
  if not path.exists():
    raise UsageError(f"no file or folder {path}; expected a checkpoint")
  checkpoint = _choose(path, places, files) if path.is_dir() else path
  weights = _with_scales(Weights(path, dict(_entries(checkpoint))))
  if not weights.names():
    raise UsageError(f"{checkpoint} holds no tensors; expected a checkpoint")
  for name in weights.names():
    if weights.dtype(name).name.startswith("float8") and not fp8:
      raise UsageError(
        f"{weights.file_of(name)} is fp8 weights without scales "
        f"({weights.dtype(name)}, {name}); {EXPECTED}"
      )
  return weights


def _with_scales(weights: Weights) -> Weights:
  """The tensors without `PREFIXES`, each with its scale if it has one."""
  for prefix in PREFIXES:
    weights = weights.renamed(lambda name: name.removeprefix(prefix))
  entries = {name: weights.place(name) for name in weights.names()}
  return Weights(weights.path, *with_scales(entries, weights.read, PREFIXES))


def open_adapter(path: str | os.PathLike) -> Weights:
  """The tensors of a LoRA's file, under the names that the file uses.

  Args:
    path: a file, or a folder that holds one.

  Raises:
    UsageError: nothing there, or the file is damaged.
  """
  path = pathlib.Path(path)
  if not path.exists():
    raise UsageError(f"no file or folder {path}; expected a LoRA")
  file = _choose(path, ("",), ADAPTERS) if path.is_dir() else path
  weights = Weights(path, dict(_read_entries(file)))
  if not weights.names():
    raise UsageError(f"{file} holds no tensors; expected a LoRA")
  return weights


def _crc(file: pathlib.Path, stored: Stored) -> int:
  """The CRC-32 of bytes of a file, a piece in memory at a time."""
  crc, left = 0, stored.size
  try:
    with open(file, "rb") as f:
      f.seek(stored.offset)
      while left and (piece := f.read(min(left, 2**24))):
        crc, left = zlib.crc32(piece, crc), left - len(piece)
  except OSError as error:
    raise UsageError(f"{file}: cannot read it: {error.strerror}") from error
  return crc


def read_config(path: str | os.PathLike, places: Sequence[str] = ("",)) -> dict:
  """The config.json beside a checkpoint; empty if there is none."""
  path = pathlib.Path(path)
  folders = [path / p for p in places] if path.is_dir() else [path.parent]
  for folder in folders:
    file = folder / "config.json"
    if file.is_file():
      return read_object(file)
  return {}


def choose(
  folder: pathlib.Path, places: Sequence[str], files: Sequence[str]
) -> pathlib.Path | None:
  """The one checkpoint of a folder: an index, numbered shards, or a single file; None
  where there is none. Names alone tell: no file is opened.

  Args:
    folder, places, files: as in `open_weights`.

  Raises:
    UsageError: there are several.
  """
  for place in places:
    candidates = sorted(p for p in (folder / place).glob("*") if p.is_file())
    for pattern in files:
      # The patterns are in order of preference: the first with a match decides.
      matching = [p for p in candidates if fnmatch.fnmatch(p.name, pattern)]
      indices = [p for p in matching if p.name.endswith(".index.json")]
      tensors = [p for p in matching if ending(p) == ".safetensors"]
      tensors = tensors or [
        p for p in matching if ending(p) in PICKLES or p.name == pattern
      ]
      groups = {_first_shard(p) for p in tensors}
      # An index lists all shards, so it stands for the files beside it.
      choices = indices or sorted(groups)
      if len(choices) == 1:
        return choices[0]
      if choices:
        names = ", ".join(p.name for p in choices)
        raise UsageError(f"{folder / place} holds {names}: name the one to read")
  return None


def no_checkpoint(
  folder: pathlib.Path, places: Sequence[str], files: Sequence[str]
) -> UsageError:
  """The error of a folder in which `choose` finds nothing: what was expected there."""
  expected = ".safetensors, .pth or an index.json"
  if "*" not in files:
    expected += f" named {' or '.join(files)}"
  return UsageError(
    f"{folder} holds no checkpoint: expected {expected} there"
    + "".join(f" or in {p}/" for p in places if p)
    + "; or name the file itself"
  )


def _choose(folder, places, files) -> pathlib.Path:
  checkpoint = choose(folder, places, files)
  if checkpoint is None:
    _name_others([folder / place for place in places])
    raise no_checkpoint(folder, places, files)
  return checkpoint


def _name_others(folders: Sequence[pathlib.Path]) -> None:
  """Raises UsageError where folders hold files of another sort of weights."""
  for folder in folders:
    for path in sorted(folder.glob("*")):
      if ending(path) in (".gguf", ".safetensors", *PICKLES) and path.is_file():
        _with_scales(Weights(path, dict(_file_entries(path))))


_SHARD = re.compile(r"(.*-)(\d+)(-of-(\d+)\.[a-z]+)")


def _first_shard(path: pathlib.Path) -> pathlib.Path:
  numbered = _SHARD.fullmatch(path.name)
  if numbered is None:
    return path
  return path.with_name(numbered[1] + "1".zfill(len(numbered[2])) + numbered[3])


def files_of(path: pathlib.Path) -> list[pathlib.Path]:
  """The files of a checkpoint, of which `path` is the index, a shard or all there is;
  its index, which is the only one that is opened, is the first.

  Raises:
    UsageError: it is an index, and is damaged or names files outside its folder.
  """
  if path.name.endswith(".index.json"):
    return [path, *dict.fromkeys(_indexed_files(path).values())]
  numbered = _SHARD.fullmatch(path.name)
  if numbered is None or int(numbered[4]) == 1:
    return [path]
  index = path.with_name(f"{numbered[1][:-1]}{path.suffix}.index.json")
  if index.is_file():
    return files_of(index)
  return [
    path.with_name(numbered[1] + str(i).zfill(len(numbered[2])) + numbered[3])
    for i in range(1, int(numbered[4]) + 1)
  ]


def _entries(path: pathlib.Path) -> Iterator[tuple[str, Entry]]:
  first, *others = files_of(path)
  if first.name.endswith(".index.json"):
    return _indexed(first)
  return _union([first, *others])


def _union(files: Iterable[pathlib.Path]) -> Iterator[tuple[str, Entry]]:
  seen = {}
  for file in files:
    for name, entry in _file_entries(file):
      if name in seen:
        raise UsageError(f"{name} is both in {seen[name]} and in {file}")
      seen[name] = file
      yield name, entry


def _indexed_files(path: pathlib.Path) -> dict[str, pathlib.Path]:
  """The file of every tensor that an index lists, by the tensor's name."""
  places = read_object(path).get("weight_map")
  if not isinstance(places, dict):
    raise UsageError(f"{path} is no index of shards: expected a weight_map in it")
  for name, file in places.items():
    if not _is_inside(file):
      raise UsageError(
        f"{path} expects {shown(name)} in {shown(file)}; expected the name of a file "
        "in its folder"
      )
  return {name: path.parent / file for name, file in places.items()}


def _indexed(path: pathlib.Path) -> Iterator[tuple[str, Entry]]:
  shards = {}
  for name, file in _indexed_files(path).items():
    if file not in shards:
      if not file.is_file():
        raise UsageError(
          f"{file} is missing, and {path.name} expects {shown(name)} in it: download it"
        )
      # The header of a shard is read once, for all its tensors.
      shards[file] = dict(_file_entries(file))
    if name not in shards[file]:
      raise UsageError(
        f"{path} expects {shown(name)} in {file.name}, which does not hold it"
      )
    yield name, shards[file][name]


def _is_inside(file: Any) -> bool:
  """Whether a name of an index stays in the index's folder."""
  if not isinstance(file, str) or not file.isprintable():
    return False
  parts = re.split(r"[/\\]", file)
  return "" not in parts and ".." not in parts and ":" not in parts[0]


def _file_entries(path: pathlib.Path) -> Iterator[tuple[str, Entry]]:
  """The entries of a file that holds plain weights of a network."""
  entries = _read_entries(path)
  if what := foreign_tensors([name for name, _ in entries]):
    raise UsageError(f"{path} is {what}; {EXPECTED}")
  return iter(entries)


def _read_entries(path: pathlib.Path) -> list[tuple[str, Entry]]:
  """The entries of a file of tensors, whatever they are of."""
  if not path.is_file():
    what = "no file" if path.exists() else "missing"
    raise UsageError(f"{path} is {what}: download it, or name the right file")
  try:
    with open(path, "rb") as f:
      start = f.read(64)
  except OSError as e:
    raise UsageError(f"cannot read {path}: {e.strerror}") from e
  if start.startswith(_LFS):
    raise UsageError(
      f"{path} is a Git LFS pointer, not the weights: run 'git lfs pull' where it "
      "was cloned"
    )
  if what := foreign_file(path, start):
    raise UsageError(f"{path} is {what}; {EXPECTED}, as .safetensors or .pth")
  if ending(path) == ".safetensors":
    entries = safetensors_entries(path)
  elif ending(path) in PICKLES + NAMED_PICKLES:
    entries = pickle_entries(path)
  else:
    raise UsageError(f"{path} is not a weight file: expected .safetensors or .pth")
  return list(sane(path, entries))
