"""The base class of TFDS builders of media: metadata row -> media file -> example.

An example is one clip's file, part and caption: a few hundred bytes. Pixels and bytes
of the media are not copied: decoded 480p clips are 100 MB each, encoded ones would
double the disk, and at scale it is latents that are trained from (`ccl_jax.encode`). So
100,000 clips are some 30 MB, built in the time that reading the files' headers takes,
and good for as long as the media stay in their folder.

Media and metadata lie in `manual_dir`; nothing is downloaded. Beside the records lie
missing.txt, the ids whose file is not there, and skipped.jsonl, the files that cannot
be read or that the filters leave out, each with its reason. TensorFlow is not needed.
"""

import dataclasses
import hashlib
import json
import logging
import math
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from ccl_jax.data.media import decode as media
from ccl_jax.data.preparing import engine
from ccl_jax.data.preparing.parts import Parts
from ccl_jax.data.sources.captions import Caption
from ccl_jax.data.sources.folder import IMAGES, SOUNDS, SUFFIXES
from ccl_jax.data.sources.listing import Listing
from ccl_jax.data.sources.set_builder import SetBuilder
from ccl_jax.data.sources.windows import cached_probe, part_of
from ccl_jax.errors import UsageError
from ccl_jax.files import write_text
from ccl_jax.names import printable

SPEECH = re.compile(
  r"\b(says?|said|saying|sp(eak|oke)\w*|talk\w*|speech|voice\w*|convers\w+|narrat\w+|"
  r"whisper\w*|shout\w*|dialog\w*|interview\w*|lectur\w*|announc\w+)\b",
  re.IGNORECASE,
)
SHARD = 256  # clips whose headers are read by one worker at a time
_log = logging.getLogger(__name__)


class Entry(NamedTuple):
  """A row of metadata about one clip.

  Attributes:
    id: of the clip, unique.
    names: that its file may have, best first.
    caption: its text and part of the file.
    where: the row's place, for messages.
    split: the published one, or "" to draw it.
    group: clips of one group fall to one split; "": the id.
    below: as in `Listing.find`.
    refused: why it is left out; "": it is not.
  """

  id: str
  names: tuple[str, ...]
  caption: Caption
  where: str
  split: str = ""
  group: str = ""
  below: str = ""
  refused: str = ""


@dataclasses.dataclass(eq=False)
class MediaConfig(tfds.core.BuilderConfig):
  """Filters of a data set of media: which clips to take.

  Attributes:
    min_seconds, max_seconds: of a clip's duration.
    min_side: pixels of the shorter side of a picture; sounds have none and pass.
    speech: "with" or "without": by whether the caption speaks of speech (`SPEECH`).
    test_share: of the clips, by a hash of their ids, where no split is published.

  Raises:
    UsageError: a value that is not among these.
  """

  min_seconds: float | int = 0.0
  max_seconds: float | int = math.inf
  min_side: int = 0
  speech: str = ""
  test_share: float | int = 0.02

  def __post_init__(self):
    if self.speech not in ("", "with", "without"):
      raise UsageError(
        f"speech: got {self.speech!r}, expected with, without or nothing"
      )
    if not 0 <= self.test_share < 1:
      raise UsageError(f"test_share: got {self.test_share}, expected 0 to less than 1")


class Example(NamedTuple):
  """A clip whose file is there.

  Attributes:
    id, path, caption: see `Entry`; the path is below the folder.
    kind: of `buckets.KINDS`.
    seconds: of its part of the file.
    height, width: in pixels; 0 of a sound.
    split, group: see `Entry`.
  """

  id: str
  path: str
  caption: Caption
  kind: str
  seconds: float
  height: int
  width: int
  split: str
  group: str

  def record(self) -> dict[str, Any]:
    """The fields of the example's TFDS record."""
    text, audio, start, end, crop, gain = self.caption
    fields = {"id": printable(self.id), "kind": self.kind, "text": text}
    # As bytes: a file's name need not be UTF-8.
    fields |= {"path": os.fsencode(self.path), "audio": os.fsencode(audio or "")}
    fields |= {"start": start, "end": end, "gain": gain}
    fields |= {"crop": np.array(crop or (0, 0, 0, 0), np.int32)}
    return fields | {k: getattr(self, k) for k in ("seconds", "height", "width")}


class Joined(NamedTuple):
  """What became of the clips of some metadata.

  Attributes:
    kept: those whose files are there.
    missing: (id, names) of those without one.
    skipped: (id, reason) of those left out.
    count: of all.
  """

  kept: list[Example]
  missing: list[tuple[str, str]]
  skipped: list[tuple[str, str]]
  count: int


_TEXTS = ("id", "path", "kind", "text", "audio")


