"""Trains a model: data, codecs, mesh, model and optimizer from a config, then the loop.

  python -m ccl_jax.train --config=configs/quickstart.py --workdir=runs/quickstart
  python -m ccl_jax.train --config=configs/joint.py:size=14b --workdir=/data/run1 \\
      --config.mesh="(1,64,1,1)" --config.batch.size=64

The same command goes on where WORKDIR stopped, on any number of devices. With another
config it is refused, and told key by key, unless --allow_changes is given. Free are
steps, log, log_every, checkpoint, profile, evaluate, report, and what says how the
machine is used: mesh, slices, accumulate, batch.threads, data.cache_gb, and of the
model attention, blocks and remat. One process at a time writes a WORKDIR. On several
hosts run it on each with --distributed: the hosts of a TPU pod or a Slurm job find one
another, elsewhere add --coordinator=HOST:PORT --num_processes=N --process_id=I. All
must see one WORKDIR.
"""

import contextlib

from ccl_jax import progress

if __name__ == "__main__":
  progress.starting()  # before the imports that take seconds

import dataclasses
import functools
import json
import os
import time
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags
from ml_collections import config_flags

from ccl_jax import cli, files
from ccl_jax.axes import STREAMS
from ccl_jax.checkpoints.checkpointer import Checkpointer, restore_params
from ccl_jax.checkpoints.find import Parameters, find_parameters
from ccl_jax.checkpoints.identity import identity
from ccl_jax.checkpoints.steps import folder_of, stored_steps
from ccl_jax.checkpoints.usage import inherited, stated
from ccl_jax.codecs.bundle import fingerprints, load_codecs, require_same
from ccl_jax.errors import UsageError, bind
from ccl_jax.files import write_json
from ccl_jax.models.flops import forward_flops
from ccl_jax.models.joint import token_geometry
from ccl_jax.models.presets import build_model, stored_model
from ccl_jax.places import hold, require_plain
from ccl_jax.planning.chips import chip_of
from ccl_jax.processes import first_process, join_if_asked
from ccl_jax.remote.paths import Place, place
from ccl_jax.seeds import noise_key
from ccl_jax.sharding import make_mesh, require_devices
from ccl_jax.shipped import checkpoint
from ccl_jax.tasks import taught
from ccl_jax.training import loop
from ccl_jax.training.build import (
  Run,
  build_run,
  check_sizes,
  make_adapter,
  make_recipe,
)
from ccl_jax.training.changes import plain, require_same_run
from ccl_jax.training.evaluate import Evaluation
from ccl_jax.training.films import open_films
from ccl_jax.training.latents import open_latents
from ccl_jax.training.log import MetricLog, StepTimer
from ccl_jax.training.profile import Profile
from ccl_jax.training.settings import check_run
from ccl_jax.training.state import TrainState, new_state
from ccl_jax.training.trackers import open_trackers
from ccl_jax.weights.transformers import model_of
from ccl_jax.weights.wan import usage_of

CONFIG = config_flags.DEFINE_config_file(
  "config", None, "Config file of the run, with its arguments: FILE:NAME=VALUE,..."
)
WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder of the run; a run that is in it is resumed."
)
ALLOW_CHANGES = flags.DEFINE_bool(
  "allow_changes",
  False,
  "Go on with a run though its config is another; the differences are shown.",
)
DISTRIBUTED, COORDINATOR, NUM_PROCESSES, PROCESS_ID = cli.process_flags(__name__)
MEET_SECONDS = flags.DEFINE_integer(
  "meet_seconds", 300, "Seconds to wait until the other processes have started.", 1
)
HEARTBEAT_SECONDS = flags.DEFINE_integer(
  "heartbeat_seconds", 30, "Silence after which another process counts as lost.", 1
)
BUCKETS = (
  *("--workdir", "config.data.root", "config.data.options.captions"),
  *("config.evaluate.root", "config.codec.path", "config.init"),
)
flags.mark_flags_as_required(["config", "workdir"])


def work_of(model, text: tuple[int, int]):
  """A function from a batch of latents to its clips and the FLOPs of a step of it.

  A train step is three forward passes.

  Args:
    model: whose FLOPs are counted.
    text: (l, e) of the text embeddings.
  """

  @functools.cache
  def flops(geometry):
    # Forward, and twice that backward; what remat makes again does not count.
    return 3 * sum(forward_flops(model, geometry, *text).values())

  def work(batch):
    latents = {s: batch[s] for s in dict(model.streams) if s in batch}
    clips = batch["text"].shape[0]
    return clips, clips * flops(token_geometry(model.streams, latents))

  return work


