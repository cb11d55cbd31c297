"""Logs a run: metrics as JSON lines, to TensorBoard and to trackers, its progress, its
wall time.

`metrics.jsonl` holds one object per logged step, {"step": 0, "loss/video": 1.25, ...},
on disk as soon as it is written; steps count from 0. A run that resumes at step k first
drops the lines of the steps from k on, which it will take again. In a bucket lines are
there within half a minute, and before a checkpoint of a later step (`flush`).
"""

import contextlib
import json
import math
import os
import pathlib
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping

from ccl_jax import progress
from ccl_jax.documents import metric_rows
from ccl_jax.files import write_error, write_text
from ccl_jax.remote.mirror import Mirror
from ccl_jax.remote.paths import place
from ccl_jax.training.trackers import Tracker, close, tell

FILE = "metrics.jsonl"


class MetricLog:
  """Writes the metrics of a run into its folder, and its progress to standard error.

  Made in every process, with `enabled` in one (process 0): the others write nothing.

  Args:
    workdir: of the run.
    total_steps: of the run, for the progress.
    start_step: the first step of this process; later lines of the log are dropped.
    enabled: whether this process writes.
    trackers: that are told too, by name; see `open_trackers`.
  """

  def __init__(
    self,
    workdir: str | os.PathLike,
    total_steps: int,
    *,
    start_step: int = 0,
    enabled: bool = True,
    trackers: Mapping[str, Tracker] | None = None,
  ):
    self._enabled, self._trackers = enabled, dict(trackers or {})
    if not enabled:
      return
    from tensorboardX import SummaryWriter

    self._mirror = Mirror(place(workdir), (FILE,))
    folder = self._mirror.folder
    folder.mkdir(parents=True, exist_ok=True)
    self._path = folder / FILE
    _drop_steps_from(start_step, self._path)
    self._lines = self._path.open("a")
    self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start_step)
    self._total = total_steps

  def write(self, step: int, metrics: Mapping[str, object]) -> None:
    """Logs the scalars of one step; also those that are still on a device."""
    if self._enabled:
      notes = _notes(self._record(step, metrics))
      progress.phase("step", self._total)  # again, after what came between
      progress.at(step + 1, notes)

  def write_held_out(self, steps: int, metrics: Mapping[str, object]) -> None:
    """Logs the losses of `training.evaluate` after so many steps."""
    if not self._enabled:
      return
    values = self._record(steps, metrics)
    means = [f"{k[9:]} {v:.4f}" for k, v in values.items() if k.count("/") == 2]
    progress.say(f"after {steps} steps, held-out loss: {', '.join(means)}")

  def _record(self, step: int, metrics: Mapping[str, object]) -> dict[str, float]:
    values = {name: float(value) for name, value in metrics.items()}
    # JSON has no NaN: a value that is not finite is null.
    finite = {k: v if math.isfinite(v) else None for k, v in values.items()}
    try:
      self._lines.write(json.dumps({"step": step} | finite) + "\n")
      self._lines.flush()
    except OSError as e:
      raise write_error(e, self._path) from e
    for name, value in values.items():
      self._board.add_scalar(name, value, step)
    tell(self._trackers, step, values)
    self._mirror.push_soon()
    return values

  def flush(self) -> None:
    """Puts all lines where they belong: a run that goes on from a checkpoint which is
    saved next finds them.

    Raises:
      Unreachable: the log is in a bucket, which does not take it.
    """
    if self._enabled:
      self._board.flush()
      self._mirror.push()

  def close(self) -> None:
    """Closes the files of the log, and the runs on trackers."""
    if self._enabled:
      close(self._trackers)
      # Of a disk that is full the step has told; what was not written stays unwritten.
      with contextlib.suppress(OSError):
        self._lines.close()
      self._board.close()
      self._mirror.close()


class StepTimer:
  """Measures where the wall time goes, and how fast the steps are.

  Time inside `with timer("compile")` belongs to that phase, all other time to the
  steps. Goodput is the steps' share of the time since the timer was made: what is left
  of it after start, compilation, waiting for data and saving.

  Args:
    peak_flops: of all devices together, per second; None: no MFU is given.
  """

  def __init__(self, *, peak_flops: float | None = None):
    self._peak_flops = peak_flops  # of all devices together, per second
    self._phases = defaultdict(float)
    self._start = time.perf_counter()
    self._marked = 0.0  # seconds in steps up to the last call of `rates`

  @contextlib.contextmanager
  def __call__(self, phase: str) -> Iterator[None]:
    entered = time.perf_counter()
    try:
      yield
    finally:
      self.add(phase, time.perf_counter() - entered)

  def add(self, phase: str, seconds: float) -> None:
    """Counts seconds that have passed to a phase, not to the steps."""
    self._phases[phase] += seconds

  def rates(self, *, steps: int, clips: int, flops: float) -> dict[str, float]:
    """Metrics of speed since the last call.

    Args:
      steps, clips, flops: what was done since then.

    Returns:
      step_seconds, clips_per_second, mfu; and since the start seconds/PHASE, goodput.
    """
    total = time.perf_counter() - self._start
    in_steps = total - sum(self._phases.values())
    seconds, self._marked = in_steps - self._marked, in_steps
    out = {"step_seconds": seconds / steps, "clips_per_second": clips / seconds}
    if self._peak_flops is not None:
      # Model FLOPs per second of steps, of the devices' peak.
      out["mfu"] = flops / seconds / self._peak_flops
    phases = {f"seconds/{name}": value for name, value in self._phases.items()}
    return out | phases | {"goodput": in_steps / total}


def _drop_steps_from(step: int, path: pathlib.Path) -> None:
  """Keeps the lines of earlier steps; a line cut short by a kill goes too."""
  if path.exists():
    kept = [row for row in metric_rows(path) if row["step"] < step]
    write_text(path, "".join(json.dumps(row) + "\n" for row in kept))


def _notes(values: Mapping[str, float]) -> list[str]:
  """The loss, the speed and the losses by task: what a line has room for, in order."""
  losses = [f"{k} {v:.4f}" for k, v in values.items() if k.startswith("loss")]
  speed = []
  if "step_seconds" in values:
    speed += [f"{values['step_seconds']:.2f} s/step"]
    speed += [f"{values['clips_per_second']:.2f} clips/s"]
  if "mfu" in values:
    speed += [f"MFU {values['mfu']:.1%}"]
  if "goodput" in values:
    speed += [f"goodput {values['goodput']:.1%}"]
  return [*losses[:1], *speed, *losses[1:]]
