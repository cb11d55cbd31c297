"""What a release says of its use: the tasks it serves, its prompts, its sizes.

It stands in the config.json of the parameters (`weights.ovi_release`), and is empty of
what we train ourselves.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ccl_jax.errors import UsageError
from ccl_jax.weights import wan


@dataclasses.dataclass(frozen=True)
class Release:
  """What a release says of its use.

  Attributes:
    tasks: that it was trained for; None: whatever its streams can do.
    sound: the form of its prompts, of `prompts.FORMS`; None: any.
    area: pixels of a clip that takes its aspect ratio from its first frame; None: clips
      do not.
    rule: by which such a clip finds its size; see `sizes.RULES`.
  """

  tasks: tuple[str, ...] | None = None
  sound: str | None = None
  area: int | None = None
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


ANY = Release()  # of what we train ourselves


def release_of(about: Mapping[str, Any]) -> Release:
  """What the description of parameters says of their use.

  Args:
    about: see `checkpoints.find.Parameters`.
  """
  tasks = about.get("tasks")
  return Release(
    tasks=None if tasks is None else tuple(tasks),
    sound=about.get("sound"),
    area=wan.image_area(about),
    rule=about.get("area_rule", "within"),
  )
