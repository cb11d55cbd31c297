"""Generates clips from a trained checkpoint.

  python -m ccl_jax.generate --ckpt quickstart --task joint \\
      --prompt 'a red face on the left says "ba do ba"' --out out
  python -m ccl_jax.generate --ckpt quickstart --task a2v --audio voice.wav \\
      --prompt 'a red face in the middle says "ba do"' --out out
  python -m ccl_jax.generate --ckpt quickstart --task v2a --video film.mp4 \\
      --prompt 'a red face in the middle says "ba do"' --out out
  python -m ccl_jax.generate --ckpt weights/wan-i2v --task i2v --image first.png \\
      --prompt 'a cat yawns' --size 832x480 --seconds 3 --out out
  python -m ccl_jax.generate --ckpt weights/wan-flf2v --task i2v --image first.png \\
      --last_image last.png --prompt 'a cat jumps' --size auto --out out
  python -m ccl_jax.generate --ckpt quickstart --extend out/joint_0_0.mp4 \\
      --prompt 'a red face on the left says "ba do ba"' --out out
  python -m ccl_jax.generate --ckpt quickstart --seconds 10 --window 33 \\
      --prompt 'a red face on the left says "ba do ba"' --out out
  python -m ccl_jax.generate --ckpt quickstart --task joint \\
      --manifest prompts.txt --out out

  task    makes            given
  joint   video and sound  text
  ti2av   video and sound  text, --image
  t2v     video            text
  i2v     video            text, --image
  t2a     sound            text
  a2v     video            text, --audio
  v2a     sound            text, --video

--image is welcome in all that makes a video, and so is --last_image, with models that
were trained with one (config.objective.last_image_probability) and with Wan2.1-FLF2V;
an input or a flag that a task does not use is an error. CKPT is a training run, a
checkpoint that this package ships, by its name, or a folder that 'convert wan',
'convert wan-dit' or 'convert join' wrote; those start from Wan2.1's settings: 81 frames
of 480 x 832 at 16 fps, its shift and, without sound, its scale; or, of Wan2.1-FLF2V,
81 frames of 720 x 1280, and of Wan2.2-TI2V-5B, 121 frames of 704 x 1280 at 24 fps.
Releases that start from --image take its aspect ratio, in as many pixels, where no flag
gives a size; with --size auto clips of all models do. --audio gives a clip its length,
where no flag does. The video of these, and of runs that started from them, has its
negative prompt by default.

Guidance and scales that no flag gives are those of the run's report, if it made one.

Writes NAME.mp4 (H.264 and AAC; a given sound or picture is in it as it was, but for
what an mp4 does not hold) or NAME.wav, and NAME.json: what it was made with. NAME is
TASK_SEED_NUMBER, or where OUT has such a clip of other settings TASK_SEED_NUMBER_2 and
so on: no clip takes the place of another. --settings NAME.json makes the same clip
again; flags beside it override what it says.

--prompt may be given several times, and --seed, files and negative prompts once, or
once for each prompt.

--guidance (diffusion/guidance.py has the equations; scales in this order):
  none
  text            s         the prompt alone
  modality        s         the other stream alone
  ucg2, ucg3      s; m,t    away from context tokens without the prompt
  ucg3_text       t,m       the same, the prompt first
  ucg2_null       s         away from silence and a still, without the prompt
  ucg2_shuffled   s         away from another clip's stream: two clips at least
  multimodal      m,t       as ucg3, of a gated model; multimodal2 as ucg2
  sync            s         SyncCFG: away from silence and a still, with the prompt

Weights of 'convert ovi' come with Ovi's settings: 24 fps, 121 or 241 frames, guidance
text 4 for the video and 3 for the sound, its negative prompts, block 11 skipped in the
evaluation with these. Its prompts have speech in <S>..<E> or in quotation marks, and
describe the sound in <AUDCAP>..<ENDAUDCAP> or in a last sentence "Audio: ..": they are
turned into what the weights know. It serves all tasks but a2v and v2a.

Longer clips (docs/length.md): --window makes one in parts of so many frames, as those
of training, which overlap and are sampled at once; --overlap says how much they share.
--extend FILE goes on with a film, and its sound, of the clip's size: it is
written with what is new after it, which --frames or --seconds count from its last
frame on.

Fewer evaluations (docs/speed.md): --schedule samples a step-distilled file in its own
few steps, without guidance; --guidance_interval 0.2,0.9 has no guidance elsewhere,
--guidance_every 2 computes it at every second step, and

  python -m ccl_jax.generate --ckpt quickstart --calibrate quick.json \\
      --prompt 'a red face in the middle says "ba do"' --out out
  python -m ccl_jax.generate --ckpt quickstart --cache quick.json:0.12 \\
      --prompt 'a red face in the middle says "ba do"' --out out

leave out steps that change little.

--lora FILE:STRENGTH adds a LoRA to the parameters, as

  python -m ccl_jax.generate --ckpt weights/t2v --lora style.safetensors:0.8 \\
      --lora motion.safetensors:1 --prompt 'a cat yawns' --out out

in the names of ComfyUI, diffusers, kohya, musubi, LightX2V, PEFT, LyCORIS or our own
(docs/lora.md). One that was made for another model is refused.

--manifest makes <id>.mp4 of every line (prompt, seed, image, last_image, extend, audio,
video, negative prompts; data/manifest.py), leaving those that are there: a run that was
stopped goes on. A manifest that ends in .txt has a prompt a line and nothing else: its
clips are TASK_SEED_LINE, with the seed of --seed. Several processes share a set by
--process_index and --process_count; --batch lines are made at a time, each from its
own seed.

--best_of 4 --score talking makes four clips of each prompt, from SEED on, scores them
as 'eval' does, and names the best; best_TASK_SEED_NUMBER.json has the scores. Networks
of sync, desync and ib are found by --score_weights.

All texts of a command are encoded first, and the text encoder is dropped before the
model is read. Long or large videos for which a device has no room are decoded by tiles;
--vae_tile=off decodes in one, --vae_tile=256 by tiles of that side (docs/scale.md).
"""

