"""What a finished run shows: clips, loss curves, attention, and synchrony scores.

Every score stands between two others: chance, the same pictures with other clips'
sounds, and real clips, once as they are and once through the codecs, which is the most
that a model of these latents can reach.

A report that was stopped goes on at the set of clips where it was.
"""

import json
import os
import sys
import time
from typing import Any

import jax
import numpy as np

from ccl_jax import documents, progress
from ccl_jax.axes import STREAMS
from ccl_jax.codecs.images import to_bytes, to_unit
from ccl_jax.data.sources.open import open_source
from ccl_jax.diffusion.guidance import Guidance, get_guidance
from ccl_jax.diffusion.schedules import TIMESTEPS
from ccl_jax.errors import Rule, UsageError, bind, check_settings, number, whole
from ccl_jax.files import sweep, write_json
from ccl_jax.generation.api import load_model
from ccl_jax.generation.attention_panel import attention
from ccl_jax.generation.report_folder import claim, free_folder, read_json
from ccl_jax.generation.sampling import Sampling, variant_of
from ccl_jax.metrics.films import film_scores
from ccl_jax.metrics.talking_scene import read_caption, score_kinds, score_set
from ccl_jax.models.presets import build_model
from ccl_jax.places import hold
from ccl_jax.remote.copies import built_data
from ccl_jax.remote.paths import place
from ccl_jax.seeds import SEED
from ccl_jax.tasks import GENERATIONS
from ccl_jax.viz import panels
from ccl_jax.viz.media import write_mp4

SHOWN_SCORES = ("sync_r0", "sync_lag_ms", "event_f1", "ser")

SCALES = Rule(
  lambda values: all(map(number(0).holds, values)) and not isinstance(values, str),
  "numbers from 0 on, one for each scale of the guidance, or none: ()",
)
SETTINGS = {
  "report.clips": whole(1),
  "report.steps": whole(1, TIMESTEPS),
  "seed": SEED,
  "report.show": whole(1),
  **{f"report.scales.{s}": SCALES for s in STREAMS},
}


def check_report(config) -> None:
  """Whether the report can be made of what the config trains.

  Raises:
    UsageError: a setting is wrong, or the model cannot do what is asked for.
  """
  check_settings(config, SETTINGS)
  model = bind("model", config.model, build_model)
  form = get_guidance(config.report.guidance, variant_of(model))
  _scales(config, form)
  if config.report.clips < form.least(STREAMS):
    raise UsageError(
      f"config.report.clips: got {config.report.clips}; expected {form.least(STREAMS)} "
      f"at least, for guidance {config.report.guidance}"
    )
  streams = dict(model.streams)
  channels = "video" in streams and streams["video"].image_tokens
  possible = [
    name
    for name, kind in GENERATIONS.items()
    if set(kind.generated + kind.given) == set(STREAMS) == set(streams)
    and not (channels and "video" in kind.generated and not kind.image)
  ]
  for task in config.report.tasks:
    if task not in possible:
      raise UsageError(
        f"config.report.tasks: got {task!r}; the report shows pictures with sound, of "
        f"which this model can make {', '.join(possible) or 'none: give ()'}"
      )


def _scales(config, form: Guidance) -> dict[str, dict[str, float]]:
  """Those of the config, by stream and name."""
  given = {s: tuple(map(float, config.report.scales[s])) for s in STREAMS}
  return form.named(given, "config.report.scales.")


def report(
  config, workdir: str | os.PathLike, out: str | os.PathLike | None = None
) -> dict:
  """Writes a report and prints its table; returns the scores.

  Args:
    config: of the run, with what the section `report` is to be.
    out: the folder; None: WORKDIR/report or, where another report is there, report_2
      and so on.

  Raises:
    UsageError: there is no such run, its clips cannot be read, or `out` has another
      report.
  """
  workdir = place(workdir)
  progress.phase("loading")
  pipeline = load_model(workdir)
  about = settings_of(config, pipeline)
  clips = held_out(config, pipeline.spec, workdir)
  out = free_folder(workdir, about) if out is None else place(out)
  with hold(out):
    sweep(out)
    return _write(config, workdir, out, about, pipeline, clips)


def _write(config, workdir, out, about, pipeline, clips) -> dict:
  """The files of a report, in a folder that is held."""
  claim(out, about)
  rows = documents.metric_rows(workdir / "metrics.jsonl")
  panels.loss_curves(out / "loss.png", rows)

  makers = {
    "real": lambda _: clips,
    "real, through the codecs": lambda _: through_codecs(pipeline, clips),
  } | dict.fromkeys(
    config.report.tasks, lambda task: generate(config, pipeline, task, clips)
  )
  file = out / "scores.json"
  stored = read_json(file) or {}
  scores = documents.check(stored, dict[str, dict[str, Any]], file, "remove it")
  for done, (name, make) in enumerate(makers.items()):
    progress.part("report", done, len(makers))
    if name not in scores:
      scores[name] = _show(name, make, config.report.show, pipeline.spec, out)
      write_json(out / "scores.json", scores, indent=2)
  progress.part("report", len(makers), len(makers))
  context = pipeline.model.cross is not None and (
    pipeline.model.cross.variant == "context"
  )
  if context and "attention" not in scores:
    scores["attention"] = attention(pipeline, clips, out / "attention.png")
    write_json(out / "scores.json", scores, indent=2)
  progress.end()
  print(table(scores))
  print(f"clips, loss curves and panels: {out}")
  return scores


