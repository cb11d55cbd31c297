"""A training run on paper, from 10^4 to 10^8 clips and 64 to 2560 chips.

  python -m ccl_jax.bench scale
  python -m ccl_jax.bench scale --rates=step=36,batch=8,chips=8,host_days=30
  python -m ccl_jax.bench scale --folder=gs://ccl/probe --megabytes=4096

Prints for each size hours, terabytes, what the hosts must read, how often to save, what
preemptions cost, and what breaks first (`planning.scale`). Bytes of a clip in a plan,
of a shard in an index and of a row in memory are counted here; the other rates are
those of docs/results.md and may be given. Then a run is simulated: the loop's own rule
of saving (`training.saves`) and the loader's own state, under a clock and preemptions
that are made up, beside what Young and Daly say. With `--folder` saves and restores are
measured there, of so many megabytes by the real checkpointer, and taken in proportion.
"""

import json
import tracemalloc

import grain
import numpy as np
from absl import flags

from ccl_jax import cli
from ccl_jax.benchmarks import saves
from ccl_jax.data.pipeline import BatchIterator
from ccl_jax.data.sets import plan
from ccl_jax.data.sets.buckets import Bucket
from ccl_jax.data.sources.catalogue import Catalogue, Item
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError, finite_numbers
from ccl_jax.planning.scale import (
  CLIP_BYTES,
  SHARD_CLIPS,
  Rates,
  daly,
  lost,
  row,
  young,
)
from ccl_jax.training.saves import Saves

CLIPS = flags.DEFINE_list("clips", ["1e4", "1e5", "1e6", "1e7", "1e8"], "Clips.")
CHIPS = flags.DEFINE_list("chips", ["64", "256", "1024", "2560"], "Chips.")
RATES = flags.DEFINE_list("rates", [], "NAME=VALUE of planning.scale.Rates.")
CORES = flags.DEFINE_integer("cores", 100, "Cores of a host, for `data prepare`.", 1)
MEMORY = flags.DEFINE_float("memory", 400.0, "Gigabytes of a host.", 1e-6)
SEEDS = flags.DEFINE_integer("seeds", 20, "Simulated runs.", 1)
FOLDER = flags.DEFINE_string("folder", "", "Folder to measure saves in, a new one.")
MEGABYTES = flags.DEFINE_integer("megabytes", 256, "Of a save that is measured.", 1)

SPEC = ClipSpec(frames=81, height=480, width=832, fps=16)
# A name of 40 letters and a caption of 400: what describes a film in a paragraph.
NAME, CAPTION = "n" * 40, "c" * 400
COUNTED = 20_000


def measured() -> dict[str, float]:
  """Bytes of a clip in a plan, of a shard in an index, and of a row in memory."""
  items = [
    Item(f"{NAME}{i:08}", f"{NAME}{i:08}.mp4", 0.0, None, CAPTION)
    for i in range(COUNTED)
  ]
  made = plan.make({}, {}, Catalogue({Bucket.of(SPEC): items}, []), SHARD_CLIPS)
  shards = [[s.name, s.bucket.name, s.items] for s in made.shards]
  statistics = {"sum": [0.123456789] * 16, "sumsq": [0.123456789] * 16}
  entry = {
    "file": f"{made.shards[0].name}.array_record", "bucket": Bucket.of(SPEC).name,
    "records": SHARD_CLIPS, "bytes": int(SHARD_CLIPS * CLIP_BYTES), "sha256": "0" * 64,
    "seconds": 1296.0, "video": statistics, "audio": statistics,
  }  # fmt: skip
  tracemalloc.start()
  rows = [
    {"file": f"{NAME}{i:08}.mp4", "caption": f"{CAPTION}{i:08}", "seconds": 5.0 + i,
     "loudness": -23.0 + i, "silence": 0.0 + i, "clipped": 0.0 + i}
    for i in range(COUNTED)
  ]  # fmt: skip
  held = tracemalloc.get_traced_memory()[0] / len(rows)
  tracemalloc.stop()
  return {
    "plan_bytes": len(json.dumps(shards)) / COUNTED,
    "index_bytes": float(len(json.dumps(entry))),
    "row_bytes": held,
  }


# bench prepare; bench data; plan (14b, 480p, v6e:8x8, est times 1.26); launch/host.sh;
# 20.3 B parameters with moments and average in float32, 325 GB over 16 hosts at 1 GB/s.
KNOWN = {
  "prepare": 6.1, "read": 235.0, "step": 7.1, "batch": 16, "chips": 64,
  "startup": 600.0, "save": 5.0, "write": 60.0, "host_days": 300.0,
}  # fmt: skip


HOST_BYTES = 325e9 / 16  # of a checkpoint, which a host writes and reads


def with_saves(rates: dict[str, float], took: dict[str, float], size: float) -> dict:
  """Rates with saves and restores in proportion to measured ones.

  Args:
    rates: by their names in `Rates`; `startup` is without a restore.
    took: of `saves.measured`.
    size: bytes that were measured.
  """
  scale = HOST_BYTES / size
  startup = rates["startup"] + scale * took["restore"]
  known = {"save": scale * took["save"], "write": scale * took["write"]}
  return rates | known | {"startup": startup}


class Clock:
  """Seconds of a simulation, from 0 on."""

  now = 0.0

  def __call__(self) -> float:
    """The time that it is now."""
    return self.now


