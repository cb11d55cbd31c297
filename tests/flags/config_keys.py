"""Keys and arguments of the configs, as `get_config` tells them."""

import importlib
import inspect
import pathlib
from unittest import mock

from ml_collections import ConfigDict

from configs import common

FOLDER = pathlib.Path(common.__file__).parent
# Kinds of configs: those that start from `common.base`, and the others by their names.
TRAIN = ("ablation", "audio", "joint", "lora", "quickstart")
SOUND = ("audio_vae", "vocoder")
KINDS = {"train": TRAIN, "train_audio": SOUND, "encode": ("encode",)}
# Sources of `data.options` that a config knows, beside that of its defaults.
SOURCES = ("folder", "tfds", "talking_scene", *common.MEDIA)


def get(name: str, argument: str = "") -> ConfigDict:
  """The config of that name."""
  return importlib.import_module(f"configs.{name}").get_config(argument)


def flat(config: ConfigDict) -> dict:
  """{"optim.b1": value}; an empty section is a key by itself."""
  out = {}
  for key in config:
    value = config[key]
    if isinstance(value, ConfigDict) and len(value):
      out |= {f"{key}.{k}": v for k, v in flat(value).items()}
    else:
      out[key] = value
  return out


def names() -> set[str]:
  """Of all configs that a command takes."""
  return {path.stem for path in FOLDER.glob("*.py")} - {"common", "__init__"}


def arguments(name: str) -> dict:
  """{argument: default} of a config."""
  seen, parse = {}, common.parse

  def spy(arg, **defaults):
    if not seen:  # a config that builds on another one asks that one too
      seen.update(defaults)
    return parse(arg, **defaults)

  with mock.patch.object(common, "parse", spy):
    get(name)
  return seen


def keys(name: str) -> set[str]:
  """Of a config, whatever it is told to read."""
  known = arguments(name)
  tried = [""]
  tried += [f"data=D,source={s}" for s in SOURCES if "source" in known]
  tried += ["records=R"] if "records" in known else []
  tried += ["runlocal"] if "runlocal" in known else []
  return {key for argument in tried for key in flat(get(name, argument))}


def all_keys() -> set[str]:
  """Keys "KIND config.KEY" and arguments "CONFIG:ARGUMENT" of all configs."""
  out = {f"{name}:{a}" for name in names() for a in arguments(name)}
  for kind, members in KINDS.items():
    out |= {f"{kind} config.{key}" for name in members for key in keys(name)}
  return out


def signature(function) -> set[str]:
  """The parameters of a function."""
  return set(inspect.signature(function).parameters)
