"""Generates clips from a trained checkpoint.

  python -m ccl_jax.generate --ckpt runs/quickstart --task joint \\
      --prompt 'a red face on the left says "ba do ba"' --out out
  python -m ccl_jax.generate --ckpt runs/quickstart --task a2v --audio voice.wav \\
      --prompt 'a red face in the middle says "ba do"' --out out
  python -m ccl_jax.generate --ckpt runs/quickstart --task v2a --video film.mp4 \\
      --prompt 'a red face in the middle says "ba do"' --out out
  python -m ccl_jax.generate --ckpt weights/wan-i2v --task i2v --image first.png \\
      --prompt 'a cat yawns' --height 480 --width 832 --out out
  python -m ccl_jax.generate --ckpt runs/quickstart --task joint \\
      --manifest set.jsonl --out out

  task    makes            given
  joint   video and sound  text
  ti2av   video and sound  text, --image
  t2v     video            text
  i2v     video            text, --image
  t2a     sound            text
  a2v     video            text, --audio
  v2a     sound            text, --video

--image is welcome in all that makes a video. CKPT is a training run, or a folder that
'convert wan', 'convert wan-dit' or 'convert join' wrote; those start from Wan2.1's
settings: 81 frames of 480 x 832 at 16 fps, its negative prompt, shift and scale.

Writes NAME.mp4 (H.264 and AAC; with the given sound or picture, where one was given)
or NAME.wav, and NAME.json with the settings. --prompt may be given several times.

--manifest makes <id>.mp4 of every line (prompt, image, seed; data/manifest.py), leaving
those that are there: a run that was stopped goes on. Several processes share a set by
--process_index and --process_count; --batch lines are made at a time, each from its own
seed.
"""

import json
import pathlib
import sys

import numpy as np
from absl import flags

from ccl_jax import cli
from ccl_jax.errors import UsageError
from ccl_jax.tasks import GENERATIONS

CKPT = flags.DEFINE_string("ckpt", None, "A training run, or converted weights.")
CODECS = flags.DEFINE_string(
  "codecs", None, "A bundle of codecs; that of --ckpt if not given."
)
STEP = flags.DEFINE_integer(
  "step", None, "The checkpoint's step; the newest one if not given."
)
WEIGHTS = flags.DEFINE_enum("weights", "ema", ["ema", "params"], "Which parameters.")
TASK = flags.DEFINE_string("task", "joint", f"One of {', '.join(GENERATIONS)}.")
PROMPT = flags.DEFINE_multi_string(
  "prompt", None, "What to show; spoken words in quotes."
)
NEGATIVE = flags.DEFINE_string(
  "negative_prompt", None, "Text of unconditional evaluations; if not given none, or "
  "for a converted Wan2.1 that of its release."
)  # fmt: skip
MANIFEST = flags.DEFINE_string("manifest", None, "Prompts, one JSON object a line.")
INDEX = flags.DEFINE_integer("process_index", 0, "Which part of the manifest.")
COUNT = flags.DEFINE_integer("process_count", 1, "In how many parts it is made.")
BATCH = flags.DEFINE_integer("batch", 1, "Lines of the manifest made at a time.")
IMAGE = flags.DEFINE_string("image", None, "First frame.")
AUDIO = flags.DEFINE_string("audio", None, "Sound to be shown: any audio or film file.")
VIDEO = flags.DEFINE_string("video", None, "Film to be given a sound.")
FRAMES = flags.DEFINE_integer(
  "frames", None, "Frames, 4k + 1; as in training if not given."
)
HEIGHT = flags.DEFINE_integer("height", None, "Pixels, a multiple of 16.")
WIDTH = flags.DEFINE_integer("width", None, "Pixels, a multiple of 16.")
GUIDANCE = flags.DEFINE_string(
  "guidance", None, "none, text, ucg2, ucg3, multimodal or sync; ucg2 for a model with "
  "context tokens, multimodal for a gated one, text for one stream."
)  # fmt: skip
SCALE_VIDEO = flags.DEFINE_list(
  "scale_video", None, "Guidance scale(s) of the video, e.g. 5 or 3,5."
)
SCALE_AUDIO = flags.DEFINE_list("scale_audio", None, "Guidance scale(s) of the sound.")
STEPS = flags.DEFINE_integer("steps", 50, "Sampling steps.")
SHIFT = flags.DEFINE_float(
  "shift", None, "Schedule shift; as in training if not given."
)
SOLVER = flags.DEFINE_enum("solver", "unipc", ["unipc", "dpmpp", "euler"], "Sampler.")
SEQUENTIAL = flags.DEFINE_bool(
  "sequential", False, "Evaluations of a step one after the other: half the memory."
)
SEED = flags.DEFINE_integer("seed", 0, "Seed of the noise.")
OUT = flags.DEFINE_string("out", None, "Folder for the results.")
WAN_SCALE = "5"
flags.mark_flags_as_required(["ckpt", "out"])


