"""Rates at which metrics score clips, each measured in a process of its own.

A process does what `ccl_jax.eval` does with these clips and this metric: reads the
networks, decodes, scores, and writes each record to disk. The time of its first clip
has reading and compiling in it; the rate is of the others' median. Its peak memory is
the largest it ever had resident.
"""

import multiprocessing
import pathlib
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

import numpy as np

from ccl_jax.metrics.records import Records
from ccl_jax.metrics.registry import Options, build_metrics
from ccl_jax.metrics.runner import Item, evaluate
from ccl_jax.viz.media import write_mp4

PROMPT = 'A woman says, "The night train leaves at a quarter past nine."'


class Rate(NamedTuple):
  """The figures of one process that scored clips.

  Attributes:
    seconds: a clip, by the median of all but the first; None: nothing was scored.
    processor: seconds of processor time a clip, on all cores, as a median too: of a
      machine that others use, the figure that says more.
    first: seconds of the first clip, with networks read and programs compiled.
    gigabytes: of memory at its peak, in GiB.
    reason: why nothing was scored.
  """

  seconds: float | None = None
  processor: float | None = None
  first: float | None = None
  gigabytes: float | None = None
  reason: str = ""

  @property
  def clips_per_minute(self) -> float | None:
    """Clips per minute, the first one left out; None: nothing was scored."""
    return None if self.seconds is None else 60 / self.seconds


def measure(
  names: Sequence[str], videos: Sequence[pathlib.Path], weights: pathlib.Path
) -> Rate:
  """Scores clips by metrics in a fresh process, and returns its figures.

  Args:
    names: of metrics.
    videos: two clips at least, no two of the same bytes.
    weights: folder of the networks' weights.
  """
  spawn = multiprocessing.get_context("spawn")  # a fork would begin with our memory
  with ProcessPoolExecutor(1, mp_context=spawn) as pool:
    try:
      return pool.submit(_score, list(names), list(videos), weights).result()
    except BrokenProcessPool:
      return Rate(reason="the process was killed, probably for its memory")


def _score(names, videos, weights) -> Rate:
  metrics, skipped = build_metrics(names, [weights], Options())
  if skipped:
    return Rate(reason="; ".join(skipped.values()))
  items = [Item(path.stem, path, {"prompt": PROMPT}) for path in videos]
  now = lambda: (time.perf_counter(), time.process_time())
  times = [now()]
  done = lambda _: times.append(now())
  with tempfile.TemporaryDirectory() as folder:
    results = evaluate(items, metrics, Records(folder), done)
  unscored = [row["reason"] for row in results.records.values() if "reason" in row]
  wrong = [*results.broken.values(), *results.accidents, *unscored]
  if wrong:
    return Rate(reason=wrong[0])
  (first, *others), (_, *processor) = np.diff(times, axis=0).T.tolist()
  middle = statistics.median
  return Rate(middle(others), middle(processor), first, peak_gigabytes())


def peak_gigabytes() -> float:
  """GiB that this process had resident at most, as Linux counts.

  It is of this process alone, where getrusage's begins with its parent's.
  """
  status = pathlib.Path("/proc/self/status").read_text()
  (peak,) = (x.split()[1] for x in status.splitlines() if x.startswith("VmHWM"))
  return int(peak) / 2**20


def write_clips(
  folder: pathlib.Path, count: int, height: int, width: int, frames: int, fps: float
) -> list[pathlib.Path]:
  """Writes clips of drifting noise with syllables of noise, as `generate` writes them.

  Args:
    folder: to write into.
    count: of clips, each of another seed.
    height, width, frames, fps: of each.
  """
  paths = []
  for i in range(count):
    rng = np.random.default_rng(i)
    size = (height // 8 + frames + 1, width // 8 + 1, 3)
    picture = rng.integers(40, 216, size, np.uint8).repeat(8, 0).repeat(8, 1)
    video = np.stack([picture[2 * k : 2 * k + height, :width] for k in range(frames)])
    samples = round(16000 * frames / fps)
    loud = np.sin(np.arange(samples) * (2 * np.pi * 2 / 16000)) ** 4
    wave = 0.2 * loud * rng.standard_normal(samples)
    paths.append(folder / f"clip{i}.mp4")
    write_mp4(paths[-1], video, fps, wave.astype(np.float32))
  return paths
