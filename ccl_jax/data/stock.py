"""What there is to encode: a list of items by bucket, and a way to read each.

A folder's items are of several shapes and kinds; any other source of `sources.py` gives
clips of one shape. Both read an item without having made the list, so a process that
goes on with a plan starts at once.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

from ccl_jax.data import catalogue
from ccl_jax.data.buckets import Bucket
from ccl_jax.data.catalogue import Catalogue, Item
from ccl_jax.data.sources import open_source
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


Stock = FolderStock | SourceStock


def open_stock(
  source: str,
  root: str | pathlib.Path,
  split: str,
  options: Any,
  specs: Sequence[ClipSpec],
) -> Stock:
  """The keywords are a config's section `data`."""
  if source == "folder":
    return FolderStock(root, specs, options)
  if len(specs) != 1:
    raise UsageError(f"the source {source} has clips of one shape, got {len(specs)}")
  return SourceStock(source, root, specs[0], split, options)


def _str(text: Any) -> str:
  return text.decode() if isinstance(text, bytes) else str(text)
