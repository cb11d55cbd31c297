"""Catalogues of a folder's clips by shape: films, silent films, stills and sounds.

Every file is cut into items, and each item falls to the bucket of the shape it is
nearest to (`buckets.choose`). An item is a few strings and a number, so that a list of
millions is a file; `read` decodes one.
"""

import logging
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

from ccl_jax.data.media import decode as media
from ccl_jax.data.media.loudness import apply_gain
from ccl_jax.data.sets.buckets import KINDS, Bucket, check_specs, choose
from ccl_jax.data.sources.captions import Caption, read_captions, sidecar
from ccl_jax.data.sources.folder import (
  IMAGES,
  SOUNDS,
  SUFFIXES,
  files_of,
  relative,
  warn_of_unread,
)
from ccl_jax.data.sources.windows import (
  SHORT,
  cached_probe,
  check_hop,
  label,
  part_of,
  window_starts,
)
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.names import printable
from ccl_jax.remote.paths import Place, place

MEDIA = (*IMAGES, *SOUNDS, *SUFFIXES)
_log = logging.getLogger(__name__)


class Item(NamedTuple):
  """A clip that can be read: a few strings and numbers, no pixels.

  Attributes:
    id: its name.
    path, sound: of its file and of its sound's, below the folder; None: the same file.
    start: in seconds.
    text: the caption.
    crop, gain: as in `Caption`.
  """

  id: str
  path: str
  start: float
  sound: str | None
  text: str
  crop: Sequence[int] = ()
  gain: float | int = 0.0


class Catalogue(NamedTuple):
  """The items of every bucket, and (file, reason) of the files that give none."""

  buckets: Mapping[Bucket, list[Item]]
  skipped: list[tuple[str, str]]


def scan(
  root: str | os.PathLike,
  specs: Sequence[ClipSpec],
  *,
  hop: float | int | None = None,
  kinds: Iterable[str] = KINDS,
  captions: str = "",
) -> Catalogue:
  """The catalogue of all media below `root`; only their headers are read.

  Args:
    root: folder of media.
    specs: the shapes on offer; stills and sounds take a shape's size or duration.
    hop: seconds between the clips of one file; None: its clip's duration.
    kinds: which of `KINDS` to take; without "film", films do not turn silent.
    captions: the one table of captions to read; by default all in the folder.

  Raises:
    UsageError: a wrong setting, or no file that can be used.
  """
  root = place(root)
  rows = list_media(root, captions)
  found = scan_rows(root, rows, specs, hop=hop, kinds=kinds)
  others = warn_of_unread(root, MEDIA)
  return found._replace(skipped=[*found.skipped, *others])


def list_media(root: Place, captions: str = "") -> dict[str, list[Caption]]:
  """All media below `root`, in order, with their captions.

  Args:
    captions: the one table to read; by default all in the folder.
  """
  names = media_names(root)
  rows, _ = read_captions(root, names, captions)
  return without_soundtracks({name: rows.get(name, [Caption()]) for name in names})


def media_names(root: Place) -> list[str]:
  """Names of all media below `root`, films last.

  So a caption without a suffix means a film rather than its soundtrack or its
  thumbnail.

  Raises:
    UsageError: there is no folder, or no media in it.
  """
  names = [relative(path, root) for path in files_of(root, MEDIA)]
  if not names:
    raise UsageError(f"no media in {root}: expected {' '.join(MEDIA)} files")
  return sorted(names, key=_rank)


def without_soundtracks(
  rows: Mapping[str, Sequence[Caption]],
) -> dict[str, Sequence[Caption]]:
  """The files in order, without those that are the sound of another film."""
  sounds = {r.audio for name in rows for r in rows[name] if r.audio != name}
  return {name: rows[name] for name in sorted(rows) if name not in sounds}