import contextlib
import hashlib
from collections.abc import Collection

import jax
from absl import flags

from ccl_jax import cli, files, progress
from ccl_jax.errors import UsageError
from ccl_jax.places import hold
from ccl_jax.processes import join_if_asked
from ccl_jax.remote.paths import place, told
from ccl_jax.sharding import require_devices
from ccl_jax.tasks import GENERATIONS

CKPT = flags.DEFINE_string(
  "ckpt", None, "A training run, converted weights, or quickstart, which is shipped."
)
CODECS = flags.DEFINE_string(
  "codecs", None, "A bundle of codecs; that of --ckpt if not given."
)
STEP = flags.DEFINE_integer(
  "step", None, "The checkpoint's step; the newest one if not given."
)
WEIGHTS = flags.DEFINE_enum(
  "weights", "ema", ["ema", "params"], "Of a run: their average, or the last ones."
)
LORA = flags.DEFINE_multi_string(
  "lora", None, "FILE:STRENGTH of a LoRA, as x.safetensors:0.8; may be repeated."
)
TASK = flags.DEFINE_string("task", "joint", f"One of {', '.join(GENERATIONS)}.")
PROMPT = flags.DEFINE_multi_string(
  "prompt", None, "What to show; spoken words in quotes."
)
NEGATIVE = flags.DEFINE_multi_string(
  "negative_prompt", None, "Text of unconditional evaluations; if not given none, or "
  "for the video of a model that started from Wan2.1 that of its release."
)  # fmt: skip
NEGATIVES = {
  "video": flags.DEFINE_multi_string(
    "negative_prompt_video", None, "That of the video only."
  ),
  "audio": flags.DEFINE_multi_string(
    "negative_prompt_audio", None, "That of the sound only."
  ),
}
SETTINGS = flags.DEFINE_string(
  "settings", None, "The NAME.json of a clip, to make it again."
)
MANIFEST = flags.DEFINE_string(
  "manifest", None, "Prompts: one JSON object a line; in a .txt a prompt a line; or a "
  ".csv with text_prompt and image_path."
)  # fmt: skip
INDEX = flags.DEFINE_integer("process_index", 0, "Part of the manifest, from 0.")
COUNT = flags.DEFINE_integer("process_count", 1, "Parts of the manifest.")
BATCH = flags.DEFINE_integer("batch", 1, "Lines of the manifest made at a time.")
FILES = {
  "image": flags.DEFINE_multi_string("image", None, "First frame."),
  "last_image": flags.DEFINE_multi_string("last_image", None, "Last frame."),
  "extend": flags.DEFINE_multi_string(
    "extend", None, "Film, or sound, that is to go on: the clip is put after it."
  ),
  "audio": flags.DEFINE_multi_string(
    "audio", None, "Sound to be shown: any audio or film file."
  ),
  "video": flags.DEFINE_multi_string("video", None, "Film to be given a sound."),
}
MESH = flags.DEFINE_list(
  "mesh", None, "Sizes of the axes data,fsdp,context,tensor, one of them perhaps -1; "
  "if not given all devices, as they suit the model and the clip."
)  # fmt: skip
DISTRIBUTED, COORDINATOR, NUM_PROCESSES, PROCESS_ID = cli.process_flags(__name__)
FRAMES = flags.DEFINE_integer(
  "frames", None, "Frames, 4k + 1; as in training if not given."
)
HEIGHT = flags.DEFINE_integer(
  "height", None, "Pixels, a multiple of 16, or 32 (Wan2.2's VAE)."
)
WIDTH = flags.DEFINE_integer(
  "width", None, "Pixels, a multiple of 16, or 32 (Wan2.2's VAE)."
)
SECONDS = flags.DEFINE_float(
  "seconds", None, "Length in place of --frames: the nearest one that a clip can have."
)
SIZE = flags.DEFINE_string(
  "size",
  None,
  "WxH in pixels, as 832x480, in place of --width and --height; or auto: "
  "the aspect ratio of the image, in as many pixels as in training.",
)
GUIDANCE = flags.DEFINE_string(
  "guidance", None, "A form of the list above; if not given that of the run's report "
  "or, without one, ucg2 for a model with context tokens, multimodal for a gated one, "
  "text for one stream or fusion."
)  # fmt: skip
SCALE_VIDEO = flags.DEFINE_list(
  "scale_video", None, "Guidance scale(s) of the video, e.g. 5 or 3,5."
)
SCALE_AUDIO = flags.DEFINE_list("scale_audio", None, "Guidance scale(s) of the sound.")
STEPS = flags.DEFINE_integer(
  "steps", None, "Sampling steps; 50 if not given, or those of --schedule."
)
SHIFT = flags.DEFINE_float(
  "shift", None, "Schedule shift; as in training if not given."
)
SOLVER = flags.DEFINE_enum(
  "solver", None, ["unipc", "dpmpp", "euler", "renoise"], "Sampler; unipc if not "
  "given, or that of --schedule."
)  # fmt: skip
SCHEDULE = flags.DEFINE_string(
  "schedule", None, "Of a step-distilled file: lightx2v, causvid, fastwan or rcm."
)
INTERVAL = flags.DEFINE_list(
  "guidance_interval", None, "LOW,HIGH: guidance where LOW < noise level <= HIGH."
)
EVERY = flags.DEFINE_integer(
  "guidance_every", None, "Of as many steps one computes guidance, the others reuse it."
)
CACHE = flags.DEFINE_string(
  "cache", None, "FILE:THRESHOLD: skip steps by what --calibrate FILE has measured."
)
CALIBRATE = flags.DEFINE_string(
  "calibrate", None, "File for what a clip of all steps measures, for --cache."
)
WINDOW = flags.DEFINE_integer(
  "window", None, "Frames, 4k + 1, of the parts that a long clip is made in; in one if "
  "not given."
)  # fmt: skip
OVERLAP = flags.DEFINE_integer(
  "overlap", None, "Frames, 4k, that parts share (half of them if not given), or that "
  "a clip begins with of the film that it extends (a quarter of those of training)."
)  # fmt: skip
VAE_TILE = flags.DEFINE_string(
  "vae_tile", "auto", "Side of the tiles that the video is decoded by, in pixels, as "
  "256; they overlap by a quarter. off: by none; auto: only where memory asks for it."
)  # fmt: skip
QUANTIZE = flags.DEFINE_string(
  "quantize", None, "int8 or fp8: matrices of the blocks in 8 bits (docs/speed.md)."
)
SEQUENTIAL = flags.DEFINE_bool(
  "sequential", False, "Evaluations of a step one after the other: half the memory."
)
SKIP_BLOCK = flags.DEFINE_integer(
  "skip_block", None, "Block, from 0, that evaluations with the negative prompt leave "
  "out, of both streams; -1 for none. If not given that of the release, as Ovi's 11."
)  # fmt: skip
BEST_OF = flags.DEFINE_integer(
  "best_of", None, "As many clips of each prompt, of which --score names the best."
)
SCORE = flags.DEFINE_string(
  "score", None, "What clips of --best_of are compared by: talking (scenes of the "
  "quickstart), film (motion against loudness), av_align, sync, desync or ib."
)  # fmt: skip
SCORE_WEIGHTS = flags.DEFINE_multi_string(
  "score_weights", None, "Where the score's networks are, as of eval --weights."
)
SEED = flags.DEFINE_multi_integer("seed", [0], "Seed of the noise, below 2^64.")
OUT = flags.DEFINE_string("out", None, "Folder for the results.")
BUCKETS = (
  *("--ckpt", "--codecs", "--out", "--manifest", "--settings"),
  *(f"--{name}" for name in FILES),
)
flags.mark_flag_as_required("out")