def guidance_of(config) -> dict[str, Any]:
  """The guidance that a user sees in the report, and that `generate` takes therefore:
  {"form", "scales": {stream: values}}; empty if the run makes no report.
  """
  r = config.report
  if not r.tasks:
    return {}
  return {"form": r.guidance, "scales": {s: list(r.scales[s]) for s in STREAMS}}


def find_start(config, model) -> Parameters:
  """The parameters that a run of a model starts from.

  Raises:
    UsageError: there are none, but a part of a model's, or those of another network.
  """
  parameters = find_parameters(config.init)
  if "base" in parameters.description:
    raise UsageError(
      f"config.init: {config.init} has trained a part of a model, and is none; "
      "expected a run that has trained a whole one, or a folder of 'convert'"
    )
  require_same_network(model, model_of(parameters), config.init)
  return parameters


def open_base(config, run: Run) -> tuple[Any, dict[str, Any]]:
  """The parameters that a part is trained of, and what a checkpoint says of them: the
  folder, its subtree and step, and their identity. None and nothing without an adapter.

  Raises:
    UsageError: there are no such parameters, or of other shapes.
  """
  if run.adapter is None:
    return None, {}
  parameters = find_start(config, run.model)
  checkpoints = parameters.folder / "checkpoints"
  step, base, _ = restore_params(checkpoints, parameters.name, run.base)
  about = {
    "folder": str(checkpoint(config.init).absolute()),
    "identity": identity(checkpoints, parameters.name, step),
    "step": step,
  }
  return base, {"base": about, "lora": dataclasses.asdict(run.adapter)}


def require_same_base(metadata, base: dict[str, Any]) -> None:
  """Raises UsageError where a part was trained of other parameters so far."""
  before, now = (x.get("base", {}).get("identity") for x in (metadata, base))
  if before != now:
    raise UsageError(
      "config.init: the parameters in it are not those that this run trains a part of; "
      "put them back, or name a new workdir"
    )


def initial_state(config, run: Run, base) -> tuple[TrainState, dict[str, Any]]:
  """A fresh state, of the parameters that config.init names if it names some, and the
  settings that these are sampled with (`checkpoints.usage`).

  No process reads more of them than its devices hold.

  Args:
    config: of the run.
    run: its parts.
    base: of `open_base`.

  Raises:
    UsageError: there are no such parameters, or they are of another network.
  """
  if run.adapter is not None:
    fresh = jax.jit(run.fresh, out_shardings=run.shardings)
    about = find_parameters(config.init).description
    return fresh(noise_key(config.seed), base), usage_of(about)
  if not config.init:
    fresh = jax.jit(run.fresh, out_shardings=run.shardings)
    return fresh(noise_key(config.seed)), {}
  parameters = find_start(config, run.model)
  # Restored straight into the run's shardings.
  checkpoints = parameters.folder / "checkpoints"
  _, params, _ = restore_params(checkpoints, parameters.name, run.state.params)
  # Donated: the parameters move into the state without a second copy.
  start = lambda params: new_state(params, run.optimizer)
  state = jax.jit(start, out_shardings=run.shardings, donate_argnums=0)(params)
  return state, usage_of(parameters.description)


def require_same_network(model, found, init: str) -> None:
  """Raises UsageError where parameters are of a network that computes something else,
  whether or not their shapes tell.

  Args:
    model: of the run.
    found: that the parameters were made for.
    init: where they are, as config.init names them.
  """
  own, theirs = dict(model.streams), dict(found.streams)
  rows = [("model.preset: depth", model.depth, found.depth)]
  if model.cross and found.cross:  # of one stream alone there is nothing to compare
    rows.append(("model.variant", model.cross.variant, found.cross.variant))
  for s in own.keys() & theirs.keys():
    sizes = dataclasses.asdict(own[s])
    rows += [
      (f"model.preset: {name} of the {s} stream", sizes[name], value)
      for name, value in dataclasses.asdict(theirs[s]).items()
    ]
  for name, got, expected in rows:
    if got != expected:
      raise UsageError(
        f"config.{name}: got {got}; {init} has {expected}: give the run the same, or "
        "start it from other parameters"
      )


