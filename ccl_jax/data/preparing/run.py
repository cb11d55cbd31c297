"""Examines media files before they are encoded, and writes a table of captions.

Every file gives a row for each of its shots (or each of the parts its captions name),
with a crop without black bars, loudness and the gain to a target, shares of silence and
of clipped samples, and how far apart picture and sound start. The rows are a table that
the folder source and `encode` read: `captions=OUT`.

Files are done one by one and noted in OUT.part, which a second run goes on with; OUT
appears when it is whole, and OUT.skipped.txt with a reason for every bad file.
"""

import json
import math
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from concurrent import futures
from typing import Annotated, Any, NamedTuple

import pydantic

from ccl_jax import progress
from ccl_jax.data.media import decode as media
from ccl_jax.data.media.loudness import gain_of
from ccl_jax.data.media.tracks import first_time, main_track, opened
from ccl_jax.data.preparing import shots, sound_checks
from ccl_jax.data.sources import templates
from ccl_jax.data.sources.captions import Caption, Row, read_rows, sidecar
from ccl_jax.data.sources.catalogue import MEDIA, media_names, without_soundtracks
from ccl_jax.data.sources.folder import IMAGES, unread
from ccl_jax.data.sources.windows import cached_probe, part_of
from ccl_jax.documents import Malformed, check, parse, read_bytes
from ccl_jax.errors import UsageError
from ccl_jax.files import check_writable, sweep, write_text
from ccl_jax.places import hold_new

_LEAST = 0.2  # seconds: shorter parts of a film are left out


class Options(NamedTuple):
  """Settings of `prepare`.

  Attributes:
    shots: whether films are cut into shots.
    crop: whether black bars are looked for.
    loudness: LUFS that a gain is computed to; None: no gain.
    speech: "module:function" that measures speech (`speech_hook`).
    template: of captions (`sources/templates.py`).
    captions: the one table to read; "": all in the folder.
  """

  shots: bool = True
  crop: bool = True
  loudness: float | None = None
  speech: str = ""
  template: str = ""
  captions: str = ""


class Prepared(NamedTuple):
  """The result of `prepare`.

  Attributes:
    rows: of the table, in the order of the files.
    skipped: (file, reason) of those that give none.
  """

  rows: list[dict[str, Any]]
  skipped: list[tuple[str, str]]


def prepare(
  root: pathlib.Path, out: pathlib.Path, options: Options, threads: int = 4
) -> Prepared:
  """Examines all media below `root` and writes their rows to `out`.

  Args:
    root: folder of media.
    out: a new file, *.jsonl.
    options: what to measure.
    threads: files at a time.

  Raises:
    UsageError: a wrong setting, no usable file, or an `out` that is there already.
  """
  if out.suffix.lower() != ".jsonl":
    raise UsageError(f"{out}: expected a name that ends in .jsonl")
  with hold_new(out):
    return _prepare(root, out, options, threads)


def _prepare(root, out: pathlib.Path, options: Options, threads: int) -> Prepared:
  """As `prepare`, of a file that is held."""
  if out.exists():
    raise UsageError(f"{out} is there already: remove it or name another")
  names = media_names(root)
  captioned, _ = read_rows(root, names, options.captions)
  rows = {n: captioned.get(n, [Row(Caption(), {}, n)]) for n in names}
  captions = {n: [row.caption for row in rows[n]] for n in names}
  # A sound that a caption names as a film's soundtrack gives no row of its own.
  files = list(without_soundtracks(captions))
  if options.template:
    fields = (row.fields for file_rows in rows.values() for row in file_rows)
    # Before hours of decoding: an unknown field would leave every caption unfilled.
    templates.check(options.template, [dict.fromkeys(_MEASURES, 0), *fields])
  if options.speech:
    # Likewise: an unknown module fails here, before any file is read.
    sound_checks.speech_hook(options.speech)
  check_writable(out)
  sweep(out.parent, out.name)
  done = _Journal(out, [str(root.absolute()), list(options)])
  _run(root, [n for n in files if n not in done.files], rows, options, done, threads)
  prepared = done.result(files)
  prepared = prepared._replace(skipped=[*prepared.skipped, *unread(root, MEDIA)])
  if not prepared.rows:
    first = ": ".join(prepared.skipped[0])
    raise UsageError(f"no usable file among {len(files)} in {root}, first: {first}")
  lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in prepared.rows)
  reasons = (f"{name}\t{why}\n" for name, why in prepared.skipped)
  write_text(out.with_name(f"{out.name}.skipped.txt"), "".join(reasons))
  write_text(out, "".join(lines))
  done.remove()
  return prepared


_MEASURES = (
  "file", "caption", "seconds", "start", "end", "crop", "loudness", "loudness_gain",
  "peak", "silence", "clipped", "av_offset_ms", "speech_share",
)  # fmt: skip


