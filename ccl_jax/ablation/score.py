"""Scores a run from its checkpoint: one JSON, what it holds see `results`.

The clips are those of the data's test split: its first two thirds are the test, of
which clips are sampled by the run's `report.clips`; its last third is the validation
split that scales of guidance are tuned on. Noise is by the run's seed, the same for all
variants of one seed.
"""

import itertools
import json
import os
import pathlib
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from ccl_jax.ablation.by_head import by_head
from ccl_jax.ablation.measures import attention, gradient_cosines
from ccl_jax.ablation.results import (
  CEILING,
  HEADS,
  SCALES,
  check,
  code_version,
  commit,
  read_json,
)
from ccl_jax.ablation.variants import (
  ATTENTION_SIGMAS,
  BEST,
  GRID,
  INFORMATION_SIGMAS,
  ROWS,
  TASKS,
  VARIANTS,
  forms,
)
from ccl_jax.axes import STREAMS
from ccl_jax.checkpoints.find import read_config
from ccl_jax.codecs.bundle import null_text
from ccl_jax.codecs.images import to_unit
from ccl_jax.diffusion.guidance import get_guidance
from ccl_jax.documents import metric_rows
from ccl_jax.errors import UsageError
from ccl_jax.files import write_json
from ccl_jax.generation.api import load_model
from ccl_jax.generation.pipeline import LoadedModel
from ccl_jax.generation.report import generate, held_out, through_codecs
from ccl_jax.metrics.talking_scene import score_kinds, score_set
from ccl_jax.ops.patchify import in_tokens
from ccl_jax.tasks import GENERATIONS
from ccl_jax.training.build import make_recipe
from ccl_jax.training.information import information, network_velocity

Clips = Sequence[dict[str, Any]]
Scales = Mapping[str, Mapping[str, float]]
Rows = Sequence[Mapping[str, Any]]  # of a log


class Run(NamedTuple):
  """A finished run.

  Attributes:
    name: of its folder.
    config: that it was trained with.
    pipeline: its model, moving average and codecs.
    test, validation: clips that training has not seen.
    rows: of its log.
  """

  name: str
  config: ConfigDict
  pipeline: LoadedModel
  test: Clips
  validation: Clips
  rows: Rows

  @property
  def fps(self) -> float:
    """Frames per second of the clips."""
    return self.pipeline.spec.fps

  @property
  def sampled(self) -> Clips:
    """The test clips that samples are made for."""
    return self.test[: self.config.report.clips]


def open_run(workdir: pathlib.Path) -> Run:
  """Reads a run.

  Raises:
    UsageError: there is none, or it is not finished.
  """
  text = read_config(workdir)
  if not text:
    raise UsageError(f"--workdir {workdir} holds no training run")
  config = ConfigDict(text)
  pipeline = load_model(workdir)
  if pipeline.origin["step"] != config.steps:
    raise UsageError(
      f"--workdir {workdir} is at step {pipeline.origin['step']} of {config.steps}: "
      "train it to its end first"
    )
  every = ConfigDict(config.to_dict() | {"report": {"clips": 10**6}})
  clips = held_out(every, pipeline.spec, workdir)
  border = 2 * len(clips) // 3
  rows = metric_rows(workdir / "metrics.jsonl")
  return Run(workdir.name, config, pipeline, clips[:border], clips[border:], rows)


def sample(run: Run, form: str, scales: Scales, task: str, clips: Clips) -> Clips:
  """The task's clips, with a form of guidance."""
  config = ConfigDict(run.config.to_dict())
  config.report.guidance = form
  config.report.scales = {s: tuple(scales[s].values()) for s in STREAMS}
  return generate(config, run.pipeline, task, clips)


def score_ceiling(workdir: pathlib.Path, results: pathlib.Path, size: str) -> None:
  """Writes the scores of real clips, as they are and through the codecs.

  Args:
    workdir: of a run, whose codecs and test clips these are.
    results: folder of the result.
    size: of the config.
  """
  run = open_run(workdir)
  chance = lambda clips: score_set(clips, run.fps, np.random.default_rng(0))
  real, coded = chance(run.sampled), chance(through_codecs(run.pipeline, run.sampled))
  table = {
    "real": real["given"],
    "real, through the codecs": coded["given"],
    "real, with other sounds": real["chance"],
  }
  write_json(results / CEILING, _plain(table), indent=1)


