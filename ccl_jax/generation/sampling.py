"""Latents from noise: what is given stays, what is not is sampled.

Only the sampled streams change over the steps:

* the keys of texts, of image tokens, of context tokens and of a given stream never
  change: they are computed before the first step, and reused at every one (`keys`);
* given frames and tokens of a sampled stream are written into its latent before every
  evaluation, at timestep 0: a first or last frame, or the end of a film that the clip
  goes on with; of Wan2.1-I2V's form they stand in condition channels beside it;
* the evaluations of a guidance form run as one batch, or one after the other;
* steps of other kinds than the usual one leave evaluations or blocks out (`shortcuts`).
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ccl_jax.axes import STREAMS
from ccl_jax.diffusion.distilled import distilled
from ccl_jax.diffusion.guidance import (
  CONDITIONAL,
  Evaluation,
  Guidance,
  Scales,
  get_guidance,
  guided,
  runs,
)
from ccl_jax.diffusion.samplers import advance, begin, table_of
from ccl_jax.diffusion.schedules import Schedule, make_schedule
from ccl_jax.errors import UsageError
from ccl_jax.generation.keys import following, joined, of_groups, taken, text_of
from ccl_jax.generation.lengths import Join, spread_noise
from ccl_jax.generation.noise import fresh_noise
from ccl_jax.generation.shortcuts import (
  FULL,
  HELD,
  Keeps,
  Kind,
  guidance_of,
  keeps_of,
  name_of,
  names_of,
  runs_of,
)
from ccl_jax.generation.step_cache import cached_steps
from ccl_jax.models.cca import Geometry
from ccl_jax.models.joint import JointDiT, token_geometry
from ccl_jax.tasks import Generation, Route

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How to sample.

  Attributes:
    guidance: a name of `diffusion.guidance.GUIDANCE`; None: see `defaults.completed`.
    scales: overrides of its scales, {stream: {scale: value}}.
    steps: evaluations of the network in time; None: 50.
    shift: of the schedule; None: the one of training.
    solver: "unipc", "dpmpp", "euler", or of some schedules "renoise"; None: "unipc".
    batched: all evaluations of a step in one forward pass; else one after the other,
      with less memory.
    skip_block: a block that is left out, of both streams, of the evaluations with the
      negative prompt (skip-layer guidance); -1: none is; None: the model's own, if its
      release has one.
    schedule: a name of `diffusion.distilled.DISTILLED`, which then says what the four
      first of these are; None: even steps, shifted.
    guidance_interval: (low, high), the noise levels low < sigma <= high at which there
      is guidance: at others the prompt alone is evaluated; None: all.
    guidance_every: of as many steps with guidance one evaluates the form, and the next
      ones add what it added to the prompt's evaluation; None: each does.
    cache: FILE:THRESHOLD of a calibration, by which steps skip the network's blocks:
      see `step_cache`; None: none does.
    window: frames of the parts that a long clip is made in; None: it is made in one.
    overlap: frames that neighbouring parts share; None: half of them.
  """

  guidance: str | None = None
  scales: Scales = dataclasses.field(default_factory=dict)
  steps: int | None = None
  shift: float | None = None
  solver: str | None = None
  batched: bool = True
  skip_block: int | None = None
  schedule: str | None = None
  guidance_interval: Sequence[float | int] | None = None
  guidance_every: int | None = None
  cache: str | None = None
  window: int | None = None
  overlap: int | None = None


def variant_of(model: JointDiT) -> str:
  """The kind of cross-modal attention; one stream alone has no context tokens."""
  return "gate" if model.cross is None else model.cross.variant


def most_together(form: Guidance, task: Generation, sampling: Sampling) -> int:
  """How many evaluations of a form run as one batch, at the most."""
  present = task.generated + task.given
  used = form.used(task.generated, present, _skips(sampling))
  return max(map(len, runs(used, sampling.batched)))


