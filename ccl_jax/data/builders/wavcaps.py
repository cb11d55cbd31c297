"""WavCaps: sounds with captions that a language model drew from their descriptions.

  python -m ccl_jax.data build wavcaps DIR min_seconds=1 max_seconds=30

DIR holds the published JSON of one or more sources, anywhere below it, such as
json_files/FreeSound/fsd_final.json: {"data": [{"id", "caption", "duration", ...}]}.
Sounds are found by their id. Ids of different sources may be the same, so with several
sources the sounds lie below a folder whose name begins as the source's: FreeSound,
BBC_Sound_Effects, SoundBible, AudioSet_SL. Sounds have no picture: they are for
`ccl_jax.encode` and the audio stage.
"""

import pathlib
from collections.abc import Iterator

from ccl_jax.data.sources.captions import Caption
from ccl_jax.data.sources.folder import SOUNDS
from ccl_jax.data.sources.media_builder import Entry, MediaBuilder
from ccl_jax.documents import TABLE, read_json
from ccl_jax.errors import UsageError

SOURCES = {
  "fsd_final": "FreeSound",
  "bbc_final": "BBC_Sound_Effects",
  "sb_final": "SoundBible",
  "as_final": "AudioSet_SL",
}


class Wavcaps(MediaBuilder):
  """WavCaps: A ChatGPT-Assisted Weakly-Labelled Audio Captioning Dataset, 2023."""

  MEDIA = SOUNDS

  def entries(self, files) -> Iterator[Entry]:
    tables = [t for t in files.tables(".json") if t.stem in SOURCES]
    if not tables:
      raise UsageError(
        f"no metadata below {files.root}: expected {', '.join(SOURCES)} (.json)"
      )
    for table in tables:
      source = SOURCES[table.stem]
      for number, row in enumerate(_read(table)):
        where = f"{table} entry {number}"
        try:
          name, text = str(row["id"]), str(row["caption"])
        except (KeyError, TypeError) as e:
          got = ", ".join(row) if isinstance(row, dict) else str(row)[:60]
          raise UsageError(f"{where}: expected id and caption, got {got}") from e
        names = (name, name.removesuffix(".wav"))
        below = source if len(tables) > 1 else ""
        yield Entry(f"{source}/{name}", names, Caption(text), where, below=below)


def _read(table: pathlib.Path) -> list:
  try:
    rows = read_json(table, TABLE)["data"]
    if not isinstance(rows, list):
      raise TypeError("data is no list")
  except (KeyError, TypeError) as e:
    raise UsageError(f'{table}: expected {{"data": [...]}} ({e})') from e
  return rows


BUILDER = Wavcaps
