"""Opens sources by name: a folder of films, a TFDS directory, or a builder of ours.

A source is anything with len and getitem that gives clips. A builder is a module of
`data.builders`, which makes the data set below `root` unless it is there. It has either
`build(root, spec, **options) -> {split: source}`, or `BUILDER`, a `MediaBuilder`, whose
data set lists media that stay where they are.
"""

import importlib
import inspect
import os
import pkgutil
from typing import Any

import numpy as np

from ccl_jax import hub
from ccl_jax.data import builders
from ccl_jax.data.sources import media_set, tfds_set
from ccl_jax.data.sources.folder import FilmSource, FolderSource
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.remote.paths import is_remote


def open_source(
  kind: str,
  spec: ClipSpec,
  root: str | os.PathLike,
  split: str = "train",
  **options: Any,
) -> Any:
  """The clips of a source, by index.

  Args:
    kind: "folder" (films below `root`), "tfds" (a built data set, of media or with
      video, audio and text), or the name of a builder.
    spec: sizes of the clips.
    root: folder of films or media, or the directory of the data set's version; or the
      address of either on the hub.
    split: of a data set.
    options: of `FolderSource` or of the builder; for media those of
      `media_set.prepare` and `hop`.

  Raises:
    UsageError: an unknown source, split or option, or data that do not fit.
  """
  root = hub.local(root)
  if kind == "folder":
    return _call(kind, FolderSource, root, spec, options)
  if is_media(kind, root):
    hop = options.pop("hop", None)
    root, rows = open_media(kind, root, split, **options)
    return FilmSource(root, spec, rows, hop)
  if kind == "tfds":
    return _of_split(kind, _tfds_splits(root, spec), split)
  return _of_split(kind, _call(kind, builder(kind).build, root, spec, options), split)


def builder(kind: str) -> Any:
  """The module of `data.builders` with the name `kind`.

  Raises:
    UsageError: there is none.
  """
  known = [module.name for module in pkgutil.iter_modules(builders.__path__)]
  if kind not in known:
    names = ", ".join(["folder", "tfds", *(name for name in known if name != "folder")])
    raise UsageError(f"no data source {kind!r}: expected {names}")
  return importlib.import_module(f"{builders.__name__}.{kind}")


def is_media(kind: str, root: str | os.PathLike) -> bool:
  """Whether the source lists media that stay where they are, in their folder."""
  if is_remote(root):
    raise UsageError(
      f"the source {kind} reads folders of this machine, got {root}: expected the "
      "source folder, or records (of encode), which read buckets"
    )
  if kind == "tfds":
    return tfds_set.media_root(root) is not None
  return hasattr(builder(kind), "BUILDER")


def open_media(
  kind: str, root: str | os.PathLike, split: str, **options: Any
) -> tuple[str | os.PathLike, media_set.Rows]:
  """A source of media: the media's folder, and the captions of every file.

  Raises:
    UsageError: an unknown source, split or option.
  """
  root = hub.local(root)
  if kind == "tfds":
    if options:
      raise UsageError(f"a built data set has no options, got {', '.join(options)}")
    dataset, root = root, tfds_set.media_root(root)
  else:
    dataset = media_set.prepare(builder(kind).BUILDER, root, **options).data_dir
  return root, _of_split(kind, media_set.splits(dataset), split)


class Cached:
  """A source that keeps the clips it has read, up to `gigabytes`.

  Films are slow to decode, and a small folder is read many times.
  """

  def __init__(self, source: Any, gigabytes: float):
    self._source, self._left, self._kept = source, gigabytes * 1e9, {}

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Any:
    if index in self._kept:
      return self._kept[index]
    clip = self._source[index]
    self._left -= clip["video"].nbytes + clip["audio"].nbytes
    # The first clip that does not fit ends the keeping: there is no eviction.
    if self._left > 0:
      self._kept[index] = clip
    return clip


def _call(kind: str, make: Any, root: str | os.PathLike, spec: ClipSpec, options: dict):
  try:
    inspect.signature(make).bind(root, spec, **options)
  except TypeError as e:
    raise UsageError(f"options of the data source {kind}: {e}") from e
  return make(root, spec, **options)


def _of_split(kind: str, splits: dict[str, Any], split: str) -> Any:
  if split not in splits:
    raise UsageError(f"no split {split!r} of {kind}: expected {', '.join(splits)}")
  return splits[split]


def _tfds_splits(root: str | os.PathLike, spec: ClipSpec) -> dict[str, Any]:
  splits = tfds_set.open_set(root)
  for name, source in splits.items():
    if not len(source):
      raise UsageError(f"{root}: the split {name} has no records: build it again")
    # One clip shows the fields and the sizes of all.
    clip = source[0]
    if not isinstance(clip, dict) or not {"video", "audio", "text"} <= set(clip):
      raise UsageError(
        f"{root} has the fields {', '.join(clip)}: expected video, audio and text"
      )
    got = np.shape(clip["video"]), np.shape(clip["audio"])
    expected = (spec.frames, spec.height, spec.width, 3), (spec.samples,)
    if got != expected:
      raise UsageError(
        f"{name} of {root} has pixels and samples {got}, the configuration asks for "
        f"{expected}: change one of them"
      )
  return splits
