"""Guidance: what to evaluate at each step, and how to add it up.

v(text, keys) is the network given the prompt (txt) or the negative prompt (neg), its
cross-modal attention seeing the context tokens alone (C) or the other stream too (C+m).
In place of that stream may stand its null (silence, a still), or another clip's (m'):

  none            v(txt, C+m)
  text            v(neg, C+m) + s [v(txt, C+m) - v(neg, C+m)]
  modality        v(txt, C) + s [v(txt, C+m) - v(txt, C)]
  ucg2            v(neg, C) + s [v(txt, C+m) - v(neg, C)]                      eq. 5
  ucg2_null       v(neg, null) + s [v(txt, C+m) - v(neg, null)]
  ucg2_shuffled   v(neg, C+m') + s [v(txt, C+m) - v(neg, C+m')]
  ucg3            v(neg, C) + s_m [v(neg, C+m) - v(neg, C)]
                            + s_t [v(txt, C+m) - v(neg, C+m)]                  eq. 6
  ucg3_text       v(neg, C) + s_t [v(txt, C) - v(neg, C)]
                            + s_m [v(txt, C+m) - v(txt, C)]       eq. 6, text first
  multimodal      v(neg, -) + s_m [v(neg, m) - v(neg, -)]
                            + s_t [v(txt, m) - v(neg, m)]                      eq. 2
  multimodal2     v(neg, -) + s [v(txt, m) - v(neg, -)]      eq. 2 in two evaluations
  sync            v(txt, null) + s [v(txt, C+m) - v(txt, null)]      SyncCFG (Harmony)

All are one sum over a ladder of evaluations, v_0 + sum_k s_k (v_k - v_{k-1}), so a form
is data: its evaluations, the ladder of each stream, the names of its scales.

Scales are per stream. One evaluation with both streams routed to C anchors video and
audio alike. `multimodal` is the baseline for models whose cross-modal attention has a
gate, which switches the other stream off (-); the paper's digits for this baseline were
reconstructed, and so is the form, after eq. 6. `sync` anchors video on silent audio and
audio on a static video, each clean at timestep 0, so every stream has an anchor of its
own; that its anchors keep the prompt is our reading, and then the text is not guided.
`ucg2_null` is that design within UCG, as the paper compares it (table 2): the null
streams for the context tokens, and an anchor without the prompt. `ucg2_shuffled` is a
control: its anchor has seen a stream, but no information of this one. What of UCG's
gain it keeps is information; what is left over is that the anchor is a worse network.

With skip-layer guidance (Ovi) every v(neg, ..) is of a network that lacks one block:
the anchor is then worse in another way, which every form with such an anchor can take.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from ccl_jax.axes import STREAMS
from ccl_jax.errors import UsageError

Streams = Mapping[str, Float[Array, "..."]]
Scale = float | int | Float[Array, ""]
Scales = Mapping[str, Mapping[str, Scale]]  # stream -> scale name -> value


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """One run of the network within a step.

  Attributes:
    text: the prompt, or else the negative prompt.
    cross: each stream sees the other one; or else context tokens only, or gate off.
    null: the stream replaced by its null latents (silence, a static video) at
      timestep 0, if any. Its own prediction then means nothing.
    shuffled: the video of clip i runs beside the audio of clip i + 1 of the batch, and
      that of the last beside the first's. Each is predicted with its own text.
    skip: one block of the network is left out, of both streams: see `Sampling`.
  """

  text: bool = True
  cross: bool = True
  null: str | None = None
  shuffled: bool = False
  skip: bool = False

  def told(self, streams: Sequence[str], skip: bool = False) -> "Evaluation":
    """What is left of it for a network that has only `streams`: one stream alone has no
    other to see, and an absent one has no null.

    Args:
      skip: a block is left out of what has no prompt.
    """
    both = len(streams) > 1
    null = self.null if self.null in streams else None
    return Evaluation(
      self.text, self.cross and both, null, self.shuffled and both,
      skip and not self.text,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Guidance:
  """A form of guidance.

  Attributes:
    evaluations: what the form evaluates, by name, in order.
    ladder: for each stream the names v_0, v_1, ... of the sum.
    scales: the names of s_1, s_2, ...
    defaults: values of the scales, by stream.
    needs: the kind of cross-modal attention it asks for, "context", "gate" or any.
  """

  evaluations: Mapping[str, Evaluation]
  ladder: Mapping[str, tuple[str, ...]]
  scales: tuple[str, ...]
  defaults: Scales
  needs: str | None = None

  def used(
    self,
    sampled: Sequence[str],
    present: Sequence[str] = STREAMS,
    skip: bool = False,
  ) -> dict[str, Evaluation]:
    """The evaluations that guide the streams `sampled`, by name, as they are told a
    network of the streams `present`: equal ones are one run. Without a stream its
    anchor is idle.

    Args:
      skip: a block is left out of the negative evaluations, those without the prompt.
    """
    rungs = {name for s in sampled for name in self.ladder[s]}
    used = {n: e for n, e in self.evaluations.items() if n in rungs}
    return {n: e.told(present, skip) for n, e in used.items()}

  def least(self, sampled: Sequence[str], present: Sequence[str] = STREAMS) -> int:
    """How many clips must be made together."""
    return 1 + any(e.shuffled for e in self.used(sampled, present).values())

  def named(
    self, given: Mapping[str, Sequence[Scale]], place: str
  ) -> dict[str, dict[str, Scale]]:
    """Scales by stream and name, from values in the order of `scales`. A stream without
    values has none, and so those of the form.

    Args:
      place: what the values are of, for the error: `place` and then the stream.

    Raises:
      UsageError: a stream has not as many as the form has scales.
    """
    for stream, values in given.items():
      if len(values) not in (0, len(self.scales)):
        raise UsageError(
          f"{place}{stream}: got {len(values)} values; expected {len(self.scales)} "
          f"({', '.join(self.scales) or 'this form has no scales'})"
        )
    named = {s: dict(zip(self.scales, values)) for s, values in given.items()}
    return {s: scales for s, scales in named.items() if scales}

  def resolve(self, given: Scales) -> dict[str, dict[str, Scale]]:
    """The default scales, with those given in their place.

    Raises:
      UsageError: a stream or a scale that the form does not have, or no finite number.
    """
    for stream, values in given.items():
      if stream not in STREAMS:
        raise UsageError(
          f"guidance scale for stream {stream!r}; the streams are {', '.join(STREAMS)}"
        )
      for name in sorted(set(values) - set(self.scales)):
        raise UsageError(
          f"guidance scale {name!r} for {stream}; this form's scales are "
          f"{', '.join(self.scales) or 'none'}"
        )
      for name, value in values.items():
        if isinstance(value, int | float) and not math.isfinite(value):
          raise UsageError(
            f"guidance scale {name!r} for {stream}: got {value}; expected a finite "
            "number"
          )
    return {s: {**self.defaults[s], **given.get(s, {})} for s in STREAMS}

  def combine(
    self, predictions: Mapping[str, Streams], scales: Scales
  ) -> dict[str, Float[Array, "..."]]:
    """The guided velocity of every stream that was predicted, in float32.

    Summed from the top of the ladder, v = v_n + sum_k (s_k - 1) (v_k - v_{k-1}): the
    same value, and with scales of 1 bit for bit the conditional prediction.
    """
    guided = {}
    for stream, names in self.ladder.items():
      if stream not in predictions[names[-1]]:
        continue  # a run of one stream
      rungs = [predictions[n][stream].astype(jnp.float32) for n in names]
      v = rungs[-1]
      for name, low, high in zip(self.scales, rungs, rungs[1:]):
        v = v + (scales[stream][name] - 1) * (high - low)
      guided[stream] = v
    return guided


CONDITIONAL = "cond"  # the name of every form's last evaluation
_CONDITIONAL = Evaluation()
_NO_TEXT = Evaluation(text=False)
_ALONE = Evaluation(cross=False)
_NOTHING = Evaluation(text=False, cross=False)
_SHUFFLED = Evaluation(text=False, shuffled=True)


def _both(value):
  return dict.fromkeys(STREAMS, value)


def _form(defaults, needs=None, **evaluations):
  """A form whose ladder is all its evaluations, the same for both streams."""
  ladder, scales = _both(tuple(evaluations)), tuple(defaults)
  return Guidance(evaluations, ladder, scales, _both(defaults), needs)


def _null_form(defaults, *, text):
  """A form with the null streams for anchors: silence the video's, a still the audio's.

  Args:
    text: whether the anchors keep the prompt.
  """
  return Guidance(
    evaluations={
      "silent": Evaluation(text, null="audio"),
      "static": Evaluation(text, null="video"),
      "cond": _CONDITIONAL,
    },
    ladder={"video": ("silent", "cond"), "audio": ("static", "cond")},
    scales=tuple(defaults),
    defaults=_both(defaults),
  )


# Scales: `text` is 4 for video and 3 for audio in Ovi, 5 in Wan2.1; the paper's own
# are not known, the others are starting points to be tuned.
GUIDANCE = {
  "none": _form({}, cond=_CONDITIONAL),
  "text": Guidance(
    evaluations={"neg": _NO_TEXT, "cond": _CONDITIONAL},
    ladder=_both(("neg", "cond")),
    scales=("s",),
    defaults={"video": {"s": 4.0}, "audio": {"s": 3.0}},
  ),
  "modality": _form({"s": 3.0}, alone=_ALONE, cond=_CONDITIONAL),
  "ucg2": _form({"s": 5.0}, "context", context=_NOTHING, cond=_CONDITIONAL),
  "ucg2_null": _null_form({"s": 5.0}, text=False),
  "ucg2_shuffled": _form({"s": 5.0}, shuffled=_SHUFFLED, cond=_CONDITIONAL),
  "ucg3": _form(
    {"s_m": 3.0, "s_t": 5.0}, "context",
    context=_NOTHING, neg=_NO_TEXT, cond=_CONDITIONAL,
  ),
  "ucg3_text": _form(
    {"s_t": 5.0, "s_m": 3.0}, "context",
    context=_NOTHING, alone=_ALONE, cond=_CONDITIONAL,
  ),
  "multimodal": _form(
    {"s_m": 3.0, "s_t": 5.0}, "gate",
    off=_NOTHING, neg=_NO_TEXT, cond=_CONDITIONAL,
  ),
  "multimodal2": _form({"s": 5.0}, "gate", off=_NOTHING, cond=_CONDITIONAL),
  "sync": _null_form({"s": 3.0}, text=True),
}  # fmt: skip


def served(variant: str) -> dict[str, Guidance]:
  """Of GUIDANCE the forms that cross-modal attention of a kind can serve.

  Args:
    variant: "context" (learnable context tokens), "gate" or "fusion", which serve the
      same forms: what a gate switches off, fusion lacks.

  Raises:
    UsageError: there is no such kind.
  """
  if variant not in ("context", "gate", "fusion"):
    raise UsageError(
      f"unknown cross-modal attention {variant!r}; choose context, gate or fusion"
    )
  kinds = (None, "context" if variant == "context" else "gate")
  return {n: g for n, g in GUIDANCE.items() if g.needs in kinds}


def get_guidance(name: str, variant: str) -> Guidance:
  """The form `name`, if cross-modal attention of kind `variant` can serve it.

  Args:
    name: one of GUIDANCE.
    variant: see `served`.

  Raises:
    UsageError: it cannot, or there is no such form or kind.
  """
  valid = served(variant)
  if name not in valid:
    problem = "needs another model" if name in GUIDANCE else "is unknown"
    raise UsageError(
      f"guidance {name!r} {problem}; a model with cross-modal attention of kind "
      f"{variant!r} serves {', '.join(valid)}"
    )
  return GUIDANCE[name]


def runs(
  used: Mapping[str, Evaluation], batched: bool
) -> tuple[tuple[Evaluation, ...], ...]:
  """What is evaluated together: equal evaluations are one, and all are one batch, or
  each is a run of its own.
  """
  wanted = tuple(dict.fromkeys(used.values()))
  return (wanted,) if batched else tuple((e,) for e in wanted)


def guided(
  evaluate: Callable[[Streams, Array, tuple[Evaluation, ...]], Sequence[Streams]],
  guidance: Guidance,
  scales: Scales,
  batched: bool,
  present: Sequence[str] = STREAMS,
  skip: bool = False,
) -> Callable[[Streams, Array], dict[str, Array]]:
  """The guided velocity as a function of (latents, timestep), for the samplers.

  Args:
    evaluate: (latents, timestep, evaluations) -> the streams' velocities, one dict per
      evaluation. Given several it is free to stack them on the batch axis.
    guidance: the form. Evaluations that guide no stream of the latents are not run,
      and equal ones are run once.
    scales: overrides of its default scales.
    batched: all evaluations in one call (fast), or one call each (least memory).
    present: the streams the network has, sampled or given.
    skip: see `Guidance.used`.
  """
  scales = guidance.resolve(scales)

  def velocity(latents, timestep):
    used = guidance.used(tuple(latents), present, skip)
    results = {}
    for together in runs(used, batched):
      results |= zip(together, evaluate(latents, timestep, together), strict=True)
    return guidance.combine({n: results[e] for n, e in used.items()}, scales)

  return velocity
