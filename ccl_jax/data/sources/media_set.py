"""Builds and reads TFDS data sets of media (`media_builder.py`).

Rows are {file below the folder: its captions}, what `FilmSource` and
`catalogue.scan_rows` take.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import pathlib
from typing import Any

from ccl_jax.data.sources.captions import Caption
from ccl_jax.data.sources.listing import Listing
from ccl_jax.data.sources.set_builder import prepared
from ccl_jax.errors import UsageError

Rows = dict[str, list[Caption]]


def prepare(
  kind: Any, root: str | pathlib.Path, data_dir: str = "", **options: Any
) -> Any:
  """The builder of a data set, which is built unless it is there.

  Its folder's name holds a digest of what was asked for and of the files below `root`:
  new files make a new set.

  Args:
    kind: a subclass of `MediaBuilder`.
    root: the folder with media and metadata.
    data_dir: where sets are kept, ROOT/tfds by default.
    options: of the builder's configuration.

  Raises:
    UsageError: an unknown option, wrong metadata, or a folder that cannot be written.
  """
  import tensorflow_datasets as tfds

  root = pathlib.Path(root)
  data_dir = pathlib.Path(data_dir or root / "tfds")
  known = option_types(kind)
  if unknown := sorted(set(options) - set(known)):
    raise UsageError(f"unknown option {unknown[0]!r}: expected {', '.join(known)}")
  files = Listing(root, without=data_dir)
  config = kind.CONFIG("", **options)
  values = [getattr(config, key) for key in known]
  request = repr([str(root.absolute()), files.digest, *values])
  config.name = hashlib.blake2s(request.encode(), digest_size=6).hexdigest()
  make = lambda: kind(data_dir=data_dir, config=config, file_format="array_record")
  download = tfds.download.DownloadConfig(manual_dir=root)
  with contextlib.redirect_stdout(io.StringIO()):  # TFDS tells of a download
    return prepared(make, data_dir, download_config=download)


def option_types(kind: Any) -> dict[str, type]:
  """The options of a builder of media by name, with their types."""
  import tensorflow_datasets as tfds

  common = {f.name for f in dataclasses.fields(tfds.core.BuilderConfig)}
  own = [f for f in dataclasses.fields(kind.CONFIG) if f.name not in common]
  return {f.name: type(f.default) for f in own}


def splits(builder: Any) -> dict[str, Rows]:
  """The rows of every split of a built set, by name."""
  return {name: _rows(builder.as_data_source(name)) for name in builder.info.splits}


def media_root(path: str | pathlib.Path) -> str | None:
  """The folder of the media of the data set at `path`; None: it lists no media."""
  file = pathlib.Path(path) / "metadata.json"
  metadata = json.loads(file.read_text()) if file.is_file() else {}
  return metadata.get("media_root")


def _rows(records: Any) -> Rows:
  rows = {}
  for record in records:
    text, audio = record["text"].decode(), record["audio"].decode() or None
    crop = tuple(record["crop"].tolist()) if record["crop"].any() else ()
    part = float(record["start"]), float(record["end"])
    caption = Caption(text, audio, *part, crop, float(record["gain"]))
    rows.setdefault(record["path"].decode(), []).append(caption)
  return {name: sorted(rows[name], key=lambda r: r.start) for name in sorted(rows)}