def parse_scales(names, given):
  """{stream: {scale: value}} from the flags; one number serves for all scales.

  Raises:
    UsageError: not numbers, or not as many as the guidance form has scales.
  """
  out = {}
  for stream, values in given.items():
    if values is None or not names:
      continue
    try:
      numbers = [float(v) for v in values]
    except ValueError as e:
      raise UsageError(
        f"--scale_{stream}: got {','.join(values)}; expected numbers"
      ) from e
    if len(numbers) == 1:
      numbers *= len(names)
    if len(numbers) != len(names):
      raise UsageError(
        f"--scale_{stream}: got {len(numbers)} values; expected 1 or {len(names)} "
        f"({', '.join(names)})"
      )
    out[stream] = dict(zip(names, numbers))
  return out


def check_flags() -> None:
  """What can be said before anything is loaded."""
  if (PROMPT.value is None) == (MANIFEST.value is None):
    raise UsageError("expected --prompt or --manifest, and one of them only")
  if any(not p.strip() for p in PROMPT.value or ()):
    raise UsageError("--prompt is empty; expected a description, e.g. 'a red face'")
  if TASK.value not in GENERATIONS:
    raise UsageError(
      f"unknown task {TASK.value!r}; expected one of {', '.join(GENERATIONS)}"
    )
  if STEPS.value < 1:
    raise UsageError(f"--steps: got {STEPS.value}; expected at least 1")
  kind = GENERATIONS[TASK.value]
  needed = [*kind.given, *(["image"] if kind.image and not MANIFEST.value else [])]
  for name, flag in (("image", IMAGE), ("audio", AUDIO), ("video", VIDEO)):
    if name in needed and flag.value is None:
      raise UsageError(f"task {TASK.value} needs --{name} FILE")
    if flag.value is not None and MANIFEST.value is not None:
      raise UsageError(f"--{name} with --manifest: expected it in the manifest's lines")
    if flag.value is not None and not pathlib.Path(flag.value).is_file():
      raise UsageError(f"--{name}: no file {flag.value}")


def default_guidance(model) -> str:
  if model.cross is None:
    return "text"
  return "ucg2" if model.cross.variant == "context" else "multimodal"


def default_scales(model) -> dict[str, list[str] | None]:
  """Wan2.1's scale for a video stream alone; else those of the guidance form."""
  alone = [s for s, _ in model.streams] == ["video"]
  return {"video": [WAN_SCALE] if alone else None, "audio": None}


def read_inputs(spec, copies: int) -> dict[str, np.ndarray]:
  """The files named by the flags, decoded for a clip and repeated for each prompt."""
  from ccl_jax.data.media.decode import MediaError, read_audio, read_image, read_video

  readers = {
    "image": (IMAGE.value, lambda f: read_image(f, spec.height, spec.width)),
    "audio": (AUDIO.value, lambda f: _whole_sound(f, read_audio(f), spec)),
    "video": (VIDEO.value, lambda f: read_video(f, spec)),
  }
  out = {}
  for name, (path, read) in readers.items():
    if path is None:
      continue
    try:
      out[name] = np.repeat(read(path)[None], copies, 0)
    except MediaError as e:
      raise UsageError(f"--{name}: {e}") from e
  return out


