"""Runs what is missing of the ablation: streams alone, then every variant and seed.

  ROOT/data                  the clips, drawn once
  ROOT/video, ROOT/audio     each stream alone, once; the codecs of all runs are the
                             first one's
  ROOT/joined/VARIANT-SEED   both streams, and the seed's new parameters between them
  ROOT/joint/VARIANT-SEED    the run
  ROOT/logs                  what every command said
  RESULTS/VARIANT-SEED.json  the run's scores

Every step is a command of its own, so its memory is freed and it resumes by itself. A
step whose product is there is skipped. Seeds come one after the other, each with all
its variants: at any stop as many pairs are complete as can be.
"""

import concurrent.futures
import contextlib
import fcntl
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ccl_jax.ablation.results import (
  REPO,
  SCALES,
  code_version,
  name_of,
  read_json,
)
from ccl_jax.ablation.variants import TUNED_ON, VARIANTS
from ccl_jax.errors import UsageError
from ccl_jax.files import write_json

PYTHON = (sys.executable, "-m")


class Step(NamedTuple):
  """A command, and how to see that it need not be run.

  Attributes:
    name: of its log.
    argv: the command.
    product: a file or folder that is there when the step is done; of a training its
      folder, see `done`.
    key: of the product, a JSON file that further steps add to; "": the file is whole.
  """

  name: str
  argv: tuple[str, ...]
  product: pathlib.Path
  key: str = ""

  @property
  def done(self) -> bool:
    """Whether the product is there; that of a training, at its last step."""
    if self.key:
      return self.key in read_json(self.product)
    if self.argv[len(PYTHON)] != "ccl_jax.train":
      return self.product.exists()
    config = read_json(self.product / "config.json")
    return (self.product / "checkpoints" / str(config.get("steps"))).is_dir()


class Ablation:
  """The steps of an ablation, by its folders and its size.

  Args:
    root: folder of the runs.
    results: folder of their scores.
    size: of `configs/ablation.py`.
  """

  def __init__(self, root: pathlib.Path, results: pathlib.Path, size: str):
    self.root, self.results = root.absolute(), results.absolute()
    self.size = size

  def streams(self) -> list[Step]:
    """Both streams alone, and the scores of real clips."""
    video = self._train("video", self.root / "video")
    codecs = f"--config.codec.path={self.root / 'video' / 'codecs'}"
    audio = self._train("audio", self.root / "audio", codecs)
    ceiling = self._score("ceiling", self.root / "video", "ceiling")
    return [video, audio, ceiling._replace(product=self.results / "ceiling.json")]

  def training(self, variant: str, seed: int) -> list[Step]:
    """Joins the streams and trains them."""
    name = name_of(variant, seed)
    v, joined = VARIANTS[variant], self.root / "joined" / name
    shapes = [
      f"--{key}={v.settings[f'model.{key}']}"
      for key in ("video_tokens", "audio_tokens")
      if f"model.{key}" in v.settings
    ]
    join = Step(
      f"{name}.join",
      (
        *(*PYTHON, "ccl_jax.convert", "join"),
        f"--video={self.root / 'video'}",
        f"--audio={self.root / 'audio'}",
        f"--size={self._preset()}",
        f"--variant={v.exchange}",
        *shapes,
        f"--seed={seed}",
        f"--dst={joined}",
      ),
      joined,
    )
    settings = [f"--config.{key}={value}" for key, value in v.settings.items()]
    longer = f",longer={v.longer}" if v.longer > 1 else ""
    train = self._train(
      f"joint{longer}",
      self.root / "joint" / name,
      f"--config.init={joined}",
      f"--config.seed={seed}",
      *settings,
    )
    return [join, train._replace(name=f"{name}.train")]

  def tuning(self, kind: str) -> Step:
    """Scales of the forms of guidance for a kind of exchange."""
    run = self.root / "joint" / name_of(TUNED_ON[kind], 0)
    step = self._score(f"{kind}.scales", run, "scales")
    return step._replace(product=self.results / SCALES, key=kind)

  def scoring(self, variant: str, seed: int) -> Step:
    """Scores a run that is trained, into its JSON."""
    name = name_of(variant, seed)
    step = self._score(f"{name}.score", self.root / "joint" / name, "run")
    return step._replace(product=self.results / f"{name}.json")

  def _preset(self) -> str:
    """Of the streams' run, once there is one."""
    config = read_json(self.root / "video" / "config.json")
    return config.get("model", {}).get("preset", "PRESET")

  def _train(self, stage: str, workdir: pathlib.Path, *settings: str) -> Step:
    config = f"configs/ablation.py:stage={stage},size={self.size}"
    return Step(
      stage,
      (
        *(*PYTHON, "ccl_jax.train"),
        f"--config={config}",
        f"--workdir={workdir}",
        f"--config.data.root={self.root / 'data'}",
        *settings,
      ),
      workdir,
    )

  def _score(self, name: str, workdir: pathlib.Path, what: str) -> Step:
    argv = (
      *(*PYTHON, "ccl_jax.ablation", "score"),
      f"--what={what}",
      f"--workdir={workdir}",
      f"--results={self.results}",
      f"--size={self.size}",
    )
    return Step(name, argv, workdir)


