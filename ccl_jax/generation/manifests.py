"""Clips of a whole manifest: each once, each whole, shared among processes."""

import os
from collections.abc import Callable, Iterator

import jax

from ccl_jax import progress
from ccl_jax.data.manifest import (
  Line,
  local_manifest,
  numbered_lines,
  read_manifest,
)
from ccl_jax.diffusion.guidance import GUIDANCE, Guidance
from ccl_jax.errors import UsageError
from ccl_jax.generation.inputs import Files
from ccl_jax.processes import agreed, no_such_part
from ccl_jax.remote.paths import Place, told
from ccl_jax.seeds import whole_seed
from ccl_jax.tasks import INPUTS, check_inputs


def make_set(
  make: Callable[[list[Line], Files], None],
  manifest: str | os.PathLike,
  out: Place,
  task: str,
  index: int = 0,
  count: int = 1,
  batch: int = 1,
  *,
  channels: int = 0,
  form: Guidance = GUIDANCE["none"],
  seed: int = 0,
  differs: Callable[[str, str, int, Files], str] = lambda *_: "",
  begin: Callable[[list[Line]], None] = lambda _: None,
) -> int:
  """Calls `make` with the lines that have no clip in `out` yet, up to `batch` at once,
  and with the files that they are made from; lines with the same sorts of files are
  made together. Returns how many clips it made.

  Args:
    make: writes the clips; each file must appear whole.
    index, count: this process makes every count-th line, from the index-th on.
    channels: see `tasks.check_inputs`.
    form: the guidance, which says how many clips must be made at once.
    seed: of the clips of a list of prompts, a .txt.
    differs: how the clip of an id in `out` was made otherwise than by this prompt, seed
      and files; "" if it was not.
    begin: called with all lines that are to be made, before the first of them is.

  Raises:
    UsageError: the manifest is not what it should be, lacks what the task needs or has
      what it does not use, there is no such part of it, too few lines would be made
      together, or a clip is there that was made otherwise. Nothing is made then.
  """
  if not 0 <= index < count:
    raise no_such_part(index, count)
  if batch < 1:
    raise UsageError(f"--batch is {batch}; expected 1 at least")
  lines = read_lines(manifest, task, seed)
  files = {line.id: _files(line, local_manifest(manifest)) for line in lines}
  for line in lines:
    try:
      whole_seed(line.seed)
      kind = check_inputs(task, files[line.id], channels=channels)
    except UsageError as e:
      raise UsageError(f"{manifest}: {line.id}: {e}") from e
    for name, path in files[line.id].items():
      if not path.is_file():
        raise UsageError(f"{manifest}: {name} of {line.id}: no file {path}")
  ending = ".mp4" if "video" in kind.generated + kind.given else ".wav"
  mine = lines[index::count]

  def is_there(line: Line) -> bool:
    clip = out / (line.id + ending)
    if not clip.is_file():
      return False
    paths = {name: [path] for name, path in files[line.id].items()}
    if other := differs(line.id, line.prompt, line.seed, paths):
      raise UsageError(
        f"{clip} was made otherwise ({other}): name another --out, or remove it"
      )
    return True

  # As the first process finds it, which writes while others may still be looking; the
  # folder may be its own.
  there = agreed(lambda: [is_there(line) for line in mine])
  left = [line for line, done in zip(mine, there) if not done]
  batches = list(_batches(left, files, batch))
  least = form.least(kind.generated, kind.generated + kind.given)
  for few in (lines for lines in batches if len(lines) < least):
    raise UsageError(
      f"{manifest}: {few[0].id} would be made by itself; expected {least} clips at "
      "once for this guidance: give another --batch or other lines"
    )
  done = len(mine) - len(left)
  if left:
    begin(left)
  for lines in batches:
    progress.part("clips", done, len(mine))
    make(lines, {n: [files[x.id][n] for x in lines] for n in files[lines[0].id]})
    done += len(lines)
  progress.part("clips", done, len(mine))
  progress.end()
  if jax.process_index() == 0:
    print(f"{len(left)} of {len(mine)} clips made, the others were there: {out}")
  return len(left)


def read_lines(manifest: str | os.PathLike, task: str, seed: int = 0) -> list[Line]:
  """The lines of a manifest or, of a file that ends in .txt, its prompts: one a line,
  its clip TASK_SEED_LINE.

  Args:
    task, seed: of the clips of a list of prompts.

  Raises:
    UsageError: it cannot be read, or has no lines.
  """
  manifest = local_manifest(manifest)
  if manifest.suffix.lower() != ".txt":
    return read_manifest(manifest)
  prompts = numbered_lines(manifest)
  if not prompts:
    raise UsageError(f"{manifest} has no lines: expected a prompt a line")
  return [Line(f"{task}_{seed}_{n}", text.strip(), seed=seed) for n, text in prompts]


def _files(line: Line, manifest: Place) -> dict[str, Place]:
  named = {name: getattr(line, name) for name in INPUTS}
  return {name: told(path, manifest) for name, path in named.items() if path}


def _batches(
  lines: list[Line], files: dict[str, dict[str, Place]], size: int
) -> Iterator[list[Line]]:
  sorts = {tuple(files[line.id]) for line in lines}
  for sort in sorted(sorts, reverse=True):
    alike = [line for line in lines if tuple(files[line.id]) == sort]
    for first in range(0, len(alike), size):
      yield alike[first : first + size]
