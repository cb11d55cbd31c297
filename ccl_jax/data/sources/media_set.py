"""Builds and reads TFDS data sets of media (`media_builder.py`).

Rows are {file below the folder: its captions}, what `FilmSource` and
`catalogue.scan_rows` take.
"""

import contextlib
import dataclasses
import hashlib
import importlib
import io
import os
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

from ccl_jax.data.preparing import engine
from ccl_jax.data.sources.captions import Caption, check_caption
from ccl_jax.data.sources.listing import Listing
from ccl_jax.data.sources.set_builder import prepared
from ccl_jax.data.sources.tfds_set import Records, open_set
from ccl_jax.errors import UsageError
from ccl_jax.names import inside

Rows = dict[str, list[Caption]]


def prepare(
  kind: Any,
  root: str | pathlib.Path,
  data_dir: str = "",
  *,
  runner: str = "",
  flags: Sequence[str] = (),
  **options: Any,
) -> Any:
  """The builder of a data set, which is built unless it is there.

  Its folder's name holds a digest of what was asked for and of the files below `root`:
  new files make a new set.

  Args:
    kind: a subclass of `MediaBuilder`.
    root: the folder with media and metadata.
    data_dir: where sets are kept, ROOT/tfds by default.
    runner: of Apache Beam, which reads the headers of files; "": this process does.
    flags: options of the runner.
    options: of the builder's configuration.

  Raises:
    UsageError: an unknown option, wrong metadata, or a folder that cannot be written.
  """
  import tensorflow_datasets as tfds

  root = pathlib.Path(root)
  data_dir = pathlib.Path(data_dir or root / "tfds")
  known = option_types(kind)
  if runner:
    if runner == "DataflowRunner":
      raise UsageError(
        "DataflowRunner sees no disk of this machine, and published sets are read from "
        "disks: expected another --runner, whose workers share that of DIR"
      )
    engine.require_runner(runner, flags)
  if unknown := sorted(set(options) - set(known)):
    raise UsageError(f"unknown option {unknown[0]!r}: expected {', '.join(known)}")
  files = Listing(root, without=data_dir)
  config = kind.CONFIG("", **options)
  values = [getattr(config, key) for key in known]
  request = repr([str(root.absolute()), files.digest, *values])
  config.name = hashlib.blake2s(request.encode(), digest_size=6).hexdigest()

  def make():
    builder = _builder(kind, data_dir, config)
    builder.readers = runner, flags, os.cpu_count() or 1
    return builder

  download = tfds.download.DownloadConfig(manual_dir=root)
  with contextlib.redirect_stdout(io.StringIO()):  # TFDS tells of a download
    return prepared(make, data_dir, download_config=download)


def builder_of(name: str, options: dict[str, Any]) -> Any:
  """The builder of a set, which examines files and writes nothing.

  Args:
    name: "module:class" of a subclass of `MediaBuilder`.
    options: of its configuration, as JSON has them.

  Raises:
    UsageError: there is no such class on this machine.
  """
  module, _, kind = name.partition(":")
  try:
    found = getattr(importlib.import_module(module), kind)
  except (ImportError, AttributeError) as e:
    raise UsageError(f"no builder {name} on a worker ({e}): install it there") from e
  own = {
    k: tuple(map(tuple, v)) if isinstance(v, list) else v for k, v in options.items()
  }
  return _builder(found, tempfile.gettempdir(), found.CONFIG("worker", **own))


def _builder(kind: Any, data_dir: str | pathlib.Path, config: Any) -> Any:
  return kind(data_dir=data_dir, config=config, file_format="array_record")


def option_types(kind: Any) -> dict[str, type]:
  """The options of a builder of media by name, with their types."""
  import tensorflow_datasets as tfds

  common = {f.name for f in dataclasses.fields(tfds.core.BuilderConfig)}
  own = [f for f in dataclasses.fields(kind.CONFIG) if f.name not in common]
  return {f.name: type(f.default) for f in own}


def splits(path: str | pathlib.Path) -> dict[str, Rows]:
  """The rows of every split of the built set in a folder, by name.

  Raises:
    UsageError: see `open_set`; or it is no set of media, or names files outside of the
      folder of its media.
  """
  return {name: _rows(records, path) for name, records in open_set(path).items()}


def _rows(records: Records, path: str | pathlib.Path) -> Rows:
  rows = {}
  for index in range(len(records)):
    where, record = f"{path}: record {index}", records[index]
    try:
      text = record["text"].decode("utf-8", "replace")
      name, audio = os.fsdecode(record["path"]), os.fsdecode(record["audio"]) or None
      crop = tuple(record["crop"].tolist()) if record["crop"].any() else ()
      part = float(record["start"]), float(record["end"])
      caption = Caption(text, audio, *part, crop, float(record["gain"]))
    except (AttributeError, KeyError, TypeError, ValueError) as e:
      raise UsageError(
        f"{where} is of no data set of media ({e!r}): build the set again"
      ) from e
    inside(name, where)
    check_caption(caption, where)
    rows.setdefault(name, []).append(caption)
  return {name: sorted(rows[name], key=lambda r: r.start) for name in sorted(rows)}
