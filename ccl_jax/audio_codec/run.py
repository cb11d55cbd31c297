"""Runs that train the mel VAE or the vocoder: from a config to the result.

  WORKDIR/checkpoints    what a run goes on from
  WORKDIR/audio-vae      or vocoder: the network as `convert` would leave it
  WORKDIR/scores.json    held-out sound through it, beside the linear codec

Both train data-parallel: a batch is split over the mesh's data axes, networks and
moments are whole on every device. What a run is scored by is in scores.py.
"""

import contextlib
import functools
import itertools
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ccl_jax import files
from ccl_jax.audio_codec import scores as codec_scores
from ccl_jax.audio_codec.vae import STATISTICS, fresh_vae, make_vae_step, measure_bands
from ccl_jax.audio_codec.vocoder import (
  fresh_gan,
  gan_optimizer,
  make_vocoder_step,
  mel_of,
)
from ccl_jax.checkpoints.checkpointer import Checkpointer
from ccl_jax.checkpoints.converted import read_description, restore_converted
from ccl_jax.data.sources.sounds import Sounds, WindowBatches
from ccl_jax.errors import THREADS, UsageError, bind, each, number, positive, whole
from ccl_jax.files import write_json
from ccl_jax.models import audio_vae, mel_codec
from ccl_jax.models.discriminators import Discriminators
from ccl_jax.models.vocoder import Generator, frozen, sizes_of, synthesize
from ccl_jax.ops.stft import log_mel
from ccl_jax.ops.weight_norm import join
from ccl_jax.places import hold, require_plain
from ccl_jax.processes import first_process
from ccl_jax.remote.paths import Place, place
from ccl_jax.seeds import noise_key
from ccl_jax.sharding import global_batch, local_rows, make_mesh, require_devices
from ccl_jax.training import loop
from ccl_jax.training.changes import plain, require_same_run
from ccl_jax.training.log import MetricLog, StepTimer
from ccl_jax.training.optim import ParamGroup, make_optimizer
from ccl_jax.training.profile import Profile
from ccl_jax.training.settings import check_loop
from ccl_jax.training.trackers import open_trackers
from ccl_jax.weights.own import write_network

BANDS, CHANNELS = 80, mel_codec.CHANNELS  # of the 16 kHz mode, which codecs are of
HOP = mel_codec.MelAudioCodec.hop
MEASURED = 512  # windows that the bands' statistics are of

SETTINGS = {
  "batch.threads": whole(1, THREADS),
  "window": whole(1),
  "score.windows": whole(1),
  "score.samples": whole(1),
  "optim.lr": positive(),
}
OF_KIND = {
  "loss.kl_weight": number(0),
  "loss.modulation_weight": number(0),
  "loss.spectral_weight": number(0),
  "loss.spectral_floor": positive(),
  "loss.adversary_from": whole(-1),
  "optim.decay": number(0, 1),
  "optim.weight_decay": number(0),
  "vae.from_step": whole(0),
  "model.hidden": whole(1),
  "model.channels": whole(1),
  "model.rates": each(whole(1)),
  "model.kernels": each(whole(1)),
  "critic.width": whole(1),
  "critic.periods": each(whole(1)),
  "critic.resolutions": each(each(whole(1))),
}

PyTree = Any
StepOf = Callable[[int, Mapping[str, jax.Array]], tuple[str, Callable]]


class Task(NamedTuple):
  """The parts of a run that depend on the network that is trained.

  Attributes:
    kind, sizes: of the converted weights.
    fresh: key -> state.
    step_of: of the loop, given the jitted state's shardings.
    result: state -> parameters to keep.
    score: (parameters, training windows, held-out windows) -> scores.
  """

  kind: str
  sizes: dict[str, Any]
  fresh: Callable[[jax.Array], Any]
  step_of: Callable[[Any], StepOf]
  result: Callable[[Any], PyTree]
  score: Callable[[PyTree, list, list], dict[str, float]]


