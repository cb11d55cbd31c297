"""VGGSound: ten seconds of a YouTube film, and one of 309 kinds of sound.

  python -m ccl_jax.data build vggsound DIR

DIR holds vggsound.csv as published (YouTube id, start second, label, split; no header)
and, anywhere below, ID_START.mp4 (six digits), cut to the clip, or ID.mp4, the film or
the clip. A file of no more than 10.5 s counts as cut. The label is the caption.
"""

from collections.abc import Iterator

from ccl_jax.data.media.decode import MediaInfo
from ccl_jax.data.sources.captions import Caption, read_table
from ccl_jax.data.sources.media_builder import Entry, MediaBuilder
from ccl_jax.errors import UsageError

COLUMNS = ("id", "start", "label", "split")
SECONDS, SLACK = 10.0, 0.5


class Vggsound(MediaBuilder):
  """VGGSound: A Large-scale Audio-Visual Dataset, 2020."""

  def entries(self, files) -> Iterator[Entry]:
    table = files.root / "vggsound.csv"
    if not table.is_file():
      raise UsageError(f"no {table}: put the published table there")
    for where, row in read_table(table, columns=COLUMNS):
      try:
        name, start, label, split = (row[key] for key in COLUMNS)
        start = int(start)
        if split not in ("train", "test"):
          raise ValueError(f"the split {split}")
      except (KeyError, ValueError) as e:
        raise UsageError(
          f"{where}: expected a YouTube id, a start in whole seconds, a label and a "
          f"split, train or test, got {', '.join(row.values())} ({e})"
        ) from e
      clip = f"{name}_{start:06}"
      part = Caption(label, start=float(start), end=start + SECONDS)
      yield Entry(clip, (clip, name), part, where, split)

  def part(self, entry: Entry, info: MediaInfo) -> Caption:
    cut = info.duration <= SECONDS + SLACK
    return Caption(entry.caption.text) if cut else entry.caption


BUILDER = Vggsound
