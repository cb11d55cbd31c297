"""Any folder of media as a TFDS data set: listed once, filtered, split by file.

  python -m ccl_jax.data build folder FILMS min_seconds=5

The source "folder" reads such a folder as it is; the data set is read with the source
"tfds", and serves runs that need a held-out split. Captions are those of
`captions.py`: JSON lines, CSV, or NAME.txt. All parts of one file fall to one split.
"""

import dataclasses
from collections.abc import Iterator

from ccl_jax.data.media.tracks import MediaError
from ccl_jax.data.sources.captions import Caption, read_captions, sidecar
from ccl_jax.data.sources.catalogue import MEDIA, media_names, without_soundtracks
from ccl_jax.data.sources.folder import warn_of_unread
from ccl_jax.data.sources.media_builder import Entry, MediaBuilder, MediaConfig
from ccl_jax.data.sources.windows import label


@dataclasses.dataclass(eq=False)
class FolderConfig(MediaConfig):
  """`captions` names the one table to read; by default all in the folder."""

  captions: str = ""


class Folder(MediaBuilder):
  """Films, stills and sounds of a user's folder."""

  CONFIG = FolderConfig

  def entries(self, files) -> Iterator[Entry]:
    root = files.root
    names = media_names(root)
    warn_of_unread(root, MEDIA)
    rows, _ = read_captions(root, names, self.builder_config.captions)
    rows = without_soundtracks({n: rows.get(n, [Caption()]) for n in names})
    for name in rows:
      for row in rows[name]:
        refused = ""
        try:
          row = row._replace(text=row.text or sidecar(root / name))
        except MediaError as e:
          refused = str(e).removeprefix(f"{root / name}: ")
        about = {"group": name, "refused": refused}
        yield Entry(label(name, row), (name,), row, str(root / name), **about)


BUILDER = Folder