def scan_rows(
  root: str | os.PathLike,
  rows: Mapping[str, Sequence[Caption]],
  specs: Sequence[ClipSpec],
  *,
  hop: float | int | None = None,
  kinds: Iterable[str] = KINDS,
) -> Catalogue:
  """As `scan`, of the files in `rows` with their captions."""
  root = place(root)
  check_specs(specs)
  if hop is not None:
    check_hop(hop)
  if unknown := sorted(set(kinds) - set(KINDS)):
    raise UsageError(f"unknown kind {unknown[0]!r}: expected {', '.join(KINDS)}")

  # A film with many captions is opened once.
  probe = cached_probe()

  def cut(entry):
    name, row = entry
    try:
      bucket, starts = _cut(root, root / name, row, specs, hop, probe)
      if bucket.kind not in kinds:
        raise media.MediaError(f"it is of the kind {bucket.kind}, which is not asked")
      text = row.text or sidecar(root / name)
    except media.MediaError as e:
      return label(name, row), str(e).removeprefix(f"{root / name}: "), []
    # A name that is no UTF-8 is one in an id, which is a text.
    shown = printable(name)
    ids = [shown if bucket.kind == "image" else f"{shown}@{s:.3f}" for s in starts]
    details = row.audio, text, row.crop, row.gain
    return name, bucket, [Item(i, name, s, *details) for i, s in zip(ids, starts)]

  buckets, skipped = {}, []
  entries = [(name, row) for name in rows for row in rows[name]]
  # Reading headers waits for the disk, not for the processor.
  with futures.ThreadPoolExecutor(8) as pool:
    for name, bucket, items in pool.map(cut, entries):
      if items:
        buckets.setdefault(bucket, []).extend(items)
      else:
        skipped.append((name, bucket))
        _log.warning("skipped %s: %s", name, bucket)
  if not buckets:
    short = any(reason.startswith(SHORT) for _, reason in skipped)
    advice = "; give longer ones, or shorter clips=, as 49x352x640@24" if short else ""
    raise UsageError(
      f"no usable file among {len(rows)} in {root}, first: {': '.join(skipped[0])}"
      f"{advice}"
    )
  # Sorted: the order of buckets must not depend on which file came first.
  return Catalogue(dict(sorted(buckets.items())), skipped)


def read(root: str | os.PathLike, bucket: Bucket, item: Item) -> dict[str, Any]:
  """Decodes an item of a catalogue.

  Returns:
    `id`, `text`, and of `video` uint8 (F, H, W, 3) and `audio` float32 (n,) those that
    its bucket has.

  Raises:
    MediaError: it cannot be read.
  """
  path, crop = place(root) / item.path, tuple(item.crop)
  clip = {"id": item.id, "text": item.text}
  if bucket.kind == "image":
    # A still is a film of one frame.
    image = media.read_image(path, bucket.height, bucket.width, crop)
    return clip | {"video": image[None]}
  if bucket.kind == "silent":
    return clip | {"video": media.read_video(path, bucket.spec(), item.start, crop)}
  if bucket.kind == "sound":
    audio = media.read_audio(path, bucket.samples, start=item.start)
  else:
    sound = None if item.sound is None else place(root) / item.sound
    clip["video"], audio = media.read_clip(path, bucket.spec(), item.start, sound, crop)
  return clip | {"audio": apply_gain(audio, item.gain)}


def _rank(name: str) -> tuple[int, str]:
  kinds, suffix = (IMAGES, SOUNDS, SUFFIXES), pathlib.PurePosixPath(name).suffix
  return [suffix.lower() in kind for kind in kinds].index(True), name


def _cut(
  root: Place,
  path: Place,
  row: Caption,
  specs: Sequence[ClipSpec],
  hop: float | int | None,
  probe: Callable,
) -> tuple[Bucket, list[float]]:
  """A file's bucket and the starts of its items."""
  if path.suffix.lower() in IMAGES:
    height, width = media.image_size(path, row.crop)
    return Bucket.of(choose(specs, height, width, float("inf")), "image"), [0.0]
  info = probe(path, row.sound(root))
  duration = part_of(info, row).duration
  if not info.has_video:
    # Sound has no shape: it takes the longest that fits, or else the shortest.
    fits = [s for s in specs if s.samples / s.sample_rate <= duration + 1e-6]
    spec = max(fits or specs, key=lambda s: s.samples * (1 if fits else -1))
    bucket = Bucket.of(spec, "sound")
    return bucket, window_starts(info, row, bucket.seconds, hop or bucket.seconds)
  # With one shape on offer there is nothing to choose, and no frame to decode.
  height, width = media.picture_size(path, row.crop) if len(specs) > 1 else (1, 1)
  # A film shorter than all shapes takes the shortest; `window_starts` refuses it.
  spec = choose(specs, height, width, duration) or min(specs, key=_seconds)
  bucket = Bucket.of(spec, "film" if info.has_audio else "silent")
  starts = window_starts(info, row, spec.seconds, hop or spec.seconds, 1 / spec.fps)
  return bucket, starts


def _seconds(spec: ClipSpec) -> float:
  return spec.seconds
