"""What there is to encode: a list of items by bucket, and a way to read each.

The items of a folder, or of a data set of media, are of several shapes and kinds; any
other source of `sources.py` gives clips of one shape. All read an item without having
made the list, so a process that goes on with a plan starts at once.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

from ccl_jax.data.media.loudness import amplified, gain_to
from ccl_jax.data.sets.buckets import Bucket
from ccl_jax.data.sources import catalogue, media_set
from ccl_jax.data.sources.catalogue import Catalogue, Item
from ccl_jax.data.sources.open import is_media, open_media, open_source
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError, bind


class FolderStock:
  """Media of all kinds below a folder; options of `catalogue.scan`."""

  def __init__(
    self,
    root: str | pathlib.Path,
    specs: Sequence[ClipSpec],
    options: Any,
  ):
    self._root, self._specs, self._options = root, specs, options

  def scan(self) -> Catalogue:
    scan = catalogue.scan
    return bind("data.options", self._options, scan, self._root, self._specs)

  def read(self, bucket: Bucket, item: Item) -> dict[str, Any]:
    return catalogue.read(self._root, bucket, item)


class MediaStock:
  """The media that a data set lists; options of its builder and `scan_rows`."""

  def __init__(
    self,
    kind: str,
    root: str | pathlib.Path,
    specs: Sequence[ClipSpec],
    split: str,
    options: Any,
  ):
    self._kind, self._specs, self._split = kind, specs, split
    self._root, self._options = root, dict(options)
    self._media = media_set.media_root(root) if kind == "tfds" else root

  def scan(self) -> Catalogue:
    cut = {k: v for k, v in self._options.items() if k in ("hop", "kinds")}
    own = {k: v for k, v in self._options.items() if k not in cut}
    root, rows = open_media(self._kind, self._root, self._split, **own)
    rows = catalogue.without_soundtracks(rows)
    return catalogue.scan_rows(root, rows, self._specs, **cut)

  def read(self, bucket: Bucket, item: Item) -> dict[str, Any]:
    return catalogue.read(self._media, bucket, item)


class SourceStock:
  """The clips of another source: film 0, 1, 2, ..."""

  def __init__(
    self,
    kind: str,
    root: str | pathlib.Path,
    spec: ClipSpec,
    split: str,
    options: Any,
  ):
    self._open = lambda: open_source(kind, spec, root, split, **options)
    self._bucket, self._source = Bucket.of(spec), None

  def scan(self) -> Catalogue:
    self._source = self._open()
    items = [Item(str(i), "", 0.0, None, "") for i in range(len(self._source))]
    return Catalogue({self._bucket: items}, [])

  def read(self, bucket: Bucket, item: Item) -> dict[str, Any]:
    if self._source is None:
      self._source = self._open()
    clip = self._source[int(item.id)]
    texts = {k: _str(clip.get(k, item.id)) for k in ("id", "text")}
    return {"video": clip["video"], "audio": clip["audio"], **texts}


class Levelled:
  """A stock whose sounds are brought to `target` LUFS (`loudness.gain_to`), each clip
  by itself.
  """

  def __init__(
    self, stock: FolderStock | MediaStock | SourceStock, target: float | int
  ):
    self._stock, self._target = stock, target

  def scan(self) -> Catalogue:
    return self._stock.scan()

  def read(self, bucket: Bucket, item: Item) -> dict[str, Any]:
    clip = self._stock.read(bucket, item)
    if "audio" in clip:
      gain = gain_to(self._target, clip["audio"])
      clip["audio"] = amplified(clip["audio"], gain)
    return clip


Stock = FolderStock | MediaStock | SourceStock | Levelled


def open_stock(
  source: str,
  root: str | pathlib.Path,
  split: str,
  options: Any,
  specs: Sequence[ClipSpec],
  loudness: float | int | None = None,
) -> Stock:
  """The keywords are a config's section `data`; `loudness` is LUFS or None."""
  if loudness is None:
    return _open(source, root, split, options, specs)
  if not -70 < loudness < 0:
    raise UsageError(f"loudness: got {loudness} LUFS, expected such as -23, or None")
  return Levelled(_open(source, root, split, options, specs), loudness)


def _open(
  source: str,
  root: str | pathlib.Path,
  split: str,
  options: Any,
  specs: Sequence[ClipSpec],
) -> FolderStock | MediaStock | SourceStock:
  if source == "folder":
    return FolderStock(root, specs, options)
  if is_media(source, root):
    return MediaStock(source, root, specs, split, options)
  if len(specs) != 1:
    raise UsageError(f"the source {source} has clips of one shape, got {len(specs)}")
  return SourceStock(source, root, specs[0], split, options)


def _str(text: Any) -> str:
  return text.decode() if isinstance(text, bytes) else str(text)
