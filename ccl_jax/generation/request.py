"""What somebody asks for: the values that make clips, by the names of generate's flags.

The command line and `api.Pipeline` fill the same fields, which are checked here, in the
words of the flags, before anything is loaded.
"""

import dataclasses
import numbers
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from ccl_jax.axes import STREAMS
from ccl_jax.data.spec import ClipSpec
from ccl_jax.diffusion.guidance import Guidance, get_guidance
from ccl_jax.errors import UsageError, finite_numbers
from ccl_jax.generation.defaults import FIELDS, check_idle, default_form
from ccl_jax.generation.description import Description
from ccl_jax.generation.sampling import Sampling, variant_of
from ccl_jax.generation.sizes import AUTO, resized
from ccl_jax.generation.step_cache import absolute_cache, check_cache
from ccl_jax.remote.paths import Place
from ccl_jax.seeds import whole_seed
from ccl_jax.tasks import GENERATIONS, INPUTS, Generation, check_inputs

_NEGATIVES = "negative_prompt", *(f"negative_prompt_{s}" for s in STREAMS)
_SIZES = "frames", "height", "width"


@dataclasses.dataclass(frozen=True)
class Request:
  """What clips are asked for; None is what the model or the task has by itself.

  Attributes:
    prompt: of every clip; None: those of a manifest.
    task: a name of `tasks.GENERATIONS`.
    image, last_image, extend, audio, video: files, one of all clips or one for each.
    negative_prompt, negative_prompt_video, negative_prompt_audio: of both streams or of
      one, one text of all clips or one for each.
    seed: one of all clips, or one for each.
    frames, height, width: sizes of the clips.
    seconds, size: in place of `frames`, and of `width` and `height` as WxH, or "auto":
      as an image has it.
    guidance: a form of `diffusion.guidance.GUIDANCE`.
    scale_video, scale_audio: its scales, in the form's order, or one for all.
    steps, shift, solver, schedule, guidance_interval, guidance_every, cache,
      skip_block, window, overlap: see `sampling.Sampling`.
    sequential: evaluations of a step run one after the other.
    manifest: lines of a manifest are made, and checked one by one.
  """

  prompt: Sequence[str] | None = None
  task: Any = "joint"
  image: Sequence[Place] | None = None
  last_image: Sequence[Place] | None = None
  extend: Sequence[Place] | None = None
  audio: Sequence[Place] | None = None
  video: Sequence[Place] | None = None
  negative_prompt: Sequence[str] | None = None
  negative_prompt_video: Sequence[str] | None = None
  negative_prompt_audio: Sequence[str] | None = None
  seed: Sequence[Any] = (0,)
  frames: Any = None
  height: Any = None
  width: Any = None
  seconds: Any = None
  size: Any = None
  guidance: Any = None
  scale_video: Any = None
  scale_audio: Any = None
  steps: Any = None
  shift: Any = None
  solver: Any = None
  schedule: Any = None
  guidance_interval: Any = None
  guidance_every: Any = None
  cache: Any = None
  skip_block: Any = None
  window: Any = None
  overlap: Any = None
  sequential: bool = False
  manifest: bool = False

  @property
  def files(self) -> dict[str, Sequence[Place]]:
    """The files that are given, by input."""
    return {n: x for n in INPUTS if (x := getattr(self, n)) is not None}

  @property
  def negatives(self) -> dict[str, Sequence[str]]:
    """The negative prompts that are given, by the name of their flag."""
    return {n: x for n in _NEGATIVES if (x := getattr(self, n)) is not None}

  def check(self) -> None:
    """Checks all that is known without the model.

    Raises:
      UsageError: values that do not go together, or are out of range.
    """
    if any(not p.strip() for p in self.prompt or ()):
      raise UsageError("--prompt is empty; expected a description, e.g. 'a red face'")
    names = "steps", "guidance_every", "skip_block", "window", "overlap"
    for name in (*_SIZES, *names):
      value = getattr(self, name)
      whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
      if not (value is None or whole):
        raise UsageError(f"--{name}: got {value!r}; expected a whole number")
    for name in ("shift", "seconds"):
      if not isinstance(getattr(self, name), numbers.Real | None):
        raise UsageError(f"--{name}: got {getattr(self, name)!r}; expected a number")
    for name in ("task", "size", "guidance", "solver", "schedule", "cache"):
      kinds = str if name == "task" else str | None
      if not isinstance(getattr(self, name), kinds):
        raise UsageError(f"--{name}: got {getattr(self, name)!r:.80}; expected a text")
    steps = FIELDS["steps"]
    if self.steps is not None and not steps.holds(self.steps):
      raise UsageError(f"--steps: got {self.steps}; expected {steps.words}")
    for one, others in (("seconds", ("frames",)), ("size", ("width", "height"))):
      for other in (o for o in others if getattr(self, o) is not None):
        if getattr(self, one) is not None:
          raise UsageError(f"--{one} and --{other}: expected one of them only")
    for stream in STREAMS:
      finite_numbers(f"scale_{stream}", getattr(self, f"scale_{stream}"))
    if self.manifest:
      needed = GENERATIONS.get(self.task, GENERATIONS["joint"]).needs()
      check_inputs(self.task, needed)
      return
    check_inputs(self.task, self.files)
    if self.size == AUTO and not self.files.keys() & {"image", "last_image"}:
      raise UsageError(
        f"--size {AUTO} takes the aspect ratio of --image or --last_image: give one, "
        "or a size, as 832x480"
      )
    given = self.files | self.negatives | {"seed": self.seed}
    for name, values in given.items():
      if len(values) not in (1, len(self.prompt)):
        raise UsageError(
          f"--{name}: got {len(values)} for {len(self.prompt)} prompts; expected one, "
          "or one for each"
        )
    for name, paths in self.files.items():
      for path in paths:
        if not path.is_file():
          raise UsageError(f"--{name}: no file {path}")
    for seed in self.seed:
      whole_seed(seed)

  def planned(self, about: Description, given: Collection[str] | None = None) -> "Plan":
    """How a model makes the clips, with what is its own in place of None.

    Args:
      about: the model.
      given: names of what must have an effect; None: of all that is not by itself.

    Raises:
      UsageError: it cannot, or something that is given has no effect.
    """
    # The lines of a manifest are checked one by one.
    inputs = tuple(self.files)
    kind = GENERATIONS[self.task]
    if not self.manifest:
      kind = about.check(self.task, inputs)
    sizes = {name: getattr(self, name) for name in _SIZES}
    spec = resized(about.spec, sizes, self.size, self.seconds)
    name = self.guidance or default_form(about.model, about.guidance, self.schedule)
    form = get_guidance(name, variant_of(about.model))
    check_idle(self._given() if given is None else given, self.task, kind, name, form)
    scales = {"video": self.scale_video, "audio": self.scale_audio}
    asked = Sampling(
      guidance=name,
      scales=parse_scales(form, scales),
      steps=self.steps,
      shift=self.shift,
      solver=self.solver,
      batched=not self.sequential,
      skip_block=self.skip_block,
      schedule=self.schedule,
      guidance_interval=self.guidance_interval
      and tuple(finite_numbers("guidance_interval", self.guidance_interval)),
      guidance_every=self.guidance_every,
      cache=self.cache and absolute_cache(self.cache),
      window=self.window,
      overlap=self.overlap,
    )
    own = {s: getattr(self, f"negative_prompt_{s}") for s in STREAMS}
    negative = {s: texts or self.negative_prompt for s, texts in own.items()}
    sampling = about.sampling(asked, spec)
    if sampling.cache is not None:
      check_cache(sampling.cache, self.task, sampling.guidance)
    # A size that is asked for is kept.
    own_size = self.height is self.width is self.size is None or (
      self.size == AUTO and AUTO
    )
    own_length = self.frames is self.seconds is None
    return Plan(self.task, kind, form, sampling, negative, spec, own_size, own_length)

  def _given(self) -> list[str]:
    """Names of the fields that are not as they are by themselves."""
    fields = dataclasses.fields(self)
    return [f.name for f in fields if getattr(self, f.name) != f.default]


class Plan(NamedTuple):
  """How a model makes the clips of a request.

  Attributes:
    task, kind: what is made.
    form: of guidance.
    sampling: complete.
    negative: by stream, one text of all clips or one for each; None: the model's own.
    spec: sizes of a clip.
    own_size, own_length: see `clips.Maker`.
  """

  task: str
  kind: Generation
  form: Guidance
  sampling: Sampling
  negative: Mapping[str, Sequence[str] | None]
  spec: ClipSpec
  own_size: bool | str
  own_length: bool


def parse_scales(
  guidance: Guidance, given: Mapping[str, Sequence[Any] | None]
) -> dict[str, dict[str, float]]:
  """{stream: {scale: value}} of what is given; one number serves for all scales.

  Args:
    guidance: the form, which names the scales.
    given: by stream, the values of its flag or None.

  Raises:
    UsageError: not numbers, or not as many as the guidance form has scales.
  """
  out = {}
  for stream, values in given.items():
    numbers = finite_numbers(f"scale_{stream}", values)
    out[stream] = numbers * (len(guidance.scales) if len(numbers) == 1 else 1)
  return guidance.named(out, "--scale_")
