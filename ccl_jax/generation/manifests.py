"""Clips of a whole manifest: each once, each whole, shared among processes."""

import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tqdm

from ccl_jax.data.manifest import Line, read_manifest
from ccl_jax.data.media.decode import MediaError, read_image
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.tasks import GENERATIONS


def make_set(
  make: Callable[[list[Line], dict[str, Any]], None],
  manifest: str | pathlib.Path,
  out: pathlib.Path,
  task: str,
  spec: ClipSpec,
  index: int = 0,
  count: int = 1,
  batch: int = 1,
) -> int:
  """Calls `make` with the lines that have no clip in `out` yet, up to `batch` at once,
  and with their inputs: `image`, uint8 (b, H, W, 3), where they have one; those that
  have none are made together. Returns how many clips it made.

  Args:
    make: writes the clips; each file must appear whole.
    index, count: this process makes every count-th line, from the index-th on.

  Raises:
    UsageError: the manifest is not what it should be, lacks what the task needs, or
      there is no such part of it. Nothing is made then.
  """
  if not 0 <= index < count:
    raise UsageError(
      f"--process_index is {index}; expected 0 to {count - 1} for --process_count "
      f"{count}"
    )
  if batch < 1:
    raise UsageError(f"--batch is {batch}; expected 1 at least")
  kind = GENERATIONS[task]
  if kind.given:
    raise UsageError(
      f"task {task} needs {kind.given[0]} for every clip, which a manifest has not; "
      "expected a task of text and image"
    )
  folder, lines = pathlib.Path(manifest).parent, read_manifest(manifest)
  for line in lines:
    if line.image is None and kind.image:
      raise UsageError(f"{manifest}: {line.id} has no image, which task {task} needs")
    if line.image is not None and not (folder / line.image).is_file():
      raise UsageError(f"{manifest}: image of {line.id}: no file {folder / line.image}")
  ending = ".mp4" if "video" in kind.generated else ".wav"
  mine = lines[index::count]
  left = [line for line in mine if not (out / (line.id + ending)).is_file()]
  with tqdm.tqdm(
    total=len(mine), initial=len(mine) - len(left), desc="clips", file=sys.stderr
  ) as bar:
    for lines in _batches(left, batch):
      make(lines, _inputs(lines, folder, spec, ending))
      bar.update(len(lines))
  print(f"{len(left)} of {len(mine)} clips made, the others were there: {out}")
  return len(left)


def _batches(lines: list[Line], size: int) -> Iterator[list[Line]]:
  for bare in (False, True):
    alike = [line for line in lines if (line.image is None) == bare]
    for first in range(0, len(alike), size):
      yield alike[first : first + size]


def _inputs(lines: list[Line], folder: pathlib.Path, spec: ClipSpec, ending: str):
  if lines[0].image is None or ending == ".wav":  # sound alone takes no picture
    return {}
  images = []
  for line in lines:
    try:
      images.append(read_image(folder / line.image, spec.height, spec.width))
    except MediaError as e:
      raise UsageError(f"image of {line.id}: {e}") from e
  return {"image": np.stack(images)}