def take_settings():
  """Gives the flags that were not given the values of --settings.

  Returns:
    The settings.

  Raises:
    UsageError: it is no file of settings, or has a value that is none of its flag.
  """
  from ccl_jax.generation.settings import read_settings

  if MANIFEST.value is not None:
    raise UsageError("expected --settings or --manifest, and one of them only")
  settings = read_settings(SETTINGS.value, frozenset(given_flags()))
  for name, value in settings.values.items():
    if name in flags.FLAGS:
      try:
        if f"--{name}" in BUCKETS:
          for path in value if isinstance(value, list) else [value]:
            told(path, place(SETTINGS.value))
        flags.FLAGS[name].parse(value)
      except (flags.Error, TypeError, ValueError) as e:
        raise UsageError(f"--settings {SETTINGS.value}: {name}: {e}") from e
  return settings


def given_flags() -> list[str]:
  """Names of the flags that the command line gave."""
  return [name for name in flags.FLAGS if flags.FLAGS[name].present]


def request():
  """What the flags ask for; see `generation.request`."""
  from ccl_jax.generation.request import Request

  listed = lambda flag: None if flag.value is None else list(map(place, flag.value))
  return Request(
    prompt=PROMPT.value,
    task=TASK.value,
    **{name: listed(flag) for name, flag in FILES.items()},
    negative_prompt=NEGATIVE.value,
    **{f"negative_prompt_{s}": flag.value for s, flag in NEGATIVES.items()},
    seed=SEED.value,
    frames=FRAMES.value,
    height=HEIGHT.value,
    width=WIDTH.value,
    seconds=SECONDS.value,
    size=SIZE.value,
    guidance=GUIDANCE.value,
    scale_video=SCALE_VIDEO.value,
    scale_audio=SCALE_AUDIO.value,
    steps=STEPS.value,
    shift=SHIFT.value,
    solver=SOLVER.value,
    schedule=SCHEDULE.value,
    guidance_interval=INTERVAL.value,
    guidance_every=EVERY.value,
    cache=CACHE.value,
    skip_block=SKIP_BLOCK.value,
    window=WINDOW.value,
    overlap=OVERLAP.value,
    sequential=SEQUENTIAL.value,
    manifest=MANIFEST.value is not None,
  )