def phases(
  ablation: Ablation, variants: Sequence[str], seeds: Sequence[int]
) -> Iterator[list[list[Step]]]:
  """Phases one after the other, each of chains that may run beside each other.

  A phase's steps are known when the one before is done. Chains whose result is there
  are left out.
  """
  wanted = [(v, s) for s in seeds for v in variants]
  missing = [pair for pair in wanted if not ablation.scoring(*pair).done]
  if not missing:
    return
  yield [ablation.streams()]
  kinds = list(dict.fromkeys(VARIANTS[v].exchange for v, _ in missing))
  untuned = [kind for kind in kinds if not ablation.tuning(kind).done]
  yield [ablation.training(TUNED_ON[kind], 0) for kind in untuned]
  # Both write one file.
  yield [[ablation.tuning(kind) for kind in untuned]]
  yield [[*ablation.training(*pair), ablation.scoring(*pair)] for pair in missing]


def run(
  ablation: Ablation,
  variants: Sequence[str],
  seeds: Sequence[int],
  *,
  parallel: int = 1,
  cores: Sequence[int] = (),
  dry_run: bool = False,
) -> int:
  """Runs what is missing; returns the exit code, 1 if a run failed.

  Args:
    ablation: the folders and the size.
    variants, seeds: which runs.
    parallel: runs beside each other.
    cores: of the processor, shared out among them; none: all there are, and a run that
      is alone is not held to any.
    dry_run: only print the commands.

  Raises:
    UsageError: the folder is that of another size or version of the code, or another
      process runs in it; a stream failed, without which there is no run.
  """
  if dry_run:
    chains = (c for phase in phases(ablation, variants, seeds) for c in phase)
    for step in dict.fromkeys(step for chain in chains for step in chain):
      if not step.done:
        print(f"# {step.name}\n{shlex.join(step.argv)}")
    return 0
  with _claimed(ablation) as lock:
    crew = _Crew(ablation, parallel, cores, lock)
    with crew:
      for phase in phases(ablation, variants, seeds):
        crew.work(phase)
        if crew.stopped:
          print("stopped: the same command goes on", file=sys.stderr)
          return 128 + crew.stopped
  if crew.failed:
    print(f"error: failed: {'; '.join(crew.failed)}", file=sys.stderr)
  return int(bool(crew.failed))


@contextlib.contextmanager
def _claimed(ablation: Ablation) -> Iterator[int]:
  """A lock on the root, which children hold too: a file's number.

  Raises:
    UsageError: see `run`.
  """
  root = ablation.root
  if not (REPO / "configs" / "ablation.py").is_file():
    raise UsageError(f"no configs/ablation.py in {REPO}: run from a clone of the code")
  root.mkdir(parents=True, exist_ok=True)
  lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT)
  try:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
      raise UsageError(
        f"another process runs in {root}: wait for it, or stop it"
      ) from e
    now = {"version": code_version(), "size": ablation.size}
    about = root / "about.json"
    then = read_json(about) or now
    for key in now:
      if then.get(key) != now[key]:
        raise UsageError(
          f"{root} was begun with {key} {then.get(key)}, not {now[key]}: go on with "
          f"that, name another root, or remove {about} to mix them"
        )
    write_json(about, now)
    yield lock
  finally:
    os.close(lock)


