"""Checks the config of a run before data are opened or anything is written.

The function that a section is the keywords of says what its names mean, and is called
here to say so early. Plain numbers, which are used late or would be taken without a
word, have their bounds here.
"""

import re
from collections.abc import Mapping

from ccl_jax.data.sources.option_rules import option_rules
from ccl_jax.data.spec import ClipSpec
from ccl_jax.diffusion.flow import SIGMA_KINDS
from ccl_jax.errors import (
  THREADS,
  Rule,
  UsageError,
  below,
  bind,
  check_settings,
  each,
  number,
  one_of,
  positive,
  whole,
)
from ccl_jax.models.presets import build_model, parameter_shapes
from ccl_jax.seeds import SEED
from ccl_jax.training.build import (
  build_optimizer,
  make_adapter,
  make_recipe,
  trained_shapes,
)
from ccl_jax.training.trackers import TRACKERS, require

_SIZE = whole(1)
_BOOL = Rule(lambda x: isinstance(x, bool), "True or False")


def _mesh(x) -> bool:
  return len(x) == 4 and all(n == -1 or _SIZE.holds(n) for n in x) and x.count(-1) < 2


def _window(x) -> bool:
  return not x or (len(x) == 2 and all(map(whole(0).holds, x)) and x[0] <= x[1])


def _group(row) -> bool:
  pattern, lr, weight_decay = row
  re.compile(pattern)
  return number(0).holds(lr) and number(0).holds(weight_decay)


def _groups(rows) -> bool:
  try:
    return bool(rows) and all(map(_group, rows))
  except (re.error, ValueError):  # no pattern, or not three in a row
    return False


def _sigmas(x) -> bool:
  return len(x) > 0 and all(positive().holds(s) and s <= 1 for s in x)


def _weights(x) -> bool:
  return len(x) == 2 and all(map(number(0).holds, x)) and sum(x) > 0


def _is_pattern(x) -> bool:
  try:
    re.compile(x)
    return True
  except (re.error, TypeError):
    return False


_PATTERN = Rule(
  _is_pattern, "a regex of whole paths, or a name of models.adapter.LAYERS"
)
# Of every run that the training loop drives.
LOOP = {
  "seed": SEED,
  "steps": whole(1),
  "batch.size": whole(1),
  "batch.threads": whole(0, THREADS),
  "mesh": Rule(_mesh, "four sizes from 1 on, one of which may be -1"),
  "checkpoint.every": whole(1),
  "checkpoint.minutes": Rule(
    lambda x: 0 <= x <= 24 * 60, "minutes, or 0 for steps to count"
  ),
  "checkpoint.keep": whole(1),
  "log_every": whole(1),
  "log.trackers": each(one_of(*TRACKERS)),
  "profile": Rule(_window, "(first, last) step, as (10, 12)"),
  "ema_decay": below(1),
  "optim.warmup_steps": whole(0),
  "optim.b1": below(1),
  "optim.b2": below(1),
  "optim.clip_norm": positive(),
  # Endless memory is no mistake.
  "data.cache_gb": Rule(lambda x: x >= 0, "gigabytes, from 0 on"),
}
TRANSFORMER = {
  "clip.frames": whole(1),
  "clip.height": whole(1),
  "clip.width": whole(1),
  "clip.fps": positive(),
  "codec.fit_clips": whole(1),
  "codec.text_length": Rule(
    lambda x: x is None or _SIZE.holds(x), "a whole number from 1 on"
  ),
  "codec.text_dim": whole(1),
  "objective.sigma": one_of(*SIGMA_KINDS),
  "objective.shift": positive(),
  "objective.loss_weights": Rule(_weights, "two numbers from 0 on, not both 0"),
  "objective.text_dropout": number(0, 1),
  "objective.image_probability": number(0, 1),
  "objective.last_image_probability": number(0, 1),
  "objective.shared_sigma": _BOOL,
  "objective.detach": _BOOL,
  "optim.groups": Rule(
    _groups, "rows of (pattern, learning rate, weight decay), rates from 0 on"
  ),
  "optim.eps": positive(),
  "optim.moment_dtype": one_of("float32", "bfloat16"),
  "accumulate": whole(1),
  "lora.rank": whole(1),
  "lora.alpha": positive(),
  "lora.layers": _PATTERN,
  "lora.whole": _PATTERN,
  "evaluate.every": whole(0),
  "evaluate.clips": whole(1),
  "evaluate.sigmas": Rule(_sigmas, "noise levels above 0, to 1"),
  "slices": Rule(lambda x: len(x) == 4 and all(map(_SIZE.holds, x)), "four sizes"),
}


def check_loop(config, rules: Mapping[str, Rule]) -> None:
  """Checks the settings of every run that the training loop drives, and more of them.

  Args:
    config: of the run.
    rules: for further settings, by dotted name.

  Raises:
    UsageError: a setting is missing, or wrong; or a tracker's package is not there.
  """
  check_settings(config, {**LOOP, **rules})
  require(config.log.trackers)
  if config.profile and config.profile[1] >= config.steps:
    raise UsageError(
      f"config.profile: got {tuple(config.profile)}; expected steps below "
      f"config.steps={config.steps}"
    )


def check_run(config) -> None:
  """Checks the config of a transformer's run, but for what only its data can tell.

  Raises:
    UsageError: a setting is missing, or wrong.
  """
  blocks = {f"model.blocks.{k}": whole(1) for k in config.model.blocks}
  blocks.pop("model.blocks.interpret", None)
  tasks = {f"tasks.probabilities.{k}": number(0) for k in config.tasks.probabilities}
  dropout = {
    f"tasks.text_dropout.{k}": number(0, 1)
    for k, v in config.tasks.text_dropout.items()
    if v is not None
  }
  options = option_rules(config.data.options)
  check_loop(config, TRANSFORMER | blocks | tasks | dropout | options)
  bind("clip", config.clip, ClipSpec)
  model = bind("model", config.model, build_model)
  make_recipe(config)
  text = (config.codec.text_length or 1, config.codec.text_dim)
  build_optimizer(config, trained_shapes(config, parameter_shapes(model, text)))
  if make_adapter(config) and not config.init:
    raise UsageError(
      "config.init is empty: expected the model that config.lora trains a part of"
    )