def check_flags(asked) -> None:
  """Checks the flags before anything is loaded.

  Args:
    asked: what they ask for.

  Raises:
    UsageError: flags that do not go together, or values out of range.
  """
  from ccl_jax.generation.api import check_options
  from ccl_jax.generation.best import check_best

  if CKPT.value is None:
    raise UsageError("--ckpt is missing: expected a training run or converted weights")
  if (PROMPT.value is None) == (MANIFEST.value is None):
    raise UsageError("expected --prompt or --manifest, and one of them only")
  check_options(LORA.value or (), VAE_TILE.value, QUANTIZE.value)
  check_best(
    BEST_OF.value,
    SCORE.value,
    SCORE_WEIGHTS.value,
    asked,
    settings=SETTINGS.value is not None,
  )
  if CALIBRATE.value is not None:
    for flag in (SCHEDULE, INTERVAL, EVERY, CACHE, MANIFEST, BEST_OF):
      if flag.value is not None:
        raise UsageError(
          f"--calibrate with --{flag.name}: it measures a clip of all steps; leave one "
          "of both out"
        )
  out = place(OUT.value)
  if out.exists() and not out.is_dir():
    raise UsageError(f"--out {out} is a file; expected a folder")
  asked.check()
  if MANIFEST.value is not None:
    is_list = place(MANIFEST.value).suffix.lower() == ".txt"
    if is_list and len(SEED.value) > 1:
      raise UsageError(f"--seed with {MANIFEST.value}: expected one for all lines")
    if is_list and asked.files:
      name = next(iter(asked.files))
      raise UsageError(
        f"--{name} with {MANIFEST.value}: a .txt list has prompts only; "
        'expected a .jsonl manifest with {"id", "prompt", '
        f'"{name}"}} on every line'
      )
    several = [name for name, texts in asked.negatives.items() if len(texts) > 1]
    for name in [*asked.files, *(["seed"] * (SEED.present and not is_list)), *several]:
      raise UsageError(
        f"--{name} with --manifest: expected it in the manifest's lines, as "
        f'{{"id": "a", "prompt": "...", "{name}": ...}}'
      )
    return
  for name in ("process_index", "process_count", "batch"):
    if flags.FLAGS[name].present:
      raise UsageError(f"--{name} does nothing without --manifest: leave it out")


