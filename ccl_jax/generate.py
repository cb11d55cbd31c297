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

--image is welcome in all that makes a video; an input that a task does not use is an
error. CKPT is a training run, or a folder that
'convert wan', 'convert wan-dit' or 'convert join' wrote; those start from Wan2.1's
settings: 81 frames of 480 x 832 at 16 fps, its shift and, without sound, its scale; or,
of Wan2.2-TI2V-5B, 121 frames of 704 x 1280 at 24 fps, with --image of the image's
aspect ratio in as many pixels, where neither --height nor --width is given. The video
of these, and of runs that started from them, has its negative prompt by default.

Writes NAME.mp4 (H.264 and AAC; with the given sound or picture, where one was given)
or NAME.wav, and NAME.json: what it was made with. --settings NAME.json makes the same
clip again; flags beside it override what it says.

--prompt may be given several times, and --seed, --image, --audio, --video and negative
prompts once, or once for each prompt.

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

--manifest makes <id>.mp4 of every line (prompt, seed, image, audio, video, negative
prompts; data/manifest.py), leaving those that are there: a run that was stopped goes
on. Several processes share a set by --process_index and --process_count; --batch lines
are made at a time, each from its own seed.
"""

import dataclasses
import pathlib
import sys

from absl import flags

from ccl_jax import cli
from ccl_jax.errors import UsageError
from ccl_jax.tasks import GENERATIONS, check_inputs

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
  "manifest", None, "Prompts, one JSON object a line; or a .csv with text_prompt and "
  "image_path."
)  # fmt: skip
INDEX = flags.DEFINE_integer("process_index", 0, "Which part of the manifest.")
COUNT = flags.DEFINE_integer("process_count", 1, "In how many parts it is made.")
BATCH = flags.DEFINE_integer("batch", 1, "Lines of the manifest made at a time.")
FILES = {
  "image": flags.DEFINE_multi_string("image", None, "First frame."),
  "audio": flags.DEFINE_multi_string(
    "audio", None, "Sound to be shown: any audio or film file."
  ),
  "video": flags.DEFINE_multi_string("video", None, "Film to be given a sound."),
}
FRAMES = flags.DEFINE_integer(
  "frames", None, "Frames, 4k + 1; as in training if not given."
)
HEIGHT = flags.DEFINE_integer(
  "height", None, "Pixels, a multiple of 16, or 32 (Wan2.2's VAE)."
)
WIDTH = flags.DEFINE_integer(
  "width", None, "Pixels, a multiple of 16, or 32 (Wan2.2's VAE)."
)
GUIDANCE = flags.DEFINE_string(
  "guidance", None, "A form of the list above; if not given ucg2 for a model with "
  "context tokens, multimodal for a gated one, text for one stream or fusion."
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
SKIP_BLOCK = flags.DEFINE_integer(
  "skip_block", None, "Block, from 0, that evaluations with the negative prompt leave "
  "out, of both streams; -1 for none. If not given that of the release, as Ovi's 11."
)  # fmt: skip
SEED = flags.DEFINE_multi_integer("seed", [0], "Seed of the noise, below 2^64.")
OUT = flags.DEFINE_string("out", None, "Folder for the results.")
WAN_SCALE = "5"
flags.mark_flag_as_required("out")


def parse_scales(guidance, given):
  """{stream: {scale: value}} from the flags; one number serves for all scales.

  Args:
    names: of the guidance form's scales.
    given: by stream, the values of its flag or None.

  Raises:
    UsageError: not numbers, or not as many as the guidance form has scales.
  """
  out = {}
  for stream, values in given.items():
    numbers = cli.numbers(f"scale_{stream}", values)
    out[stream] = numbers * (len(guidance.scales) if len(numbers) == 1 else 1)
  return guidance.named(out, "--scale_")


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
  given = {name for name in flags.FLAGS if flags.FLAGS[name].present}
  settings = read_settings(SETTINGS.value, given)
  for name, value in settings.values.items():
    if name in flags.FLAGS:
      try:
        flags.FLAGS[name].parse(value)
      except (flags.Error, TypeError, ValueError) as e:
        raise UsageError(f"--settings {SETTINGS.value}: {name}: {e}") from e
  return settings


def check_flags() -> None:
  """Checks the flags before anything is loaded.

  Raises:
    UsageError: flags that do not go together, or values out of range.
  """
  from ccl_jax.generation.seeds import whole_seed

  if CKPT.value is None:
    raise UsageError("--ckpt is missing: expected a training run or converted weights")
  if (PROMPT.value is None) == (MANIFEST.value is None):
    raise UsageError("expected --prompt or --manifest, and one of them only")
  if any(not p.strip() for p in PROMPT.value or ()):
    raise UsageError("--prompt is empty; expected a description, e.g. 'a red face'")
  if STEPS.value < 1:
    raise UsageError(f"--steps: got {STEPS.value}; expected at least 1")
  present = lambda group: {f.name: f.value for f in group if f.value is not None}
  given = present(FILES.values())
  negatives = present([NEGATIVE, *NEGATIVES.values()])
  if MANIFEST.value is not None:
    several = [name for name, texts in negatives.items() if len(texts) > 1]
    for name in [*given, *(["seed"] if SEED.present else []), *several]:
      raise UsageError(f"--{name} with --manifest: expected it in the manifest's lines")
    return
  check_inputs(TASK.value, given)
  for name, values in (given | negatives | {"seed": SEED.value}).items():
    if len(values) not in (1, len(PROMPT.value)):
      raise UsageError(
        f"--{name}: got {len(values)} for {len(PROMPT.value)} prompts; expected one, "
        "or one for each"
      )
  for name, paths in given.items():
    for path in paths:
      if not pathlib.Path(path).is_file():
        raise UsageError(f"--{name}: no file {path}")
  for seed in SEED.value:
    whole_seed(seed)


def default_scales(pipeline, name: str) -> dict[str, list[str] | None]:
  """The release's scales, if it states some of this form; Wan2.1's for a video stream
  alone; else None: those of the guidance form.
  """
  release = pipeline.release
  if release.form == name:
    return {s: [str(x) for x in release.scales.get(s, ())] or None for s in NEGATIVES}
  alone = [s for s, _ in pipeline.model.streams] == ["video"]
  return {"video": [WAN_SCALE] if alone else None, "audio": None}


def skipped_block(pipeline, guidance) -> int | None:
  """The block to be skipped: that of the flag; else the release's, where the form of
  guidance has an evaluation that lacks it.
  """
  if SKIP_BLOCK.value is not None:
    return None if SKIP_BLOCK.value == -1 else SKIP_BLOCK.value
  negative = any(not e.text for e in guidance.evaluations.values())
  return pipeline.release.skip_block if negative else None


def open_maker():
  """Loads the model that the flags name, and fixes how it makes clips.

  Raises:
    UsageError: there is none, or it cannot do what the flags say.
  """
  from ccl_jax.diffusion.guidance import get_guidance
  from ccl_jax.generation.clips import Maker
  from ccl_jax.generation.pipeline import Pipeline
  from ccl_jax.generation.sampling import Sampling, variant_of

  pipeline = Pipeline.load(
    CKPT.value, codecs=CODECS.value, weights=WEIGHTS.value, step=STEP.value
  )
  sizes = {"frames": FRAMES.value, "height": HEIGHT.value, "width": WIDTH.value}
  spec = dataclasses.replace(
    pipeline.spec, **{k: v for k, v in sizes.items() if v is not None}
  )
  model = pipeline.model
  name = GUIDANCE.value or pipeline.release.form_for(model)
  guidance = get_guidance(name, variant_of(model))
  given = {"video": SCALE_VIDEO.value, "audio": SCALE_AUDIO.value}
  usual = default_scales(pipeline, name)
  scales = {s: given[s] or usual[s] for s in usual}
  sampling = Sampling(
    guidance=name,
    scales=parse_scales(guidance, scales),
    steps=STEPS.value,
    shift=pipeline.shift(spec) if SHIFT.value is None else SHIFT.value,
    solver=SOLVER.value,
    batched=not SEQUENTIAL.value,
    skip_block=skipped_block(pipeline, guidance),
  )
  negative = {
    s: NEGATIVES[s].value or NEGATIVE.value or [text]
    for s, text in pipeline.negative.items()
  }
  out = pathlib.Path(OUT.value)
  # A size that is asked for is kept.
  area = pipeline.area if HEIGHT.value is None and WIDTH.value is None else None
  return Maker(
    pipeline, TASK.value, sampling, negative, spec, out, area, pipeline.release.rule
  )


def make_manifest(maker) -> None:
  """Makes the clips of --manifest that are not there yet."""
  from ccl_jax.diffusion.guidance import GUIDANCE as FORMS
  from ccl_jax.generation.manifests import make_set

  def negative_of(line, stream):
    own = getattr(line, f"negative_prompt_{stream}")
    own = line.negative_prompt if own is None else own
    return maker.negative[stream][0] if own is None else own

  def make(lines, files):
    names = dict(enumerate(line.id for line in lines))
    negative = {s: [negative_of(line, s) for line in lines] for s in maker.negative}
    maker.make(
      [x.prompt for x in lines], [x.seed for x in lines], files, names, None, negative
    )

  part = INDEX.value, COUNT.value, BATCH.value
  make_set(
    make, MANIFEST.value, maker.out, TASK.value, *part,
    channels=maker.pipeline.takes_channels,
    form=FORMS[maker.sampling.guidance],
  )  # fmt: skip


def make_prompts(maker, settings) -> None:
  """Makes the clips of the prompts; with --settings, the one that they are of."""
  import tqdm

  prompts = PROMPT.value
  spread = lambda values: values * (len(prompts) // len(values))
  files = {
    name: spread([pathlib.Path(path) for path in flag.value])
    for name, flag in FILES.items()
    if flag.value is not None
  }
  names = {i: f"{TASK.value}_{x}_{i}" for i, x in enumerate(spread(SEED.value))}
  if settings is not None:
    settings.check_origin(maker.pipeline.origin)
    settings.check_files(files)
    names = {i: name for i, name in names.items() if settings.index in (i, None)}
  with tqdm.tqdm(total=STEPS.value, desc="sampling", file=sys.stderr) as bar:
    tell = lambda _: bar.update(1)
    paths = maker.make(prompts, SEED.value, files, names, tell)
  for path in paths:
    print(path)


def main():
  """Makes the clips that the flags ask for."""
  settings = take_settings() if SETTINGS.value is not None else None
  check_flags()
  maker = open_maker()
  if MANIFEST.value is not None:
    make_manifest(maker)
  else:
    make_prompts(maker, settings)


if __name__ == "__main__":
  cli.run(main)
