"""What a folder of media gives: films, silent films, stills and sounds, by shape.

Every file is cut into items, and each item falls to the bucket of the shape it is
nearest to (`buckets.choose`). An item is a few strings and a number, so that a list of
millions is a file; `read` decodes one.
"""

import logging
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

from ccl_jax.data import media
from ccl_jax.data.buckets import KINDS, Bucket, check_specs, choose
from ccl_jax.data.captions import Caption, read_captions, sidecar
from ccl_jax.data.folder import (
  SUFFIXES,
  check_hop,
  files_of,
  probe_with_sound,
  relative,
  window_starts,
)
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
SOUNDS = (".wav", ".flac", ".mp3", ".m4a", ".aac", ".ogg", ".opus")
_log = logging.getLogger(__name__)


class Item(NamedTuple):
  """One clip to be: its name, its file and its sound's below the folder, its start."""

  id: str
  path: str
  start: float
  sound: str | None
  text: str


class Catalogue(NamedTuple):
  """The items of every bucket, and (file, reason) of the files that give none."""

  buckets: Mapping[Bucket, list[Item]]
  skipped: list[tuple[str, str]]


def scan(
  root: str | pathlib.Path,
  specs: Sequence[ClipSpec],
  *,
  hop: float | int | None = None,
  kinds: Iterable[str] = KINDS,
) -> Catalogue:
  """Reads the headers of all media below `root`.

  Args:
    specs: the shapes on offer; stills and sounds take a shape's size or duration.
    hop: seconds between the clips of one file; None: its clip's duration.
    kinds: which of `KINDS` to take; without "film", films do not turn silent.
  """
  root = pathlib.Path(root)
  check_specs(specs)
  if hop is not None:
    check_hop(hop)
  if unknown := sorted(set(kinds) - set(KINDS)):
    raise UsageError(f"unknown kind {unknown[0]!r}: expected {', '.join(KINDS)}")
  # A caption without a suffix means a film rather than its soundtrack or its thumbnail.
  suffixes = (*IMAGES, *SOUNDS, *SUFFIXES)
  found = files_of(root, suffixes)
  found.sort(key=lambda path: _rank(path))
  paths = {relative(path, root): path for path in found}
  if not paths:
    raise UsageError(f"no media in {root}: expected {' '.join(suffixes)} files")
  captions, _ = read_captions(root, paths)
  for name, caption in captions.items():
    if caption.audio != name:
      paths.pop(caption.audio, None)  # the sound of a film is no item of its own

  def cut(name):
    caption = captions.get(name, Caption())
    try:
      bucket, starts = _cut(root, paths[name], caption, specs, hop)
      if bucket.kind not in kinds:
        raise media.MediaError(f"it is of the kind {bucket.kind}, which is not asked")
      text = caption.text or sidecar(paths[name])
    except media.MediaError as e:
      return name, str(e).removeprefix(f"{paths[name]}: "), []
    ids = [name if bucket.kind == "image" else f"{name}@{s:.3f}" for s in starts]
    return (
      name,
      bucket,
      [Item(i, name, s, caption.audio, text) for i, s in zip(ids, starts)],
    )

  buckets, skipped = {}, []
  with futures.ThreadPoolExecutor(8) as pool:
    for name, bucket, items in pool.map(cut, sorted(paths)):
      if items:
        buckets.setdefault(bucket, []).extend(items)
      else:
        skipped.append((name, bucket))
        _log.warning("skipped %s: %s", name, bucket)
  if not buckets:
    raise UsageError(
      f"no usable file among {len(paths)} in {root}, first: {': '.join(skipped[0])}"
    )
  return Catalogue(dict(sorted(buckets.items())), skipped)


def read(root: str | pathlib.Path, bucket: Bucket, item: Item) -> dict[str, Any]:
  """Decodes an item: `id`, `text`, and of `video` uint8 (F, H, W, 3) and `audio`
  float32 (n,) those that its bucket has.

  Raises:
    MediaError: it cannot be read.
  """
  path = pathlib.Path(root) / item.path
  clip = {"id": item.id, "text": item.text}
  if bucket.kind == "image":
    return clip | {"video": media.read_image(path, bucket.height, bucket.width)[None]}
  if bucket.kind == "sound":
    return clip | {"audio": media.read_audio(path, bucket.samples, start=item.start)}
  if bucket.kind == "silent":
    return clip | {"video": media.read_video(path, bucket.spec(), item.start)}
  sound = None if item.sound is None else pathlib.Path(root) / item.sound
  video, audio = media.read_clip(path, bucket.spec(), item.start, sound)
  return clip | {"video": video, "audio": audio}


def _rank(path: pathlib.Path) -> tuple[int, str]:
  kinds = (IMAGES, SOUNDS, SUFFIXES)
  return [path.suffix.lower() in kind for kind in kinds].index(True), path.as_posix()


def _cut(
  root: pathlib.Path,
  path: pathlib.Path,
  caption: Caption,
  specs: Sequence[ClipSpec],
  hop: float | int | None,
) -> tuple[Bucket, list[float]]:
  """A file's bucket and the starts of its items."""
  if path.suffix.lower() in IMAGES:
    height, width = media.image_size(path)
    return Bucket.of(choose(specs, height, width, float("inf")), "image"), [0.0]
  sound = root / caption.audio if caption.audio else None
  info = probe_with_sound(path, sound)
  if not info.has_video and not info.has_audio:
    raise media.MediaError("no picture and no sound")
  if not info.has_video:
    fits = [s for s in specs if s.samples / s.sample_rate <= info.duration + 1e-6]
    spec = max(fits or specs, key=lambda s: s.samples * (1 if fits else -1))
    bucket = Bucket.of(spec, "sound")
    return bucket, window_starts(info, bucket.seconds, hop or bucket.seconds)
  height, width = media.picture_size(path) if len(specs) > 1 else (1, 1)
  spec = choose(specs, height, width, info.duration) or min(specs, key=_seconds)
  bucket = Bucket.of(spec, "film" if info.has_audio else "silent")
  starts = window_starts(info, spec.seconds, hop or spec.seconds, 1 / spec.fps)
  return bucket, starts


def _seconds(spec: ClipSpec) -> float:
  return spec.seconds