class _Crew:
  """Runs chains of steps beside each other, and stops them in order.

  Attributes:
    stopped: the signal that asked for a stop; 0: none did.
    failed: chains that failed, each with where and what its log says last.
  """

  def __init__(
    self, ablation: Ablation, parallel: int, cores: Sequence[int], lock: int
  ):
    self._ablation, self._lock = ablation, lock
    self._parallel = parallel
    if not cores and parallel > 1 and hasattr(os, "sched_getaffinity"):
      cores = sorted(os.sched_getaffinity(0))
    self._cores = [list(cores[i::parallel]) or list(cores) for i in range(parallel)]
    self._children: set[subprocess.Popen] = set()
    self._guard = threading.Lock()
    self.stopped, self.failed = 0, []

  def __enter__(self) -> "_Crew":
    numbers = (signal.SIGINT, signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread():
      numbers = ()
    self._before = {n: signal.signal(n, self._stop) for n in numbers}
    return self

  def __exit__(self, *exc: Any) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _stop(self, number: int, frame: Any) -> None:
    # No lock: this may interrupt whoever holds it. Children that start now look again.
    self.stopped = number
    for child in tuple(self._children):
      child.send_signal(signal.SIGTERM)

  def work(self, chains: Sequence[Sequence[Step]]) -> None:
    """Runs chains, each from its begin to its end or to its first failure.

    Raises:
      UsageError: a step that all others need failed.
    """
    free = list(range(self._parallel))

    def job(chain):
      with self._guard:
        place = free.pop(0)
      try:
        self._chain(chain, self._cores[place])
      finally:
        with self._guard:
          free.append(place)

    with concurrent.futures.ThreadPoolExecutor(self._parallel) as pool:
      for future in [pool.submit(job, chain) for chain in chains]:
        future.result()
    needed = [x for x in self.failed if x.startswith(("video", "audio"))]
    if needed:
      raise UsageError(f"failed: {needed[0]}")

  def _chain(self, chain: Sequence[Step], cores: Sequence[int]) -> None:
    for step in chain:
      if self.stopped:
        return
      if step.done:
        continue
      start = time.monotonic()
      print(f"{time.strftime('%H:%M:%S')} {step.name}", flush=True)
      code, log = self._run(step, cores)
      if self.stopped:
        return
      if code or not step.done:
        self.failed.append(f"{step.name} (exit code {code}, {log}: {_last_line(log)})")
        print(self.failed[-1], file=sys.stderr, flush=True)
        return
      minutes = (time.monotonic() - start) / 60
      stamp = time.strftime("%H:%M:%S")
      print(f"{stamp} {step.name}: done in {minutes:.1f} min", flush=True)

  def _run(self, step: Step, cores: Sequence[int]) -> tuple[int, pathlib.Path]:
    """The exit code of a step's command, and its log."""
    log = self._ablation.root / "logs" / f"{step.name}.log"
    log.parent.mkdir(exist_ok=True)
    env = os.environ.copy()
    env.setdefault("JAX_COMPILATION_CACHE_DIR", str(self._ablation.root / "cache"))
    if cores and hasattr(os, "sched_setaffinity"):
      os.sched_setaffinity(0, cores)  # of this thread, and of what it starts
    with log.open("ab") as out:
      child = subprocess.Popen(
        step.argv,
        cwd=REPO,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.STDOUT,
        pass_fds=(self._lock,),
        start_new_session=True,  # Ctrl-C reaches it by us, once
      )
      self._children.add(child)
      if self.stopped:
        child.send_signal(signal.SIGTERM)
      code = child.wait()
      self._children.discard(child)
    return code, log


def _last_line(log: pathlib.Path) -> str:
  lines = log.read_text("utf-8", "replace").split("\n")
  return next((line for line in reversed(lines) if line.strip()), "it is empty")