def sample_latents(
  model: JointDiT,
  params: PyTree,
  task: Generation,
  noise: Mapping[str, jax.Array],
  conditions: Mapping[str, Any],
  sampling: Sampling,
  *,
  reuse_keys: bool = True,
  clip: Geometry | None = None,
  progress: Callable[[Any], None] | None = None,
) -> dict[str, jax.Array]:
  """Latents of the generated streams; to be jitted.

  Args:
    noise: N(0, 1) latents of the generated streams.
    conditions: `text` (2 or 3, b, l, e), the prompt's first, then the negative prompt's
      of both streams, or the video's and the audio's; clean latents `given` and, for
      guidance by null streams, `null`, by stream; for given frames and
      tokens of sampled streams `held`, by stream {"latent": like the noise, "mask":
      which are given, bool (b, t) or (b, a)}, or `condition` (b, t, h, w, 20) with
      `clip` (b, i, 1280): see `codecs.images.image_condition`. For fresh noise of every
      step, `seeds`: the bits of the clips' seeds (n, 2).
    reuse_keys: compute the keys that steps share once (`keys`), and not at every step,
      a given stream with them. The result is the same.
    clip: token counts of some film: a stream that is neither made nor given is thought
      as long, since where a token is in the exchange's RoPE depends on both.

  Raises:
    UsageError: the model does not serve the form, or the form needs more clips.
  """
  how = Steps(model, task, sampling, reuse_keys, clip)
  keys = how.keys(params, noise, conditions)
  table = table_of(how.schedule, sampling.solver)
  carry, keeps = how.begin(noise), keeps_of(how.kinds)
  for first, count, kind in runs_of(how.kinds):
    rows = {name: column[first : first + count] for name, column in table.items()}
    carry = how.advance(params, carry, rows, conditions, keys, progress, kind, keeps)
  return finished(carry, conditions)


def finished(carry: Sequence[Any], conditions: Mapping[str, Any]) -> dict[str, Any]:
  """The latents of a state after the last step, what is given in its place."""
  return with_held(carry[0], conditions)


def with_held(
  latents: Mapping[str, jax.Array], conditions: Mapping[str, Any]
) -> dict[str, jax.Array]:
  """The latents of sampled streams with what is given of them in its place.

  Args:
    latents: by stream; others than those of `held` stay as they are.
    conditions: see `sample_latents`.
  """
  out = dict(latents)
  for s, held in conditions.get("held", {}).items():
    if s in out:
      mask = held["mask"].reshape(*held["mask"].shape, *[1] * (out[s].ndim - 2))
      out[s] = jnp.where(mask, held["latent"], out[s])
  return out


class Steps(NamedTuple):
  """The steps of a sampling, to be taken at once or in parts: see `sample_latents`."""

  model: JointDiT
  task: Generation
  sampling: Sampling
  reuse_keys: bool = True
  clip: Geometry | None = None
  join: Join | None = None

  @property
  def schedule(self) -> Schedule:
    """Noise levels and timesteps of all steps."""
    s = self.sampling
    if s.schedule is not None:
      return distilled(s.schedule).schedule(s.steps)
    return make_schedule(s.solver, s.steps, s.shift)

  @property
  def kinds(self) -> tuple[Kind, ...]:
    """What each step leaves out.

    Raises:
      UsageError: the calibration of a cache cannot be read.
    """
    s = self.sampling
    sigmas = self.schedule.sigmas[:-1]
    guidance = guidance_of(sigmas, s.guidance_interval, s.guidance_every)
    if s.cache is None:
      return tuple(map(Kind, guidance))
    form = get_guidance(s.guidance, variant_of(self.model))
    present = self.task.generated + self.task.given
    used = form.used(self.task.generated, present, _skips(s))
    wanted = [names_of(g, used, s.batched) for g in guidance]
    return tuple(map(Kind, guidance, cached_steps(s.cache, wanted)))

  def begin(self, noise: Mapping[str, jax.Array]) -> tuple[Any, ...]:
    """The state before the first step: see `diffusion.samplers.begin`."""
    return begin(dict(noise), self.schedule, self.sampling.solver)

  def keys(
    self, params: PyTree, noise: Mapping[str, jax.Array], conditions: Mapping[str, Any]
  ) -> tuple[PyTree, ...]:
    """The keys that steps share, for what is evaluated together: before the first step,
    and not in the loop over the steps.
    """
    parts = _evaluations(*self[:5], params, noise, conditions)
    return tuple(parts.keys_for(evaluations) for evaluations in parts.together)

  def advance(
    self,
    params: PyTree,
    carry: tuple[Any, ...],
    table: Mapping[str, Any],
    conditions: Mapping[str, Any],
    keys: Sequence[PyTree],
    progress: Callable[[Any], None] | None = None,
    kind: Kind = Kind(),
    keeps: Keeps = Keeps(),
  ) -> tuple[Any, ...]:
    """The state after some steps of a kind: see `diffusion.samplers.advance`.

    Args:
      params, conditions, progress: see `sample_latents`.
      carry, table: the state before the steps, and their rows.
      keys: of `keys`.
      kind: what the steps leave out.
      keeps: what they hand on to later ones.
    """
    parts = _evaluations(*self[:5], params, carry[0], conditions)
    form, scales = parts.guidance, self.sampling.scales
    if kind.guidance != FULL:
      form, scales = get_guidance("none", variant_of(self.model)), {}
    prompt = parts.used[CONDITIONAL]
    wanted = form.used(tuple(carry[0]), parts.present, _skips(self.sampling))
    b = len(jax.tree.leaves(carry[0])[0])
    together = runs(wanted, self.sampling.batched)
    rows = of_groups(dict(zip(parts.together, keys)), together, b)

    def velocity(latents, timestep, memory):
      kept, seen = dict(memory), {}

      def evaluate(latents, timestep, evaluations):
        name = name_of(evaluations, parts.used)
        added = None
        if kind.cached:
          added = {s: memory[at] for s in STREAMS if (at := f"{name}/{s}") in memory}
        each, told = parts.evaluate(
          rows[evaluations], latents, timestep, evaluations, added, keeps.blocks
        )
        kept.update({f"{name}/{s}": x for s, x in told.items()})
        seen.update(zip(evaluations, each))
        return each

      v = guided(
        evaluate,
        form,
        scales,
        batched=self.sampling.batched,
        present=parts.present,
        skip=_skips(self.sampling),
      )(latents, timestep)
      if kind.guidance == HELD:
        v = {s: x + memory[f"guidance/{s}"] for s, x in v.items()}
      elif kind.guidance == FULL and keeps.guidance:
        kept |= {f"guidance/{s}": x - seen[prompt][s] for s, x in v.items()}
      return v if self.join is None else self.join.agreed(v), kept

    if any(keeps):
      *state, memory = carry
      timestep = jnp.asarray(table["timestep"][0])
      _, after = jax.eval_shape(velocity, carry[0], timestep, memory)
      # What these steps are the first to keep: every step hands on the same names.
      empty = {k: jnp.zeros(x.shape, x.dtype) for k, x in after.items()}
      carry = (*state, empty | memory)
    noise = None
    if "fresh" in table:
      noise = functools.partial(
        spread_noise, fresh_noise, carry[0], self.join, conditions["seeds"]
      )
    return advance(velocity, carry, dict(table), progress, noise)