def simulate(
  steps: int,
  step: float,
  minutes: float,
  save: float,
  write: float,
  restart: float,
  mean: float,
  seed: int,
) -> float:
  """The seconds of a run of so many steps under preemptions.

  Args:
    steps: of the run.
    step: seconds of one.
    minutes: `config.checkpoint.minutes`.
    save, write: seconds that a save holds the steps up, and until it is whole; the next
      one waits for that.
    restart: seconds from a preemption to the first step.
    mean: seconds between two preemptions.
    seed: of these.
  """
  rng, clock, done, batch = np.random.default_rng(seed), Clock(), 0, 16
  # Its state alone moves: nothing is read.
  order = grain.MapDataset.range(batch)
  data = BatchIterator(order, 10**9, batch, (0,), 0, lambda texts: (texts, texts))
  kept, pending = data.get_state(), None  # the newest whole save, and one on its way
  fails = rng.exponential(mean)
  while True:
    saving = Saves(1, minutes, done, clock)
    while done < steps and clock.now < fails:
      if saving.due(done):
        if pending:
          clock.now, kept = max(clock.now, pending[0]), pending[1]
        clock.now += save
        state = {"next_index": batch * done, "clips": 10**9}
        pending = clock.now + write, state
      clock.now += step
      done += 1
    if clock.now <= fails:
      return clock.now
    if pending and pending[0] <= fails:
      kept = pending[1]
    pending, clock.now = None, fails + restart
    fails += rng.exponential(mean)
    while fails < clock.now:  # preempted again before the first step
      clock.now = fails + restart
      fails += rng.exponential(mean)
    data.set_state(kept)
    done = data.get_state()["next_index"] // batch


def simulated(rates: Rates, chips: int, seeds: int) -> list[dict[str, float]]:
  """Shares of time that are lost, simulated and by both formulas, by minutes.

  Args:
    rates: see `Rates`.
    chips: of the run.
    seeds: how many runs of 20 days of steps.
  """
  mean = rates.host_days * 86400 / max(chips // 4, 1)
  best, steps = young(rates.save, mean), round(20 * 86400 / rates.step)
  out = []
  for factor in (0.25, 0.5, 1, 2, 4, 8):
    minutes = max(best * factor, rates.write) / 60
    times = [
      simulate(
        steps, rates.step, minutes, rates.save, rates.write, rates.startup, mean, seed
      )
      for seed in range(seeds)
    ]  # fmt: skip
    share = np.array(times) / (steps * rates.step) - 1
    every = 60 * minutes - rates.save
    exact = daly(1.0, every, rates.save, rates.startup, mean) - 1
    out.append(
      {
        "chips": chips,
        "minutes": round(minutes, 1),
        "simulated": float(share.mean()),
        "error": float(share.std(ddof=1) / len(share) ** 0.5),
        "young": lost(every, rates.save, rates.write, rates.startup, mean),
        "daly": exact,
      }
    )
  return out


def _rates(given: list[str]) -> Rates:
  values = KNOWN | measured()
  if FOLDER.value:
    size = MEGABYTES.value
    took = saves.measured(FOLDER.value, 10**6 * size)
    values = with_saves(values, took, 1e6 * size)
    print(
      f"{size} MB in {FOLDER.value}: a save holds the steps up for {took['save']:.2f} "
      f"s and is whole after {took['write']:.2f} s, a restore takes "
      f"{took['restore']:.2f} s; of {HOST_BYTES / 1e9:.1f} GB a host "
      f"{values['save']:.0f} s, {values['write']:.0f} s and "
      f"{values['startup'] - KNOWN['startup']:.0f} s\n"
    )
  for pair in given:
    name, equals, value = pair.partition("=")
    if not equals or name not in values:
      raise UsageError(
        f"--rates: got {pair!r}, expected NAME=VALUE of {', '.join(values)}"
      )
    values[name] = finite_numbers("rates", [value])[0]
    if values[name] <= 0:
      raise UsageError(f"--rates: got {pair!r}, expected more than 0")
  return Rates(**values)


def main() -> None:
  """Prints the table, and what the simulated runs lose.

  Raises:
    UsageError: a size or a rate that cannot be.
  """
  rates = _rates(RATES.value)
  clips, chips = (
    finite_numbers("clips", CLIPS.value),
    finite_numbers("chips", CHIPS.value),
  )
  if min(clips + chips) < 4 or CORES.value < 1 or MEMORY.value <= 0 or SEEDS.value < 2:
    raise UsageError("expected 4 clips and chips or more, a core, memory and two seeds")
  sizes = [
    row(int(n), int(c), rates, CORES.value, 1e9 * MEMORY.value)
    for n in clips for c in chips
  ]  # fmt: skip
  print(
    "| clips | chips | prepare, h | epoch, h | TB | read | save, min | lost | first |"
  )
  print("|---|---|---|---|---|---|---|---|---|")
  for r in sizes:
    print(
      f"| {r.clips:.0e} | {r.chips} | {r.prepare:.3g} | {r.epoch:.3g} | "
      f"{r.terabytes:.3g} | {r.read:.2g} | {r.every:.1f} | {r.lost:.1%} | {r.first} |"
    )
  runs = [run for c in chips for run in simulated(rates, int(c), SEEDS.value)]
  print("\n| chips | minutes | simulated | Young | Daly |\n|---|---|---|---|---|")
  for run in runs:
    print(
      f"| {run['chips']} | {run['minutes']} | {run['simulated']:.2%} +- "
      f"{run['error']:.2%} | {run['young']:.2%} | {run['daly']:.2%} |"
    )
  print(json.dumps({"rates": rates._asdict(), "simulated": runs}))


if __name__ == "__main__":
  cli.run(main, ("--folder",))
