"""What a model is sampled with where nobody says otherwise, and what cannot be.

The form of guidance and its scales are those of the run's report, whose scores a user
has seen, or of the release; else those that fit the model's cross-modal attention. The
shift is that of training.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ccl_jax.diffusion.distilled import DISTILLED, distilled
from ccl_jax.diffusion.guidance import GUIDANCE, Guidance, get_guidance
from ccl_jax.diffusion.samplers import METHODS, RENOISE
from ccl_jax.diffusion.schedules import TIMESTEPS, make_schedule
from ccl_jax.errors import UsageError, number, one_of, positive, whole
from ccl_jax.generation.sampling import Sampling, variant_of
from ccl_jax.generation.shortcuts import FULL, guidance_of
from ccl_jax.models.joint import JointDiT
from ccl_jax.tasks import GENERATIONS, Generation

WAN_SCALE = 5.0  # of a video stream alone
STEPS, SOLVER = 50, "unipc"
SOLVERS = (*METHODS, RENOISE)
FIELDS = {
  "steps": whole(1, TIMESTEPS),
  "shift": positive(),
  "solver": one_of(*SOLVERS),
  "guidance": one_of(*GUIDANCE),
}
# By the kind of cross-modal attention.
FITS = {"context": "ucg2", "gate": "multimodal", "fusion": "text"}
MAKES = {"video": "a picture", "audio": "sound"}


def default_form(
  model: JointDiT,
  own: Mapping[str, Any] | None = None,
  schedule: str | None = None,
) -> str:
  """The form of guidance of a run's report or, without one, the one that fits.

  Args:
    model: of the run.
    own: {"form", "scales"} of the report, if there is one.
    schedule: of a step-distilled file, which has a form of its own.

  Raises:
    UsageError: there is no such schedule.
  """
  if schedule is not None:
    return distilled(schedule).guidance[0]
  if own:
    return own["form"]
  if model.cross is None:
    return "text"
  return FITS[model.cross.variant]


def default_scales(
  model: JointDiT, form: str, own: Mapping[str, Any] | None = None
) -> dict[str, dict[str, float]]:
  """Scales by stream and name: of the run's report, if it has this form; Wan2.1's of a
  video stream alone; else none, and so the form's.

  Args:
    model: of the run.
    form: a name of `GUIDANCE`.
    own: {"form", "scales": {stream: values in the form's order}} of the report, if any.
  """
  guidance = get_guidance(form, variant_of(model))
  if own and own["form"] == form:
    given = {s: tuple(values) for s, values in own["scales"].items()}
    return guidance.named(given, "scales of the run's report: ")
  if [s for s, _ in model.streams] == ["video"] and guidance.scales:
    return {"video": dict.fromkeys(guidance.scales, WAN_SCALE)}
  return {}


def completed(
  sampling: Sampling,
  model: JointDiT,
  shift: float,
  own: Mapping[str, Any] | None = None,
) -> Sampling:
  """The sampling, with the model's own guidance and shift where it has none.

  Args:
    sampling: what somebody asks for.
    model: of the run.
    shift: of the schedule, for clips of the size that is wanted.
    own: see `default_scales`.

  Raises:
    UsageError: a value that cannot be sampled with.
  """
  _check_scales(sampling)
  if sampling.schedule is not None:
    sampling = _scheduled(sampling)
  form = sampling.guidance or default_form(model, own)
  whole_form = get_guidance(form, variant_of(model))
  given = whole_form.resolve(sampling.scales) and sampling.scales
  scales = default_scales(model, form, own)
  scales = {s: {**scales.get(s, {}), **given.get(s, {})} for s in scales | given}
  own_shift = shift if sampling.shift is None else sampling.shift
  skip = sampling.skip_block
  if skip is None:
    skip = (own or {}).get("skip_block", -1) if _has_unconditional(whole_form) else -1
  out = dataclasses.replace(
    sampling,
    guidance=form,
    scales=scales,
    shift=own_shift,
    skip_block=skip,
    steps=STEPS if sampling.steps is None else sampling.steps,
    solver=sampling.solver or SOLVER,
  )
  check(out)
  if out.guidance_interval is not None:
    _check_reached(out)
  return out


def check(sampling: Sampling) -> None:
  """Whether every value can be sampled with, in the words of the flags.

  Raises:
    UsageError: one cannot.
  """
  for name, rule in FIELDS.items():
    value = getattr(sampling, name)
    if not rule.holds(value):
      raise UsageError(f"--{name}: got {value}; expected {rule.words}")
  _check_scales(sampling)
  _check_shortcuts(sampling)


def _check_reached(sampling: Sampling) -> None:
  """Whether some step is within the interval of guidance.

  Raises:
    UsageError: none is.
  """
  sigmas = make_schedule(sampling.solver, sampling.steps, sampling.shift).sigmas[:-1]
  if FULL not in guidance_of(sigmas, sampling.guidance_interval, None):
    low, high = sampling.guidance_interval
    raise UsageError(
      f"--guidance_interval {low:g},{high:g} has none of the {sampling.steps} steps, "
      f"whose noise levels are {', '.join(f'{x:.3g}' for x in sigmas[:8])}"
      f"{', ..' if len(sigmas) > 8 else ''}: widen it, or give --guidance none"
    )


def _scheduled(sampling: Sampling) -> Sampling:
  """The sampling as the schedule of a step-distilled file has it.

  Raises:
    UsageError: there is no such schedule, or a value contradicts it.
  """
  own = {}
  for name, values in distilled(sampling.schedule).takes().items():
    given = getattr(sampling, name)
    if given is not None and given not in values:
      raise UsageError(
        f"--{name} {given} contradicts --schedule {sampling.schedule}, which has "
        f"{' or '.join(map(str, values))}: leave --{name} out"
      )
    own[name] = values[0] if given is None else given
  return dataclasses.replace(sampling, **own)


def _check_shortcuts(sampling: Sampling) -> None:
  """Whether steps can leave out what they are to leave out.

  Raises:
    UsageError: they cannot, or there is nothing to leave out.
  """
  if sampling.solver == RENOISE and sampling.schedule is None:
    raise UsageError(
      f"--solver {RENOISE} needs the --schedule of a step-distilled file: one of "
      f"{', '.join(DISTILLED)}"
    )
  every, interval = sampling.guidance_every, sampling.guidance_interval
  if every is not None and not whole(1).holds(every):
    raise UsageError(f"--guidance_every: got {every}; expected {whole(1).words}")
  if interval is not None:
    ends = tuple(interval)
    inside = all(map(number(0, 1).holds, ends))
    if not (len(ends) == 2 and inside and ends[0] < ends[1]):
      raise UsageError(
        f"--guidance_interval: got {','.join(map(str, ends))}; expected LOW,HIGH, two "
        "noise levels from 0 to 1, as 0.2,0.9"
      )
  for name in ("guidance_interval", "guidance_every"):
    if getattr(sampling, name) is not None and sampling.guidance == "none":
      raise UsageError(f"--{name} does nothing with guidance none; leave it out")
  if sampling.cache is not None and sampling.schedule is not None:
    raise UsageError(
      f"--cache does nothing with --schedule {sampling.schedule}: so few steps are all "
      "needed; leave it out"
    )


def _check_scales(sampling: Sampling) -> None:
  for stream, scales in sampling.scales.items():
    for value in scales.values():
      if not number(-float("inf")).holds(value):
        raise UsageError(f"--scale_{stream}: got {value}; expected finite numbers")


def check_idle(
  given: Sequence[str], task: str, kind: Generation, name: str, form: Guidance
) -> None:
  """Whether flags have an effect on the clips of a task.

  Args:
    given: names of the flags that somebody gave.
    task, kind: what is made.
    name, form: the guidance.

  Raises:
    UsageError: one has none; the line says with what it would have.
  """
  for stream, makes in MAKES.items():
    if f"scale_{stream}" in given:
      flag = f"--scale_{stream}"
      if not form.scales:
        raise UsageError(
          f"{flag} does nothing: guidance {name} has no scales; leave it out, or give "
          "another --guidance"
        )
      if stream not in kind.generated:
        raise UsageError(f"{flag} does nothing: {_others(task, stream, makes)}")
    flag = f"negative_prompt_{stream}"
    if flag in given and stream not in kind.generated + kind.given:
      raise UsageError(f"--{flag} does nothing: {_others(task, stream, makes)}")
  unconditional = any(not e.text for e in form.used(kind.generated).values())
  for flag in given:
    if flag.startswith("negative_prompt") and not unconditional:
      users = [n for n, g in GUIDANCE.items() if _has_unconditional(g)]
      raise UsageError(
        f"--{flag} does nothing: guidance {name} evaluates no negative prompt; leave "
        f"it out, or give --guidance {', '.join(users)}"
      )
  seen = {
    **dict.fromkeys(("height", "width", "size"), kind.generated + kind.given),
    "vae_tile": kind.generated,
  }
  for flag, streams in seen.items():
    if flag in given and "video" not in streams:
      raise UsageError(f"--{flag} does nothing: {_others(task, 'video', 'a picture')}")


def _has_unconditional(form: Guidance) -> bool:
  return any(not e.text for e in form.evaluations.values())


def _others(task: str, stream: str, makes: str) -> str:
  users = [n for n, kind in GENERATIONS.items() if stream in kind.generated]
  return (
    f"task {task} makes no {makes.removeprefix('a ')}; leave it out, or give a --task "
    f"that makes {makes}: {', '.join(users)}"
  )