def tune_scales(workdir: pathlib.Path, results: pathlib.Path, size: str) -> None:
  """Finds the scales of every form of guidance for the run's kind of exchange.

  Of the scales of `GRID`, the same for both streams, those with the most `worth` in the
  task joint on the validation clips. Goes on where it was stopped.

  Args:
    workdir: of the run.
    results: folder with the scales of all kinds.
    size: of the config.
  """
  run = open_run(workdir)
  kind = run.config.model.variant
  found = read_json(workdir / SCALES)
  for name in ROWS[kind]:
    if name in found:
      continue
    start = time.monotonic()
    form = get_guidance(name, kind)
    grid = []
    count = len(form.scales)
    for values in itertools.product(GRID[count], repeat=count):
      scales = dict.fromkeys(STREAMS, dict(zip(form.scales, values)))
      made = sample(run, name, scales, "joint", run.validation)
      scores = score_set(made, run.fps, np.random.default_rng(0))["given"]
      grid.append({"scales": dict(scales["video"]), "worth": worth(scores)})
      grid[-1]["scores"] = {k: v["mean"] for k, v in scores.items()}
    best = max(grid, key=lambda row: row["worth"])
    found[name] = {"scales": dict.fromkeys(STREAMS, best["scales"]), "grid": grid}
    write_json(workdir / SCALES, _plain(found), indent=1)
    print(f"{name}: {best['scales']}, {time.monotonic() - start:.0f} s", flush=True)
  kinds = read_json(results / SCALES)
  kinds[kind] = {"run": run.name, "clips": len(run.validation), **found}
  write_json(results / SCALES, _plain(kinds), indent=1)


def worth(scores: Mapping[str, Mapping[str, float]]) -> float:
  """What scales are chosen by: synchrony, a talker without a face counting as none,
  less the errors in the words.
  """
  mean = lambda name, none: scores[name]["mean"] if name in scores else none
  return mean("sync_r0", 0.0) * (1 - mean("face_missing", 0.0)) - mean("ser", 1.0)


def score_run(workdir: pathlib.Path, results: pathlib.Path, size: str) -> None:
  """Scores a run, and writes RESULTS/VARIANT-SEED.json.

  Args:
    workdir: of the run, whose name is VARIANT-SEED.
    results: folder with the scales of guidance, and of the result.
    size: of the config.

  Raises:
    UsageError: the run is not finished or of no known variant, or scales are lacking.
  """
  variant, _, seed = workdir.name.rpartition("-")
  if variant not in VARIANTS or not seed.isdigit():
    raise UsageError(
      f"--workdir {workdir}: got a folder {workdir.name}; expected VARIANT-SEED"
    )
  kind = VARIANTS[variant].exchange
  tuned = read_json(results / SCALES).get(kind)
  if tuned is None:
    raise UsageError(
      f"{results / SCALES} has no scales for the exchange {kind}: make them with "
      "--what=scales"
    )
  start = time.monotonic()
  run = open_run(workdir)
  params = run.pipeline.params
  latents, text = encoded(run)
  result = {
    "version": code_version(),
    "commit": commit(),
    "variant": variant,
    "seed": int(seed),
    "size": size,
    "model": {k: v for k, v in run.config.model.to_dict().items() if v is not None},
    "parameters": sum(x.size for x in jax.tree.leaves(params)),
    "steps": run.config.steps,
    "seconds": {"train": _train_seconds(run.rows), "score": 0.0},
    "machine": _machine(),
    "loss": losses(run.rows),
    "stability": {
      "difference_std": difference_std(run.rows),
      "gradient_cosine": _cosines(run, latents, text),
    },
    "guidance": {
      form: guidance(run, form, tuned[form]["scales"], form in BEST[kind])
      for form in forms(variant)
    },
    "information": {
      task: information(
        network_velocity(run.pipeline.model, task),
        params,
        latents,
        text,
        task,
        INFORMATION_SIGMAS,
      )
      for task in TASKS
    },
    "attention": _attention(run, latents, text),
  }
  result["seconds"]["score"] = time.monotonic() - start
  place = results / f"{workdir.name}.json"
  write_json(place, check(json.loads(json.dumps(_plain(result))), place))


def score_heads(workdir: pathlib.Path, results: pathlib.Path, size: str) -> None:
  """Writes where each head of a run's exchange looks.

  Args:
    workdir: of the run, whose clips say where their foreground is, as the quickstart's.
    results: folder of the result.
    size: of the config.

  Raises:
    UsageError: the run is not finished, or its clips do not say it.
  """
  run = open_run(workdir)
  if any(f"{s}_mask" not in run.test[0] for s in STREAMS):
    raise UsageError(
      f"--workdir {workdir}: its clips have no masks of the foreground; name a run on "
      "talking scenes, as the quickstart"
    )
  found = {
    "run": run.name,
    "steps": run.config.steps,
    "clips": len(run.sampled),
    "attention": _looked_at(run, *encoded(run), by_head),
  }
  write_json(results / HEADS, _plain(found))


SCORERS: Mapping[str, Callable[[pathlib.Path, pathlib.Path, str], None]] = {
  "run": score_run,
  "scales": tune_scales,
  "ceiling": score_ceiling,
  "heads": score_heads,
}


