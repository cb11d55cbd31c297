"""A model to generate with, from Python: `ccl_jax.Pipeline`.

The command line, the page, reports and benchmarks go through it. What it loads is a
`pipeline.LoadedModel`, which takes arrays of the clip's own sizes.
"""

import dataclasses
import os
import threading
from collections.abc import Collection, Sequence
from typing import Any

from jax.sharding import Mesh

from ccl_jax import progress
from ccl_jax.errors import UsageError
from ccl_jax.generation import pipeline
from ccl_jax.generation.attention_panel import attention
from ccl_jax.generation.clip import Clip
from ccl_jax.generation.clips import Maker
from ccl_jax.generation.decoding import AUTO, OFF, size_of
from ccl_jax.generation.given import given_files, without_names
from ccl_jax.generation.meshes import alone, mesh_for
from ccl_jax.generation.previews import Listener, heard_by
from ccl_jax.generation.quantized import check_kind
from ccl_jax.generation.request import Request
from ccl_jax.generation.sampling import most_together
from ccl_jax.generation.windows import Watch
from ccl_jax.remote.paths import Place
from ccl_jax.tasks import INPUTS
from ccl_jax.weights.lora_open import absolute

_TAKEN = {"prompt", "task", "seed", "manifest", *INPUTS}
SETTINGS = tuple(f.name for f in dataclasses.fields(Request) if f.name not in _TAKEN)
_NEGATIVES = tuple(name for name in SETTINGS if name.startswith("negative_prompt"))


