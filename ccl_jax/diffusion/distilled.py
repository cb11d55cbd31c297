"""Step-distilled files: the timesteps that each was trained at, and how it is sampled.

  schedule   timesteps that the network receives        solver             steps
  lightx2v   1000, 937.5, 833.33, 625                   euler or renoise   4
  causvid    1000, 757, 522                             renoise            3
  fastwan    1000, 757, 522                             renoise            3
  rcm        987.65, 933.78, 852.90, 608.98             renoise            1 to 4

sigma is a thousandth of the timestep, and 0 after the last step. LightX2V's list is
1000, 750, 500, 250, warped by a shift of 5; the others are as they stand. rCM's come
from angles u = atan(80), 1.5, 1.4, 1 by sigma = sin u / (sin u + cos u), of which a run
of n steps takes the first n. `samplers` has the two solvers. Guidance is a part of what
these files have learned: a step is one evaluation, with the prompt.

Sources: LightX2V schedulers/wan/step_distill and configs/distill; CausVid; FastVideo
stages/denoising.py; rCM inference.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from ccl_jax.diffusion.flow import shift_sigma
from ccl_jax.diffusion.schedules import Schedule
from ccl_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Distilled:
  """How a step-distilled file is sampled. Of alternatives the first is the default.

  Attributes:
    grid: noise levels of its steps, before the shift.
    steps: how many of them a run may take, from the first on.
    solvers: that its authors sample it with.
    shift: of the grid; 1: the levels are as they stand.
    guidance: forms of guidance.
    files: where it is published.
    licence: of the files.
  """

  grid: tuple[float, ...]
  steps: tuple[int, ...]
  solvers: tuple[str, ...]
  shift: float
  guidance: tuple[str, ...]
  files: tuple[str, ...]
  licence: str

  def takes(self) -> dict[str, tuple[Any, ...]]:
    """What may be chosen, by the name of the flag; the first is the default."""
    return {
      "steps": self.steps,
      "shift": (self.shift,),
      "solver": self.solvers,
      "guidance": self.guidance,
    }

  def schedule(self, steps: int) -> Schedule:
    """Noise levels and timesteps of the first `steps` steps, and 0."""
    sigmas = shift_sigma(np.array(self.grid[:steps]), self.shift)
    return Schedule(np.append(sigmas, 0.0), 1000 * sigmas)


def _of_angle(u: float) -> float:
  # An angle of TrigFlow, cos(u) x0 + sin(u) noise, as a noise level of flow matching.
  return math.sin(u) / (math.sin(u) + math.cos(u))


_WITHOUT = ("none",)  # guidance
_DMD = (1.0, 0.757, 0.522)

DISTILLED = {
  "lightx2v": Distilled(
    grid=(1.0, 0.75, 0.5, 0.25),
    steps=(4,),
    solvers=("euler", "renoise"),
    shift=5.0,
    guidance=_WITHOUT,
    files=("lightx2v/Wan2.1-Distill-Models", "lightx2v/Wan2.1-Distill-Loras"),
    licence="Apache-2.0",
  ),
  "causvid": Distilled(
    grid=_DMD,
    steps=(3,),
    solvers=("renoise",),
    shift=1.0,
    guidance=_WITHOUT,
    files=("tianweiy/CausVid bidirectional_checkpoint2",),
    licence="CC-BY-NC-SA 4.0",
  ),
  "fastwan": Distilled(
    grid=_DMD,
    steps=(3,),
    solvers=("renoise",),
    shift=1.0,
    guidance=_WITHOUT,
    files=("FastVideo/FastWan2.2-TI2V-5B-FullAttn-Diffusers",),
    licence="Apache-2.0",
  ),
  "rcm": Distilled(
    grid=tuple(_of_angle(u) for u in (math.atan(80), 1.5, 1.4, 1.0)),
    steps=(4, 3, 2, 1),
    solvers=("renoise",),
    shift=1.0,
    guidance=_WITHOUT,
    files=("worstcoder/rcm-Wan",),
    licence="on its page",
  ),
}


def distilled(name: str) -> Distilled:
  """The row of `DISTILLED` of that name.

  Raises:
    UsageError: there is none.
  """
  if name not in DISTILLED:
    raise UsageError(f"--schedule: got {name}; expected one of {', '.join(DISTILLED)}")
  return DISTILLED[name]
