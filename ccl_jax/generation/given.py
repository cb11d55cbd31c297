"""What a program gives to clips: files, or arrays, which become files without a loss.

So arrays are fitted to a clip, cut and joined as files are.
"""

import dataclasses
import functools
import numbers
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ccl_jax.errors import UsageError
from ccl_jax.generation.clip import Clip
from ccl_jax.generation.scratch import Scratch
from ccl_jax.generation.settings import ARRAY
from ccl_jax.remote.paths import Place, place
from ccl_jax.viz.media import write_lossless, write_png, write_samples

_EXPECTED = {
  "image": "a file, uint8 (H, W, 3) or a picture of Pillow",
  "last_image": "a file, uint8 (H, W, 3) or a picture of Pillow",
  "extend": "a file, or a clip that was made",
  "audio": "a file, or (samples, samples per second)",
  "video": "a file, uint8 (F, H, W, 3), or (frames, frames per second)",
}


def given_files(
  given: Mapping[str, Any], fps: float | int
) -> tuple[dict[str, list[Place]], Scratch | None]:
  """Files of what is given to clips, by input, and the folder of those that were made.

  Args:
    given: by input a file, an array or a list of these; None: nothing.
    fps: frames per second of a film without a rate.

  Raises:
    UsageError: something is neither.
  """
  scratch, files = None, {}
  for name, value in given.items():
    if value is None:
      continue
    files[name] = []
    for i, x in enumerate(value if isinstance(value, list) else [value]):
      if isinstance(x, str | os.PathLike):
        files[name].append(place(x))
        continue
      scratch = scratch or Scratch()
      files[name].append(_WRITERS[name](x, scratch.path / f"{ARRAY} {name} {i}", fps))
  return files, scratch


def _image(x: Any, path: pathlib.Path, _, name: str = "image") -> pathlib.Path:
  from PIL import Image

  path = path.parent / f"{path.name}.png"
  if isinstance(x, Image.Image):
    x.save(path, format="png")
    return path
  x = _pixels(name, x, 3)
  write_png(path, x)
  return path


def _video(x: Any, path: pathlib.Path, fps: float | int) -> pathlib.Path:
  x, fps = x if isinstance(x, tuple) and len(x) == 2 else (x, fps)
  x = _pixels("video", x, 4)
  _check_rate("video", fps, "frames")
  path = path.parent / f"{path.name}.mkv"
  write_lossless(path, x, fps)
  return path


def _audio(x: Any, path: pathlib.Path, _) -> pathlib.Path:
  if not (isinstance(x, tuple) and len(x) == 2):
    raise _wrong("audio", x)
  samples, rate = np.asarray(x[0]), x[1]
  _check_rate("audio", rate, "samples")
  if samples.ndim != 1 or not samples.size or samples.dtype.kind not in "fi":
    raise _wrong("audio", samples)
  if samples.dtype.kind == "i":
    samples = samples / -float(np.iinfo(samples.dtype).min)
  if not np.isfinite(samples).all():
    raise UsageError("--audio: got samples that are no finite numbers")
  path = path.parent / f"{path.name}.wav"
  write_samples(path, samples.astype(np.float32), int(rate))
  return path


def _clip(x: Any, path: pathlib.Path, _) -> pathlib.Path:
  if not isinstance(x, Clip):
    raise _wrong("extend", x)
  return pathlib.Path(x.save(path.parent / f"{path.name}{x.suffix}"))


_WRITERS = {
  "image": _image,
  "last_image": functools.partial(_image, name="last_image"),
  "extend": _clip,
  "audio": _audio,
  "video": _video,
}


def _pixels(name: str, x: Any, axes: int) -> np.ndarray:
  x = np.asarray(x)
  if x.dtype != np.uint8 or x.ndim != axes or x.shape[-1] != 3 or 0 in x.shape:
    raise _wrong(name, x)
  return x


def _check_rate(name: str, rate: Any, what: str) -> None:
  real = isinstance(rate, numbers.Real) and not isinstance(rate, bool)
  if not (real and 0 < rate < 1e6):
    raise UsageError(f"--{name}: got {rate!r:.80} {what} per second; expected a number")


def _wrong(name: str, x: Any) -> UsageError:
  got = type(x).__name__
  if isinstance(x, np.ndarray):
    got = f"{x.dtype} {x.shape}"
  return UsageError(f"--{name}: got {got}; expected {_EXPECTED[name]}")


def without_names(clip: Clip, scratch: Scratch | None) -> Clip:
  """The clip, whose settings call arrays by their place and not by a file that goes.

  Args:
    clip: that was made.
    scratch: of the files that arrays became; the clip keeps it.
  """
  if scratch is None:
    return clip
  folder = f"{scratch.path}{os.sep}"

  def renamed(x: Any) -> Any:
    if isinstance(x, dict):
      return {renamed(k): renamed(v) for k, v in x.items()}
    if isinstance(x, list):
      return [renamed(v) for v in x]
    return x.removeprefix(folder) if isinstance(x, str) else x

  return dataclasses.replace(clip, settings=renamed(clip.settings), scratch=scratch)
