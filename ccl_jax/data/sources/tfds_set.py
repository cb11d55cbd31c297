"""Opens built TFDS data sets, as data: nothing that they name is imported or fetched.

TFDS imports the module of any class that features.json names, and joins any path that
dataset_info.json gives its shards. Both files come with the data, so both are looked
through first. A damaged set is an error in one line, with the folder and the record.
"""

import contextlib
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from typing_extensions import TypedDict

from ccl_jax.documents import Malformed, check, parse, read_json
from ccl_jax.errors import UsageError

# The classes that may be named: TFDS's own, and of these the ones that hold plain
# values. It hands pictures to OpenCV or to Pillow, with all formats that they know.
_OWN = re.compile(r"tensorflow_datasets\.core\.features\.\w+\.(\w+)")
_PLAIN = {
  *("FeaturesDict", "Sequence", "Dataset", "Tensor", "Scalar", "Text", "ClassLabel"),
  *("Audio", "BBoxFeature", "Translation", "TranslationVariableLanguages"),
}
_ADVICE = "copy or build the data set again"


class Split(TypedDict, total=False):
  """A split of dataset_info.json; protobuf writes whole numbers as text."""

  name: str
  shardLengths: list[str | int]
  filepathTemplate: str


class Info(TypedDict, total=False):
  """What this module and TFDS read of dataset_info.json."""

  name: str
  version: str
  fileFormat: str
  splits: list[Split]


class Metadata(TypedDict, total=False):
  """The metadata.json of a data set of media."""

  media_root: str


class Records:
  """The records of a split by index, as TFDS decodes them."""

  def __init__(self, source: Any, root: pathlib.Path, split: str):
    self._source, self._root, self._split = source, root, split

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> dict[str, Any]:
    if not 0 <= index < len(self):
      raise IndexError(f"record {index} of {len(self)}")
    where = f"{self._root}: record {index} of the split {self._split}"
    with _named(where):
      record = self._source[index]
      # Of a shard that is cut short, TFDS decodes a record of nothing.
      if not isinstance(record, dict) or any(v is None for v in record.values()):
        raise ValueError("an empty record")
    return record


def open_set(root: str | pathlib.Path) -> dict[str, Records]:
  """The records of every split of the data set in a folder, by the split's name.

  Raises:
    UsageError: there is none, it is damaged, lacks a file, or names classes or files
      that are not its own.
  """
  import tensorflow_datasets as tfds

  root = pathlib.Path(root)
  if not (root / "dataset_info.json").is_file():
    raise UsageError(
      f"no TFDS data set at {root}: give the directory that holds dataset_info.json"
    )
  _check_info(root / "dataset_info.json")
  _check_features(root / "features.json")
  with _named(f"the TFDS data set {root}"):
    builder = tfds.builder_from_directory(str(root))
    names = {name: split.filenames for name, split in builder.info.splits.items()}
  for name, files in names.items():
    for file in sorted(files):
      if not (root / file).is_file():
        raise UsageError(f"{root} lacks {file} of the split {name}: {_ADVICE}")
  with _named(f"the TFDS data set {root}"):
    sources = builder.as_data_source()
    return {name: Records(source, root, name) for name, source in sources.items()}


def media_root(path: str | pathlib.Path) -> str | None:
  """The folder of the media of the data set at `path`; None: it lists no media.

  Raises:
    UsageError: metadata.json is damaged, or names no local folder.
  """
  file = pathlib.Path(path) / "metadata.json"
  if not file.is_file():
    return None
  found = check(read_json(file), Metadata, file, _ADVICE).get("media_root")
  if found is not None and not pathlib.PurePath(found).is_absolute():
    raise UsageError(
      f"{file}: media_root: got {found!r}; expected the absolute path of a local "
      "folder, where the media lie"
    )
  return found


def _check_info(path: pathlib.Path) -> None:
  info = check(read_json(path), Info, path, _ADVICE)
  for found in _values(info, "filepathtemplate"):
    if not isinstance(found, str) or "/" in found or "\\" in found:
      raise UsageError(f"{path} names the files {found!r}, outside of the data set")


def _check_features(path: pathlib.Path) -> None:
  named = [*_values(read_json(path), "pythonclassname", "type")]
  for found in named:
    own = _OWN.fullmatch(found) if isinstance(found, str) else None
    if own is None:
      raise UsageError(
        f"{path} names {str(found)[:80]!r}, which is no feature of TFDS: the data set "
        "cannot be read, as its code would have to be run"
      )
    if own[1] not in _PLAIN:
      raise UsageError(
        f"{path} names {own[1][:80]}: files within records, such as pictures, are not "
        "decoded; expected features of plain values, such as Tensor: build the data "
        "set with its pixels"
      )


def _values(value: Any, *keys: str) -> Iterator[Any]:
  """What a JSON value has under keys, in any spelling that protobuf takes, at any
  depth, also in JSON that stands in a string, as older sets have it.
  """
  if isinstance(value, list):
    for item in value:
      yield from _values(item, *keys)
  elif isinstance(value, dict):
    for key, item in value.items():
      if key.replace("_", "").lower() in keys and not isinstance(item, dict):
        yield item
      if key == "json" and isinstance(item, str):
        with contextlib.suppress(Malformed):
          item = parse(item, "")
      yield from _values(item, *keys)


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
  """Turns whatever TFDS and the readers below it raise at bad data into one line."""
  try:
    yield
  except (UsageError, MemoryError):
    raise
  except Exception as e:  # of protobuf, ArrayRecord, numpy: no common class
    lines = str(e).strip().splitlines() or [""]
    raise UsageError(
      f"{what} cannot be read ({type(e).__name__}: {lines[0][:160]}): {_ADVICE}"
    ) from e