def rows_of(
  root: pathlib.Path, name: str, rows: Sequence[Row], options: Options
) -> list[dict[str, Any]]:
  """The rows of one file: one for each shot of each part that its captions name.

  Raises:
    MediaError: it cannot be read.
  """
  path, out = root / name, []
  if path.suffix.lower() in IMAGES:
    media.image_size(path)
    return [_row(name, row, {}, options, path) for row in rows]
  scanned, probe = None, cached_probe()
  for row in rows:
    caption = row.caption
    sound = caption.sound(root)
    whole = probe(path, sound)
    info = part_of(whole, caption)
    parts = [(info.start, info.end)]
    if info.has_video and (options.shots or options.crop):
      # One pass over the film serves its shots and its crops, for all its captions.
      scanned = scanned or shots.scan_film(path)
      if options.shots:
        parts = scanned.shots(*parts[0])
    offset = _offset_ms(path, sound) if info.has_video and info.has_audio else None
    for start, end in parts:
      # Shorter shots are flashes; a file that is one short part is still kept.
      if end - start < _LEAST and len(parts) > 1:
        continue
      new = {"seconds": round(end - start, 3)}
      # A whole file needs no bounds: the row stays as short as the one it came from.
      if len(parts) > 1 or (caption.start, caption.end) != Caption()[2:4]:
        new |= {"start": round(start, 6), "end": round(end, 6)}
      if info.has_video and options.crop and not caption.crop:
        crop = scanned.crop(start, end)
        new |= {"crop": list(crop)} if crop else {}
      if info.has_audio:
        rest = end == whole.end  # all there is: headers may promise a little more
        new |= _sound(sound or path, start, None if rest else end, options)
      if offset is not None:
        new["av_offset_ms"] = offset
      out.append(_row(name, row, new, options, path))
  return out


def _sound(
  path: pathlib.Path, start: float, end: float | None, options: Options
) -> dict[str, Any]:
  samples = None if end is None else round((end - start) * 16000)

  def share(wave, rate):
    got = sound_checks.speech_hook(options.speech)(wave, rate)
    try:
      return float(got)
    except (TypeError, ValueError) as e:
      raise UsageError(f"{options.speech} gave {got!r}, expected a share") from e

  waves = media.read_blocks(path, samples, start=start)
  out = sound_checks.measure(waves, speech=share if options.speech else None)
  out["clipped"] = sound_checks.clipped(path, start, end or math.inf)
  if options.loudness is not None and "loudness" in out:
    gain = gain_of(out["loudness"], out["peak"], options.loudness)
    out["loudness_gain"] = round(gain, 2)
  return out


def _row(
  name: str, row: Row, new: Mapping[str, Any], options: Options, path: pathlib.Path
) -> dict[str, Any]:
  """The file's row as it was, with what is new."""
  text = row.caption.text or sidecar(path)
  # The caption is written as `caption`, whichever key it was read from.
  old = {k: v for k, v in row.fields.items() if k not in ("id", "prompt", "text")}
  fields = old | {"file": name, "caption": text} | new
  if options.template:
    fields["caption"] = templates.fill(options.template, fields) or text
  return fields


def _offset_ms(path: pathlib.Path, sound: pathlib.Path | None) -> float:
  """Milliseconds by which the sound starts later than the picture."""
  with opened(path) as picture, opened(sound or path) as other:
    begin = first_time(main_track(picture, "video"))
    return round(1000 * (first_time(main_track(other, "audio")) - begin), 1)


def _run(root, names, rows, options, done: "_Journal", threads: int) -> None:
  def work(name):
    try:
      return name, rows_of(root, name, rows[name], options)
    except media.MediaError as e:
      # A bad file is a reason in the journal, not the end of the run.
      return name, str(e).removeprefix(f"{root / name}: ")

  bar = progress.Bar("preparing", len(names), "files")
  pool = futures.ThreadPoolExecutor(threads)
  try:
    jobs = [pool.submit(work, name) for name in names]
    for job in futures.as_completed(jobs):
      name, result = job.result()
      done.add(name, result)
      if isinstance(result, str):
        bar.write(f"skipped {name}: {result}", file=sys.stderr)
      bar.update(1)
  finally:
    pool.shutdown(cancel_futures=True)
    bar.close()


# [file, its rows or the reason why it has none]; a name may be no Unicode.
_Entry = Annotated[list[Any], pydantic.Field(min_length=2, max_length=2)]


class _Journal:
  """OUT.part: the settings, then a line for every file that is done."""

  def __init__(self, out: pathlib.Path, settings: list):
    self._path, self.files = out.with_name(f"{out.name}.part"), {}
    lines = read_bytes(self._path).splitlines() if self._path.exists() else []
    entries = []
    for line in lines:
      try:
        entries.append(parse(line, self._path, names=True))
      except Malformed:
        break  # a run was killed while it wrote this line
    if entries and entries[0] != json.loads(json.dumps(settings)):
      raise UsageError(
        f"{self._path} was begun with other settings, {entries[0]}: remove it, or go "
        "on with those"
      )
    self.files = dict(check(entries[1:], list[_Entry], self._path, "remove it"))
    text = "".join(json.dumps(entry) + "\n" for entry in entries or [settings])
    write_text(self._path, text)

  def add(self, name: str, result: list | str) -> None:
    self.files[name] = result
    with self._path.open("a") as file:
      file.write(json.dumps([name, result]) + "\n")

  def result(self, names: Sequence[str]) -> Prepared:
    """Results of all files journalled so far, in the order of `names`."""
    bad = [(n, self.files[n]) for n in names if isinstance(self.files[n], str)]
    good = [self.files[n] for n in names if not isinstance(self.files[n], str)]
    return Prepared([row for rows in good for row in rows], bad)

  def remove(self) -> None:
    os.unlink(self._path)