def settings_of(config, pipeline) -> dict[str, Any]:
  """What a report is made with, as JSON: reports of other settings are others."""
  r, origin = config.report, pipeline.origin
  form = get_guidance(r.guidance, variant_of(pipeline.model))
  about = {
    "guidance": r.guidance,
    "scales": form.resolve(_scales(config, form)),
    "tasks": tuple(r.tasks),
    **{key: r[key] for key in ("clips", "steps", "show")},
    "shift": config.objective.shift,
    "seed": config.seed,
    "negative_prompts": pipeline.negative,
    "data": {key: config.data[key] for key in ("source", "root")},
    "options": dict(config.data.options),
    "step": origin["step"],
    "fingerprints": origin["fingerprints"],
  }
  return json.loads(json.dumps(about, default=str))


def _show(name, make, show, spec, out) -> dict:
  """Makes a set of clips, draws it, writes the first films of a task; its scores."""
  start = time.perf_counter()
  progress.phase(name)
  made = make(name)
  seconds = time.perf_counter() - start
  progress.say(f"{name}: {len(made)} clips in {seconds:.0f} s", sys.stdout)
  progress.phase("drawing and scoring")
  if name in GENERATIONS:
    for i, clip in enumerate(made[:show]):
      write_mp4(out / f"{name}_{i}.mp4", clip["video"], spec.fps, clip["audio"])
  file = out / f"{name.replace(', ', '_').replace(' ', '_')}.png"
  titles = [c["text"] for c in made[:show]]
  panels.contact_sheet(file, made[:show], titles, [spec.seconds] * show)
  given = GENERATIONS[name].given if name in GENERATIONS else ()
  return score(made, spec.fps, given)


def held_out(config, spec, workdir) -> list[dict]:
  """Clips that training has not seen, where the source has a test split.

  Raises:
    UsageError: the run was trained on latents, and these are no films.
  """
  if config.data.source == "records":
    raise UsageError(
      "config.data.source: got 'records'; expected films, which a report shows"
    )
  root = config.data.root or built_data(workdir)
  split = "train" if config.data.source == "folder" else "test"
  source = open_source(config.data.source, spec, root, split, **config.data.options)
  n = min(config.report.clips, len(source))
  return [_decoded(source[i]) for i in range(n)]


def _decoded(clip):
  text = clip["text"]
  return {**clip, "text": text.decode() if isinstance(text, bytes) else str(text)}


def generate(config, pipeline, task, clips) -> list[dict]:
  """The task's clips for the captions, sounds or pictures of `clips`."""
  kind = GENERATIONS[task]
  stack = lambda key: np.stack([c[key] for c in clips])
  frames = {"image": 0, "last_image": -1}
  inputs = {
    name: stack("video")[:, frames[name]] if name in frames else stack(name)
    for name in kind.needs(pipeline.takes_channels)
  }
  r = config.report
  form = get_guidance(r.guidance, variant_of(pipeline.model))
  nulls = {e.null for e in form.used(kind.generated).values()}
  # Of null videos a picture of the data stands still, and not that of the clip itself.
  known = {"image", "video"} & inputs.keys()
  still = np.stack([c["video"][0] for c in (*clips[-1:], *clips[:-1])])
  made = pipeline.generate(
    task,
    [c["text"] for c in clips],
    sampling=Sampling(
      guidance=r.guidance,
      scales=_scales(config, form),
      steps=r.steps,
      shift=config.objective.shift,
    ),
    seed=config.seed,
    negative=pipeline.negative,
    **inputs,
    **({"still": still} if "video" in nulls and not known else {}),
  )
  made = {**inputs, **made}
  return [
    {**c, "video": made["video"][i], "audio": made["audio"][i]}
    for i, c in enumerate(clips)
  ]


def through_codecs(pipeline, clips) -> list[dict]:
  """The clips after encoding and decoding."""

  @jax.jit
  def both(codecs, video, audio):
    pixels = codecs.video.decode(codecs.video.encode(to_unit(video)))
    return to_bytes(pixels), codecs.audio.decode(codecs.audio.encode(audio))

  video, audio = both(
    pipeline.codecs,
    np.stack([c["video"] for c in clips]),
    np.stack([c["audio"] for c in clips]),
  )
  return [
    {**c, "video": np.asarray(v), "audio": np.asarray(a)}
    for c, v, a in zip(clips, video, audio)
  ]


def score(clips: list[dict], fps: float, given: tuple[str, ...] = ()) -> dict:
  """Scores of a set beside its chance: of talkers where captions name them, else of
  motion against loudness, as for one's own films.

  Args:
    clips: dicts with `video`, `audio` and `text`; those of the bench have a `kind`, by
      which they are scored once more, under "kinds".
    fps: frames per second.
    given: streams that were not generated, of which nothing is scored.
  """
  if not any(read_caption(c["text"]) for c in clips):
    return film_scores(clips, fps)
  rng = np.random.default_rng(0)
  if "kind" not in clips[0]:
    return score_set(clips, fps, rng, given=given)
  tables = score_kinds(clips, fps, rng, given=given)
  return tables.pop("all") | {"kinds": tables}


def table(scores: dict) -> str:
  """The scores as lines of text, each beside its chance."""
  lines = [f"{'':26}" + " ".join(f"{s:>24}" for s in SHOWN_SCORES)]
  for name, entry in scores.items():
    if name == "attention":
      continue
    cells = []
    for s in SHOWN_SCORES:
      if s not in entry["given"]:
        cells.append(f"{'-':>24}")
        continue
      g, c = entry["given"][s], entry["chance"].get(s, {"mean": float("nan")})
      cells.append(f"{g['mean']:.3f} +- {g['sem']:.3f} ({c['mean']:.3f})".rjust(24))
    lines.append(f"{name:26}" + " ".join(cells))
  return "\n".join([*lines, "mean +- standard error (chance)"])
