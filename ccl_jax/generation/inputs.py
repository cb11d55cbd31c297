"""Files that clips are made from, decoded for a clip."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from ccl_jax.data.media.decode import MediaError, read_audio, read_image, read_video
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError

Files = Mapping[str, Sequence[pathlib.Path]]  # by input, a file for every clip


def read_inputs(files: Files, spec: ClipSpec) -> dict[str, np.ndarray]:
  """The inputs of `Pipeline.generate`: `image` uint8 (b, H, W, 3), `audio` float32
  (b, n), `video` uint8 (b, F, H, W, 3).

  Raises:
    UsageError: a file is not there, cannot be decoded, or is too short.
  """
  readers = {
    "image": lambda path: read_image(path, spec.height, spec.width),
    "audio": lambda path: _read_sound(path, spec),
    "video": lambda path: read_video(path, spec),
  }
  out = {}
  for name, paths in files.items():
    try:
      read = {path: readers[name](path) for path in dict.fromkeys(paths)}
    except MediaError as e:
      raise UsageError(f"{name}: {e}") from e
    out[name] = np.stack([read[path] for path in paths])
  return out


def _read_sound(path: pathlib.Path, spec: ClipSpec) -> np.ndarray:
  wave = read_audio(path)
  if len(wave) < spec.samples:
    raise UsageError(
      f"audio: {path} lasts {len(wave) / spec.sample_rate:.2f} s; expected at least "
      f"{spec.samples / spec.sample_rate:.2f} s for {spec.frames} frames: give longer "
      "sound or fewer frames"
    )
  return wave[: spec.samples]
