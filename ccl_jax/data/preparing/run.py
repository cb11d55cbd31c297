"""Examines media files before they are encoded, and writes a table of captions.

The rows (`rows.py`) are a table that the folder source and `encode` read:
`captions=OUT`. The files are done in shards (`parts.py`) on Apache Beam (`engine.py`),
each in a process that may crash (`child.py`). OUT appears when it is whole, and
OUT.skipped.txt with a reason for every bad file.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from ccl_jax.data.media.loudness import check_target
from ccl_jax.data.preparing import engine, shots, sound_checks
from ccl_jax.data.preparing.parts import Parts
from ccl_jax.data.preparing.rows import MEASURES, Options
from ccl_jax.data.sources import templates
from ccl_jax.data.sources.captions import Caption, Row, read_rows
from ccl_jax.data.sources.catalogue import MEDIA, media_names, without_soundtracks
from ccl_jax.data.sources.folder import unread
from ccl_jax.errors import UsageError
from ccl_jax.files import check_writable, sweep, write_text
from ccl_jax.places import hold_new
from ccl_jax.remote.paths import Place


class Prepared(NamedTuple):
  """The result of `prepare`.

  Attributes:
    rows: of the table, in the order of the files.
    skipped: (file, reason) of those that give none.
  """

  rows: list[dict[str, Any]]
  skipped: list[tuple[str, str]]


def prepare(
  root: Place,
  out: Place,
  options: Options,
  threads: int = 4,
  runner: str = engine.LOCAL,
  flags: Sequence[str] = (),
) -> Prepared:
  """Examines all media below `root` and writes their rows to `out`.

  Args:
    root: folder of media.
    out: a new file, *.jsonl.
    options: what to measure.
    threads: files at a time, on this machine.
    runner: of Apache Beam, one of `engine.RUNNERS`.
    flags: options of the runner.

  Raises:
    UsageError: a wrong setting, no usable file, or an `out` that is there already.
  """
  if out.suffix.lower() != ".jsonl":
    raise UsageError(f"{out}: expected a name that ends in .jsonl")
  if options.loudness is not None:
    check_target(options.loudness)
  engine.require_runner(runner, flags)
  engine.require_shared(runner, root, out)
  if options.shots:
    shots.require_detector()
  if options.speech:
    # An unknown module fails here, before any file is read.
    sound_checks.speech_hook(options.speech)
  with hold_new(out):
    return _prepare(root, out, options, threads, runner, flags)


def _prepare(root, out, options, threads, runner, flags) -> Prepared:
  """As `prepare`, of a file that is held."""
  if out.exists():
    raise UsageError(f"{out} is there already: remove it or name another")
  files = _files(root, options)
  check_writable(out)
  sweep(out.parent, out.name)
  parts = Parts.of(out)
  parts.begin(root, options, files)
  try:
    engine.run(parts, runner, flags, threads)
  except UsageError:
    if not parts.done():  # the runner did not start, or nothing works: no trace of it
      parts.remove()
    raise
  rows, skipped = [], []
  for name, result in parts.results():
    if isinstance(result, str):
      skipped.append((name, result))
    else:
      rows += result
  prepared = Prepared(rows, [*skipped, *unread(root, MEDIA)])
  if not rows:
    first = ": ".join(prepared.skipped[0])
    parts.remove()
    raise UsageError(
      f"no usable file among {parts.plan['files']} in {root}, first: {first}"
    )
  lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
  reasons = (f"{name}\t{why}\n" for name, why in prepared.skipped)
  write_text(out.with_name(f"{out.name}.skipped.txt"), "".join(reasons))
  write_text(out, "".join(lines))
  parts.remove()
  return prepared


def _files(root: Place, options: Options) -> list[tuple[str, list[dict[str, Any]]]]:
  """The files of a folder in order, with the fields of their captions."""
  names = media_names(root)
  captioned, _ = read_rows(root, names, options.captions)
  rows = {n: captioned.get(n, [Row(Caption(), {"file": n}, n)]) for n in names}
  captions = {n: [row.caption for row in rows[n]] for n in names}
  # A sound that a caption names as a film's soundtrack gives no row of its own.
  files = list(without_soundtracks(captions))
  if options.template:
    fields = (row.fields for file_rows in rows.values() for row in file_rows)
    # Before hours of decoding: an unknown field would leave every caption unfilled.
    templates.check(options.template, [dict.fromkeys(MEASURES, 0), *fields])
  return [(n, [row.fields for row in rows[n]]) for n in files]
