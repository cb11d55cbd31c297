"""Films that go on: a clip that begins with a film's end, and both as one film.

A clip of p + 1 + 4 k frames begins with the film's last p + 1 (p of `--overlap`) and
with the whole audio tokens that end with it. These are encoded and stay clean
(`sampling.with_held`), the rest is sampled; the film gets the 4 k frames that are new,
and the sound from the last whole token on, over which one fades into the other.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ccl_jax.data.media.decode import (
  MediaError,
  picture_size,
  read_audio,
  read_video,
)
from ccl_jax.data.sources.windows import probe_with_sound
from ccl_jax.data.spec import SAMPLES_PER_TOKEN, ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.remote.paths import Place

LEAST = 5  # frames of a film, two latent ones
Streams = Mapping[str, np.ndarray]


class Extension(NamedTuple):
  """Films that clips go on with.

  Attributes:
    films: each by stream, `video` uint8 (F, H, W, 3) at the clip's rate and `audio`
      float32 (n,), as long as the picture.
    spec: of the clips with what they begin with.
    frames: p + 1, the frames that they begin with.
  """

  films: Sequence[Streams]
  spec: ClipSpec
  frames: int

  @property
  def begins(self) -> list[int]:
    """By film the sample at which its clip begins."""
    first = [self._length(film) - self.frames for film in self.films]
    return [_samples(n, self.spec) for n in first]

  @property
  def tokens(self) -> int:
    """Whole audio tokens of what clips begin with."""
    return _samples(self.frames, self.spec) // SAMPLES_PER_TOKEN

  def before(self) -> dict[str, np.ndarray]:
    """What the clips begin with, for `LoadedModel.generate`."""
    n, out = self.tokens * SAMPLES_PER_TOKEN, {}
    if "video" in self.films[0]:
      out["video"] = np.stack([film["video"][-self.frames :] for film in self.films])
    if "audio" in self.films[0]:
      parts = zip(self.films, self.begins)
      out["audio"] = np.stack([film["audio"][i : i + n] for film, i in parts])
    return out

  def joined(self, i: int, clip: Streams) -> dict[str, np.ndarray]:
    """The i-th film, followed by what is new of its clip."""
    film, out = self.films[i], {}
    if "video" in film:
      out["video"] = np.concatenate([film["video"], clip["video"][self.frames :]])
    if "audio" in film:
      begin, n = self.begins[i], self.tokens * SAMPLES_PER_TOKEN
      fade = np.linspace(0, 1, SAMPLES_PER_TOKEN, dtype=np.float32)
      last = slice(n - SAMPLES_PER_TOKEN, n)
      old, new = film["audio"][begin : begin + n][last], clip["audio"][last]
      mixed = old + fade * (new - old)
      kept = film["audio"][: begin + n - SAMPLES_PER_TOKEN]
      out["audio"] = np.concatenate([kept, mixed, clip["audio"][n:]])
    return out

  def _length(self, film: Streams) -> int:
    """Frames that a film lasts."""
    if "video" in film:
      return len(film["video"])
    return math.floor(len(film["audio"]) * self.spec.rate / self.spec.sample_rate)


def read_extension(
  paths: Sequence[Place], streams: Sequence[str], spec: ClipSpec, overlap: int
) -> Extension:
  """Reads films, at the clip's frame rate.

  Args:
    paths: of the films, one a clip.
    streams: that are made, and so must be there.
    spec: of what is made: the film's last frame, and 4 k new ones.
    overlap: frames before that one which clips begin with too, a multiple of 4; of a
      short film as many as there are.

  Raises:
    UsageError: a film cannot be read, lacks a stream, has another size, or is shorter
      than two latent frames.
  """
  try:
    read = {path: _read(path, streams, spec) for path in dict.fromkeys(paths)}
  except MediaError as e:
    raise UsageError(f"extend: {e}") from e
  made = Extension([read[path] for path in paths], spec, 1)
  shortest = min(made._length(film) for film in made.films)
  before = min(overlap, (shortest - 1) // 4 * 4)
  whole = dataclasses.replace(spec, frames=spec.frames + before)
  return made._replace(spec=whole, frames=before + 1)


def _read(path: Place, streams: Sequence[str], spec: ClipSpec) -> dict[str, np.ndarray]:
  info = probe_with_sound(path)
  for s, has in (("video", info.has_video), ("audio", info.has_audio)):
    if s in streams and not has:
      what = {"video": "picture", "audio": "sound"}[s]
      raise UsageError(
        f"extend: {path} has no {what}, which this task makes: name another film, or a "
        "--task that makes what it has, as t2v makes pictures alone"
      )
  if "video" not in streams:
    sound = read_audio(path, sample_rate=spec.sample_rate)
    frames = math.floor(len(sound) * spec.rate / spec.sample_rate)
    _require_length(path, frames, spec)
    return {"audio": sound[: _samples(frames, spec)]}
  size = picture_size(path)
  if size != (spec.height, spec.width):
    raise UsageError(
      f"extend: {path} has {size[1]} x {size[0]} pixels (width x height), the clip "
      f"{spec.width} x {spec.height}: give --size {size[1]}x{size[0]}, or a film of "
      "the clip's size"
    )
  frames = math.floor((info.duration or 0) * spec.rate + 0.5)
  _require_length(path, frames, spec)
  out = {"video": _pictures(path, spec, frames)}
  if "audio" in streams:
    n = _samples(frames, spec)
    sound = read_audio(path, sample_rate=spec.sample_rate)[:n]
    out["audio"] = np.pad(sound, (0, n - len(sound)))
  return out


def _pictures(path: Place, spec: ClipSpec, frames: int) -> np.ndarray:
  """So many pictures from a film's beginning; clips have 4 k + 1 at a time."""
  rest = frames - (4 * ((frames - 1) // 4) + 1)
  most = dataclasses.replace(spec, frames=frames - rest)
  if not rest:
    return read_video(path, most)
  start = probe_with_sound(path).start
  first = read_video(path, dataclasses.replace(spec, frames=LEAST))[:rest]
  return np.concatenate([first, read_video(path, most, start + rest / spec.fps)])


def _require_length(path: Place, frames: int, spec: ClipSpec) -> None:
  if frames < LEAST:
    raise UsageError(
      f"extend: {path} lasts {max(frames, 0)} frames at {spec.fps:g} fps; expected at "
      f"least {LEAST}, two latent frames"
    )


def _samples(frames: int, spec: ClipSpec) -> int:
  """Samples of so many frames."""
  return math.floor(frames / spec.rate * spec.sample_rate)
