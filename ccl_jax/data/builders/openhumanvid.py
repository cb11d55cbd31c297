"""OpenHumanVid: films of people, each with several captions and quality scores.

  python -m ccl_jax.data build openhumanvid DIR caption=long_caption \\
      min_scores=aesthetic:4.5,motion:0.2

DIR holds tables, *.csv with a header or *.parquet, and the films anywhere below. A film
is found by its path, the end of its URL or its id: the columns `path` (`video_path`,
`file`), `url` and `video_id` (`id`) are looked at in this order. Releases differ in the
names of captions and scores, so both are options; parts by `start` and `end`, if any.
"""

import dataclasses
import pathlib
import urllib.parse
from collections.abc import Iterator
from typing import Any

from ccl_jax.data.sources.captions import Caption, check_caption, read_table
from ccl_jax.data.sources.folder import SUFFIXES
from ccl_jax.data.sources.media_builder import Entry, MediaBuilder, MediaConfig
from ccl_jax.documents import valid
from ccl_jax.errors import UsageError

PATHS, IDS = ("path", "video_path", "file", "url"), ("video_id", "id")
CAPTIONS = ("caption", "long_caption", "short_caption", "structured_caption", "text")


@dataclasses.dataclass(eq=False)
class OpenHumanVidConfig(MediaConfig):
  """`caption`: the column to take, by default the first there is of `CAPTIONS`;
  `min_scores`: (column, least value) pairs.
  """

  caption: str = ""
  min_scores: tuple = ()


class Openhumanvid(MediaBuilder):
  """OpenHumanVid: A Large-Scale High-Quality Dataset for Human-Centric Video, 2025."""

  CONFIG, MEDIA = OpenHumanVidConfig, SUFFIXES

  def entries(self, files) -> Iterator[Entry]:
    tables = files.tables(".csv", ".parquet")
    if not tables:
      raise UsageError(f"no *.csv and no *.parquet below {files.root}: put them there")
    for table in tables:
      read = _parquet if table.suffix.lower() == ".parquet" else _csv
      for where, row in read(table):
        yield self._entry(where, row)

  def _entry(self, where: str, row: dict[str, Any]) -> Entry:
    c = self.builder_config
    files = [_file_name(str(row[key])) for key in PATHS if row.get(key)]
    ids = [str(row[key]) for key in IDS if row.get(key)]
    texts = [c.caption] if c.caption else CAPTIONS
    text = next((str(row[key]) for key in texts if row.get(key)), None)
    absent = [key for key, _ in c.min_scores if key not in row]
    if text is None or absent or not files + ids:
      expected = [*absent, f"one of {', '.join(texts)}", f"one of {PATHS + IDS}"]
      raise UsageError(
        f"{where}: the columns with a value are {', '.join(row)}, expected "
        f"{'; '.join(expected)}"
      )
    try:
      low = [k for k, least in c.min_scores if float(row[k]) < float(least)]
      part = {k: float(row[k]) for k in ("start", "end") if k in row}
    except ValueError as e:
      raise UsageError(f"{where}: a score or time is no number ({e})") from e
    film = ids[0] if ids else files[0]
    check_caption(Caption(text, **part), where)
    name = f"{film}@{part['start']:.3f}" if "start" in part else film
    refused = f"{low[0]} is {float(row[low[0]]):g}" if low else ""
    names = tuple(dict.fromkeys(files + ids))
    caption = Caption(text, **part)
    return Entry(name, names, caption, where, group=film, refused=refused)


def _file_name(path: str) -> str:
  """A path below the folder as it is, of a URL the last part."""
  url = urllib.parse.urlsplit(path)
  return pathlib.PurePosixPath(url.path).name if url.scheme else path


def _csv(table: pathlib.Path) -> Iterator[tuple[str, dict]]:
  return read_table(table, (*PATHS, *IDS))


def _parquet(table: pathlib.Path) -> Iterator[tuple[str, dict]]:
  try:
    from pyarrow import ArrowException, parquet
  except ImportError as e:
    raise UsageError(f"{table}: pip install pyarrow to read it, or give CSV") from e
  try:
    batches = parquet.ParquetFile(table).iter_batches()
    rows = (row for batch in batches for row in batch.to_pylist())
    for number, row in enumerate(rows):
      full = valid({k: v for k, v in row.items() if v not in (None, "")})
      yield f"{table} row {number}", full
  except (ArrowException, OSError) as e:
    raise UsageError(f"{table} is no parquet file ({e})") from e


BUILDER = Openhumanvid