def vae_task(config, sounds: Sounds) -> Task:
  """The task of training the VAE.

  It reads windows of the data for the bands' statistics.

  Raises:
    UsageError: a wrong setting.
  """
  # Only the 16 kHz mode of MMAudio is trained: its bands and channels are fixed.
  sizes = {"bands": BANDS, "channels": CHANNELS, **config.model}
  # The bands' mean and deviation are measured, not learned: learning rate 0.
  groups = [(STATISTICS, 0.0, 0.0), (".*", config.optim.lr, 0.0)]
  shapes = bind("model", sizes, _shapes_of_vae)
  options = {k: v for k, v in config.optim.items() if k != "lr"}
  optimizer = bind(
    "optim",
    options,
    make_optimizer,
    [ParamGroup(*group) for group in groups],
    shapes,
    total_steps=config.steps,
    eps=1e-8,
    moment_dtype="float32",
  )
  statistics = measure_bands(_windows(sounds, sounds.train, config.window, MEASURED))
  step = bind(
    "loss",
    config.loss,
    make_vae_step,
    optimizer,
    seed=config.seed,
    ema_decay=config.ema_decay,
  )

  def step_of(shardings):
    run = jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
    return lambda number, batch: ("vae", run)

  def score(params, train, held_out):
    params = audio_vae.folded(params)
    linear = codec_scores.linear_codec(train)
    # The embedded linear codec, fitted to the same sound, is the baseline.
    coders = {
      "vae": lambda wave: mel_of(wave, params),
      "linear": codec_scores.linear_mel(linear),
    }
    encode = jax.jit(lambda wave: audio_vae.encode_mel(params, log_mel(wave))[0])
    latent = np.concatenate([np.asarray(encode(wave[None])) for wave in held_out], 1)
    waves = {
      "vae_griffin_lim": lambda wave: mel_codec.wave_of_mel(mel_of(wave, params)),
      "linear": lambda wave: linear.decode(linear.encode(wave)),
    }
    heard = codec_scores.score_waves(waves, held_out)
    heard = {k: v for k, v in heard.items() if k.startswith("lsd_db")}
    return (
      codec_scores.score_mels(coders, held_out)
      | heard
      | {
        # Both statistics near (0, 1) show that the diffusion model can use the latent
        # as it is.
        "latent_mean": float(np.abs(latent.mean((0, 1))).mean()),
        "latent_std": float(latent.std((0, 1)).mean()),
      }
    )

  return Task(
    kind="audio-vae",
    sizes=sizes,
    fresh=lambda key: fresh_vae(key, sizes, statistics, optimizer),
    step_of=step_of,
    result=lambda state: state.ema,
    score=score,
  )


def vocoder_task(config, sounds: Sounds) -> Task:
  """The task of training the vocoder.

  It learns from real mels and, from a step on, from those of a trained VAE.

  Raises:
    UsageError: a wrong setting.
  """
  del sounds
  fields = {key: frozen(value) for key, value in config.model.items()}
  generator = bind("model", fields, Generator, bands=BANDS)
  critic = bind(
    "critic", {k: frozen(v) for k, v in config.critic.items()}, Discriminators
  )
  # A latent is of two mel frames, so the vocoder's hop is half of the codec's.
  if generator.hop * 2 != HOP:
    raise UsageError(
      f"config.model.rates {generator.rates}: got {generator.hop} samples a frame, "
      f"expected {HOP // 2}"
    )
  optimizer = bind("optim", config.optim, gan_optimizer)
  vae = find_vae(config.vae.path) if config.vae.path else None
  make = functools.partial(
    make_vocoder_step,
    generator,
    critic,
    optimizer,
    ema_decay=config.ema_decay,
    spectral_weight=config.loss.spectral_weight,
    spectral_floor=config.loss.spectral_floor,
  )

  def step_of(shardings):
    runs = {
      late: jax.jit(
        make(adversary=late), donate_argnums=0, out_shardings=(shardings, None)
      )
      for late in (False, True)
    }

    def choose(number, batch):
      late = 0 <= config.loss.adversary_from <= number
      # Late steps read the VAE's blurred mels, as generation does: this closes the gap.
      decoded = vae if number >= config.vae.from_step else None
      name = f"vocoder, adversary {late}, VAE {decoded is not None}"
      return name, functools.partial(_with_vae, runs[late], decoded)

    return choose

  def score(params, train, held_out):
    # Griffin-Lim and the linear codec are the baselines of the same mels.
    voice = lambda mel: synthesize(generator, params, mel)
    linear = codec_scores.linear_codec(train)
    coders = {
      "vocoder": lambda wave: voice(mel_of(wave, None)),
      "griffin_lim": lambda wave: mel_codec.wave_of_mel(mel_of(wave, None)),
      "linear": lambda wave: linear.decode(linear.encode(wave)),
    }
    if vae is not None:
      coders["codec"] = lambda wave: voice(mel_of(wave, vae))
      coders["vae_griffin_lim"] = lambda wave: mel_codec.wave_of_mel(mel_of(wave, vae))
    scores = codec_scores.score_waves(coders, held_out)
    clicks = codec_scores.clicks(config.score.windows)
    for name, coder in coders.items():
      late = np.abs(codec_scores.click_errors_ms(coder, *clicks))
      scores[f"click_ms_median/{name}"] = float(np.median(late))
      scores[f"click_ms_max/{name}"] = float(late.max())
    return scores

  return Task(
    kind="vocoder",
    # Tuples become lists, as config.json gives them back.
    sizes=json.loads(json.dumps(sizes_of(generator))),
    fresh=lambda key: fresh_gan(key, generator, critic, config.window, optimizer),
    step_of=step_of,
    # Directions and lengths fold into plain kernels (`ops.weight_norm.join`).
    result=lambda state: join(state.ema),
    score=score,
  )