def require_named(config, model, workdir: Place) -> None:
  """Checks what a new run takes from elsewhere, before data are read or made for it.

  Args:
    config, model: of the run.
    workdir: of the run; what it has by now it does not take again.

  Raises:
    UsageError: there are no such codecs, or no such parameters.
  """
  if config.codec.path and not files.is_whole_folder(workdir / "codecs"):
    load_codecs(config.codec.path, ())
  begun = stored_steps(folder_of(workdir / "checkpoints"))
  if config.init and (make_adapter(config) or not begun):
    find_start(config, model)


def require_same_times(model, metadata) -> None:
  """Raises UsageError where a run was trained with other times of latents so far."""
  stored = bind("model", metadata["model"], stored_model).cross
  if model.cross and stored and model.cross.times != stored.times:
    raise UsageError(
      f"config.model.times: got {model.cross.times}; this run was trained with "
      f"{stored.times}: give --config.model.times={stored.times}, or another workdir"
    )


def check(config) -> None:
  """Checks every setting before anything is opened or written.

  Those of the report, which comes last, are checked too.

  Raises:
    UsageError: one is wrong.
  """
  check_run(config)
  if config.report.tasks:
    from ccl_jax.generation.report import check_report

    check_report(config)


def train(config, workdir: str | os.PathLike, *, allow_changes: bool = False) -> bool:
  """Trains to the end, or to a request to stop; returns whether it got to the end.

  Args:
    config: of the run.
    workdir: of the run, which goes on where it stopped.
    allow_changes: whether a run may go on with another config; see `training.changes`.

  Raises:
    UsageError: a wrong setting, data or codecs that do not fit, a folder that another
      process writes, or a loss that is not finite.
  """
  require_plain(workdir, arrays=True)
  workdir = place(workdir)
  require_devices()
  check(config)
  with contextlib.ExitStack() as stack:
    first_process(lambda: stack.enter_context(hold(workdir)))
    first_process(lambda: require_same_run(config, workdir, allow_changes))
    first_process(lambda: files.sweep(workdir))
    codecs = workdir / "codecs"
    fresh = jax.process_index() == 0 and not files.is_whole_folder(codecs)
    try:
      return _train(config, workdir, stack)
    except UsageError:
      # A run that was never accepted leaves no codecs to one of another config.
      if fresh and not (workdir / "config.json").exists():
        files.remove_folder(codecs)
      raise


def _train(config, workdir: Place, stack: contextlib.ExitStack) -> bool:
  """As `train`, in a folder that is held; what it opens is closed by `stack`."""
  timer = StepTimer(peak_flops=_peak())
  profile = Profile(workdir / "profile", config.profile)
  mesh = make_mesh(config.mesh, slices=tuple(config.slices))
  model, recipe = bind("model", config.model, build_model), make_recipe(config)
  check_sizes(config, mesh, [config.batch.size])
  require_named(config, model, workdir)
  # Records hold latents; every other source gives clips that codecs encode in the run.
  open_feed = open_latents if config.data.source == "records" else open_films
  progress.phase("reading the data")
  with timer("init"), jax.set_mesh(mesh):
    feed = open_feed(config, model, recipe, mesh, workdir)
    stack.callback(feed.batches.close)
    # Again with the sizes of the data: buckets may have batches of their own.
    check_sizes(config, mesh, feed.batch_sizes)
    evaluation = open_evaluation(config, model, recipe, mesh, workdir)
    if evaluation is not None:
      stack.callback(evaluation.close)
    progress.phase("building the model")
    run = build_run(config, mesh, feed.text, clip=feed.clip)
    checkpointer = Checkpointer(workdir / "checkpoints", keep=config.checkpoint.keep)
    stack.callback(checkpointer.close)
    base, about_base = open_base(config, run)
    restored = checkpointer.restore(run.state)
    if restored is None:
      first, (state, usage) = 0, initial_state(config, run, base)
    else:
      first, state, data_state, metadata = restored
      usage = stated(metadata)
      # Other codecs mean another latent space: the parameters would be worthless in it.
      advice = "put the run's own codecs back, or name a new workdir"
      require_same(feed.codecs, metadata["codecs"], advice, whole=True)
      require_same_times(model, metadata)
      require_same_base(metadata, about_base)
      feed.batches.set_state(data_state)
  metadata = {
    "config": plain(config),
    "model": config.model.to_dict(),
    "objective": config.objective.to_dict(),
    "codecs": fingerprints(feed.codecs),
    **inherited(
      usage,
      dataclasses.asdict(feed.clip),
      guidance_of(config),
      taught(recipe.names, recipe.image_probability > 0),
    ),
    **about_base,
  }
  chief = jax.process_index() == 0
  # All processes see one folder: one of them writes. The run is accepted now.
  if chief:
    write_json(workdir / "config.json", metadata["config"], indent=2)
  names = config.log.trackers
  trackers = first_process(lambda: open_trackers(names, workdir, metadata["config"]))
  log = MetricLog(
    workdir, config.steps, start_step=first, enabled=chief, trackers=trackers
  )
  stack.callback(log.close)
  with jax.set_mesh(mesh):
    _, done = loop.train(
      state,
      step_of=step_on(run, base),
      batches=feed.batches,
      encode=feed.encode,
      checkpointer=checkpointer,
      metadata=metadata,
      save_every=config.checkpoint.every,
      save_minutes=config.checkpoint.minutes,
      evaluate=evaluation and evaluate_on(run, base, evaluation),
      evaluate_every=config.evaluate.every,
      log=log,
      log_every=config.log_every,
      timer=timer,
      tasks=recipe.names,
      first_step=first,
      total_steps=config.steps,
      work_of=work_of(model, feed.text),
      profile=profile,
    )
  return done


