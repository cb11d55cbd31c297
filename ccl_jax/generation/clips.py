"""Clips as files: made together, each written with what it was made with."""

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from ccl_jax import progress
from ccl_jax.axes import STREAMS
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.generation.clip import Clip
from ccl_jax.generation.description import Description
from ccl_jax.generation.extension import read_extension
from ccl_jax.generation.inputs import Files, read_inputs
from ccl_jax.generation.lengths import check_window, extension_overlap
from ccl_jax.generation.previews import Listener
from ccl_jax.generation.prompts import texts_of
from ccl_jax.generation.sampling import Sampling
from ccl_jax.generation.settings import describe, read_about
from ccl_jax.generation.sizes import AUTO, as_long_as_sound, spec_for
from ccl_jax.generation.windows import Watch
from ccl_jax.remote.paths import Place
from ccl_jax.tasks import GENERATIONS

# What tells two clips of one name apart, beside where their parameters come from.
_MADE_WITH = (
  "task", "prompt", "seed", "image", "last_image", "extend", "audio", "video",
  "guidance", "scales", "steps", "shift", "solver", "schedule", "guidance_interval",
  "guidance_every", "cache", "window", "overlap",
  "frames", "height", "width", "fps", "ckpt", "lora", "quantize",
)  # fmt: skip


