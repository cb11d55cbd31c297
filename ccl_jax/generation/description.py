"""What a checkpoint says of itself, and so what can be made with it."""

import dataclasses
import os
from collections.abc import Collection, Mapping
from typing import Any

from ccl_jax.checkpoints.find import Parameters, find_parameters
from ccl_jax.data.spec import ClipSpec
from ccl_jax.diffusion.guidance import get_guidance
from ccl_jax.errors import UsageError
from ccl_jax.generation.defaults import completed
from ccl_jax.generation.lengths import Join, join_of
from ccl_jax.generation.release import ANY, Release, release_of
from ccl_jax.generation.sampling import Sampling, variant_of
from ccl_jax.models.joint import JointDiT
from ccl_jax.models.presets import with_default_kernel
from ccl_jax.remote.paths import Place
from ccl_jax.shipped import checkpoint
from ccl_jax.tasks import GENERATIONS, Generation, check_inputs
from ccl_jax.weights import transformers, wan

WAN_CLIP = wan.CLIPS[16]


@dataclasses.dataclass(frozen=True)
class Description:
  """What a checkpoint says of itself, before anything large is read.

  Attributes:
    model: the network.
    spec: the clip it was trained on.
    guidance: {"form", "scales"} of the run's report, or of a release, perhaps with a
      "skip_block"; empty if it had none.
    place: the folder of the checkpoint, as somebody named it.
    found: where the parameters are.
    trained_shift: of the schedule; None: Wan2.1's for the clip's size.
    release: what a release says of its use.
    negative: by stream, the text that its unconditional evaluations are best given; a
      stream that has none is not there.
    trained_last: in training, videos were given their last frame.
  """

  model: JointDiT
  spec: ClipSpec
  guidance: Mapping[str, Any]
  place: Place | None = None
  found: Parameters | None = None
  trained_shift: float | None = None
  release: Release = ANY
  negative: Mapping[str, str] = dataclasses.field(default_factory=dict)
  trained_last: bool = False

  @property
  def area(self) -> int | None:
    """Pixels of a clip that takes its aspect ratio from its first frame; None: clips do
    not.
    """
    if self.takes_channels:
      return self.spec.height * self.spec.width
    return self.release.area

  @property
  def rule(self) -> str:
    """By which such a clip finds its size; see `sizes.RULES`."""
    return "each" if self.takes_channels else self.release.rule

  @property
  def fit(self) -> str:
    """How a given picture becomes a frame; see `inputs.read_inputs`."""
    return "squeeze" if self.takes_channels else self.release.fit

  @property
  def takes_channels(self) -> int:
    """The pictures that are given as condition channels and CLIP tokens: 1 of Wan2.1's
    I2V, 2 of its FLF2V; 0: a first frame is given as a clean latent.
    """
    video = dict(self.model.streams).get("video")
    return 0 if video is None else video.images

  def shift(self, spec: ClipSpec) -> float:
    """The schedule's shift: that of training, or Wan2.1's for clips of this size."""
    if self.trained_shift is not None:
      return self.trained_shift
    small = spec.height * spec.width <= WAN_CLIP["height"] * WAN_CLIP["width"]
    return 3.0 if self.takes_channels and small else 5.0

  def check(self, task: str, inputs: Collection[str]) -> Generation:
    """The task, if the model can do it with such inputs.

    Raises:
      UsageError: it cannot.
    """
    kind = check_inputs(task, inputs, channels=self.takes_channels)
    for name in ("last_image", "extend"):
      if name in inputs and self.takes_channels == 1:
        raise UsageError(
          f"{name}: this model makes videos of a first frame alone; leave it out, or "
          "use one that takes it, as weights of Wan2.1-FLF2V take a last image"
        )
    if "extend" in inputs and self.takes_channels:
      raise UsageError(
        "extend: this model makes videos between two pictures; give --image, the last "
        "picture of the film, and --last_image, or use another model"
      )
    if "last_image" in inputs and not (self.takes_channels or self.trained_last):
      raise UsageError(
        "last_image: this model was trained without one: leave it out, train with "
        "config.objective.last_image_probability above 0, or use Wan2.1-FLF2V"
      )
    self.release.check_task(task)
    have = dict(self.model.streams)
    missing = [s for s in kind.generated + kind.given if s not in have]
    if missing:
      able = self._servable()
      raise UsageError(
        f"task {task} needs the {missing[0]} stream; this model has {', '.join(have)}, "
        f"which serve {', '.join(able)}"
      )
    return kind

  def join(
    self, spec: ClipSpec, sampling: Sampling, kind: Generation
  ) -> tuple[ClipSpec, Join | None]:
    """The parts that a clip is made in: see `lengths.join_of`.

    Raises:
      UsageError: there are no such parts, or the model cannot make any.
    """
    window, overlap = sampling.window, sampling.overlap
    part, join = join_of(spec, window, overlap)
    if join is None:
      return part, None
    if self.takes_channels and "video" in kind.generated:
      raise UsageError(
        "--window: this model begins every part with a picture, and only the first has "
        "one: leave it out"
      )
    form = get_guidance(sampling.guidance, variant_of(self.model))
    present = kind.generated + kind.given
    if form.least(kind.generated, present) > 1:
      raise UsageError(
        f"--window: guidance {sampling.guidance} takes the other stream of another "
        "clip, and parts are of one: give another --guidance"
      )
    return part, join

  @property
  def tasks(self) -> tuple[str, ...]:
    """The tasks that its streams can do and that a release was trained for."""
    trained = self.release.tasks
    return tuple(n for n in self._servable() if trained is None or n in trained)

  def _servable(self) -> list[str]:
    have = dict(self.model.streams).keys()
    kinds = GENERATIONS.items()
    return [name for name, x in kinds if {*x.generated, *x.given} <= have]

  def sampling(self, sampling: Sampling, spec: ClipSpec) -> Sampling:
    """The sampling with what is the model's own in place of None.

    Raises:
      UsageError: a value that cannot be sampled with.
    """
    return completed(sampling, self.model, self.shift(spec), self.guidance)


def describe(folder: str | os.PathLike, step: int | None = None) -> Description:
  """What a training run, a joined model or a converted release says of itself.

  Args:
    folder: see `checkpoints.find`.
    step: of the checkpoint; None: the newest.

  Raises:
    UsageError: it is none of these, or of another version.
  """
  found = find_parameters(folder, step)
  about = found.description
  model = transformers.model_of(found)
  usage = wan.usage_of(about)
  spec = found._replace(description=usage).build("clip", ClipSpec)
  objective = usage.get("objective", {})
  place = checkpoint(folder).absolute()
  own = usage.get("guidance", {})
  model = with_default_kernel(model)
  negative = usage.get("negative") or {}
  return Description(
    model, spec, own, place, found, objective.get("shift"), release_of(usage), negative,
    trained_last=bool(objective.get("last_image_probability")),
  )  # fmt: skip
