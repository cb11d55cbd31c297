"""Shows what a trained model can do: clips, scores beside chance, panels.

  python -m ccl_jax.report --workdir runs/quickstart
  python -m ccl_jax.report --workdir runs/quickstart --guidance ucg3 \\
      --scale_video 2,4 --scale_audio 3,3 --out runs/quickstart/ucg3
  python -m ccl_jax.report --workdir runs/gate --guidance text --tasks joint,v2a \\
      --clips 100 --seed 1

WORKDIR is a training run. What no flag says is as in the section `report` of the run's
config; scales that no flag gives are that section's for its own form of guidance, and
for another form those the form starts from. 'python -m ccl_jax.generate --help' lists
the forms and the order of their scales.

Writes settings.json (what the report was made with), scores.json, films, contact sheets
and panels to OUT or, without it, to WORKDIR/report, report_2, ...: the first that has
no other report. The same command goes on with a report that was stopped, and makes
nothing of one that is finished. OUT with a report of other settings is an error.
"""

from typing import Any, NotRequired

from ccl_jax import progress

if __name__ == "__main__":
  progress.starting()  # before the imports that take seconds

from absl import flags
from ml_collections import ConfigDict
from typing_extensions import TypedDict

from ccl_jax import cli
from ccl_jax.axes import STREAMS
from ccl_jax.checkpoints.checkpointer import latest_metadata
from ccl_jax.checkpoints.find import BAD_VALUES, read_config
from ccl_jax.documents import Count, Malformed, Number, Seed, check
from ccl_jax.errors import UsageError, finite_numbers
from ccl_jax.remote.paths import place
from ccl_jax.sharding import require_devices

WORKDIR = flags.DEFINE_string("workdir", None, "A training run.")
OUT = flags.DEFINE_string("out", None, "Folder of the report.")
TASKS = flags.DEFINE_list(
  "tasks", None, "Of joint, ti2av, a2v and v2a, e.g. joint,a2v."
)
CLIPS = flags.DEFINE_integer("clips", None, "Clips of the test split.")
STEPS = flags.DEFINE_integer("steps", None, "Sampling steps.")
SHOW = flags.DEFINE_integer("show", None, "Clips that are shown.")
SEED = flags.DEFINE_integer("seed", None, "Seed of the noise; that of the run if none.")
GUIDANCE = flags.DEFINE_string("guidance", None, "A form of guidance.")
SCALES = {
  "video": flags.DEFINE_list("scale_video", None, "Scale(s) of the video, e.g. 3,5."),
  "audio": flags.DEFINE_list("scale_audio", None, "Scale(s) of the sound."),
}
NEEDED = ("seed", "model", "objective", "data", "report")  # sections of a run's config
BUCKETS = "--workdir", "--out"
flags.mark_flag_as_required("workdir")


class Data(TypedDict):
  """The section `data`, as far as a report reads it."""

  source: str
  root: str
  options: dict[str, Any]


class Report(TypedDict):
  """The section `report`; earlier versions had one `scale` in place of `scales`."""

  tasks: list[str]
  clips: Count
  steps: Count
  guidance: str
  show: Count
  scales: NotRequired[dict[str, list[Number]]]


class Objective(TypedDict):
  """The section `objective`, as far as a report reads it."""

  shift: Number


class RunConfig(TypedDict):
  """The sections of a run's config.json that a report reads."""

  seed: Seed
  model: dict[str, Any]
  objective: Objective
  data: Data
  report: Report


def read_run(workdir: str) -> ConfigDict:
  """The config that a run was trained with, by its checkpoint.

  Raises:
    UsageError: there is none, or it cannot be read.
  """
  try:
    config = read_config(workdir)
  except Malformed as e:
    raise UsageError(f"--workdir {workdir} holds no training run: {e}") from e
  if found := latest_metadata(place(workdir) / "checkpoints"):
    # The checkpoint says what was trained; what is shown may be set anew.
    shown = {key: config[key] for key in ("report",) if key in config}
    config = config | found[1].get("config", {}) | shown
  missing = [key for key in NEEDED if key not in config]
  if missing:
    raise UsageError(
      f"--workdir {workdir} holds no training run: no config.json that one wrote, with "
      f"{', '.join(missing)}"
    )
  where = f"{workdir}/config.json"
  check(config, RunConfig, where, "put back the one that the run wrote")
  return ConfigDict({key: config[key] for key in NEEDED})


def with_flags(config: ConfigDict) -> ConfigDict:
  """The config with what the flags say in its section `report`.

  Raises:
    UsageError: scales that are no numbers, or nothing to show.
  """
  r = config.report
  old = r.get("scales", {}) if GUIDANCE.value in (None, r.guidance) else {}
  scales = {s: tuple(old.get(s, ())) for s in STREAMS}
  for stream, flag in SCALES.items():
    if flag.value is not None:
      scales[stream] = tuple(finite_numbers(flag.name, flag.value))
  given = {"tasks": TASKS, "clips": CLIPS, "steps": STEPS, "show": SHOW}
  given |= {"guidance": GUIDANCE}
  own = {
    key: r[key] if flag.value is None else flag.value for key, flag in given.items()
  }
  config.report = ConfigDict(own | {"scales": scales})
  if SEED.value is not None:
    config.seed = SEED.value
  if not config.report.tasks:
    raise UsageError("--tasks is missing: the run's config names none to show")
  return config


def main():
  """Makes the report that the flags ask for, or goes on with it."""
  from ccl_jax.generation.report import check_report, report

  require_devices()
  config = with_flags(read_run(WORKDIR.value))
  try:
    check_report(config)
  except BAD_VALUES as e:  # of a model's setting that is of another type
    raise UsageError(
      f"{WORKDIR.value}/config.json: its model is none ({e!r:.120}): put back the one "
      "that the run wrote"
    ) from e
  report(config, WORKDIR.value, OUT.value)


if __name__ == "__main__":
  cli.run(main, BUCKETS)
