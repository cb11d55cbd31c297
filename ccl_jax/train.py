"""Trains a model: data, codecs, mesh, model and optimizer from a config, then the loop.

  python -m ccl_jax.train --config=configs/quickstart.py --workdir=runs/quickstart
  python -m ccl_jax.train --config=configs/joint.py:size=14b --workdir=/data/run1 \\
      --config.mesh="(1,64,1,1)" --config.batch.size=64

The same command goes on where WORKDIR stopped, on any number of devices. On several
hosts run it on each with --distributed: the hosts of a TPU pod or a Slurm job find one
another, elsewhere add --coordinator=HOST:PORT --num_processes=N --process_id=I. All
must see one WORKDIR.
"""

import functools
import json
import pathlib
import time

import jax
import jax.numpy as jnp
from absl import flags
from ml_collections import config_flags

from ccl_jax import cli
from ccl_jax.checkpoints.checkpointer import Checkpointer, restore_params
from ccl_jax.checkpoints.find import find_parameters
from ccl_jax.codecs.bundle import (
  fingerprint,
)
from ccl_jax.data.pipeline import make_iterator
from ccl_jax.data.sources.open import Cached, open_source
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError, bind
from ccl_jax.models.flops import forward_flops
from ccl_jax.models.joint import token_geometry
from ccl_jax.models.presets import build_model, init_params
from ccl_jax.planning.chips import chip_of
from ccl_jax.sharding import local_rows, make_mesh
from ccl_jax.training import loop
from ccl_jax.training.build import (
  build_optimizer,
  build_steps,
  check_sizes,
  make_recipe,
)
from ccl_jax.training.films import make_encoder, open_codecs
from ccl_jax.training.latents import latent_batches, open_latents
from ccl_jax.training.log import MetricLog, StepTimer
from ccl_jax.training.processes import (
  first_process,
  first_process_first,
  join_processes,
)
from ccl_jax.training.profile import Profile
from ccl_jax.training.settings import check_run
from ccl_jax.training.state import abstract_state, new_state, state_shardings