def open_maker(asked, given: Collection[str], watch=None):
  """Fixes how the model that the flags name makes clips; it is loaded with the first.

  Args:
    asked: what the flags ask for.
    given: names of the flags of the command line.
    watch: hears of every step of the clips; see `clips.Maker`.

  Raises:
    UsageError: there is none, or it cannot do what the flags say.
  """
  from ccl_jax.generation.api import Pipeline

  chosen = "weights" in given or WEIGHTS.value != WEIGHTS.default
  pipeline = Pipeline(
    CKPT.value,
    codecs=CODECS.value,
    weights=WEIGHTS.value if chosen else None,
    step=STEP.value,
    lora=LORA.value or (),
    mesh=cli.mesh_sizes(MESH.value),
    vae_tile=VAE_TILE.value,
    quantize=QUANTIZE.value,
  )
  clips = BATCH.value if MANIFEST.value is not None else len(PROMPT.value)
  return pipeline.maker(
    asked, given=given, clips=clips, out=place(OUT.value), watch=watch
  )


def held(out, name):
  """The lock of a set; of several processes that make it together, the first has it."""
  first = not DISTRIBUTED.value or jax.process_index() == 0
  return hold(out, name) if first else contextlib.nullcontext()


def make_manifest(maker) -> None:
  """Makes the clips of --manifest that are not there yet."""
  from ccl_jax.diffusion.guidance import GUIDANCE as FORMS
  from ccl_jax.generation.manifests import make_set

  def negative_of(line, stream):
    own = getattr(line, f"negative_prompt_{stream}")
    own = line.negative_prompt if own is None else own
    return maker.negatives()[stream][0] if own is None else own

  def texts_of(lines):
    negative = {s: [negative_of(line, s) for line in lines] for s in NEGATIVES}
    return [line.prompt for line in lines], negative

  def begin(lines):
    prompts, negative = texts_of(lines)
    maker.open(prompts, negative).note_cut(prompts)  # it speaks of each once

  def make(lines, files):
    names = dict(enumerate(line.id for line in lines))
    prompts, negative = texts_of(lines)
    maker.make(prompts, [x.seed for x in lines], files, names, negative)

  part = INDEX.value, COUNT.value, BATCH.value
  # Other manifests, and other parts of this one, may be made into the folder meanwhile.
  name = hashlib.blake2s(str(place(MANIFEST.value).absolute()).encode())
  with held(maker.out, f"-{name.hexdigest()[:8]}-{INDEX.value}"):
    make_set(
      make, MANIFEST.value, maker.out, TASK.value, *part,
      channels=maker.about.takes_channels,
      form=FORMS[maker.sampling.guidance],
      seed=SEED.value[0],
      differs=maker.differs,
      begin=begin,
    )  # fmt: skip