class Pipeline:
  """A checkpoint that clips are made with. One call at a time makes clips: others wait.

  Attributes:
    about: what the checkpoint says of itself: its clip's size, its tasks, its guidance.

  Args:
    ckpt: a training run, a checkpoint that this package ships by its name, converted
      weights, or hf:OWNER/NAME.
    codecs: a bundle of codecs; None: the checkpoint's.
    weights: "ema" or "params", of a run; None: "ema".
    step: of the checkpoint; None: the newest.
    lora: one, or several, each as FILE:STRENGTH.
    mesh: a mesh of JAX, or the sizes of its axes data, fsdp, context, tensor; None: all
      devices, as they suit the model and the first clip.
    vae_tile: pixels of the tiles that videos are decoded by, "off", or "auto".
    quantize: "int8" or "fp8": the blocks' matrices in half of bfloat16's memory.

  Raises:
    UsageError: it is no checkpoint, or cannot be loaded like this.
  """

  def __init__(
    self,
    ckpt: Any,
    *,
    codecs: Any = None,
    weights: str | None = None,
    step: int | None = None,
    lora: Any = (),
    mesh: Mesh | Sequence[int] | None = None,
    vae_tile: str | int = AUTO,
    quantize: str | None = None,
  ):
    """Reads what the checkpoint says of itself; parameters are read for the first clip,
    after its texts are encoded, and the text encoder does not stay in memory.
    """
    loras = _texts("lora", lora) or []
    check_options(loras, vae_tile, quantize)
    if weights not in (None, "ema", "params"):
      raise UsageError(f"--weights: got {weights!r}; expected ema or params")
    self.about = pipeline.describe(ckpt, step)
    if weights and self.about.found is not None and self.about.found.name != "ema":
      raise UsageError(
        f"--weights does nothing: {ckpt} is no training run, and has one set of "
        "parameters; leave it out"
      )
    self._ckpt = ckpt
    self._options = {"codecs": codecs, "weights": weights or "ema", "step": step}
    self._options |= {"tile": vae_tile, "quantize": quantize}
    self._loras = [absolute(text) for text in loras]
    self._mesh = mesh
    self._stays = False  # whether the text encoder does
    self._loaded, self._with = None, None
    self._choices: list[str] = []
    self._lock = threading.RLock()

  @classmethod
  def load(cls, ckpt: Any, *, choices: Any = (), **options: Any) -> "Pipeline":
    """Reads a checkpoint with its parameters and all codecs, which stay in memory.

    Args:
      ckpt, options: see the class.
      choices: LoRAs that calls may name later: whether they fit the model is checked
        before its parameters are read.

    Raises:
      UsageError: see the class; or what it names is damaged.
    """
    out = cls(ckpt, **options)
    out._stays = True
    out._choices = [absolute(text) for text in _texts("lora", choices) or []]
    # The mesh is that of a clip of the first task.
    request = Request(prompt=("",), task=out.about.tasks[0], manifest=True)
    out.maker(request, given=()).load([])
    return out

  def __call__(
    self,
    prompt: Any,
    *,
    task: Any = "joint",
    image: Any = None,
    last_image: Any = None,
    extend: Any = None,
    audio: Any = None,
    video: Any = None,
    lora: Any = None,
    seed: Any = 0,
    callback: Listener | None = None,
    **settings: Any,
  ) -> Clip | list[Clip]:
    """Makes a clip, or one for each of several prompts.

    Args:
      prompt: what to show, spoken words in quotes.
      task: joint, ti2av, t2v, i2v, t2a, a2v or v2a, as of `generate --help`.
      image: the first frame: a file, uint8 (H, W, 3) or a picture of Pillow; a list of
        these is one for each prompt.
      last_image: the last frame, likewise.
      extend: the film that goes on: a file, or a clip of before.
      audio: the sound to be shown: a file, or (samples, samples per second).
      video: the film to be given a sound: a file, or uint8 (F, H, W, 3) at the clip's
        frame rate, or (frames, frames per second).
      lora: in place of the pipeline's own; others are read with the parameters anew.
      seed: of the noise.
      callback: called after every step with its number from 1, the number of all, and
        a preview: see `previews.heard_by`. What it raises ends the work.
      settings: as the flags of `generate`: negative_prompt, negative_prompt_video,
        negative_prompt_audio, guidance, scale_video, scale_audio, steps, shift, solver,
        schedule, guidance_interval, guidance_every, cache, skip_block, sequential,
        frames, height, width, seconds, size, window and overlap.

    Raises:
      UsageError: as of the command line, in the words of its flags.
    """
    several = not isinstance(prompt, str)
    prompts = list(prompt) if isinstance(prompt, list | tuple) else [prompt]
    if not prompts or not all(isinstance(p, str) for p in prompts):
      raise UsageError(f"--prompt: got {prompt!r:.80}; expected a text, or several")
    for name in settings:
      if name not in SETTINGS:
        raise UsageError(f"no setting {name}; expected one of {', '.join(SETTINGS)}")
    given = {"image": image, "last_image": last_image, "extend": extend}
    given |= {"audio": audio, "video": video}
    files, scratch = given_files(given, self.about.spec.fps)
    texts = {n: _texts(n, settings.pop(n)) for n in _NEGATIVES if n in settings}
    request = Request(prompts, task, **files, **texts, seed=_listed(seed), **settings)
    request.check()
    spread = lambda values: [*values] * (len(prompts) // len(values))
    paths = {name: spread(values) for name, values in request.files.items()}
    preview = None if callback is None else heard_by(callback, several)
    with self._lock:
      maker = self.maker(request, lora=lora, preview=preview)
      clips = maker.clips(prompts, request.seed, paths)
    clips = [without_names(clip, scratch) for clip in clips]
    return clips if several else clips[0]

  def attention(self, clip: Clip, path: str | os.PathLike) -> None:
    """Draws where each token of a clip looks: its share of attention on the context
    tokens, by place and time, with both streams in view (figure 6 of the paper).

    Args:
      clip: that this pipeline made, with a picture and a sound.
      path: of the PNG.

    Raises:
      UsageError: the clip has but one stream, or the model has no context tokens.
    """
    cross = self.about.model.cross
    if cross is None or cross.variant != "context":
      raise UsageError("attention: this model has no context tokens to look at")
    if clip.frames is None or clip.sound is None:
      raise UsageError("attention: this clip has no picture or no sound; expected both")
    text = clip.settings["prompt"]
    shown = {"video": clip.frames, "audio": clip.sound[0], "text": text}
    with self._lock:
      model = self.maker(Request(prompt=(text,), manifest=True), given=()).load([text])
      attention(model, [shown], path)

  def maker(
    self,
    request: Request,
    *,
    given: Collection[str] | None = None,
    clips: int | None = None,
    lora: Any = None,
    out: Place | None = None,
    watch: Watch | None = None,
    preview: Listener | None = None,
  ) -> Maker:
    """Fixes how the clips of a request are made.

    Args:
      request: what is asked for, checked.
      given: see `Request.planned`.
      clips: made at a time; None: one for each prompt.
      lora: in place of the pipeline's own.
      out, watch, preview: see `Maker`.

    Raises:
      UsageError: the model cannot make them.
    """
    plan = request.planned(self.about, given)
    loras = self._loras if lora is None else list(map(absolute, _texts("lora", lora)))
    clips = len(request.prompt) if clips is None else clips
    rows = clips * most_together(plan.form, plan.kind, plan.sampling)
    if not isinstance(self._mesh, Mesh):
      mesh = mesh_for(self.about.model, plan.spec, rows, self._mesh)
    else:
      mesh = self._mesh
    return Maker(
      lambda texts: self._open(texts, loras, mesh),
      self.about,
      plan.task,
      plan.sampling,
      plan.negative,
      plan.spec,
      out,
      plan.own_size,
      plan.own_length,
      loras,
      self._options["quantize"],
      watch,
      preview,
    )

  def _open(self, texts: Sequence[str], loras: Sequence[str], mesh: Mesh) -> Any:
    """The model with such LoRAs; what is in memory stays there if it has them."""
    if self._loaded is not None and self._with == loras:
      return self._loaded
    self._loaded = None  # not two of them
    if mesh.size > 1 and progress.is_shown():
      axes = ", ".join(f"{name} {n}" for name, n in mesh.shape.items())
      progress.say(f"mesh of {mesh.size} devices: {axes}")
    progress.phase("loading")
    texts = None if self._stays else texts
    self._loaded = pipeline.LoadedModel.load(
      self._ckpt, mesh=mesh, loras=loras, choices=self._choices, texts=texts,
      **self._options,
    )  # fmt: skip
    self._with, self._choices = loras, []
    return self._loaded


def load_model(ckpt: Any) -> pipeline.LoadedModel:
  """A checkpoint on this process's first device, for reports and measurements, which
  give and take arrays: see `Pipeline.load`.

  Args:
    ckpt: see `Pipeline`.

  Raises:
    UsageError: see `Pipeline.load`.
  """
  pipe = Pipeline.load(ckpt, mesh=alone())
  return pipe._loaded


def check_options(
  loras: Sequence[str], vae_tile: str | int, quantize: str | None = None
) -> None:
  """Checks what needs no model: how LoRAs, tiles and quantization are named, and
  whether files exist.

  Raises:
    UsageError: one is not as it should be.
  """
  for text in loras:
    absolute(text)
  if vae_tile not in (AUTO, OFF):
    size_of(vae_tile)
  check_kind(quantize)


def _listed(value: Any) -> list[Any]:
  """One value, or several."""
  return list(value) if isinstance(value, list | tuple) else [value]


def _texts(name: str, value: Any) -> list[str] | None:
  texts = None if value is None else _listed(value)
  if not all(isinstance(text, str) for text in texts or ()):
    raise UsageError(f"--{name}: got {value!r:.80}; expected a text, or several")
  return texts