CONFIG = config_flags.DEFINE_config_file("config", None, "The run's config file.")
WORKDIR = flags.DEFINE_string("workdir", None, "Where the run lives; resumed if there.")
DISTRIBUTED = flags.DEFINE_bool(
  "distributed", False, "This is one of several processes."
)
COORDINATOR = flags.DEFINE_string(
  "coordinator", None, "HOST:PORT of process 0, where the pod does not tell."
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "With --coordinator.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "With --coordinator; from 0.")
MEET_SECONDS = flags.DEFINE_integer(
  "meet_seconds", 300, "How long to wait for the other processes to start.", 1
)
flags.mark_flags_as_required(["config", "workdir"])


def work_of(model, text: tuple[int, int]):
  """A function from a batch of latents to its clips and the FLOPs of a step of it."""

  @functools.cache
  def flops(geometry):
    return 3 * sum(forward_flops(model, geometry, *text).values())

  def work(batch):
    latents = {s: batch[s] for s in dict(model.streams) if s in batch}
    clips = batch["text"].shape[0]
    return clips, clips * flops(token_geometry(model.streams, latents))

  return work


def initial_parameters(config, abstract):
  """Those of the folder that config.init names, restored into their shardings: no
  process reads more than its devices hold.
  """
  found = find_parameters(config.init)
  return restore_params(found.folder / "checkpoints", found.name, abstract)[1]


def check(config) -> None:
  """Checks every setting before anything is opened or written: those of the report too,
  which comes last.

  Raises:
    UsageError: one is wrong.
  """
  check_run(config)
  if config.report.tasks:
    from ccl_jax.generation.report import check_report

    check_report(config)


def train(config, workdir: str | pathlib.Path) -> bool:
  """Trains to the end, or to a request to stop; returns whether it got to the end."""
  workdir = pathlib.Path(workdir)
  check(config)
  timer = StepTimer(peak_flops=_peak())
  spec = bind("clip", config.clip, ClipSpec)
  model = bind("model", config.model, build_model)
  recipe = make_recipe(config)
  mesh = make_mesh(config.mesh, slices=tuple(config.slices))
  check_sizes(config, mesh)
  profile = Profile(workdir / "profile", config.profile)
  with timer("init"), jax.set_mesh(mesh):
    latents = config.data.source == "records"
    if latents:
      mixture, clips = open_latents(config, model, recipe), None
      check_sizes(config, mesh, mixture.batch_sizes.values())
    else:
      root = config.data.root or workdir / "data"
      clips = first_process_first(
        lambda: open_source(config.data.source, spec, root, **config.data.options)
      )
      clips = Cached(clips, config.data.cache_gb)
    codecs = first_process_first(lambda: open_codecs(config, clips, workdir))
    text = (codecs.text.length, codecs.text.dim)
    init = lambda key: init_params(model, key, text)
    shapes = jax.eval_shape(init, jax.random.key(0))
    optimizer = build_optimizer(config, shapes)
    fresh = lambda key: new_state(init(key), optimizer)
    abstract = jax.eval_shape(fresh, jax.random.key(0))
    shardings = state_shardings(abstract, mesh)
    if latents:
      threads = config.batch.threads
      batches, encode = latent_batches(mixture, model, codecs, mesh, threads)
    else:
      rows = local_rows(mesh, config.batch.size)
      batches = make_iterator(
        clips,
        batch_size=config.batch.size,
        threads=config.batch.threads,
        seed=config.seed,
        tokenize=codecs.text.tokenize,
        rows=rows,
      )
      encode = make_encoder(codecs, model, mesh, rows, config.batch.size)
    checkpointer = Checkpointer(workdir / "checkpoints", keep=config.checkpoint.keep)
    restored = checkpointer.restore(abstract_state(abstract, mesh))
    if restored is None and config.init:
      first = 0
      params = initial_parameters(config, abstract_state(abstract, mesh).params)
      start = lambda params: new_state(params, optimizer)
      state = jax.jit(start, out_shardings=shardings, donate_argnums=0)(params)
    elif restored is None:
      first = 0
      state = jax.jit(fresh, out_shardings=shardings)(jax.random.key(config.seed))
    else:
      first, state, data_state, _ = restored
      batches.set_state(data_state)
    step_of = build_steps(config, model, optimizer, recipe, shardings)
  metadata = {
    "model": config.model.to_dict(),
    "clip": config.clip.to_dict(),
    "objective": config.objective.to_dict(),
    "codecs": fingerprint(codecs),
  }
  if jax.process_index() == 0:
    (workdir / "config.json").write_text(config.to_json_best_effort(indent=2) + "\n")
  log = MetricLog(
    workdir, config.steps, start_step=first, enabled=jax.process_index() == 0
  )
  try:
    with jax.set_mesh(mesh):
      _, done = loop.train(
        state,
        step_of=step_of,
        batches=batches,
        encode=encode,
        checkpointer=checkpointer,
        metadata=metadata,
        save_every=config.checkpoint.every,
        log=log,
        log_every=config.log_every,
        timer=timer,
        tasks=recipe.names,
        first_step=first,
        total_steps=config.steps,
        work_of=work_of(model, text),
        profile=profile,
      )
  finally:
    batches.close()
    log.close()
    checkpointer.close()
  return done


def _peak() -> float:
  """FLOP/s of all devices together; of unknown ones, what a matmul reaches on each."""
  chip = chip_of(jax.devices()[0].device_kind)
  return jax.device_count() * (_matmul_rate() if chip is None else chip.flops)


def _matmul_rate() -> float:
  """FLOP/s of a product of matrices on one device."""
  x = jnp.ones((1024, 1024))
  matmul = jax.jit(jnp.matmul)
  matmul(x, x).block_until_ready()
  seconds = []
  for _ in range(5):
    start = time.perf_counter()
    matmul(x, x).block_until_ready()
    seconds.append(time.perf_counter() - start)
  return 2 * 1024**3 / min(seconds)


def join() -> None:
  """Meets the other processes, if there are any."""
  where = COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value
  if DISTRIBUTED.value:
    join_processes(*where, seconds=MEET_SECONDS.value)
  elif where != (None, None, None):
    raise UsageError(
      "--coordinator, --num_processes and --process_id go with --distributed: add it"
    )


def main():
  join()
  config = CONFIG.value
  done = train(config, WORKDIR.value)
  if done and config.report.tasks:
    from ccl_jax.generation.report import report

    first_process(lambda: report(config, WORKDIR.value))
  elif not done and jax.process_index() == 0:
    print(json.dumps({"stopped": True, "workdir": WORKDIR.value}))


if __name__ == "__main__":
  cli.run(main)
