"""A clip that was made: frames, sound and settings, and how they are saved."""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from ccl_jax.errors import UsageError
from ccl_jax.files import write_text
from ccl_jax.generation.joining import write_joined
from ccl_jax.generation.scratch import Scratch
from ccl_jax.remote.paths import Place, place
from ccl_jax.viz.media import write_mp4, write_sound, write_wav


@dataclasses.dataclass(frozen=True)
class Clip:
  """A clip that was made.

  Attributes:
    frames: RGB, of the clip's size; None of a sound alone.
    sound: (samples in [-1, 1], samples per second), mono; None of a silent picture.
    settings: what it was made with, as JSON: `generate --settings` makes it again.
    fps: frames per second.
    given: by "video" or "audio" the file of a stream that was not made: it is part of
      the saved clip as it is, see `joining`.
    scratch: what must be there as long as the clip is.
  """

  frames: UInt8[np.ndarray, "F H W 3"] | None
  sound: tuple[Float32[np.ndarray, "n"], int] | None
  settings: Mapping[str, Any]
  fps: float | int
  given: Mapping[str, Place] = dataclasses.field(default_factory=dict)
  scratch: Any = dataclasses.field(default=None, repr=False)

  def __repr__(self) -> str:
    parts = [f"task={self.settings['task']!r}", f"seed={self.settings['seed']}"]
    if self.frames is not None:
      parts.append("frames={} x {} x {}".format(*self.frames.shape))
    if self.sound is not None:
      parts.append(f"sound={len(self.sound[0]) / self.sound[1]:.2f} s")
    return f"Clip({', '.join(parts)})"

  @property
  def suffix(self) -> str:
    """Of its file: ".mp4", or ".wav" of a sound alone."""
    return ".wav" if self.frames is None else ".mp4"

  def save(self, path: str | os.PathLike) -> Place:
    """Writes the clip, after NAME.json with its settings. Returns the clip's path.

    Args:
      path: NAME with the clip's `suffix`, which is added where there is none.

    Raises:
      UsageError: the path has another suffix, or a given file is gone.
      WriteError: the system refused.
    """
    path = place(path)
    if not path.suffix:
      path = path.parent / f"{path.name}{self.suffix}"
    if path.suffix != self.suffix:
      raise UsageError(f"{path}: expected NAME{self.suffix} for this clip")
    text = json.dumps(self.settings, indent=2, ensure_ascii=False) + "\n"
    write_text(path.parent / f"{path.name.removesuffix(self.suffix)}.json", text)
    if self.given:
      self._save_joined(path)
    elif self.frames is None:
      write_wav(path, *self.sound)
    else:
      write_mp4(path, self.frames, self.fps, *(self.sound or ()))
    return path

  def _save_joined(self, path: Place) -> None:
    ((kind, file),) = self.given.items()
    scratch = Scratch()
    made = scratch.path / "made.mp4"
    if kind == "audio":
      write_mp4(made, self.frames, self.fps)
    else:
      write_sound(made, self.sound[0][None], self.sound[1])
    write_joined(path, made, file, kind, len(self.frames) / self.fps)
