"""Lists the clips that are to be encoded, by bucket, and reads each.

The items of a folder, or of a data set of media, are of several shapes and kinds; any
other source of `open.py` gives clips of one shape. All read an item without having made
the list, so a process that goes on with a plan starts at once.
"""

import os
from collections.abc import Sequence
from typing import Any

from ccl_jax import hub
from ccl_jax.data.media.loudness import apply_gain, check_target, gain_to
from ccl_jax.data.sets.buckets import Bucket
from ccl_jax.data.sources import catalogue, tfds_set
from ccl_jax.data.sources.catalogue import Catalogue, Item
from ccl_jax.data.sources.open import is_media, open_media, open_source
from ccl_jax.data.spec import ClipSpec
from ccl_jax.documents import valid
from ccl_jax.errors import UsageError, bind


class FolderItems:
  """The items of all media below a folder.

  Args:
    root: the folder.
    specs: clip shapes on offer.
    options: of `catalogue.scan`.
  """

  def __init__(
    self,
    root: str | os.PathLike,
    specs: Sequence[ClipSpec],
    options: Any,
  ):
    self._root, self._specs, self._options = root, specs, options

  def scan(self) -> Catalogue:
    """The items of every bucket, as a catalogue.

    Raises:
      UsageError: a wrong option, or nothing that can be used.
    """
    scan = catalogue.scan
    return bind("data.options", self._options, scan, self._root, self._specs)

  def read(self, bucket: Bucket, item: Item) -> dict[str, Any]:
    """The clip of an item; see `catalogue.read`.

    Raises:
      MediaError: it cannot be read.
    """
    return catalogue.read(self._root, bucket, item)


class MediaItems:
  """The items of the media that a data set lists.

  Args:
    kind: "tfds", or the name of a builder.
    root: of the data set's version, or the folder of the media.
    specs: clip shapes on offer.
    split: of the data set.
    options: of its builder, and `hop` and `kinds` of `catalogue.scan_rows`.
  """

  def __init__(
    self,
    kind: str,
    root: str | os.PathLike,
    specs: Sequence[ClipSpec],
    split: str,
    options: Any,
  ):
    self._kind, self._specs, self._split = kind, specs, split
    self._root, self._options = root, dict(options)
    self._media = tfds_set.media_root(root) if kind == "tfds" else root

  def scan(self) -> Catalogue:
    """The items of every bucket, as a catalogue.

    Raises:
      UsageError: a wrong option, or nothing that can be used.
    """
    # hop and kinds are of the scan; the rest are of the builder.
    cut = {k: v for k, v in self._options.items() if k in ("hop", "kinds")}
    own = {k: v for k, v in self._options.items() if k not in cut}
    root, rows = open_media(self._kind, self._root, self._split, **own)
    rows = catalogue.without_soundtracks(rows)
    return catalogue.scan_rows(root, rows, self._specs, **cut)

  def read(self, bucket: Bucket, item: Item) -> dict[str, Any]:
    """The clip of an item; see `catalogue.read`.

    Raises:
      MediaError: it cannot be read.
    """
    return catalogue.read(self._media, bucket, item)


class SourceItems:
  """The items of any other source: its clips 0, 1, 2, ...

  Args:
    kind, root, split, options: of `open_source`.
    spec: the one shape of its clips.
  """

  def __init__(
    self,
    kind: str,
    root: str | os.PathLike,
    spec: ClipSpec,
    split: str,
    options: Any,
  ):
    self._open = lambda: open_source(kind, spec, root, split, **options)
    self._bucket, self._source = Bucket.of(spec), None

  def scan(self) -> Catalogue:
    """The items of every bucket, as a catalogue.

    Raises:
      UsageError: a wrong option, or nothing that can be used.
    """
    self._source = self._open()
    items = [Item(str(i), "", 0.0, None, "") for i in range(len(self._source))]
    return Catalogue({self._bucket: items}, [])

  def read(self, bucket: Bucket, item: Item) -> dict[str, Any]:
    """The clip of an item: `video`, `audio`, `text` and `id`."""
    if self._source is None:
      # Opened when first needed: a process that goes on with a plan may not scan.
      self._source = self._open()
    clip = self._source[int(item.id)]
    texts = {k: _str(clip.get(k, item.id)) for k in ("id", "text")}
    return {"video": clip["video"], "audio": clip["audio"], **texts}


class NormalisedItems:
  """The items of a source, each clip's sound brought to a loudness.

  Args:
    source: of the items.
    target: loudness in LUFS, see `loudness.gain_to`.
  """

  def __init__(
    self, source: FolderItems | MediaItems | SourceItems, target: float | int
  ):
    self._source, self._target = source, target

  def scan(self) -> Catalogue:
    """The catalogue of the source, as it is."""
    return self._source.scan()

  def read(self, bucket: Bucket, item: Item) -> dict[str, Any]:
    """The clip of an item; see `catalogue.read`.

    Raises:
      MediaError: it cannot be read.
    """
    clip = self._source.read(bucket, item)
    if "audio" in clip:
      gain = gain_to(self._target, clip["audio"])
      clip["audio"] = apply_gain(clip["audio"], gain)
    return clip


ItemSource = FolderItems | MediaItems | SourceItems | NormalisedItems


def open_items(
  source: str,
  root: str | os.PathLike,
  split: str,
  options: Any,
  specs: Sequence[ClipSpec],
  loudness: float | int | None = None,
) -> ItemSource:
  """The items of a config's section `data`.

  Args:
    source: "folder", "tfds", or the name of a builder.
    root, split, options: of the source; the root may be an address of the hub.
    specs: clip shapes on offer.
    loudness: LUFS that every clip is brought to; None: as it is recorded.

  Raises:
    UsageError: a wrong setting, or several shapes where the source has one.
  """
  root = hub.local(root)
  if loudness is None:
    return _open(source, root, split, options, specs)
  check_target(loudness)
  return NormalisedItems(_open(source, root, split, options, specs), loudness)


def _open(
  source: str,
  root: str | os.PathLike,
  split: str,
  options: Any,
  specs: Sequence[ClipSpec],
) -> FolderItems | MediaItems | SourceItems:
  if source == "folder":
    return FolderItems(root, specs, options)
  if is_media(source, root):
    return MediaItems(source, root, specs, split, options)
  if len(specs) != 1:
    raise UsageError(f"the source {source} has clips of one shape, got {len(specs)}")
  return SourceItems(source, root, specs[0], split, options)


def _str(text: Any) -> str:
  text = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
  return valid(text)
