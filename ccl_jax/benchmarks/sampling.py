"""Measures sampling with fewer evaluations: how fast, and how near to all of them.

  python -m ccl_jax.bench sampling
  python -m ccl_jax.bench sampling --ckpt=runs/quickstart --steps=30 --clips=8

A calibration is measured on clips of other seeds. Then each way makes the same clips,
by turns, so that whatever else the machine does falls on all. Prints, per way, the
median seconds of the rounds without loading and compiling; the ratio of plain
sampling's seconds to them, with the lowest and highest round; network evaluations of a
clip, of which some run no block; and how near the clips are to plain ones: the PSNR of
pictures (peak 255), and signal to difference of the sound, in decibels, each of all
clips together. Plain sampling in fewer steps is beside them: what it gives up is what a
way has to beat. Then the same as JSON.
"""

import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from absl import flags

from ccl_jax import cli
from ccl_jax.benchmarks.timing import in_turn, keeping, median, ratios, show
from ccl_jax.diffusion.guidance import get_guidance
from ccl_jax.errors import UsageError
from ccl_jax.generation.api import load_model
from ccl_jax.generation.sampling import Sampling, Steps, variant_of
from ccl_jax.generation.shortcuts import names_of
from ccl_jax.generation.step_cache import Recorder
from ccl_jax.tasks import GENERATIONS

CKPT = flags.DEFINE_string("ckpt", "quickstart", "Checkpoint, as for generate.")
PROMPT = flags.DEFINE_string(
  "prompt", 'a red face in the middle says "ba do ba"', "Of all clips."
)
STEPS = flags.DEFINE_integer("steps", 50, "Of plain sampling.", 4)
CLIPS = flags.DEFINE_integer("clips", 4, "Made together, of seeds 0, 1, ...", 1)
ROUNDS = flags.DEFINE_integer("rounds", 5, "Of timed runs; the median counts.", 1)

CALIBRATION = 1000  # the first seed of its clips: none of those that are compared


def ways(plain: Sampling, calibration: pathlib.Path) -> dict[str, Sampling]:
  """Samplings by name, plain sampling first.

  Args:
    plain: that the others are compared with.
    calibration: a file of `step_cache`.
  """
  of = lambda **changes: dataclasses.replace(plain, **changes)
  cache = lambda threshold: f"{calibration}:{threshold}"
  return {
    "plain": plain,
    "3/4 of the steps": of(steps=plain.steps * 3 // 4),
    "half of the steps": of(steps=plain.steps // 2),
    "guidance_interval 0.1,0.9": of(guidance_interval=(0.1, 0.9)),
    "guidance_interval 0.3,1": of(guidance_interval=(0.3, 1.0)),
    "guidance_interval 0.5,1": of(guidance_interval=(0.5, 1.0)),
    "guidance_every 2": of(guidance_every=2),
    "guidance_every 4": of(guidance_every=4),
    "both, 0.3,1 and 2": of(guidance_interval=(0.3, 1.0), guidance_every=2),
    "cache 0.06": of(cache=cache(0.06)),
    "cache 0.12": of(cache=cache(0.12)),
    "cache 0.24": of(cache=cache(0.24)),
  }


def evaluations(pipeline, sampling: Sampling) -> tuple[int, int]:
  """(evaluations of a clip of a `LoadedModel`, those of them that run the blocks)."""
  kind = GENERATIONS["joint"]
  form = get_guidance(sampling.guidance, variant_of(pipeline.model))
  used = form.used(kind.generated, kind.generated)
  counts = [
    (sum(len(name.split("+")) for name in names_of(k.guidance, used, True)), k.cached)
    for k in Steps(pipeline.model, kind, sampling).kinds
  ]
  return sum(n for n, _ in counts), sum(n for n, cached in counts if not cached)


def decibels(power: float, error: float) -> float:
  """10 log10 of a ratio of powers; infinite where there is no error."""
  return float(10 * np.log10(power / error)) if error else float("inf")


def nearness(clips: Mapping, plain: Mapping) -> tuple[float, float]:
  """(PSNR of the pictures, signal to difference of the sound) in decibels.

  Args:
    clips, plain: of `LoadedModel.generate`.
  """
  mean = lambda x: float(np.mean(np.square(x, dtype=np.float64)))
  apart = clips["video"].astype(np.float64) - plain["video"]
  sound = clips["audio"] - plain["audio"]
  return decibels(255.0**2, mean(apart)), decibels(mean(plain["audio"]), mean(sound))


def rows(pipeline, folder: pathlib.Path) -> Iterator[dict]:
  """Figures of every way, one after the other.

  Args:
    pipeline: the `LoadedModel` of a joint model.
    folder: for the calibration.
  """
  plain = pipeline.about.sampling(Sampling(steps=STEPS.value), pipeline.spec)

  def make(sampling, first=0, **options):
    seeds = [first + i for i in range(CLIPS.value)]
    prompts = [PROMPT.value] * CLIPS.value
    return pipeline.generate(
      "joint", prompts, sampling=sampling, seed=seeds,
      negative=pipeline.negative, **options,
    )  # fmt: skip

  recorder, file = Recorder(), folder / "calibration.json"
  make(plain, CALIBRATION, watch=recorder)
  prints = pipeline.origin["fingerprints"].get("params")
  recorder.write(file, "joint", plain.guidance, prints)

  runs = ways(plain, file)
  programs, made = keeping({n: lambda how=how: make(how) for n, how in runs.items()})
  seconds = in_turn(programs, ROUNDS.value)
  for name, sampling in runs.items():
    faster = ratios(seconds["plain"], seconds[name])
    total, whole = evaluations(pipeline, sampling)
    picture, sound = nearness(made[name], made["plain"])
    yield {
      "what": name,
      "seconds": median(seconds[name]),
      "faster": median(faster),
      "lowest": faster[0],
      "highest": faster[-1],
      "evaluations": total,
      "with blocks": whole,
      "picture dB": picture,
      "sound dB": sound,
    }


def main() -> None:
  """Measures by the flags, and prints a table and a JSON object."""
  pipeline = load_model(CKPT.value)
  if len(pipeline.model.streams) < 2:
    raise UsageError(f"--ckpt {CKPT.value} has one stream; expected a joint model")
  device = jax.devices()[0]
  setup = {
    "device": device.device_kind,
    "cores": os.cpu_count(),
    "ckpt": CKPT.value,
    "clips": CLIPS.value,
    "rounds": ROUNDS.value,
  }
  with tempfile.TemporaryDirectory() as folder:
    show(setup, list(rows(pipeline, pathlib.Path(folder))))


if __name__ == "__main__":
  cli.run(main)
