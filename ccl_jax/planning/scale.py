"""A training run on paper: how long each part of it takes, and what ends it first.

Rates are measured, sizes are those of the files that are written, the step's time is a
prediction (`plan`). Preemptions come as a Poisson process of mean time M between two of
the whole run; a save that costs C s and is whole W s later, every T s, loses of each
hour about

  C / T + (T / 2 + W + R) / M,     least at T = sqrt(2 C M)     (Young 1974)

with R s to start again. Daly (2006) has the exact time of a run of S s, for W = 0:

  M exp(R / M) (exp((T + C) / M) - 1) S / T
"""

import math
from typing import NamedTuple

from ccl_jax.documents import DOCUMENT, TABLE

CLIP_BYTES = 5.2e6  # a record of an 81-frame 480p clip with its text
SHARD_CLIPS = 256  # of `config.shard_clips`
HOST_CHIPS = 4  # of a host of v5p and v6e pods


class Rates(NamedTuple):
  """What one core, one host or one chip does; docs/results.md has the commands.

  Attributes:
    prepare: films of a clip's length a second and core (`bench prepare`).
    read: records a second and host (`bench data`).
    step: seconds of a step (`plan`).
    batch, chips: clips of that step, and the chips that it was planned for.
    plan_bytes, index_bytes: of plan.json a clip, and of index.json a shard.
    row_bytes: of the host's memory for a row of the table of captions.
    startup: seconds from a preemption to the first step.
    save, write: seconds that a save holds the steps up, and until it is whole.
    host_days: mean days between two failures of one host.
  """

  prepare: float
  read: float
  step: float
  batch: int
  chips: int
  plan_bytes: float
  index_bytes: float
  row_bytes: float
  startup: float
  save: float
  write: float
  host_days: float


class Row(NamedTuple):
  """One size of a run.

  Attributes:
    clips, chips: of the run.
    prepare, epoch: hours of `data prepare` on the hosts' cores, and of an epoch.
    terabytes: of the records.
    read: share of what the hosts can read that the steps need.
    every: minutes between two saves by Young.
    lost: share of the time that saves and preemptions take then.
    first: what breaks first at this size; "" for nothing.
  """

  clips: int
  chips: int
  prepare: float
  epoch: float
  terabytes: float
  read: float
  every: float
  lost: float
  first: str


def young(save: float, mean: float) -> float:
  """The seconds between two saves that lose the least, to first order.

  Args:
    save: seconds that one costs.
    mean: seconds between two preemptions of the run.
  """
  return math.sqrt(2 * save * mean)


def lost(every: float, save: float, write: float, restart: float, mean: float) -> float:
  """The share of the time that saves and preemptions take, to first order.

  Args:
    every: seconds of steps between two saves.
    save, write: seconds that a save costs, and until it is whole.
    restart: seconds from a preemption to the first step.
    mean: seconds between two preemptions.
  """
  return save / every + (every / 2 + write + restart) / mean


def daly(steps: float, every: float, save: float, restart: float, mean: float) -> float:
  """The mean seconds of a run, exactly, where a save is whole as it ends.

  Args:
    steps: seconds of its steps alone.
    every, save, restart, mean: see `lost`.
  """
  grown = math.expm1((every + save) / mean)
  return mean * math.exp(restart / mean) * grown * steps / every


def row(clips: int, chips: int, rates: Rates, cores: int, memory: float) -> Row:
  """One size of a run: its times, and what breaks first.

  Args:
    clips, chips: of the run.
    rates: see `Rates`.
    cores: of a host, for `data prepare`.
    memory: bytes of a host.
  """
  hosts = max(chips // HOST_CHIPS, 1)
  batch = rates.batch * chips / rates.chips
  epoch = clips / batch * rates.step / 3600
  need = batch / rates.step / (hosts * rates.read)
  mean = rates.host_days * 86400 / hosts
  every = max(young(rates.save, mean), rates.write)  # the next save waits for the last
  share = lost(every, rates.save, rates.write, rates.startup, mean)
  return Row(
    clips, chips, clips / (rates.prepare * cores * hosts) / 3600, epoch,
    clips * CLIP_BYTES / 1e12, need, every / 60, share,
    _first(clips, batch, need, share, rates, memory),
  )  # fmt: skip


def _first(clips, batch, need, share, rates: Rates, memory: float) -> str:
  """What breaks first; limits are those of `documents` and of the host's memory."""
  shards = clips / SHARD_CLIPS
  limits = {
    "fewer clips than a batch": batch / clips,
    "plan.json is larger than is read": clips * rates.plan_bytes / TABLE,
    "index.json is larger than is read": shards * rates.index_bytes / DOCUMENT,
    "the table of captions is larger than a host's memory": (
      clips * rates.row_bytes / memory
    ),
    "hosts cannot read records as fast": need,
    "more is lost than is done": share / 0.5,
  }
  name = max(limits, key=limits.get)
  return name if limits[name] > 1 else ""