TASKS = {"audio-vae": vae_task, "vocoder": vocoder_task}


def find_vae(path: str) -> PyTree:
  """The folded parameters of a converted audio VAE, or of the one a run has made.

  Raises:
    UsageError: there is none of the 16 kHz mode at `path`.
  """
  folder = place(path)
  if (folder / "audio-vae").is_dir():
    folder = folder / "audio-vae"
  description = read_description(folder)
  sizes = description["sizes"]
  got = description["kind"], sizes.get("bands"), sizes.get("channels")
  if got != ("audio-vae", BANDS, CHANNELS):
    raise UsageError(
      f"vae={path}: got {got[0]} of {got[1]} bands and {got[2]} channels, expected an "
      f"audio-vae of {BANDS} and {CHANNELS}"
    )
  return audio_vae.folded(restore_converted(folder))


def train(config, workdir: str | os.PathLike, *, allow_changes: bool = False) -> bool:
  """Trains to the end, or to a request to stop; returns whether it got to the end.

  Then the network and its scores are written.

  Args:
    config: see configs/audio_vae.py and configs/vocoder.py.
    workdir: of the run, which goes on where it stopped.
    allow_changes: whether a run may go on with another config; see `training.changes`.

  Raises:
    UsageError: a wrong setting, too little sound, or a folder that another process
      writes.
  """
  require_plain(workdir, arrays=True)
  workdir = place(workdir)
  require_devices()
  check(config)
  with contextlib.ExitStack() as stack:
    first_process(lambda: stack.enter_context(hold(workdir)))
    first_process(lambda: require_same_run(config, workdir, allow_changes))
    first_process(lambda: files.sweep(workdir))
    return _train(config, workdir, stack)


def _train(config, workdir: Place, stack: contextlib.ExitStack) -> bool:
  """As `train`, in a folder that is held; what it opens is closed by `stack`."""
  timer, mesh = StepTimer(), make_mesh(config.mesh)
  # Batches are split over both axes; nothing else is sharded here.
  parts = mesh.shape["data"] * mesh.shape["fsdp"]
  if config.batch.size < 1 or config.batch.size % parts:
    raise UsageError(
      f"config.batch.size={config.batch.size}: expected a multiple of {parts}, the "
      "devices that share a batch"
    )
  with timer("init"), jax.set_mesh(mesh):
    rows = local_rows(mesh, config.batch.size)
    sounds, held_out = open_sounds(config)
    task = TASKS[config.kind](config, sounds)
    whole = jax.NamedSharding(mesh, jax.P())
    # Shapes and shardings are what a checkpoint is restored into, without a fresh
    # state.
    abstract = jax.tree.map(
      lambda x: x.update(sharding=whole),
      jax.eval_shape(task.fresh, jax.random.key(0)),
    )
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    checkpointer = Checkpointer(workdir / "checkpoints", keep=config.checkpoint.keep)
    stack.callback(checkpointer.close)
    restored = checkpointer.restore(abstract)
    batches = WindowBatches(
      sounds,
      samples=config.window,
      rows=rows,
      seed=config.seed,
      threads=config.batch.threads,
    )
    stack.callback(batches.close)
    if restored is None:
      first = 0
      state = jax.jit(task.fresh, out_shardings=shardings)(noise_key(config.seed))
    else:
      first, state, data_state, _ = restored
      batches.set_state(data_state)
  chief = jax.process_index() == 0
  if chief:
    write_json(workdir / "config.json", plain(config), indent=2)
  names = config.log.trackers
  trackers = first_process(lambda: open_trackers(names, workdir, plain(config)))
  log = MetricLog(
    workdir, config.steps, start_step=first, enabled=chief, trackers=trackers
  )
  stack.callback(log.close)
  profile = Profile(workdir / "profile", config.profile)
  stack.callback(profile.close)
  put = lambda batch: global_batch(batch, rows, config.batch.size, mesh)
  with jax.set_mesh(mesh):
    state, done = loop.train(
      state,
      step_of=task.step_of(shardings),
      batches=batches,
      encode=put,
      checkpointer=checkpointer,
      metadata={"config": plain(config), "kind": task.kind, "sizes": task.sizes},
      save_every=config.checkpoint.every,
      save_minutes=config.checkpoint.minutes,
      log=log,
      log_every=config.log_every,
      timer=timer,
      tasks=(),
      first_step=first,
      total_steps=config.steps,
      work_of=lambda batch: (config.batch.size, 0.0),
      profile=profile,
    )
  if done:
    params = jax.tree.map(np.asarray, task.result(state))
    # Every process has the whole result; only the first writes it.
    first_process(lambda: finish(config, task, params, sounds, held_out, workdir))
  return done