def step_on(run: Run, base):
  """`Run.step_of`, its programs with the parameters that a part is trained of."""
  if run.adapter is None:
    return run.step_of

  def step_of(step, batch):
    name, program = run.step_of(step, batch)
    return name, functools.partial(program, base=base)

  return step_of


def evaluate_on(run: Run, base, evaluation):
  """The evaluation of all parameters, where a part of them is trained."""
  if run.adapter is None:
    return evaluation
  whole = jax.jit(run.adapter.applied)
  return lambda trained: evaluation(whole(base, trained))


def open_evaluation(config, model, recipe, mesh, workdir) -> Evaluation | None:
  """The evaluation of the held-out loss; None if config.evaluate asks for none.

  Raises:
    UsageError: the source has no held-out split, and no other data are named.
  """
  e = config.evaluate
  if not e.every:
    return None
  if config.data.source in ("folder", "records") and not e.root:
    raise UsageError(
      f"config.evaluate: the source {config.data.source} has no held-out split: name "
      "other data with config.evaluate.root, or set config.evaluate.every=0"
    )
  where = config, model, recipe, mesh, workdir
  if config.data.source == "records":
    feed = open_latents(*where, root=e.root)
  else:
    split = "train" if config.data.source == "folder" else "test"
    feed = open_films(*where, root=e.root, split=split)
  # Whole batches, so that no second program is compiled for a remainder.
  batches = max(1, e.clips // config.batch.size)
  return Evaluation(model, recipe, feed, batches, tuple(e.sigmas))


def _peak() -> float:
  """FLOP/s of all devices together; of unknown ones, what a matmul reaches on each."""
  chip = chip_of(jax.devices()[0].device_kind)
  return jax.device_count() * (_matmul_rate() if chip is None else chip.flops)


def _matmul_rate() -> float:
  """FLOP/s of a product of matrices on one device."""
  x = jnp.ones((1024, 1024))
  matmul = jax.jit(jnp.matmul)
  # The first call compiles.
  matmul(x, x).block_until_ready()
  seconds = []
  for _ in range(5):
    start = time.perf_counter()
    matmul(x, x).block_until_ready()
    seconds.append(time.perf_counter() - start)
  return 2 * 1024**3 / min(seconds)


def join() -> None:
  """Connects to the other processes, if the flags say that there are any.

  Raises:
    UsageError: flags that do not go together.
  """
  where = COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value
  options = {"seconds": MEET_SECONDS.value, "heartbeat": HEARTBEAT_SECONDS.value}
  join_if_asked(DISTRIBUTED.value, *where, **options)


def main():
  """Trains by the flags, then writes the report."""
  config = cli.require_config(
    CONFIG.value, ("model.preset", "objective", "tasks", "optim"), "configs/joint.py"
  )
  join()
  done = train(config, WORKDIR.value, allow_changes=ALLOW_CHANGES.value)
  if done and config.report.tasks:
    from ccl_jax.generation.report import report

    first_process(lambda: report(config, WORKDIR.value))
  elif not done and jax.process_index() == 0:
    print(json.dumps({"stopped": True, "workdir": WORKDIR.value}))


if __name__ == "__main__":
  cli.run(main, BUCKETS)
