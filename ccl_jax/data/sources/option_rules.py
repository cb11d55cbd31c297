"""Rules for the options of sources, checked before a source is opened."""

from typing import Any

from ccl_jax.errors import Rule, number, positive, whole

_COUNT, _SHARE = whole(1), number(0, 1)
RULES = {
  # scenes
  "n_train": _COUNT,
  "n_test": _COUNT,
  "seed": whole(0),
  "jitter": _SHARE,
  "duet": _SHARE,
  "shapes": _SHARE,
  "distractor": _SHARE,
  "impacts": _SHARE,
  "texture": _SHARE,
  "noise": _SHARE,
  # media
  "hop": positive(),
  "min_seconds": number(0),
  # Without a longest one all are taken.
  "max_seconds": Rule(lambda x: x > 0, "seconds above 0"),
  "min_side": whole(0),
  "test_share": _SHARE,
}


def option_rules(options: Any) -> dict[str, Rule]:
  """The rules of those options that are set, by their dotted names in a config.

  Args:
    options: a section of a config, or a dict.
  """
  return {
    f"data.options.{name}": RULES[name]
    for name, value in options.items()
    if name in RULES and value is not None
  }