def guidance(run: Run, form: str, scales: Scales, full: bool) -> dict[str, Any]:
  """Scores of one form of guidance by task: `scales`, `scores`, `chance`, and of forms
  with all tasks those by `kinds` of clips.
  """
  table = {}
  for task in TASKS if full else TASKS[:1]:
    start = time.monotonic()
    made = sample(run, form, scales, task, run.sampled)
    given = GENERATIONS[task].given
    kinds = score_kinds(made, run.fps, np.random.default_rng(0), given=given)
    every = kinds.pop("all")
    table[task] = {
      "scales": scales,
      "scores": every["given"],
      "chance": every["chance"],
      "kinds": {k: v["given"] for k, v in kinds.items()} if full else {},
    }
    print(f"{form}, {task}: {time.monotonic() - start:.0f} s", flush=True)
  return table


def encoded(run: Run) -> tuple[dict[str, np.ndarray], np.ndarray]:
  """Latents by stream, and texts, of the test clips."""

  @jax.jit
  def encode(codecs, video, audio, tokens):
    latents = {
      "video": codecs.video.encode(to_unit(video)),
      "audio": codecs.audio.encode(audio),
    }
    return latents, codecs.text.encode(*tokens)

  codecs = run.pipeline.codecs
  video, audio = (np.stack([c[s] for c in run.test]) for s in ("video", "audio"))
  tokens = codecs.text.tokenize([c["text"] for c in run.test])
  return jax.device_get(encode(codecs, video, audio, tokens))


def losses(rows: Rows) -> dict[str, Any]:
  """The loss by windows of the log, and by task and stream; None: none was drawn."""
  rows = [row for row in rows if "loss" in row]
  names = sorted({k for row in rows for k in row if k.startswith("loss/")})
  return {
    "step": [row["step"] for row in rows],
    "loss": [row["loss"] for row in rows],
    "by_task": {k.removeprefix("loss/"): [row.get(k) for row in rows] for k in names},
  }


def difference_std(rows: Rows) -> float | None:
  """The deviation of the differences between successive windows of the loss, from the
  second half of the training on, where the loss falls no more.
  """
  loss = [row["loss"] for row in rows if "loss" in row]
  tail = loss[len(loss) // 2 :]
  return float(np.diff(tail).std(ddof=1)) if len(tail) > 2 else None


def _train_seconds(rows: Rows) -> float:
  """Seconds in steps, over all processes that the run took."""
  steps = [-1, *(row["step"] for row in rows)]
  counts = np.diff(steps)
  return float(sum(n * row.get("step_seconds", 0.0) for n, row in zip(counts, rows)))


def _cosines(run: Run, latents, text) -> dict[str, float]:
  return gradient_cosines(
    run.pipeline.model,
    run.pipeline.params,
    make_recipe(run.config),
    latents,
    text,
    np.asarray(null_text(run.pipeline.codecs)),
  )


def _attention(run: Run, latents, text) -> dict[str, Any] | None:
  """Where the exchange looks; None of a model with windows and no context tokens."""
  return _looked_at(run, latents, text, attention) or None


def _looked_at(run: Run, latents, text, measure: Callable[..., dict]) -> dict[str, Any]:
  """What a measure of attention finds on the sampled clips."""
  n = len(run.sampled)
  masks = {
    s: np.stack([c[f"{s}_mask"] for c in run.sampled]).astype(bool) for s in STREAMS
  }
  patch = dict(run.pipeline.model.streams)["video"].patch
  masks["video"] = in_tokens(masks["video"], patch)
  return measure(
    run.pipeline.model,
    run.pipeline.params,
    {s: x[:n] for s, x in latents.items()},
    text[:n],
    masks,
    ATTENTION_SIGMAS,
  )


def _machine() -> str:
  """The processor or accelerator, and how many cores or chips."""
  device = jax.devices()[0]
  if device.platform != "cpu":
    return f"{device.device_kind}, {jax.device_count()}"
  name = platform.processor() or platform.machine()
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    models = [x.partition(":")[2].strip() for x in lines if x.startswith("model name")]
    name = models[0] if models else name
  except OSError:
    pass
  return f"{name}, {os.cpu_count()} cores"


def _plain(value: Any) -> Any:
  """A value for JSON: numbers of five digits, none that is not finite."""
  if isinstance(value, Mapping):
    return {
      f"{k:g}" if isinstance(k, float) else k: _plain(v) for k, v in value.items()
    }
  if isinstance(value, list | tuple):
    return [_plain(v) for v in value]
  if isinstance(value, float | np.floating):
    return float(f"{value:.5g}") if np.isfinite(value) else None
  return value