class MediaBuilder(SetBuilder, skip_registration=True):
  """A TFDS builder of media; a subclass says how its metadata are found and read."""

  VERSION = tfds.core.Version("1.0.0")
  MANUAL_DOWNLOAD_INSTRUCTIONS = "manual_dir holds the media and the metadata."
  CONFIG = MediaConfig
  MEDIA = (*SUFFIXES, *SOUNDS, *IMAGES)  # the suffixes to look for, best first
  # What reads headers: the runner of Beam, its options, and workers of this machine.
  readers: tuple[str, Sequence[str], int] = (engine.PLAIN, (), 1)

  def entries(self, files: Listing) -> Iterator[Entry]:
    """The clips that the metadata among `files` name, in order.

    Raises:
      UsageError: the metadata are missing or wrong.
    """
    raise NotImplementedError

  def part(self, entry: Entry, info: media.MediaInfo) -> Caption:
    """The caption of an entry and its part, once the headers of its file are known."""
    return entry.caption

  def _info(self) -> tfds.core.DatasetInfo:
    scalar = tfds.features.Scalar
    features = {k: tfds.features.Text() for k in _TEXTS}
    features |= {k: scalar(np.float64) for k in ("start", "end", "gain", "seconds")}
    features |= {k: scalar(np.int32) for k in ("height", "width")}
    features["crop"] = tfds.features.Tensor(shape=(4,), dtype=np.int32)
    return tfds.core.DatasetInfo(
      builder=self,
      description=self.__doc__,
      features=tfds.features.FeaturesDict(features),
      metadata=tfds.core.MetadataDict(media_root=""),
    )

  def items(self, dl_manager) -> dict[str, list[Example]]:
    """The examples of every split that has some.

    Raises:
      UsageError: metadata that cannot be read, or media that are not there.
    """
    root, data_dir = pathlib.Path(dl_manager.manual_dir), pathlib.Path(self.data_dir)
    # The data set may be built below the media: its own files are not media.
    files = Listing(root, without=pathlib.Path(self._data_dir_root))
    # All metadata is read before any media: its mistakes show in seconds.
    kept, missing, skipped, count = self._join(root, files)
    if not kept:
      first = skipped[0] if skipped else missing[0]
      raise UsageError(
        f"no clip of the {count} in the metadata of {self.name} is usable, "
        f"{len(missing)} have no file below {root}; the first: {': '.join(first)}"
      )
    _log.log(
      logging.WARNING if missing or skipped else logging.INFO,
      "%s: %d clips; %d files are missing, %d left out: see missing.txt and "
      "skipped.jsonl below %s",
      *(root, len(kept), len(missing), len(skipped), data_dir.parent),
    )
    lines = ("\t".join(entry) + "\n" for entry in missing)
    write_text(data_dir / "missing.txt", "".join(lines))
    rows = (json.dumps({"id": name, "reason": why}) for name, why in skipped)
    write_text(data_dir / "skipped.jsonl", "".join(row + "\n" for row in rows))
    self.info.metadata["media_root"] = str(root.absolute())
    splits = self._splits(kept)
    return {k: splits[k] for k in splits if splits[k]}

  def record(self, split: str, item: Example) -> tuple[str, dict[str, Any]]:
    """(id, features) of an example, which hold no media."""
    return printable(item.id), item.record()

  def _join(self, root: pathlib.Path, files: Listing) -> Joined:
    """The clips of the metadata with their files; in shards, by the engine's runner."""
    data_dir = pathlib.Path(self._data_dir_root)
    config = self.builder_config
    parts = Parts(data_dir / f"{self.name}-{config.name}.parts")
    # Its name tells of the request and of all files: what was begun is this.
    if not parts.is_laid():
      entries = _unique(self.entries(files))
      find = lambda e: files.find(e.names, self.MEDIA, e.below)
      pairs = ([e.id, _known(e, None if e.refused else find(e))] for e in entries)
      parts.lay(str(root.absolute()), self._description(), pairs, SHARD, "headers")
    try:
      engine.run(parts, *self.readers, "reading headers")
    except UsageError:
      if not parts.done():
        parts.remove()
      raise
    joined = Joined([], [], [], parts.plan["files"])
    for (name, known), (_, found) in zip(parts.asked(), parts.results(), strict=True):
      if found is None:
        joined.missing.append((name, known["names"]))
      elif isinstance(found, str):
        joined.skipped.append((name, found))
      else:
        details = found | {"caption": Caption(**found["caption"])}
        joined.kept.append(Example(name, known["path"], **details))
    parts.remove()
    return joined

  def _description(self) -> list[Any]:
    """What `media_set.builder_of` makes this builder of, in JSON."""
    kind, config = type(self), self.builder_config
    own = {f.name for f in dataclasses.fields(config)} - {
      f.name for f in dataclasses.fields(tfds.core.BuilderConfig)
    }
    options = {k: getattr(config, k) for k in sorted(own)}
    # JSON has no infinity.
    options = {k: v for k, v in options.items() if v != math.inf}
    return [f"{kind.__module__}:{kind.__qualname__}", options]

  def examined(
    self, root: pathlib.Path, pairs: Sequence[Sequence[Any]]
  ) -> list[tuple[str, Any]]:
    """What is found of clips, by the headers of their files.

    Args:
      root: the folder of the files.
      pairs: (id, what `_known` tells of it).

    Returns:
      (id, the fields of its `Example`, the reason why it is left out, or None where it
      has no file).
    """
    probe = cached_probe()

    def examine(pair):
      name, known = pair
      path = known["path"]
      if path is None:
        return name, known["refused"] or None
      caption = Caption(**known["caption"])
      entry = Entry(name, (), caption, "", known["split"], known["group"])
      try:
        example = self._example(root, path, entry, probe)
      except media.MediaError as e:
        return name, str(e).removeprefix(f"{root / path}: ")
      fields = example._asdict() | {"caption": _changed(example.caption)}
      return name, {k: v for k, v in fields.items() if k not in ("id", "path")}

    # The threads wait for the disk.
    with futures.ThreadPoolExecutor(8) as pool:
      return list(pool.map(examine, pairs))

  def _example(
    self, root: pathlib.Path, path: str, entry: Entry, probe: Callable
  ) -> Example:
    c, row = self.builder_config, entry.caption
    # Captions alone decide: to listen to every clip would take days.
    if c.speech and (c.speech == "with") != bool(SPEECH.search(row.text)):
      raise media.MediaError(f"its caption is not {c.speech} speech: {row.text[:60]}")
    kind, seconds, height, width = "image", 0.0, 0, 0
    if pathlib.PurePosixPath(path).suffix.lower() in IMAGES:
      height, width = media.image_size(root / path, row.crop)
    else:
      info = probe(root / path, row.sound(root))
      row = self.part(entry, info)
      if not (info.has_video or info.has_audio):
        raise media.MediaError("no picture and no sound")
      seconds = part_of(info, row).duration
      kind = "silent" if not info.has_audio else "film" if info.has_video else "sound"
      if info.has_video:
        height, width = row.crop[2:] or (info.height, info.width)
    if kind != "image" and not c.min_seconds <= seconds <= c.max_seconds:
      raise media.MediaError(
        f"lasts {seconds:.2f} s, asked are {c.min_seconds:g} to {c.max_seconds:g}"
      )
    if kind != "sound" and min(height, width) < c.min_side:
      raise media.MediaError(f"{height} x {width} pixels, asked are {c.min_side}")
    details = seconds, height, width, entry.split, entry.group
    return Example(entry.id, path, row, kind, *details)

  def _splits(self, kept: list[Example]) -> dict[str, list[Example]]:
    """Examples by split: the one they name, else drawn by a hash of the group. Where no
    clip falls to the test split, the group with the smallest hash does.
    """
    share, drawn = self.builder_config.test_share, {}
    for e in kept:
      name = os.fsencode(e.group or e.id)
      digest = hashlib.blake2s(name, digest_size=4).digest()
      # A number in [0, 1) by the name alone: adding clips moves none to another split.
      drawn[e.id] = int.from_bytes(digest, "big") / 2**32
    split = lambda e: e.split or ("test" if drawn[e.id] < share else "train")
    test = {e.id for e in kept if split(e) == "test"}
    # Small sets: without this, a hash may leave the test split empty.
    least = min(drawn.values())
    if not test and share and max(drawn.values()) > least:
      test = {name for name in drawn if drawn[name] == least}
    return {
      "train": [e for e in kept if e.id not in test],
      "test": [e for e in kept if e.id in test],
    }


def _unique(entries: Iterator[Entry]) -> Iterator[Entry]:
  places = {}
  for entry in entries:
    if entry.id in places:
      raise UsageError(
        f"{entry.where}: the id {entry.id} was at {places[entry.id]} before: leave one"
      )
    places[entry.id] = entry.where
    yield entry
  if not places:
    raise UsageError("the metadata has no rows: expected one for each clip")


def _known(entry: Entry, path: str | None) -> dict[str, Any]:
  """What the metadata tell of a clip, and its file below the folder, in JSON."""
  caption, names = _changed(entry.caption), " or ".join(entry.names)
  fields = {k: getattr(entry, k) for k in ("split", "group", "refused")}
  return fields | {"path": path, "caption": caption, "names": names}


def _changed(caption: Caption) -> dict[str, Any]:
  """The fields of a caption but those that are as they are by default: JSON has no
  infinity, which is one of these.
  """
  whole = Caption()
  return {k: v for k, v in caption._asdict().items() if v != getattr(whole, k)}