def finish(config, task: Task, params, sounds, held_out, workdir: Place) -> dict:
  """Writes the network and its scores into `workdir`; returns the scores.

  Args:
    config, task: of the run.
    params: its result.
    sounds, held_out: as of `open_sounds`.
  """
  folder = workdir / task.kind
  write_network(task.kind, task.sizes, params, folder, workdir.absolute().name)
  train_windows = _windows(sounds, sounds.train, config.score.samples, None)
  test = list(
    _windows(held_out, held_out.held_out, config.score.samples, config.score.windows)
  )
  params = jax.tree.map(jnp.asarray, params)
  scores = {
    "steps": config.steps,
    "train_seconds": round(sounds.seconds, 1),
    "held_out_seconds": round(len(test) * config.score.samples / 16000, 1),
    **task.score(params, train_windows, test),
  }
  write_json(workdir / "scores.json", scores, indent=2)
  return scores


def open_sounds(config) -> tuple[Sounds, Sounds]:
  """The sounds to train on, and those whose `held_out` is scored.

  Raises:
    UsageError: there is nothing to train on, or nothing to score.
  """
  # A file must hold one window of training and one of scoring.
  shortest = max(config.window, config.score.samples)
  options = {"shortest": shortest, "cache_gb": config.data.cache_gb}
  test = config.data.test
  sounds = Sounds(config.data.root, hold=not test, **options)
  held_out = Sounds(test, hold=False, **options) if test else sounds
  if not held_out.held_out:
    raise UsageError(
      f"{config.data.root} has too little sound to hold some out for the scores: add "
      f"files, or give a second folder, :test=FOLDER"
    )
  return sounds, held_out


def check(config) -> None:
  """Checks the settings of a config before anything is opened.

  Raises:
    UsageError: a setting is missing or wrong.
  """
  if config.kind not in TASKS:
    raise UsageError(f"config.kind {config.kind!r}: expected {', '.join(TASKS)}")
  of_kind = {name: rule for name, rule in OF_KIND.items() if _has(config, name)}
  check_loop(config, SETTINGS | of_kind)
  if not config.data.root:
    raise UsageError(
      "say where the sounds are: --config=configs/audio_vae.py:data=FOLDER"
    )
  for key, samples in (
    ("window", config.window),
    ("score.samples", config.score.samples),
  ):
    if samples < 8 * HOP or samples % HOP:
      raise UsageError(
        f"config.{key}={samples}: expected whole latents, a multiple of {HOP} samples, "
        f"from {8 * HOP} on"
      )


def _has(config, name: str) -> bool:
  section, key = name.split(".")
  return key in config.get(section, {})


def _windows(sounds: Sounds, spans, samples: int, count: int | None):
  return itertools.islice(sounds.windows(spans, samples), count)


def _with_vae(run, vae, state, batch):
  return run(state, batch, vae)


def _shapes_of_vae(**sizes: int) -> PyTree:
  init = lambda key: audio_vae.init_params(key, **sizes)
  return jax.eval_shape(init, jax.random.key(0))