class Maker(NamedTuple):
  """What all clips of a command share; see `pipeline.LoadedModel.generate`.

  Attributes:
    load: the pipeline, which is read when it is first asked for, after the texts that
      it is asked for with: see `pipeline.LoadedModel.load`.
    about: what its checkpoint says of itself.
    negative: by stream, one text of all clips or one for each; None: the model's own.
    out: the folder of the clips; None: they are not written.
    own_size: clips take the aspect ratio of their images, if the model's release has a
      rule for it, or if it is "auto"; else they have the sizes of `spec`.
    own_length: nobody has said how long clips are: as long as a sound that is given.
    loras: each as FILE:STRENGTH, as the settings of a clip have them.
    quantize: a kind of `quantized`, or None.
    watch, preview: hear of every step; see `pipeline.LoadedModel.generate`.
  """

  load: Callable[[Sequence[str]], Any]
  about: Description
  task: str
  sampling: Sampling
  negative: Mapping[str, Sequence[str] | None]
  spec: ClipSpec
  out: Place | None = None
  own_size: bool | str = False
  own_length: bool = False
  loras: Sequence[str] = ()
  quantize: str | None = None
  watch: Watch | None = None
  preview: Listener | None = None

  def spec_of(self, files: Files) -> ClipSpec:
    """The sizes of clips that are made from such files."""
    spec, area = self.spec, self.about.area
    if self.own_length:
      spec = as_long_as_sound(spec, files)
      if "extend" in files:  # with what it begins with, as long as in training
        frames = max(spec.frames - self.overlap, 5)
        spec = dataclasses.replace(spec, frames=frames)
    if self.own_size == AUTO and area is None:
      area = spec.height * spec.width
    if not self.own_size or area is None:
      return spec
    return spec_for(spec, files, area, self.about.rule)

  @property
  def overlap(self) -> int:
    """Frames that a clip shares with the film that it extends, beside the last one."""
    return self.sampling.overlap or extension_overlap(self.about.spec.frames)

  def negatives(self) -> dict[str, Sequence[str]]:
    """The negative prompts by stream, with the model's own where none are given."""
    own = self.about.negative
    return {s: texts or [own.get(s, "")] for s, texts in self.negative.items()}

  def open(
    self,
    prompts: Sequence[str],
    negative: Mapping[str, Sequence[str]] | None = None,
  ) -> Any:  # a LoadedModel
    """The pipeline; the first call is to have the prompts of all clips.

    Args:
      prompts: of clips.
      negative: of these clips, in place of what all share.
    """
    form, kind = self.about.release.sound, GENERATIONS[self.task]
    return self.load(texts_of(prompts, negative or self.negatives(), kind, form))

  def clips(
    self,
    prompts: Sequence[str],
    seeds: Sequence[int],
    files: Files,
    negative: Mapping[str, Sequence[str]] | None = None,
  ) -> list[Clip]:
    """A batch of clips.

    Args:
      prompts: of the clips.
      seeds: one of all clips, or one for each.
      files: for each input a file of every clip.
      negative: in place of what all share.

    Raises:
      UsageError: a file cannot be read, or see `pipeline.LoadedModel.generate`.
    """
    check_window(self.sampling.window, self.sampling.overlap)
    spec = self.spec_of(files)
    # First: it may be what is wrong.
    given = {name: paths for name, paths in files.items() if name != "extend"}
    inputs, whole, extension = read_inputs(given, spec, self.about.fit), spec, None
    if "extend" in files:
      streams = GENERATIONS[self.task].generated
      extension = read_extension(files["extend"], streams, spec, self.overlap)
      inputs["extend"], whole = extension.before(), extension.spec
    _, join = self.about.join(whole, self.sampling, GENERATIONS[self.task])
    if join is None and extension is None and self.sampling.overlap is not None:
      raise UsageError(
        f"--overlap does nothing: a clip of {whole.frames} frames is made in one; "
        "leave it out, or give --window"
      )
    negative = negative or self.negatives()
    pipeline = self.open(prompts, negative)
    clips = pipeline.generate(
      self.task,
      prompts,
      sampling=self.sampling,
      seed=seeds,
      negative=negative,
      spec=whole,
      watch=self.watch,
      **({} if self.preview is None else {"preview": self.preview}),
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
      origin=pipeline.origin,
      made=pipeline.made,
    )
    given = {s: x for s, x in inputs.items() if s in STREAMS}
    made = [{s: x[i] for s, x in (given | clips).items()} for i in range(len(prompts))]
    if extension is not None:
      made = [extension.joined(i, clip) for i, clip in enumerate(made)]
    return [
      Clip(
        frames=streams.get("video"),
        sound=(streams["audio"], spec.sample_rate) if "audio" in streams else None,
        settings=json.loads(json.dumps(about[i])),
        fps=spec.fps,
        given={s: files[s][i] for s in GENERATIONS[self.task].given},
      )
      for i, streams in enumerate(made)
    ]

  def make(
    self,
    prompts: Sequence[str],
    seeds: Sequence[int],
    files: Files,
    names: Mapping[int, str],
    negative: Mapping[str, Sequence[str]] | None = None,
    *,
    numbered: bool = False,
  ) -> list[Place]:
    """Makes a batch of clips, and writes OUT/NAME.mp4 or, of sound alone, OUT/NAME.wav
    of those that `names` has, each after its NAME.json. Returns what it wrote; of
    several processes that make clips together the first one writes.

    Args:
      prompts, seeds, files, negative: see `clips`.
      names: by number of a clip.
      numbered: a name that a clip of other settings has gets a number.

    Raises:
      UsageError: see `clips`.
    """
    clips = self.clips(prompts, seeds, files, negative)
    if jax.process_index() and self.open(prompts, negative).mesh.is_multi_process:
      return []
    progress.phase("writing")
    free = self._free if numbered else lambda name, _: name
    return [
      clips[i].save(self.out / f"{free(name, clips[i].settings)}{clips[i].suffix}")
      for i, name in names.items()
    ]

  def differs(self, name: str, prompt: str, seed: int, files: Files) -> str:
    """How the clip of a name was made otherwise than it would be now; "" if not, or if
    nothing says so.
    """
    found = read_about(self.out / f"{name}.json")
    if found is None:
      return ""
    origin = {"ckpt": str(self.about.place), "fingerprints": {}}
    if self.loras:
      origin["lora"] = list(self.loras)
    if self.quantize is not None:
      origin["quantize"] = self.quantize
    negative = {s: texts or [""] for s, texts in self.negative.items()}
    spec = self.spec_of(files)
    options = {"sampling": self.sampling, "spec": spec, "origin": origin}
    (now,) = describe(self.task, [prompt], [seed], files, negative=negative, **options)
    now = json.loads(json.dumps(now))
    for key in _MADE_WITH:
      if found.get(key) != now.get(key):
        return f"{key} {found.get(key)} there, {now.get(key)} here"
    return ""

  def _free(self, name: str, about: Mapping[str, Any]) -> str:
    """NAME, NAME_2, ...: the first that no clip of other settings has."""
    numbers = (f"{name}_{n}" for n in itertools.count(2))
    for free in itertools.chain([name], numbers):
      found = read_about(self.out / f"{free}.json")
      made = [self.out / f"{free}{end}" for end in (".mp4", ".wav")]
      if found == about or (found is None and not any(p.exists() for p in made)):
        return free
    raise AssertionError("unreachable: numbers do not end")
