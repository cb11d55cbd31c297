"""What is installed beside the code: configs by name, and small trained checkpoints.

shipped/configs       the folder configs/ of the repository
shipped/checkpoints   a folder for each, as `Pipeline.load` reads it
"""

import os
import pathlib
import sys

from ccl_jax import hub
from ccl_jax.errors import UsageError
from ccl_jax.remote.paths import Place

_HERE = pathlib.Path(__file__).parent
CONFIGS, CHECKPOINTS = _HERE / "configs", _HERE / "checkpoints"


def config_names() -> list[str]:
  """The names of the configs that `--config=NAME` takes."""
  return sorted(p.stem for p in CONFIGS.glob("*.py") if p.stem != "common")


def checkpoint_names() -> list[str]:
  """The names of the checkpoints that `--ckpt=NAME` takes."""
  return sorted(p.name for p in CHECKPOINTS.iterdir() if p.is_dir())


def config_file(text: str) -> str:
  """The file of a config, with its arguments: FILE:ARGUMENTS.

  Args:
    text: the same with a file of the user's, or NAME:ARGUMENTS of a config of this
      package, whose file may also be called configs/NAME.py from any folder.

  Raises:
    UsageError: there is no such file and no such name.
  """
  name, colon, arguments = text.partition(":")
  path = pathlib.PurePath(name)
  bare = path.name == name and not path.suffix
  if not bare and os.path.isfile(name):
    return text
  folder = str(path.parent)
  ours = path.stem if bare or (folder, path.suffix) == ("configs", ".py") else ""
  if ours not in config_names():
    raise UsageError(
      f"--config: no file {name}; expected a Python file with get_config, or one of "
      f"{', '.join(config_names())}"
    )
  return f"{CONFIGS / ours}.py{colon}{arguments}"


def make_configs_importable() -> None:
  """Lets a config of the user's say `from configs import common`, from any folder."""
  if str(_HERE) not in sys.path:
    sys.path.append(str(_HERE))  # last: a folder configs of the user's comes first


def checkpoint(folder: str | os.PathLike) -> Place:
  """The folder that `--ckpt` names: one of the user's, a shipped one by its name, or
  one of the hub by its address.

  Raises:
    UsageError: it cannot be downloaded.
  """
  own = hub.local(folder)
  if own.name == str(folder) and not own.exists() and (CHECKPOINTS / own).is_dir():
    return CHECKPOINTS / own
  return own
