"""What a release says of its use: the tasks it serves, its prompts, its guidance.

It stands in the config.json of the parameters (`weights.ovi_release`), and is empty of
what we train ourselves.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ccl_jax.errors import UsageError
from ccl_jax.models.joint import JointDiT


@dataclasses.dataclass(frozen=True)
class Release:
  """What a release says of its use.

  Attributes:
    tasks: that it was trained for; None: whatever its streams can do.
    sound: the form of its prompts, of `prompts.FORMS`; None: any.
    form: of guidance; None: the one that fits the model.
    scales: of that form, by stream.
    skip_block: the block that its negative evaluations lack; None: none.
    rule: by which a clip takes its size from its first frame; see `sizes.RULES`.
  """

  tasks: tuple[str, ...] | None = None
  sound: str | None = None
  form: str | None = None
  scales: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
  skip_block: int | None = None
  rule: str = "within"

  def check_task(self, task: str) -> None:
    """Whether the release was trained for a task.

    Raises:
      UsageError: it was not.
    """
    if self.tasks is not None and task not in self.tasks:
      raise UsageError(
        f"task {task}: these weights were not trained for it, but for "
        f"{', '.join(self.tasks)}: choose one of these, or train them further"
      )

  def form_for(self, model: JointDiT) -> str:
    """The form of guidance where nobody names one: the release's, or what fits the
    model's cross-modal attention.
    """
    if self.form is not None:
      return self.form
    fits = {"context": "ucg2", "gate": "multimodal", "fusion": "text"}
    return "text" if model.cross is None else fits[model.cross.variant]


def release_of(about: Mapping[str, Any]) -> Release:
  """What the description of parameters says of their use.

  Args:
    about: see `checkpoints.find.Parameters`.
  """
  guidance = about.get("guidance") or {}
  tasks = about.get("tasks")
  return Release(
    tasks=None if tasks is None else tuple(tasks),
    sound=about.get("sound"),
    form=guidance.get("form"),
    scales={s: tuple(x) for s, x in guidance.get("scales", {}).items()},
    skip_block=guidance.get("skip_block"),
    rule=about.get("area_rule", "within"),
  )
