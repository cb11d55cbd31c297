"""Clips as files: made together, each written with what it was made with."""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ccl_jax.data.spec import ClipSpec
from ccl_jax.files import write_text
from ccl_jax.generation.inputs import Files, read_inputs
from ccl_jax.generation.pipeline import Pipeline
from ccl_jax.generation.sampling import Sampling
from ccl_jax.generation.settings import describe
from ccl_jax.generation.sizes import spec_for
from ccl_jax.viz.media import write_mp4, write_wav


class Maker(NamedTuple):
  """What all clips of a command share; see `Pipeline.generate`.

  Attributes:
    negative: by stream, one text of all clips, or one for each.
    area: pixels of clips that take the aspect ratio of their first image; None: all
      have the sizes of `spec`.
    rule: by which such a size is found; see `sizes.RULES`.
  """

  pipeline: Pipeline
  task: str
  sampling: Sampling
  negative: Mapping[str, Sequence[str]]
  spec: ClipSpec
  out: pathlib.Path
  area: int | None = None
  rule: str = "within"

  def make(
    self,
    prompts: Sequence[str],
    seeds: Sequence[int],
    files: Files,
    names: Mapping[int, str],
    progress: Callable[[Any], None] | None = None,
    negative: Mapping[str, Sequence[str]] | None = None,
  ) -> list[pathlib.Path]:
    """Makes a batch of clips, and writes OUT/NAME.mp4 or, of sound alone, OUT/NAME.wav
    of those that `names` has, each after its NAME.json. Returns what it wrote.

    Args:
      seeds: one of all clips, or one for each.
      files: for each input a file of every clip.
      names: by number of a clip.
      negative: in place of what all share.

    Raises:
      UsageError: a file cannot be read, or see `Pipeline.generate`.
    """
    negative = negative or self.negative
    spec = spec_for(self.spec, files, self.area, self.rule)
    inputs = read_inputs(files, spec)
    clips = self.pipeline.generate(
      self.task,
      prompts,
      sampling=self.sampling,
      seed=seeds,
      negative=negative,
      spec=spec,
      progress=progress,
      **inputs,
    )
    about = describe(
      self.task,
      prompts,
      seeds,
      files,
      negative=negative,
      sampling=self.sampling,
      spec=spec,
      origin=self.pipeline.origin,
    )
    given = {s: x for s, x in inputs.items() if s != "image"}
    return [
      self._write(name, {s: x[i] for s, x in (given | clips).items()}, about[i])
      for i, name in names.items()
    ]

  def _write(self, name: str, clip: Mapping[str, np.ndarray], about) -> pathlib.Path:
    text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
    write_text(self.out / f"{name}.json", text)
    if "video" in clip:
      path = self.out / f"{name}.mp4"
      write_mp4(path, clip["video"], self.spec.fps, clip.get("audio"))
    else:
      path = self.out / f"{name}.wav"
      write_wav(path, clip["audio"], self.spec.sample_rate)
    return path