def _whole_sound(path, wave, spec):
  if len(wave) < spec.samples:
    raise UsageError(
      f"--audio: {path} lasts {len(wave) / spec.sample_rate:.2f} s; expected at least "
      f"{spec.samples / spec.sample_rate:.2f} s for {spec.frames} frames: give longer "
      "sound or fewer --frames"
    )
  return wave[: spec.samples]


def write_clips(out, names, clips, spec, given) -> list[pathlib.Path]:
  """An mp4 or a wav for every clip, with the picture or sound that was given."""
  from ccl_jax.viz.media import write_mp4, write_wav

  out.mkdir(parents=True, exist_ok=True)
  paths = []
  for i, name in enumerate(names):
    video = clips.get("video", given.get("video"))
    audio = clips.get("audio", given.get("audio"))
    if video is not None:
      path = out / f"{name}.mp4"
      write_mp4(path, video[i], spec.fps, None if audio is None else audio[i])
    else:
      path = out / f"{name}.wav"
      write_wav(path, audio[i], spec.sample_rate)
    paths.append(path)
  return paths


def write_settings(path: pathlib.Path, about: dict) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(about, indent=2) + "\n")


def main():
  import dataclasses

  import tqdm

  from ccl_jax.diffusion.guidance import get_guidance
  from ccl_jax.generation.manifests import make_set
  from ccl_jax.generation.pipeline import Pipeline
  from ccl_jax.generation.sampling import Sampling, variant_of

  check_flags()
  pipeline = Pipeline.load(
    CKPT.value, codecs=CODECS.value, weights=WEIGHTS.value, step=STEP.value
  )
  model = pipeline.model
  sizes = {"frames": FRAMES.value, "height": HEIGHT.value, "width": WIDTH.value}
  spec = dataclasses.replace(
    pipeline.spec, **{k: v for k, v in sizes.items() if v is not None}
  )
  name = GUIDANCE.value or default_guidance(model)
  guidance = get_guidance(name, variant_of(model))
  given = {"video": SCALE_VIDEO.value, "audio": SCALE_AUDIO.value}
  scales = {s: given[s] or default for s, default in default_scales(model).items()}
  sampling = Sampling(
    guidance=name,
    scales=parse_scales(guidance.scales, scales),
    steps=STEPS.value,
    shift=pipeline.shift(spec) if SHIFT.value is None else SHIFT.value,
    solver=SOLVER.value,
    batched=not SEQUENTIAL.value,
  )
  out = pathlib.Path(OUT.value)
  negative = pipeline.negative if NEGATIVE.value is None else NEGATIVE.value
  settings = dataclasses.asdict(sampling) | dataclasses.asdict(spec)
  if MANIFEST.value is not None:

    def make(lines, inputs):
      for line in lines:
        about = {"task": TASK.value, "prompt": line.prompt, "seed": line.seed}
        write_settings(out / f"{line.id}.json", about | settings)
      clips = pipeline.generate(
        TASK.value,
        [line.prompt for line in lines],
        sampling=sampling,
        seed=[line.seed for line in lines],
        negative=negative,
        spec=spec,
        **inputs,
      )
      write_clips(out, [line.id for line in lines], clips, spec, inputs)

    part = (INDEX.value, COUNT.value, BATCH.value)
    make_set(make, MANIFEST.value, out, TASK.value, spec, *part)
    return
  prompts = PROMPT.value
  inputs = read_inputs(spec, len(prompts))
  bar = tqdm.tqdm(total=STEPS.value, desc="sampling", file=sys.stderr)
  with bar:
    clips = pipeline.generate(
      TASK.value,
      prompts,
      sampling=sampling,
      seed=SEED.value,
      negative=negative,
      spec=spec,
      progress=lambda _: bar.update(1),
      **inputs,
    )
  names = [f"{TASK.value}_{SEED.value}_{i}" for i in range(len(prompts))]
  paths = write_clips(out, names, clips, spec, inputs)
  for path, prompt in zip(paths, prompts):
    about = {"task": TASK.value, "prompt": prompt, "seed": SEED.value} | settings
    write_settings(path.with_suffix(".json"), about)
    print(path)


if __name__ == "__main__":
  cli.run(main)
