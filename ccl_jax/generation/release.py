"""What a release says of its use: the tasks it serves, its prompts, its sizes.

It is part of `checkpoints.usage`, and empty of what started from no release.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ccl_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Release:
  """What a release says of its use.

  Attributes:
    tasks: that it was trained for; None: whatever its streams can do.
    sound: the form of its prompts, of `prompts.FORMS`; None: any.
    area: pixels of a clip that takes its aspect ratio from its first frame; None: clips
      do not.
    rule: by which such a clip finds its size; see `sizes.RULES`.
    fit: how a picture becomes a frame of another aspect ratio; see `inputs`.
  """

  tasks: tuple[str, ...] | None = None
  sound: str | None = None
  area: int | None = None
  rule: str = "within"
  fit: str = "cover"

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


ANY = Release()  # of what started from random parameters


def release_of(usage: Mapping[str, Any]) -> Release:
  """What the settings that parameters come with say of their use.

  Args:
    usage: see `checkpoints.usage`.
  """
  tasks = usage.get("tasks")
  return Release(
    tasks=None if tasks is None else tuple(tasks),
    sound=usage.get("sound"),
    area=usage.get("area"),
    rule=usage.get("area_rule", "within"),
    fit=usage.get("fit", "cover"),
  )