class _Evaluations(NamedTuple):
  guidance: Guidance
  present: tuple[str, ...]
  used: Mapping[str, Evaluation]
  together: tuple[tuple[Evaluation, ...], ...]
  keys_for: Callable[..., PyTree]
  evaluate: Callable[..., Any]


def _evaluations(
  model, task, sampling, reuse_keys, clip, params, noise, conditions
) -> _Evaluations:
  """What is evaluated in every step, and how; the latents' values do not matter."""
  guidance = get_guidance(sampling.guidance, variant_of(model))
  given = {s: conditions["given"][s] for s in task.given}
  geometry = token_geometry(model.streams, {**noise, **given}).completed(clip)
  texts = conditions["text"]
  clip = {"video": conditions["clip"]} if "clip" in conditions else None
  present = (*noise, *given)
  least, b = guidance.least(tuple(noise), present), len(jax.tree.leaves(noise)[0])
  if b < least:
    raise UsageError(
      f"guidance {sampling.guidance!r} takes the other stream of another clip: got {b} "
      f"clip; expected {least} at least, made together"
    )
  skip = _skips(sampling)
  used = guidance.used(tuple(noise), present, skip)
  if skip:
    check_skip(sampling, model.depth, used.values())
  together = runs(used, sampling.batched)
  # The evaluations whose texts differ.
  distinct = list(dict.fromkeys(text_of(e) for e in used.values()))

  def texts_of(e: Evaluation, streams: Iterable[str]):
    which = {s: 0 if e.text else 1 if s == "video" else -1 for s in streams}
    text = {s: texts[i] for s, i in which.items()}
    if e.shuffled and "audio" in text:
      text["audio"] = following(text["audio"])
    return text

  def conditioned(x):
    if "condition" not in conditions or "video" not in x:
      return x
    return x | {"video": jnp.concatenate([x["video"], conditions["condition"]], -1)}

  def left_out(evaluations):
    """The blocks that samples go round, where evaluations run together."""
    if not any(e.skip for e in evaluations):
      return None
    goes = jnp.repeat(jnp.array([e.skip for e in evaluations]), b)
    block = jnp.arange(model.depth) == sampling.skip_block
    return block[:, None] & goes[None]

  @functools.cache
  def own_keys():
    """Keys of all texts of the sampled streams, and of their context tokens."""
    _, keys = model.apply(
      {"params": params},
      {},
      {},
      joined([texts_of(e, noise) for e in distinct], 0),
      image=joined([clip] * len(distinct), 0),
      collect=True,
      geometry=geometry,
    )
    return keys

  @functools.cache
  def clean_keys(e: Evaluation, null: bool):
    """Keys of the given stream under one text; `null` puts its null in its place."""
    (s,) = task.given
    latent = conditions["null"][s] if null else given[s]
    _, keys = model.apply(
      {"params": params},
      conditioned({s: latent}),
      {s: jnp.zeros((len(latent), 1))},
      texts_of(e, given),
      image=clip,
      collect=True,
      geometry=geometry,
      left_out=left_out([e]),
    )
    return keys

  def seen_by(e: Evaluation):
    # By what a stream alone depends on.
    keys = clean_keys(Evaluation(text=e.text, skip=e.skip), e.null in given)
    return following(keys, 1) if e.shuffled and "audio" in given else keys

  def keys_for(evaluations):
    """Keys for evaluations that run together. Where none of them reads there are none
    of the given stream; beside some that read any will do, as they are masked.
    """
    if not reuse_keys:
      return {}
    keys = taken(own_keys(), [distinct.index(text_of(e)) for e in evaluations], b)
    if given and (reading := [e for e in evaluations if e.cross]):
      source = [e if e.cross else reading[0] for e in evaluations]
      for s, other in joined([seen_by(e) for e in source], 1).items():
        keys[s] |= other
    return keys

  def one(latents, timestep, e: Evaluation):
    """Inputs of one evaluation: latents, timesteps, what its keys do not hold of text
    and image, reads.
    """
    x = with_held(latents, conditions)
    if not reuse_keys:
      x |= given
    sigma = {s: jnp.broadcast_to(timestep, (b, 1)) for s in latents}
    sigma |= {s: jnp.zeros((b, 1)) for s in x if s in given}
    for s, held in conditions.get("held", {}).items():
      if s in sigma:
        sigma[s] = jnp.where(held["mask"], 0.0, sigma[s])
    if e.null in x:
      x[e.null] = conditions["null"][e.null]
      sigma[e.null] = jnp.zeros_like(sigma[e.null])
    reads = {s: e.cross and s in task.reads and s != e.null for s in STREAMS}
    if e.shuffled and "audio" in x:
      x["audio"], sigma["audio"] = following((x["audio"], sigma["audio"]))
    if reuse_keys:
      return conditioned(x), sigma, None, None, reads
    return conditioned(x), sigma, texts_of(e, x), clip, reads

  def evaluate(keys, latents, timestep, evaluations, added, tell_added):
    """(velocities by evaluation, what the blocks added to the tokens, if it is told)"""
    options = {} if added is None else {"added": added}
    options |= {"tell_added": True} if tell_added else {}
    told = [one(latents, timestep, e) for e in evaluations]
    x, sigma, text, image = (joined([each[i] for each in told], 0) for i in range(4))
    reads = {}
    for s in STREAMS:
      flags = [each[4][s] for each in told]
      # One answer for all stays static: the unseen keys are then never computed.
      reads[s] = flags[0] if len(set(flags)) == 1 else jnp.repeat(jnp.array(flags), b)
    out = model.apply(
      {"params": params},
      x,
      sigma,
      text,
      Route(reads),
      image=image,
      keys=keys,
      geometry=geometry,
      left_out=left_out(evaluations),
      **options,
    )
    out, told = out if tell_added else (out, {})
    each = [
      {s: out[s][i * b : (i + 1) * b] for s in latents} for i in range(len(evaluations))
    ]
    for e, v in zip(evaluations, each):
      if e.shuffled and "audio" in v:
        v["audio"] = jnp.roll(v["audio"], 1, 0)  # back beside its own video
    return each, told

  return _Evaluations(guidance, present, used, together, keys_for, evaluate)


def _skips(sampling: Sampling) -> bool:
  """Whether negative evaluations leave a block out."""
  return sampling.skip_block not in (None, -1)


def check_skip(
  sampling: Sampling, depth: int, evaluations: Iterable[Evaluation]
) -> None:
  """Whether the block to be left out is one, and is left out of something.

  Args:
    sampling: how somebody samples, with a block to be left out.
    depth: blocks of the network.
    evaluations: what is evaluated.

  Raises:
    UsageError: there is no such block, or the form has no negative evaluation.
  """
  if not 0 <= sampling.skip_block < depth:
    raise UsageError(
      f"--skip_block: got {sampling.skip_block}; expected 0 to {depth - 1}, a block of "
      "this model, or -1 for none"
    )
  if not any(e.skip for e in evaluations):
    raise UsageError(
      f"--skip_block does nothing with guidance {sampling.guidance}: it has no "
      "evaluation with the negative prompt; leave it out, or give another --guidance"
    )
