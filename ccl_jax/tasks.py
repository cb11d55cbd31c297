"""The task table: which stream is noised, what each reads, where the loss is.

Dynamic context routing (paper section 4.2.2) has no gate. A task chooses which keys
each direction of cross-modal attention sees; the learnable context tokens are always
among them. Training tasks (section 4.4):

  task     p     generated      sigma    video reads    audio reads    detached
  single   0.10  video, audio   own      C_audio        C_video        -
  a2v      0.15  video          own      C + audio      C_video        audio
  v2a      0.15  audio          own      C_audio        C + video      video
  joint    0.60  video, audio   shared   C + audio      C + video      -

A stream that is not generated is clean (sigma 0) and its states enter cross-modal
attention detached, so the loss of the other stream never trains it.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from ccl_jax.axes import STREAMS
from ccl_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Task:
  """A training task.

  Attributes:
    probability: how often the paper draws it.
    generated: the streams that are noised and carry a loss; others are clean.
    reads: the streams whose queries see the other stream's keys.
    shared_sigma: both streams have the same noise level.
  """

  probability: float
  generated: tuple[str, ...]
  reads: tuple[str, ...]
  shared_sigma: bool = False

  @property
  def detached(self) -> tuple[str, ...]:
    """The streams that are not generated, whose states carry no gradient."""
    return tuple(s for s in STREAMS if s not in self.generated)


TASKS: Mapping[str, Task] = {
  "single": Task(0.10, generated=STREAMS, reads=()),
  "a2v": Task(0.15, generated=("video",), reads=("video",)),
  "v2a": Task(0.15, generated=("audio",), reads=("audio",)),
  "joint": Task(0.60, generated=STREAMS, reads=STREAMS, shared_sigma=True),
}


@dataclasses.dataclass(frozen=True)
class Generation:
  """A task at inference: the streams it makes, those it is given, and the image.

  Attributes:
    generated: streams that are sampled.
    given: streams that are clean inputs; they read context tokens only.
    image: the first video frame is given.
  """

  generated: tuple[str, ...]
  given: tuple[str, ...] = ()
  image: bool = False

  @property
  def takes(self) -> tuple[str, ...]:
    """The inputs beside text that it can use: a first and a last frame serve any video,
    and a film to go on with whatever has no other beginning.
    """
    images = ("image", "last_image") if "video" in self.generated else ()
    extend = () if self.given or self.image else ("extend",)
    return (*self.given, *images, *extend)

  def needs(self, channels: int = 0) -> tuple[str, ...]:
    """The inputs beside text that the task cannot do without.

    Args:
      channels: pictures that the model takes as condition channels and CLIP tokens: a
        first frame, as Wan2.1-I2V, or a first and a last one, as Wan2.1-FLF2V. It makes
        no video without them.
    """
    images = ("image", "last_image")[: channels if "video" in self.generated else 0]
    if self.image and not images:
      images = ("image",)
    return (*self.given, *images)

  @property
  def reads(self) -> tuple[str, ...]:
    """The generated streams that read the other one: all, wherever there is another."""
    return self.generated if len(self.generated + self.given) == 2 else ()


GENERATIONS: Mapping[str, Generation] = {
  "joint": Generation(("video", "audio")),
  "ti2av": Generation(("video", "audio"), image=True),
  "t2v": Generation(("video",)),
  "i2v": Generation(("video",), image=True),
  "t2a": Generation(("audio",)),
  "a2v": Generation(("video",), given=("audio",)),
  "v2a": Generation(("audio",), given=("video",)),
}


def taught(names: Sequence[str], images: bool) -> tuple[str, ...]:
  """The tasks at inference that training tasks teach: those in which as many streams
  are generated, and read one another alike.

  Args:
    names: of TASKS.
    images: whether generated videos are given their first frame.
  """

  def teaches(task: Task, kind: Generation) -> bool:
    generated = set(task.generated)
    return (
      kind.reads == task.reads
      and set(kind.generated) <= generated
      and not set(kind.given) & generated
    )

  return tuple(
    name
    for name, kind in GENERATIONS.items()
    if (images or not kind.image) and any(teaches(TASKS[n], kind) for n in names)
  )


# What a task may be given beside text.
INPUTS = ("image", "last_image", "extend", *STREAMS)


def check_inputs(task: str, names: Collection[str], *, channels: int = 0) -> Generation:
  """The task of that name, if it takes exactly such inputs.

  Args:
    task: a name of GENERATIONS.
    names: the inputs there are, of INPUTS.
    channels: see `Generation.needs`.

  Raises:
    UsageError: there is no such task, it lacks an input, or it would not use one.
  """
  if task not in GENERATIONS:
    raise UsageError(f"unknown task {task!r}; expected one of {', '.join(GENERATIONS)}")
  kind = GENERATIONS[task]
  for name in kind.needs(channels):
    if name not in names:
      made = ("image to video", "videos between a first and a last frame")
      own = name not in kind.needs()
      why = f"; this model was made for {made[channels - 1]}" if own else ""
      raise UsageError(
        f"task {task} needs {name}: give --{name} FILE, or {name!r} on every line of a "
        f"manifest{why}"
      )
  for name in names:
    if name not in kind.takes:
      users = [n for n, g in GENERATIONS.items() if name in g.takes]
      raise UsageError(
        f"task {task} makes no use of {name}: leave it out, or choose a task that "
        f"does: {', '.join(users)}"
      )
  for name in ("image", "last_image"):
    if {name, "extend"} <= set(names):
      raise UsageError(
        f"{name} and extend: what goes on with a film begins with its last pictures, "
        "and ends as the prompt has it; leave one of both out"
      )
  return kind


class Route(NamedTuple):
  """The keys that cross-modal attention sees, by stream.

  Python bools are static: the unseen keys are never computed. Arrays (b,) decide by
  sample, inside one compiled program. An absent stream counts as False.

  Attributes:
    reads: whether the queries of a stream see the other stream's keys.
    detached: whether the states of a stream enter cross-modal attention behind a
      stop-gradient.
  """

  reads: Mapping[str, bool | Bool[Array, "b"]] = {}
  detached: Mapping[str, bool | Bool[Array, "b"]] = {}


def static_route(task: Task | Generation) -> Route:
  """The route of a task that is the same for the whole batch."""
  detached = task.detached if isinstance(task, Task) else ()
  return Route({s: True for s in task.reads}, {s: True for s in detached})


class SampleTasks(NamedTuple):
  """Tasks by sample, as masks over the batch.

  Attributes:
    index: into the run's task table.
    route: what cross-modal attention sees.
    generated: the streams that are noised and carry a loss.
    shared_sigma: whether both streams have one noise level.
  """

  index: Int[Array, "b"]
  route: Route
  generated: Mapping[str, Bool[Array, "b"]]
  shared_sigma: Bool[Array, "b"]


def task_table(
  probabilities: Mapping[str, float],
) -> tuple[tuple[str, ...], tuple[float, ...]]:
  """Names and normalised probabilities of the tasks a run trains.

  Raises:
    UsageError: an unknown task, a negative probability, or none above zero.
  """
  unknown = sorted(set(probabilities) - set(TASKS))
  if unknown:
    raise UsageError(f"unknown task {unknown[0]!r}; the tasks are {', '.join(TASKS)}")
  names = tuple(n for n, p in probabilities.items() if p > 0)
  if not names or min(probabilities.values()) < 0:
    raise UsageError(
      f"task probabilities {dict(probabilities)}: expected none below zero and at "
      "least one above; set config.tasks.probabilities"
    )
  total = sum(probabilities.values())
  return names, tuple(probabilities[n] / total for n in names)


def servable(
  names: Sequence[str], probabilities: Sequence[float], streams: Sequence[str]
) -> tuple[float, ...]:
  """The probabilities where clips have only `streams`.

  A clip that lacks a stream serves the tasks that generate its own and let it read no
  other; the other tasks are never drawn.

  Raises:
    UsageError: no task is left.
  """
  if len(streams) == len(STREAMS):
    return tuple(probabilities)
  (own,) = streams
  # It must be generated, and must not need what the clip lacks.
  alone = [own in TASKS[n].generated and own not in TASKS[n].reads for n in names]
  left = [p * ok for p, ok in zip(probabilities, alone)]
  if not sum(left):
    raise UsageError(
      f"clips of {own} alone serve no task of {', '.join(names)}: give the task single "
      "a probability in config.tasks.probabilities, or leave such clips out"
    )
  return tuple(p / sum(left) for p in left)


def sample_tasks(index: Int[Array, "b"], names: Sequence[str]) -> SampleTasks:
  """The masks of the tasks `names[index]`, one task per sample."""
  tasks = [TASKS[n] for n in names]

  def mask(predicate):
    # A table by task, looked up by sample: the program does not depend on the draw.
    return jnp.array([predicate(t) for t in tasks])[index]

  per_stream = lambda field: {
    s: mask(lambda t: s in getattr(t, field)) for s in STREAMS
  }
  return SampleTasks(
    index=index,
    route=Route(per_stream("reads"), per_stream("detached")),
    generated=per_stream("generated"),
    shared_sigma=mask(lambda t: t.shared_sigma),
  )


def draw_tasks(
  key: jax.Array, batch: int, probabilities: Sequence[float]
) -> Int[Array, "b"]:
  """Draws indices into the task table, one per sample."""
  return jax.random.choice(
    key, len(probabilities), (batch,), p=jnp.asarray(probabilities, jnp.float32)
  )


def task_of_step(seed: int, step: int, probabilities: Sequence[float]) -> int:
  """The index of the task of a whole step.

  It is a function of the seed and the step, the same on every process.
  """
  return int(
    # On the host: which program runs next must be known before it is dispatched.
    np.random.default_rng([seed, step]).choice(len(probabilities), p=probabilities)
  )
