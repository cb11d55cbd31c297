"""A config is checked as a whole before the first step: one line for each mistake."""

import importlib

import pytest

from ccl_jax import train
from ccl_jax.audio_codec import run as audio_codec
from ccl_jax.errors import UsageError
from ccl_jax.generation.report import check_report
from ccl_jax.training.settings import check_run
from configs import quickstart
from tests.specs.test_configs import CASES

NAN = float("nan")
INF = float("inf")
# What no setting of that kind can be.
WHOLE = (0, -1, 1.5, NAN, True, None, "4")
ABOVE = (0, -1.0, NAN, INF, None)
FROM_ZERO = (-0.1, NAN, INF, None)
SHARE = (-0.1, 1.1, NAN)
BELOW_ONE = (-0.1, 1.0, NAN)
NUMBERS = {
  "seed": (-1, 0.5, NAN),
  "steps": WHOLE,
  "batch.size": WHOLE,
  "batch.threads": (-1, NAN, 1025, 10**6),
  "checkpoint.every": WHOLE,
  "checkpoint.minutes": (-1.0, NAN, INF, 1441.0),
  "checkpoint.keep": WHOLE,
  "log_every": WHOLE,
  "log.trackers": ("wandb", ("aim",), (1,), None),
  "accumulate": WHOLE,
  "ema_decay": BELOW_ONE,
  "evaluate.every": (-1, 0.5, NAN),
  "evaluate.clips": WHOLE,
  "evaluate.sigmas": ((), (0.0,), (0.5, 1.1), (NAN,), 0.5),
  "clip.fps": ABOVE,
  "clip.frames": (0, -1, 16.5),
  "clip.stride": (0, -8),
  "codec.fit_clips": WHOLE,
  "codec.text_length": tuple(x for x in WHOLE if x is not None),
  "codec.text_dim": WHOLE,
  "data.cache_gb": (-1.0, NAN, None),
  "mesh": ((1, 1, 1), (-1, -1, 8, 1), (1, 0, 1, 1), (1, 1.0, 1, 1), 8),
  "slices": ((1, 1), (0, 1, 1, 1), (-1, 1, 1, 1)),
  "profile": ((1,), (3, 2), (-1, 2), (0.5, 2), (2, 4), 3),
  "objective.sigma": ("normal", None),
  "objective.shift": ABOVE,
  "objective.loss_weights": ((1.0,), (0, 0), (-1, 1), (NAN, 1)),
  "objective.text_dropout": SHARE,
  "objective.image_probability": SHARE,
  "objective.last_image_probability": SHARE,
  "tasks.probabilities.a2v": FROM_ZERO,
  "tasks.draw": ("never",),
  "tasks.text_dropout.single": (-0.1, 1.1, NAN),
  "objective.shared_sigma": (None, 1),
  "objective.detach": (None, "no"),
  "model.patch": (0, 3),
  "model.times": ("late",),
  "model.window": (-1,),
  "model.video_window": (-1, 2),
  "model.rope_unit": ("second",),
  "model.video_tokens": (-1,),
  "model.context_std": (-1.0, NAN),
  "optim.groups": (
    (), ((".*", 1e-3),), ((".*", -1e-3, 0.0),), ((".*", NAN, 0.0),), (("(", 1e-3, 0),),
    ((".*", 1e-3, INF),),
  ),
  "optim.warmup_steps": (-1, 4, NAN),
  "optim.schedule": ("linear",),
  "optim.b1": BELOW_ONE,
  "optim.b2": BELOW_ONE,
  "optim.eps": ABOVE,
  "optim.clip_norm": ABOVE,
  "optim.moment_dtype": ("float33", None),
  "model.streams": ((), ("video", "video"), ("video", "smell")),
  "model.blocks": ({"block_q": 0}, {"block_q": -128}, {"rows": 2}),
}  # fmt: skip
REPORT = {
  "clips": WHOLE,
  "steps": WHOLE,
  "show": WHOLE,
  "guidance": ("ucg4", "multimodal"),
  # One for each scale of ucg2, or none.
  **{
    f"scales.{s}": ((NAN,), (-1.0,), ("2",), "2", 2.0, (1.0, 2.0))
    for s in ("video", "audio")
  },
}


def config_with(changes, base=None):
  config = (base or quickstart.get_config("runlocal")).copy_and_resolve_references()
  for name, value in changes.items():
    *sections, key = name.split(".")
    section = config
    for s in sections:
      section = section[s]
    with section.ignore_type(), section.unlocked():
      section[key] = value
  return config


def line(check, config):
  with pytest.raises(UsageError) as e:
    check(config)
  assert "\n" not in str(e.value)
  return str(e.value)


