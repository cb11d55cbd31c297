"""Draws what a model looks at, how runs learn, and what clips are like, as PNG files.

  python -m ccl_jax.viz attention --ckpt quickstart --out pictures \\
      --prompt 'a red face in the middle says "ba do ba"'
  python -m ccl_jax.viz attention --ckpt runs/mine --film out/joint_0_0.mp4 \\
      --at 5,25,45 --block 3 --out pictures
  python -m ccl_jax.viz loss runs/ccl runs/gate --out loss.png
  python -m ccl_jax.viz sheet ccl=out/ccl gate=out/gate --out sheet.png
  python -m ccl_jax.viz lag out/joint_0_0.mp4 film.mov --out lag.png

attention  where the exchange of a joint model looks, over the frames and the mel of a
           clip that it makes, or of a film: attention_steps.png; and by block and head,
           attention_into_video.png and attention_into_audio.png
loss       the losses of several runs in one picture, each a WORKDIR
sheet      clips of several models by prompt, side by side: folders of `generate`
lag        motion, loudness and mel of films on one axis, and how late the sound is
"""

import argparse
import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from ccl_jax import cli
from ccl_jax.errors import UsageError
from ccl_jax.remote.paths import Place, place
from ccl_jax.seeds import whole_seed

SHEET, LONGEST = 16, 120.0  # prompts of a sheet, seconds of a film
SIDE = 96  # pixels of a film's height, as it is looked at


def _parser() -> argparse.ArgumentParser:
  parser = cli.Parser(
    prog="python -m ccl_jax.viz",
    description=__doc__,
  )
  commands = parser.add_subparsers(
    dest="command", required=True, parser_class=cli.Parser, metavar="COMMAND"
  )

  def command(name: str, text: str, out: str) -> argparse.ArgumentParser:
    sub = commands.add_parser(name, help=text, description=text)
    sub.add_argument("--out", required=True, help=out)
    return sub

  sub = command("attention", "where the exchange looks", "Folder of the pictures.")
  sub.add_argument("--ckpt", required=True, help="A joint model, as for generate.")
  sub.add_argument(
    "--prompt", help="Of the clip; if not given that in the JSON beside --film."
  )
  sub.add_argument("--film", help="Look at this film; a clip is made if not given.")
  sub.add_argument("--steps", type=int, default=50, help="Of sampling.")
  sub.add_argument(
    "--at",
    default="",
    help="Steps that are drawn, as 5,25,45; if not given three, evenly.",
  )
  sub.add_argument(
    "--block", type=int, help="Drawn in attention_steps.png, from 0; all if not given."
  )
  sub.add_argument("--head", type=int, help="As --block.")
  sub.add_argument("--seed", type=int, default=0, help="Of the clip and the noise.")
  sub = command("loss", "losses of several runs", "The picture.")
  sub.add_argument("runs", nargs="+", help="WORKDIR of a run, or NAME=WORKDIR.")
  sub.add_argument(
    "--smooth", type=int, default=1, help="Rows of the log that a running mean is of."
  )
  sub = command("sheet", "clips of models by prompt, side by side", "The picture.")
  sub.add_argument("models", nargs="+", help="Folder of clips, or NAME=FOLDER.")
  sub.add_argument(
    "--prompts", type=int, default=8, help=f"Rows at most, up to {SHEET}."
  )
  sub = command("lag", "motion, loudness and mel of films", "The picture.")
  sub.add_argument("films", nargs="+", help="Films with sound.")
  return parser


def _named(texts: Sequence[str]) -> dict[str, Place]:
  """{NAME: folder} of NAME=FOLDER, or of a folder by its own name.

  Raises:
    UsageError: two have one name.
  """
  out: dict[str, Place] = {}
  for text in texts:
    name, equals, path = text.partition("=")
    folder = place(path if equals else text)
    name = name if equals else folder.absolute().name
    if name in out:
      raise UsageError(f"two are called {name}: call them NAME=FOLDER")
    out[name] = folder
  return out


def _whole_numbers(flag: str, text: str, below: int) -> list[int]:
  parts = [p.strip() for p in text.split(",")]
  good = all(p.isascii() and p.isdigit() and int(p) < below for p in parts)
  if not good:
    raise UsageError(f"--{flag}: got {text!r}; expected numbers below {below}, as 0,1")
  return list(dict.fromkeys(map(int, parts)))


