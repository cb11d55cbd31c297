"""Experiment trackers that are told what the log of a run is told: wandb, mlflow.

Each is a package of its own, imported where `config.log.trackers` names it, and set up
by its own variables: WANDB_PROJECT, WANDB_MODE=offline, MLFLOW_TRACKING_URI. The id
that it has given to the run is kept in WORKDIR/trackers.json, so that a run which goes
on is one run there too. Steps after the last checkpoint are taken again: a tracker has
them twice, metrics.jsonl once.
"""

import importlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from ccl_jax import progress
from ccl_jax.documents import check, read_json
from ccl_jax.errors import UsageError
from ccl_jax.files import write_json
from ccl_jax.remote.paths import Place, is_remote, place

FILE = "trackers.json"
PROJECT = "ccl_jax"
_LONGEST = 500  # characters of a parameter that every server of mlflow takes


@runtime_checkable
class Tracker(Protocol):
  """A run on a tracker.

  Attributes:
    id: by which the tracker knows the run.
  """

  id: str

  def log(self, step: int, metrics: Mapping[str, float]) -> None:
    """Logs finite numbers of a step, which may come again after a restart."""

  def close(self) -> None:
    """Ends the run, or its part in this process."""


class Wandb:
  """A run of wandb. Its steps are the metric `step`, for wandb's own only ever rise."""

  def __init__(self, module: Any, folder: Place, config: dict, id: str | None):
    self._run = module.init(
      project=os.environ.get("WANDB_PROJECT", PROJECT),
      name=folder.name,
      id=id,
      resume="allow",
      dir=None if is_remote(folder) else str(folder),
      config=config,
      # The progress line is ours.
      settings=module.Settings(silent=True, console="off"),
    )
    self.id = self._run.id
    self._run.define_metric("*", step_metric="step")
    if self._run.url:
      progress.say(f"wandb: {self._run.url}")

  def log(self, step: int, metrics: Mapping[str, float]) -> None:
    """Logs the numbers of a step."""
    self._run.log({"step": step} | dict(metrics))

  def close(self) -> None:
    """Sends what is left and ends the run."""
    self._run.finish()


class Mlflow:
  """A run of mlflow, whose parameters are the settings by their dotted names."""

  def __init__(self, module: Any, folder: Place, config: dict, id: str | None):
    self._mlflow = module
    if "MLFLOW_EXPERIMENT_NAME" not in os.environ and id is None:
      module.set_experiment(PROJECT)
    run = module.start_run(run_id=id, run_name=None if id else folder.name)
    self.id = run.info.run_id
    if id is None:  # parameters never change
      flat = {name: str(value)[:_LONGEST] for name, value in _flat(config)}
      names = list(flat)
      for i in range(0, len(names), 100):  # as many as a server takes at once
        module.log_params({name: flat[name] for name in names[i : i + 100]})

  def log(self, step: int, metrics: Mapping[str, float]) -> None:
    """Logs the numbers of a step."""
    self._mlflow.log_metrics(dict(metrics), step=step)

  def close(self) -> None:
    """Ends the run, which a later process may go on with."""
    self._mlflow.end_run()


TRACKERS: dict[str, Callable[..., Tracker]] = {"wandb": Wandb, "mlflow": Mlflow}


def require(names: Sequence[str]) -> None:
  """Checks that the packages of trackers are there, before anything is opened.

  Raises:
    UsageError: one does not import.
  """
  for name in names:
    _module(name)


def open_trackers(
  names: Sequence[str], workdir: str | os.PathLike, config: dict[str, Any]
) -> dict[str, Tracker]:
  """The run on each tracker, by the tracker's name: a new one, or the one that WORKDIR
  says it has there.

  Args:
    names: of `TRACKERS`.
    workdir: of the run.
    config: of the run, as JSON.

  Raises:
    UsageError: a tracker cannot be reached, or asks for something first.
  """
  folder = place(workdir).absolute()
  path, ids, out = folder / FILE, {}, {}
  if names and path.is_file():
    advice = "put back what was written, or remove it for new runs on the trackers"
    ids = check(read_json(path), dict[str, str], path, advice)
  for name in dict.fromkeys(names):
    progress.phase(f"starting {name}")
    try:
      out[name] = TRACKERS[name](_module(name), folder, config, ids.get(name))
    except UsageError:
      raise
    # Of whatever type the package has for it.
    except Exception as e:
      reason = " ".join(str(e).split()) or type(e).__name__
      raise UsageError(
        f"config.log.trackers: {name} cannot start: {reason[:400]}; log in, or leave "
        "it out"
      ) from e
    if ids.get(name) != out[name].id:
      ids = ids | {name: out[name].id}
      write_json(path, ids)
  return out


def tell(trackers: dict[str, Tracker], step: int, metrics: Mapping[str, float]) -> None:
  """Logs the finite ones of a step's numbers on trackers. One that fails is left out
  from then on: training goes on, and metrics.jsonl has them all.
  """
  finite = {name: x for name, x in metrics.items() if math.isfinite(x)}
  for name, tracker in list(trackers.items()):
    _guarded(trackers, name, lambda t=tracker: t.log(step, finite))


def close(trackers: dict[str, Tracker]) -> None:
  """Ends the runs on trackers, each whether or not another one fails."""
  for name, tracker in list(trackers.items()):
    _guarded(trackers, name, tracker.close)


def _guarded(trackers: dict[str, Tracker], name: str, act: Callable[[], None]) -> None:
  try:
    act()
  except Exception as e:
    del trackers[name]
    reason = " ".join(str(e).split())[:300]
    progress.say(f"note: {name} is left out from here on: {reason}")


def _module(name: str) -> Any:
  try:
    return importlib.import_module(name)
  except ImportError as e:
    raise UsageError(
      f"config.log.trackers: {name} is not usable here ({e}): pip install {name}"
    ) from e


def _flat(settings: Mapping[str, Any], before: str = ""):
  for key, value in settings.items():
    if isinstance(value, Mapping):
      yield from _flat(value, f"{before}{key}.")
    else:
      yield before + key, value