@pytest.mark.parametrize("name", NUMBERS)
def test_nonsense(name):
  for value in NUMBERS[name]:
    text = line(check_run, config_with({name: value}))
    key = name.split(".")[-1]
    assert key in text or value == {"rows": 2}, (value, text)
    assert "expected" in text or "must be" in text, (value, text)


def test_every_plain_number_of_a_config_has_its_bounds():
  """So that a new one is not forgotten: not a number is refused everywhere."""
  config = quickstart.get_config("runlocal")

  def numbers(section, prefix=""):
    for key, value in section.items():
      if hasattr(value, "items"):
        yield from numbers(value, f"{prefix}{key}.")
      elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield prefix + key

  for name in numbers(config):
    if not name.startswith("data.options."):  # the source's own
      assert name.split(".")[-1] in line(train.check, config_with({name: NAN})), name


@pytest.mark.parametrize(("name", "arg"), CASES)
def test_every_config_passes(name, arg):
  train.check(importlib.import_module(f"configs.{name}").get_config(arg))


@pytest.mark.parametrize("name", REPORT)
def test_nonsense_of_the_report(name):
  for value in REPORT[name]:
    text = line(train.check, config_with({f"report.{name}": value}))
    assert name in text, (value, text)


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"report.tasks": ("t2v",)}, "'t2v'.* joint, ti2av, a2v, v2a"),
    ({"report.tasks": ("joint", "a2w")}, "'a2w'.* joint, ti2av, a2v, v2a"),
    (
      {"model.variant": "gate"},
      "'ucg2' needs another model.* text, .*multimodal, .*sync",
    ),
    ({"model.streams": ("video",)}, "serves none, text|'joint'.* none: give"),
    (
      {"model.image_form": "channels", "objective.image_probability": 0.0},
      "'joint'.* can make ti2av, v2a",
    ),
  ],
)
def test_what_the_report_cannot_show(changes, words):
  with pytest.raises(UsageError, match=words):
    check_report(config_with(changes))


def test_each_scale_of_a_form_has_a_value_of_its_own():
  """One for both would make of ucg3 a costly ucg2."""
  with pytest.raises(UsageError, match=r"scales.video: got 1 values.* 2 .s_m, s_t"):
    check_report(config_with({"report.guidance": "ucg3"}))
  for values in ((), (2.0, 4.0)):
    scales = {f"report.scales.{s}": values for s in ("video", "audio")}
    check_report(config_with({"report.guidance": "ucg3"} | scales))


def test_streams_are_shuffled_among_two_clips_at_least():
  config = {"report.guidance": "ucg2_shuffled", "report.clips": 1}
  with pytest.raises(UsageError, match="report.clips: got 1; expected 2 at least"):
    check_report(config_with(config))
  check_report(config_with(config | {"report.clips": 2}))


def test_one_stream_has_nothing_to_show_with_any_guidance():
  config = config_with({"model.streams": ("video",), "report.guidance": "text"})
  assert "none: give ()" in line(check_report, config)


def test_nothing_is_opened_or_written(tmp_path, monkeypatch):
  """Not even the devices' speed is measured."""
  monkeypatch.setattr(train, "_peak", lambda: pytest.fail("too late"))
  config = config_with({"report.tasks": ("t2v",)})
  assert "t2v" in line(lambda c: train.train(c, tmp_path / "run"), config)
  assert not list(tmp_path.iterdir())


AUDIO = {
  "seed": (-1,),
  "steps": WHOLE,
  "batch.size": WHOLE,
  "batch.threads": (*WHOLE, 1025),
  "checkpoint.every": WHOLE,
  "checkpoint.minutes": (-1.0, NAN, INF, 1441.0),
  "checkpoint.keep": WHOLE,
  "log_every": WHOLE,
  "log.trackers": ("wandb", ("aim",), (1,), None),
  "window": (0, -1, NAN),
  "score.windows": WHOLE,
  "score.samples": (0, -1, NAN),
  "ema_decay": BELOW_ONE,
  "optim.lr": ABOVE,
  "profile": ((2, 4),),
}


@pytest.mark.parametrize("name", ["audio_vae", "vocoder"])
def test_nonsense_of_an_audio_network(name):
  base = importlib.import_module(f"configs.{name}").get_config("data=x,runlocal")
  cases = (
    AUDIO
    | {
      "audio_vae": {"loss.kl_weight": FROM_ZERO, "optim.clip_norm": ABOVE},
      "vocoder": {
        "loss.adversary_from": (-2, 0.5),
        "optim.decay": SHARE,
        "vae.from_step": (-1, NAN),
      },
    }[name]
  )
  audio_codec.check(base)
  for key, values in cases.items():
    for value in values:
      text = line(audio_codec.check, config_with({key: value}, base))
      assert key.split(".")[-1] in text, (value, text)