def _attention(args: argparse.Namespace) -> list[Place]:
  from ccl_jax.data.media.decode import MediaError, read_clip
  from ccl_jax.diffusion.schedules import make_schedule
  from ccl_jax.files import check_writable
  from ccl_jax.generation.api import load_model
  from ccl_jax.generation.attention_maps import measure
  from ccl_jax.generation.defaults import FIELDS
  from ccl_jax.generation.sampling import Sampling
  from ccl_jax.generation.settings import read_about
  from ccl_jax.viz.maps import by_head, over_clip

  out, prompt = place(args.out), args.prompt
  whole_seed(args.seed)
  if not FIELDS["steps"].holds(args.steps):
    raise UsageError(f"--steps: got {args.steps}; expected {FIELDS['steps'].words}")
  thirds = sorted({args.steps // 10, args.steps // 2, args.steps * 9 // 10})
  at = _whole_numbers("at", args.at, args.steps) if args.at else thirds
  if args.film is not None and prompt is None:
    prompt = (read_about(place(args.film).with_suffix(".json")) or {}).get("prompt")
  if not isinstance(prompt, str):
    raise UsageError("--prompt is missing: say what the clip shows")
  check_writable(out / "attention_steps.png")
  pipeline = load_model(args.ckpt)
  model, spec = pipeline.model, pipeline.spec
  for name, top in (("block", model.depth), ("head", _heads(model))):
    value = getattr(args, name)
    if value is not None and not 0 <= value < top:
      raise UsageError(f"--{name}: got {value}; expected 0 to {top - 1}")
  if len(model.streams) < 2 or pipeline.takes_channels:
    raise UsageError(
      f"--ckpt {args.ckpt}: expected a joint model that needs no image, whose streams "
      "read each other"
    )
  if args.film is None:
    made = pipeline.generate(
      "joint", prompt, sampling=Sampling(steps=args.steps), seed=args.seed,
      negative=pipeline.negative,
    )  # fmt: skip
    video, audio = made["video"][0], made["audio"][0]
  else:
    try:
      video, audio = read_clip(place(args.film), spec)
    except MediaError as e:
      raise UsageError(f"--film: {e}") from e
  schedule = make_schedule("unipc", args.steps, pipeline.shift(spec))
  sigmas = {step: float(schedule.sigmas[step]) for step in at}
  found = measure(pipeline, prompt, video, audio, list(sigmas.values()), args.seed)
  grid = spec.latent_shape
  _, ph, pw = dict(model.streams)["video"].patch
  grid = (grid[0], grid[1] // ph, grid[2] // pw)
  mean = lambda x: _chosen(x, args.block, args.head)
  rows = []
  for step, sigma in sigmas.items():
    video_maps, audio_maps = found[sigma]["video"], found[sigma]["audio"]
    rows.append((f"step {step}, sigma {sigma:.2f}", {
      "video": (mean(video_maps.queries).reshape(grid), mean(video_maps.keys)[:, 0]),
      "audio": (mean(audio_maps.keys).reshape(grid), mean(audio_maps.queries)[:, 0]),
    }))  # fmt: skip
  of = [f"{name} {value}" if value is not None else f"all {name}s"
        for name, value in (("block", args.block), ("head", args.head))]  # fmt: skip
  frames = video[:: pipeline.codecs.video.stride[0]]
  mel = _mel(audio)
  paths = [out / "attention_steps.png"]
  over_clip(paths[0], frames, mel, spec.seconds, rows, ", ".join(of))
  middle = at[len(at) // 2]
  for stream, maps in found[sigmas[middle]].items():
    paths.append(out / f"attention_into_{stream}.png")
    by_head(paths[-1], stream, maps.time, rows[len(at) // 2][0])
  return paths


def _mel(audio: np.ndarray) -> np.ndarray:
  """Mel amplitudes (m, bands) of a sound."""
  import jax.numpy as jnp

  from ccl_jax.ops.stft import mel_spectrogram

  return np.asarray(mel_spectrogram(jnp.asarray(audio)[None])[0])


def _heads(model) -> int:
  return min(config.heads for _, config in model.streams)


def _chosen(x: np.ndarray, block: int | None, head: int | None) -> np.ndarray:
  """Of (blocks, heads, ...) a block's and a head's, or means over all."""
  x = x.mean(0) if block is None else x[block]
  return x.mean(0) if head is None else x[head]


def _loss(args: argparse.Namespace) -> list[Place]:
  from ccl_jax.documents import metric_rows
  from ccl_jax.viz.runs import runs_curves

  if args.smooth < 1:
    raise UsageError(f"--smooth: got {args.smooth}; expected 1 or more")
  runs: dict[str, Any] = {}
  for name, folder in _named(args.runs).items():
    runs[name] = metric_rows(folder / "metrics.jsonl")
    if not any(k == "loss" or k.startswith("loss/") for r in runs[name] for k in r):
      raise UsageError(
        f"{folder} has no metrics.jsonl with losses: name a training run"
      )
  runs_curves(args.out, runs, args.smooth)
  return [place(args.out)]


def _sheet(args: argparse.Namespace) -> list[Place]:
  from ccl_jax.viz.runs import side_by_side

  if not 1 <= args.prompts <= SHEET:
    raise UsageError(f"--prompts: got {args.prompts}; expected 1 to {SHEET}")
  models = _named(args.models)
  found = {name: _clips_of(folder) for name, folder in models.items()}
  # Those that most models have come first, in the order of the first that has them.
  counts: dict[str, int] = {}
  for clips in found.values():
    for prompt in clips:
      counts[prompt] = counts.get(prompt, 0) + 1
  prompts = sorted(counts, key=lambda p: -counts[p])[: args.prompts]
  cells = {
    (i, j): _decoded(clips[prompt])
    for i, prompt in enumerate(prompts)
    for j, clips in enumerate(found.values())
    if prompt in clips
  }
  side_by_side(args.out, list(models), prompts, cells)
  return [place(args.out)]


def _clips_of(folder: Place) -> dict[str, Place]:
  """{prompt: its first clip} of a folder of `generate`.

  Raises:
    UsageError: it has none.
  """
  from ccl_jax.generation.settings import read_about

  out: dict[str, Place] = {}
  for about in sorted(folder.glob("*.json")) if folder.is_dir() else ():
    prompt = (read_about(about) or {}).get("prompt")
    clips = [about.with_suffix(end) for end in (".mp4", ".wav")]
    clip = next((p for p in clips if p.is_file()), None)
    if isinstance(prompt, str) and clip is not None:
      out.setdefault(prompt, clip)
  if not out:
    raise UsageError(
      f"{folder} has no clips with their settings: name a folder that generate wrote"
    )
  return out


def _decoded(path: Place) -> dict[str, Any]:
  """The picture and the sound of any film, small, and its title.

  Raises:
    UsageError: it cannot be read.
  """
  from ccl_jax.data.media.decode import (
    MediaError,
    picture_size,
    read_audio,
    read_video,
  )
  from ccl_jax.data.sources.windows import probe_with_sound
  from ccl_jax.data.spec import ClipSpec

  try:
    info = probe_with_sound(path)
    out: dict[str, Any] = {}
    seconds = min(info.duration or LONGEST, LONGEST)
    if info.has_video:
      height, width = picture_size(path)
      side = lambda x: max(round(SIDE * x / height / 16), 1) * 16
      fps = min(info.fps or 25.0, 60.0)
      frames = max(4 * ((math.floor(seconds * fps) - 1) // 4) + 1, 5)
      spec = ClipSpec(frames, side(height), min(side(width), 8 * SIDE), fps)
      out |= {"video": read_video(path, spec), "fps": fps}
      seconds = spec.seconds
    if info.has_audio:
      start = info.start if info.has_video else None
      out["audio"] = read_audio(path, start=start)[: math.floor(seconds * 16000)]
  except MediaError as e:
    raise UsageError(f"{path}: {e}") from e
  return out | {"seconds": seconds}


def _lag(args: argparse.Namespace) -> list[Place]:
  from ccl_jax.metrics.base import Unscorable
  from ccl_jax.metrics.films import loudness_curve, motion_curve, score
  from ccl_jax.viz.runs import motion_and_mel

  films = []
  for path in map(place, args.films):
    film = _decoded(path)
    missing = [s for s in ("video", "audio") if s not in film]
    if missing:
      what = {"video": "picture", "audio": "sound"}[missing[0]]
      raise UsageError(f"{path} has no {what}: expected a film with sound")
    try:
      row = score(film["video"], film["audio"], film["fps"])
    except Unscorable as e:
      raise UsageError(f"{path}: {e}") from e
    lag = row.get("sync_lag_ms")
    late = "no summit of the correlation" if lag is None else (
      f"sound {abs(lag):.0f} ms {'late' if lag > 0 else 'early'}"
    )  # fmt: skip
    title = f"{path.name}: {late}, correlation {row['sync_r0']:.2f} as it is"
    mel = _mel(film["audio"])
    films.append({
      "title": title, "seconds": film["seconds"], "mel": mel,
      "motion": motion_curve(film["video"]), "loudness": loudness_curve(film["audio"]),
    })  # fmt: skip
  motion_and_mel(args.out, films)
  return [place(args.out)]


COMMANDS = {"attention": _attention, "loss": _loss, "sheet": _sheet, "lag": _lag}


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command line. A mistake is one line and exit code 2."""
  args = _parser().parse_args(argv)
  with cli.working():
    paths = COMMANDS[args.command](args)
  for path in paths:
    print(path)
  sys.exit(0)


if __name__ == "__main__":
  main()