def make_prompts(maker, asked, settings) -> None:
  """Makes the clips of the prompts; with --settings, the one that they are of."""
  from ccl_jax.generation.step_cache import parse_cache
  from ccl_jax.weights.lora_open import parse_lora

  prompts = PROMPT.value
  spread = lambda values: values * (len(prompts) // len(values))
  files = {name: spread(paths) for name, paths in asked.files.items()}
  names = {i: f"{TASK.value}_{x}_{i}" for i, x in enumerate(spread(SEED.value))}
  if settings is not None:
    loras = [place(parse_lora(text)[0]) for text in maker.loras]
    caches = [maker.sampling.cache] if maker.sampling.cache else []
    caches = [place(parse_cache(text)[0]) for text in caches]
    settings.check_files({"lora": loras, "cache": caches})
    settings.check_origin(maker.open(prompts).origin)
    settings.check_files(files)
    names = {i: name for i, name in names.items() if settings.index in (i, None)}
  paths = maker.make(prompts, SEED.value, files, names, numbered=True)
  progress.end()
  for path in paths:
    print(path)


def make_best_of(maker, asked) -> None:
  """Makes the clips of --best_of, and prints them with their scores."""
  from ccl_jax.generation.best import judge_of, made_and_scored

  judge = judge_of(SCORE.value, SCORE_WEIGHTS.value or ())
  found = made_and_scored(maker, asked, judge, BEST_OF.value)
  progress.end()
  for scored in found:
    print(*scored.lines(), sep="\n")
  for scored in found:
    scored.require_best()


def main():
  """Makes the clips that the flags ask for."""
  from ccl_jax.generation.step_cache import Recorder

  given = given_flags()
  settings = take_settings() if SETTINGS.value is not None else None
  asked = request()
  check_flags(asked)
  if DISTRIBUTED.value and (INDEX.present or COUNT.present):
    raise UsageError(
      "--process_index and --process_count share out a manifest among processes that "
      "make clips of their own; with --distributed all make each clip together: leave "
      "one of both out"
    )
  where = COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value
  join_if_asked(DISTRIBUTED.value, *where)
  files.check_writable(place(OUT.value) / "clip")
  if CALIBRATE.value is not None:
    files.check_writable(CALIBRATE.value)
  files.sweep(OUT.value)
  require_devices()
  recorder = Recorder() if CALIBRATE.value is not None else None
  maker = open_maker(asked, given, recorder)
  if MANIFEST.value is not None:
    make_manifest(maker)
  elif BEST_OF.value is not None:
    make_best_of(maker, asked)
  else:
    make_prompts(maker, asked, settings)
  if recorder is not None and not jax.process_index():
    params = maker.open(PROMPT.value).origin["fingerprints"].get("params")
    recorder.write(CALIBRATE.value, maker.task, maker.sampling.guidance, params)


if __name__ == "__main__":
  cli.run(main, BUCKETS)
