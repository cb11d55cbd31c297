"""What is compared, as data: trained variants, forms of guidance, questions.

A variant is settings of a config in which it differs from the full method. All variants
of one seed start from the same streams, the same new parameters as far as they share
them, and see the same clips, noise and tasks in the same order: they are paired.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ccl_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Variant:
  """A model that is trained.

  Attributes:
    about: what it is, in a few words.
    settings: by the config's dotted names, where it is not the full method.
    longer: how many times the steps of the others it trains.
  """

  about: str
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  longer: int = 1

  @property
  def exchange(self) -> str:
    """The kind of its exchange, "context" or "gate"."""
    return self.settings.get("model.variant", "context")


def _gate(about: str, **model: Any) -> Variant:
  return _model(about, variant="gate", **model)


def _model(about: str, **model: Any) -> Variant:
  return Variant(about, {f"model.{key}": value for key, value in model.items()})


# The rows of the main table, in its order.
MAIN = {
  "gate": _gate("binary gate, global attention, as Ovi", tarp=False),
  "gate_tarp": _gate("gate, the paper's aligned windows", times="uniform"),
  "gate_causal": _gate("gate, right times and own windows", times="causal"),
  "ccl_paper": _model("CCL, the paper's times and windows", times="uniform"),
  "ccl_causal_wide": _model(
    "CCL, right times and own windows, RoPE in latent frames", rope_unit="latent"
  ),
  "ccl": Variant("CCL, right times and own windows, RoPE in audio tokens"),
  "ccl_global": _model("CCL without windows", tarp=False),
}
# Further variants, each of a question.
OTHERS = {
  **{
    f"window{n or '_all'}_{times}": _model(f"{times} times, window {n}", window=n,
                                           times=times)
    for times in ("causal", "uniform")
    for n in (0, 1, 3, 5)
    # What the main rows have already.
    if (times, n) not in (("causal", 1), ("uniform", 3))
  },
  **{
    f"{name}_longer": Variant(f"{about}, four times the steps", settings, longer=4)
    for name, about, settings in (
      ("ccl", "CCL", {}),
      ("window3_causal", "causal times, window 3", {"model.window": 3}),
    )
  },
  "floor": _model("the paper's literal windows", times="uniform", tarp_centre="floor"),
  "rope_temporal": _model("RoPE of video tokens by time only", cross_rope="temporal"),
  **{
    f"context{n}": _model(f"{n} context tokens", video_tokens=n, audio_tokens=n)
    for n in (0, 2, 8, 32)
  },
  "context_null": _model("context tokens without values", context_values=False),
  "own_sigma": Variant(
    "each stream its own noise level", {"objective.shared_sigma": False}
  ),
  "no_detach": Variant("clean streams not detached", {"objective.detach": False}),
  "gate_step": Variant(
    "gate, one task a step", MAIN["gate"].settings | {"tasks.draw": "step"}
  ),
  "ccl_step": Variant("CCL, one task a step", {"tasks.draw": "step"}),
}  # fmt: skip
VARIANTS: Mapping[str, Variant] = MAIN | OTHERS

# The questions, and the variants that answer each; the first is what others are held
# against.
QUESTIONS = {
  "How wide a window, with right times?": (
    "ccl", "window3_causal", "window5_causal", "window_all_causal",
  ),
  "Does a wide window catch up?": ("ccl_longer", "window3_causal_longer"),
  "How wide a window, with the paper's times?": (
    "ccl_paper", "window1_uniform", "window5_uniform", "window_all_uniform",
  ),
  "Which times?": ("ccl", "ccl_paper", "floor"),
  "Which unit of RoPE?": ("ccl", "ccl_causal_wide"),
  "RoPE of video tokens in space too?": ("ccl", "rope_temporal"),
  "How many context tokens?": ("ccl", "context0", "context2", "context8", "context32"),
  "Do context tokens need values?": ("ccl", "context_null", "context0"),
  "One noise level for both streams?": ("ccl", "own_sigma"),
  "Are clean streams to be detached?": ("ccl", "no_detach"),
  "Tasks by sample or by step?": ("ccl", "ccl_step", "gate", "gate_step"),
}  # fmt: skip

# Forms of guidance, by the exchange they need. Those of BEST are scored on all tasks,
# the others on `joint`.
BEST = {"gate": ("text", "multimodal"), "context": ("text", "ucg2")}
ROWS = {
  "gate": (*BEST["gate"], "multimodal2", "modality", "ucg2_null", "ucg2_shuffled"),
  "context": (
    *BEST["context"], "ucg3", "ucg3_text", "ucg2_null", "ucg2_shuffled", "modality",
    "sync",
  ),
}  # fmt: skip
# Variants on which all forms are scored; on others those of BEST.
FULL = ("gate", "ccl")
# Whose first seed the scales of the forms are tuned on, by the kind of exchange.
TUNED_ON = {"gate": "gate", "context": "ccl"}
# Scales that are tried: of forms with one, and each of those with two.
GRID = {1: (1.0, 1.5, 2.0, 3.0, 5.0), 2: (1.0, 2.0, 4.0)}
TASKS = ("joint", "a2v", "v2a")
INFORMATION_SIGMAS = (0.3, 0.6, 0.9, 0.98)
ATTENTION_SIGMAS = (0.3, 0.6, 0.9)


def chosen(only: str) -> list[str]:
  """The variants of a list "a,b"; "" is all rows of the main table, "all" every one.

  Raises:
    UsageError: one is unknown.
  """
  names = {"": list(MAIN), "all": list(VARIANTS)}.get(only) or only.split(",")
  for name in names:
    if name not in VARIANTS:
      raise UsageError(
        f"--only: got {name!r}; expected some of {', '.join(VARIANTS)}, or all"
      )
  return list(dict.fromkeys(names))


def forms(variant: str) -> tuple[str, ...]:
  """The forms of guidance that a variant is scored with."""
  kind = VARIANTS[variant].exchange
  return ROWS[kind] if variant in FULL else BEST[kind]
