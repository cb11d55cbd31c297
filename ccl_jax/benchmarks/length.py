"""Measures how well clips longer than those of training hold together.

  python -m ccl_jax.bench length
  python -m ccl_jax.bench length --ckpt=runs/quickstart --fold=8 --clips=4 --steps=20

Of talking faces, since what is said and seen can be told of them. The ways:

  cut        clips of training's length one after the other: nothing is joined
  direct     the network at once on all of the clip
  extended N  each part begins with the last N + 1 frames of what is there (--extend)
  parts N    all parts at once, N frames shared and averaged at every step (--window)

Prints for each what steps there are where parts meet, and inside of them
(benchmarks/seams.py), and the median seconds of a clip without compiling; of `direct`,
which has no joins, the places are those of `cut`. Then the same as JSON. --out writes
the clips.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
from absl import flags

from ccl_jax import cli
from ccl_jax.benchmarks.seams import Clip, seams
from ccl_jax.benchmarks.timing import show
from ccl_jax.errors import UsageError
from ccl_jax.generation.api import load_model
from ccl_jax.generation.extension import Extension
from ccl_jax.generation.lengths import join_of
from ccl_jax.generation.sampling import Sampling
from ccl_jax.metrics.talking_curves import HUES
from ccl_jax.remote.paths import place
from ccl_jax.viz.media import write_mp4

CKPT = flags.DEFINE_string("ckpt", "quickstart", "Checkpoint, as for generate.")
FOLD = flags.DEFINE_integer("fold", 8, "Times the length of a clip of training.", 2)
CLIPS = flags.DEFINE_integer("clips", 4, "Of each way, of seeds 0, 1, ...", 1)
STEPS = flags.DEFINE_integer("steps", 20, "Of sampling.", 1)
OUT = flags.DEFINE_string("out", None, "Folder for the clips; none are kept without.")

PROMPT = 'a {} face in the middle says "ba do ba"'


class Maker:
  """Makes long clips by every way, each of one seed.

  Args:
    pipeline: the `LoadedModel` of a joint model of talking faces.
    fold: times the length of a clip of training.
    steps: of sampling.
  """

  def __init__(self, pipeline, fold: int, steps: int):
    self._pipeline, self._steps = pipeline, steps
    trained = pipeline.spec
    self.frames = trained.frames
    # Whole latents: what is added to a clip is a multiple of four frames.
    self.spec = dataclasses.replace(trained, frames=fold * (trained.frames - 1) + 1)
    self._cuts = [i * (trained.frames - 1) for i in range(1, fold)]

  def ways(self) -> dict[str, Callable[[int], Clip]]:
    """By name a function from a seed to a clip."""
    shared = [n for n in (8, 16, 24) if n <= self.frames - 5]
    of = lambda n: lambda seed: self.parts(seed, n)
    extended = {f"extended {n}": lambda seed, n=n: self.extended(seed, n)
                for n in shared}  # fmt: skip
    parts = {f"parts {n}": of(n) for n in shared}
    return {"cut": self.cut, "direct": self.direct} | extended | parts

  def cut(self, seed: int) -> Clip:
    """Clips of training's length, the last frame of each left out but for the last."""
    made = [self._make(seed + 1000 * i, hue=_hue(seed))
            for i in range(len(self._cuts) + 1)]  # fmt: skip
    n = self._samples(self.frames - 1)
    video = [clip["video"][:-1] for clip in made[:-1]] + [made[-1]["video"]]
    audio = [clip["audio"][:n] for clip in made[:-1]] + [made[-1]["audio"]]
    return self._clip(np.concatenate(video), np.concatenate(audio), seed, self._cuts)

  def direct(self, seed: int) -> Clip:
    """The network at once on all of the clip."""
    made = self._make(seed, spec=self.spec)
    return self._clip(made["video"], made["audio"], seed, self._cuts)

  def parts(self, seed: int, overlap: int) -> Clip:
    """Parts at once, of which neighbours share `overlap` frames."""
    options = {"window": self.frames, "overlap": overlap}
    made = self._make(seed, spec=self.spec, **options)
    _, join = join_of(self.spec, **options)
    # Where a part gives way to the next: half-way in what they share.
    ends = [4 * (s + join.frames) - 3 for s in join.starts[:-1]]
    joins = [(4 * s + 1 + end) // 2 for s, end in zip(join.starts[1:], ends)]
    return self._clip(made["video"], made["audio"], seed, joins)

  def extended(self, seed: int, overlap: int) -> Clip:
    """A clip that is extended until it is long enough."""
    film, joins, number = self._make(seed), [], 0
    while (have := len(film["video"])) < self.spec.frames:
      number += 1
      joins.append(have)
      new = min(self.frames - 1 - overlap, self.spec.frames - have)
      spec = dataclasses.replace(self._pipeline.spec, frames=new + 1 + overlap)
      begun = Extension([film], spec, overlap + 1)
      made = self._make(seed + 1000 * number, spec=spec, extend=begun.before(),
                        hue=_hue(seed))  # fmt: skip
      film = begun.joined(0, made)
    return self._clip(film["video"], film["audio"], seed, joins)

  def _make(self, seed, *, spec=None, extend=None, hue=None, **options):
    made = self._pipeline.generate(
      "joint",
      PROMPT.format(hue or _hue(seed)),
      sampling=Sampling(steps=self._steps, **options),
      seed=seed,
      spec=spec,
      extend=extend,
      negative=self._pipeline.negative,
    )
    return {s: x[0] for s, x in made.items()}

  def _clip(self, video, audio, seed, joins) -> Clip:
    audio = audio[: self._samples(len(video))]
    return Clip(video, audio, _hue(seed), joins)

  def _samples(self, frames: int) -> int:
    return int(frames / self.spec.rate * self.spec.sample_rate)


def _hue(seed: int) -> str:
  return list(HUES)[seed % len(HUES)]


def rows(pipeline, out) -> Iterator[dict]:
  """Figures of every way, one after the other.

  Args:
    pipeline: the `LoadedModel` of a joint model of talking faces.
    out: the folder for clips, or None.
  """
  maker = Maker(pipeline, FOLD.value, STEPS.value)
  for name, make in maker.ways().items():
    clips, seconds = [], []
    for seed in range(CLIPS.value):
      start = time.perf_counter()
      clips.append(make(seed))
      seconds.append(time.perf_counter() - start)
      if out is not None:
        path = out / f"{name.replace(' ', '_')}_{seed}.mp4"
        write_mp4(path, clips[-1].video, pipeline.spec.fps, clips[-1].audio)
    later = seconds[1:] or seconds  # the first compiles
    row = {"what": name, "seconds": float(np.median(later))}
    yield row | seams(clips, maker.frames, pipeline.spec.fps)


def main() -> None:
  """Measures by the flags, and prints a table and a JSON object."""
  pipeline = load_model(CKPT.value)
  if len(pipeline.model.streams) < 2 or pipeline.takes_channels:
    raise UsageError(
      f"--ckpt {CKPT.value}: expected a joint model that makes clips of text alone"
    )
  setup = {
    "device": jax.devices()[0].device_kind,
    "cores": os.cpu_count(),
    "ckpt": CKPT.value,
    "fold": FOLD.value,
    "clips": CLIPS.value,
    "steps": STEPS.value,
  }
  show(setup, list(rows(pipeline, None if OUT.value is None else place(OUT.value))))


if __name__ == "__main__":
  cli.run(main)
