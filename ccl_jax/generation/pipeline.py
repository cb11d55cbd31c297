"""From a checkpoint and a prompt to pictures and sound.

Every task of `tasks.GENERATIONS` is the same few lines: encode what is given, sample
what is not (`sampling.py`), decode.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ccl_jax import progress as display
from ccl_jax.axes import STREAMS
from ccl_jax.codecs.bundle import (
  Codecs,
  fingerprints,
  joint_fingerprint,
  load_codecs,
  require_fit,
  require_same,
)
from ccl_jax.codecs.texts import note_cut
from ccl_jax.data.spec import ClipSpec
from ccl_jax.diffusion.guidance import get_guidance
from ccl_jax.diffusion.samplers import RENOISE
from ccl_jax.errors import UsageError
from ccl_jax.generation.conditions import conditions_of
from ccl_jax.generation.decoding import (
  AUTO,
  OFF,
  checked_tile,
  chosen_tile,
  decode,
  with_tile,
)
from ccl_jax.generation.description import Description, describe
from ccl_jax.generation.inputs import check_arrays, check_before
from ccl_jax.generation.lengths import repeated, split_noise
from ccl_jax.generation.memory import device_memory, fits, held, summary, worked_in
from ccl_jax.generation.meshes import alone
from ccl_jax.generation.noise import first_noise
from ccl_jax.generation.parameters import read_parameters
from ccl_jax.generation.previews import (
  Listener,
  colour_map,
  encoded,
  pictures,
  squares,
)
from ccl_jax.generation.prompts import as_texts, texts_of
from ccl_jax.generation.quantized import check_kind, dequantized, quantized
from ccl_jax.generation.release import ANY, Release
from ccl_jax.generation.sampling import Sampling, Steps, variant_of
from ccl_jax.generation.settings import file_digest
from ccl_jax.generation.step_cache import check_cache
from ccl_jax.generation.texts import Texts
from ccl_jax.generation.windows import Watch, sample_windows, windows_of
from ccl_jax.models.joint import JointDiT, geometry_of
from ccl_jax.models.precision import stored_as
from ccl_jax.models.presets import parameter_shapes
from ccl_jax.remote.paths import place
from ccl_jax.seeds import seed_bits
from ccl_jax.sharding import finest, require_devices
from ccl_jax.tasks import Generation
from ccl_jax.weights.lora_merge import merge
from ccl_jax.weights.lora_open import open_loras
from ccl_jax.weights.rules import flat_shapes

PyTree = Any


class LoadedModel:
  """A model, its parameters and codecs, ready to generate.

  Attributes:
    about: what the checkpoint says of itself.
    spec: the clip the model was trained on; `generate` can be given another.
    negative: by stream, the text that its unconditional evaluations are best given.
      Of a stream that has none, it is empty: what training puts for a dropped text.
    origin: where it was loaded from, by the names of generate's flags (ckpt, codecs,
      step, weights, lora), and the fingerprints of its parameters and codecs.
    mesh: of the devices that hold the parameters and make the clips. With a mesh of
      several processes, all of them call `generate`, with the same arguments.
    texts: the rows of the texts that were encoded.
    made: {"vae_tile"} of the last clips, if they have a video: the tiles that it was
      decoded by, in pixels as a text, or "off".
    memory: bytes of a device that each phase needs, of the programs that were compiled
      last: see `generation.memory`.
  """

  def __init__(
    self,
    model: JointDiT,
    params: PyTree,
    codecs: Codecs,
    spec: ClipSpec,
    shift: float | None = None,
    negative: Mapping[str, str] | None = None,
    origin: Mapping[str, Any] | None = None,
    guidance: Mapping[str, Any] | None = None,
    release: Release = ANY,
    mesh: Mesh | None = None,
    texts: Texts | None = None,
    tile: str | int | None = AUTO,
    trained_last: bool = False,
  ):
    """See the class.

    Args:
      trained_last: see `Description`.
      texts: of the model's text codec, if that is no more among `codecs`.
      tile: of the video's decoding: see `decoding.checked_tile`.

    Raises:
      UsageError: the video codec has no such tiles.
    """
    self.mesh = mesh or alone()
    self._tile = checked_tile(codecs, tile)
    self.about = Description(
      model, spec, guidance or {}, trained_shift=shift, release=release,
      trained_last=trained_last,
    )  # fmt: skip
    self.model, self.params, self.spec = model, params, spec
    self.codecs = _on_mesh(codecs, self.mesh)
    self.texts = texts or Texts(self.codecs.text, self.mesh)
    self.made, self.memory = {}, {}
    self.negative = dict.fromkeys(STREAMS, "") | dict(negative or {})
    self._compiled, self._seen = {}, set()
    self.origin = origin or {"fingerprints": {}}
    self._noted: set[str] = set()
    self._colours = None  # of latents, for previews

  @property
  def takes_channels(self) -> int:
    """The pictures that are given as condition channels; see `Description`."""
    return self.about.takes_channels

  def shift(self, spec: ClipSpec) -> float:
    """The schedule's shift: that of training, or Wan2.1's for clips of this size."""
    return self.about.shift(spec)

  @classmethod
  def load(
    cls,
    folder: str | os.PathLike,
    *,
    codecs: str | os.PathLike | None = None,
    weights: str = "ema",
    step: int | None = None,
    mesh: Mesh | None = None,
    loras: Sequence[str | tuple[str | os.PathLike, float]] = (),
    choices: Sequence[str] = (),
    texts: Sequence[str] | None = None,
    tile: str | int | None = AUTO,
    quantize: str | None = None,
  ) -> "LoadedModel":
    """Reads a training run, a joined model or a converted release.

    Args:
      folder: see `checkpoints.find`.
      codecs: the bundle to use in place of the folder's own.
      weights: "ema" or "params", of a run.
      step: of the checkpoint; None: the newest.
      mesh: over which the parameters are spread, as `meshes.mesh_for` makes one; None:
        the first device of this process.
      loras: files to add to the parameters, with their strengths: ("x.safetensors",
        0.8), or as a text "x.safetensors:0.8"; see `weights.lora`.
      choices: others, as texts, that are to fit the model too, and are not added.
      texts: all that clips will be made with, as `generation.prompts.texts_of` tells:
        they are encoded first, and the text encoder is out of memory before the model
        is read. One that is asked for later is encoded too, slowly. None: none is
        known, and the encoder stays.
      tile: pixels of the tiles that videos are decoded by, "off", or "auto": in one,
        where there is room for that.
      quantize: hold the blocks' matrices in 8 bits: "int8" or "fp8"; see `quantized`.

    Raises:
      UsageError: it is none of these, has no codecs, or no checkpoint that is whole; a
        LoRA is damaged, or does not fit the model; or there are no such tiles.
    """
    require_devices()
    check_kind(quantize)
    mesh = mesh or alone()
    told = describe(folder, step)
    found, model = told.found, told.model
    about = found.description
    where = codecs or found.codecs or _no_codecs(folder)
    read = functools.partial(_read_codecs, where, mesh)
    encoder = read(["text"])
    if encoder.text is None:
      raise UsageError(f"the codecs of {folder} have no text codec: see --codecs")
    text = (encoder.text.length, encoder.text.dim)
    bundle = read([name for name in Codecs._fields if name != "text"])
    prints = fingerprints(encoder) | fingerprints(bundle)
    if found.name == "ema":
      require_same(prints, about["codecs"], "leave --codecs away, or name those")
    checked_tile(bundle, tile)
    shapes = parameter_shapes(model, text)
    # Before anything large is read.
    opened = open_loras([*loras, *choices], flat_shapes(shapes))[: len(loras)]
    shapes = stored_as(shapes, model.dtype)
    channels = {s: c.out_channels for s, c in model.streams}
    require_fit(bundle, channels, told.spec.stride)
    if texts is None:
      known, bundle = None, bundle._replace(text=encoder.text)
    else:
      known = Texts(encoder.text, mesh, lambda: read(["text"]).text)
      known.rows(texts)
      display.phase("loading")
    del encoder  # of its parameters
    step, params, metadata, identity = read_parameters(
      found, weights, step, shapes, mesh
    )
    absolute = lambda path: path and str(place(path).absolute())
    origin = {
      "ckpt": str(told.place),
      "codecs": absolute(codecs),
      "step": step,
      "weights": weights,
      "fingerprints": {
        "params": identity,
        "codecs": joint_fingerprint(prints),
      },
    }
    if opened:
      params = merge(params, opened)
      files = [str(lora.file.absolute()) for lora, _ in opened]
      origin["lora"] = [f"{file}:{s!r}" for file, (_, s) in zip(files, opened)]
      origin["fingerprints"] |= {file: file_digest(file) for file in files}
    if quantize is not None:
      params, model = quantized(params, quantize), model.clone(stored=dequantized)
      origin["quantize"] = quantize
    return cls(
      model,
      params,
      bundle,
      told.spec,
      shift=metadata.get("objective", {}).get("shift", told.trained_shift),
      negative=told.negative,
      origin=origin,
      guidance=told.guidance,
      release=told.release,
      mesh=mesh,
      texts=known,
      tile=tile,
      trained_last=told.trained_last,
    )

  def generate(
    self,
    task: str,
    prompts: str | Sequence[str],
    *,
    sampling: Sampling | None = None,
    seed: Any = 0,
    negative: str | Mapping[str, str | Sequence[str]] = "",
    video: np.ndarray | None = None,
    audio: np.ndarray | None = None,
    image: np.ndarray | None = None,
    last_image: np.ndarray | None = None,
    extend: Mapping[str, np.ndarray] | None = None,
    still: np.ndarray | None = None,
    spec: ClipSpec | None = None,
    reuse_keys: bool = True,
    progress: Callable[[Any], None] | None = None,
    watch: Watch | None = None,
    preview: Listener | None = None,
  ) -> dict[str, np.ndarray]:
    """Clips for the prompts.

    Args:
      task: a name of `GENERATIONS`.
      prompts: of the clips; a string is the prompt of one.
      sampling: how to sample; the guidance and the shift that it lacks are the model's
        own (`defaults.completed`).
      seed: of the noise of all clips, or one for each: a clip's noise is then that of
        the clip made alone. See `ccl_jax.seeds`.
      video: uint8 (b, F, H, W, 3), for v2a.
      audio: float (b, n) at 16 kHz, for a2v.
      image: uint8 (b, H, W, 3), the first frame: for i2v and ti2av, and welcome in
        whatever makes a video.
      last_image: uint8 (b, H, W, 3), the last frame.
      extend: by stream what the clips begin with, 4 p + 1 frames of `video` and 512 q
        samples of `audio` from the same instant on: of every generated stream.
      negative: the text of the unconditional evaluations, of both streams or by stream;
        by stream it may be a list, with one text for each clip. A stream that is not
        named has "". The model's own are `LoadedModel.negative`.
      still: uint8 (b, H, W, 3), the picture that stands still as null video, for
        guidance by null streams where no picture is given: see `_null_latents`.
      watch: hears of every step what the blocks have added; see `step_cache.Recorder`.
      preview: hears of every step what the latents look like: see `previews.pictures`.

    Returns:
      The generated streams: `video` uint8 (b, F, H, W, 3) and `audio` float32 (b, n).

    Raises:
      UsageError: the model cannot do the task, an input is missing, the task would
        not use one (see `tasks.check_inputs`), an array is of another shape than the
        clip's, a setting cannot be sampled with, or the guidance needs more clips.
    """
    spec = spec or self.spec
    prompts = as_texts(prompts)
    sampling = self.about.sampling(sampling or Sampling(), spec)
    given = {"video": video, "audio": audio, "image": image, "last_image": last_image}
    names = [name for name, x in given.items() if x is not None]
    kind = self._check(task, names + ["extend"] * (extend is not None))
    b = len(prompts)
    check_arrays(given | {"still": still}, b, spec)
    check_before(extend, kind.generated, b, spec)
    whole = spec
    spec, join = self.about.join(spec, sampling, kind)
    if sampling.cache is not None:
      own = self.origin["fingerprints"].get("params")
      check_cache(sampling.cache, task, sampling.guidance, own)
    if self.takes_channels and "video" in kind.given:
      image = video[:, 0]
      last_image = video[:, -1] if self.takes_channels > 1 else None
    seeds = [seed] if np.ndim(seed) == 0 else seed
    if len(seeds) not in (1, b):
      raise UsageError(f"{len(seeds)} seeds for {b} prompts; expected one, or as many")
    shape = {
      "video": lambda: (sizes["video"], *spec.latent_shape[1:], channels("video")),
      "audio": lambda: (sizes["audio"], channels("audio")),
    }
    sizes = {"video": spec.latent_frames, "audio": spec.audio_tokens}
    sizes = sizes if join is None else join.sizes
    channels = lambda s: getattr(self.codecs, s).channels
    shapes = tuple((s, (b // len(seeds), *shape[s]())) for s in kind.generated)
    # On the host, as every process has them; float32 and one layout, whatever the
    # caller has.
    inputs = {
      "video": None if video is None else np.asarray(video),
      "audio": None if audio is None else np.asarray(audio, np.float32),
      "image": None if image is None else np.asarray(image),
      "last_image": None if last_image is None else np.asarray(last_image),
      "still": None if still is None else np.asarray(still),
      "extend": extend and {s: np.asarray(x) for s, x in extend.items()},
    }
    if join is not None:
      parts = {s: join.cut(s, inputs[s]) for s in kind.given}
      inputs |= parts
    texts = texts_of(prompts, negative, kind, self.about.release.sound)
    self.note_cut(prompts)
    rows = self.texts.rows(texts)
    rows = repeated(rows.reshape(-1, b, *rows.shape[1:]), join, 1)
    # Scales are an argument: one program serves all.
    form = get_guidance(sampling.guidance, variant_of(self.model))
    scales = form.resolve(sampling.scales)
    sampling = dataclasses.replace(sampling, scales=scales)
    how = sampling.guidance, sampling.solver, sampling.batched, sampling.skip_block
    options = *how, reuse_keys, spec, join
    # By all that programs are compiled for.
    given = str(jax.tree.map(np.shape, inputs))
    kinds = Steps(self.model, kind, sampling).kinds
    windows = frozenset(window[1:] for window in windows_of(kinds))
    program = kind, *options, b, windows, given, watch is None, preview is None
    new = program not in self._seen
    display.phase("compiling" if new else "encoding")
    self._seen.add(program)
    nulls = tuple(
      e.null
      for e in form.used(kind.generated, kind.generated + kind.given).values()
      if e.null
    )
    codecs = self.codecs._replace(text=None)
    encode = self._jitted(
      "encode", conditions_of, kind, whole, self.takes_channels, join
    )
    with jax.set_mesh(self.mesh):
      bits = tuple(seed_bits(seed) for seed in seeds)
      noise = self._jitted("noise", split_noise, first_noise, shapes, join)(bits)
    with jax.set_mesh(finest(self.mesh)):
      conditions = encode(nulls, codecs, noise, rows, inputs)
    if sampling.solver == RENOISE:
      conditions["seeds"] = np.stack(bits)
    measured = functools.partial(self._measure, "sampling") if new else None
    seen = preview and functools.partial(self._preview, preview, sampling.steps)
    with jax.set_mesh(self.mesh):
      latents = sample_windows(
        self._compiled, self.model, self.params, kind, noise, conditions, sampling,
        reuse_keys=reuse_keys, clip=geometry_of(self.model, spec), join=join,
        progress=_teller(sampling.steps, progress), watch=watch, seen=seen,
        measured=measured,
      )  # fmt: skip
      if join is not None:
        latents = self._jitted("join", type(join).joined, join)(latents)
    display.phase("decoding")
    with jax.set_mesh(finest(self.mesh)):
      return jax.device_get(self._decoded(codecs, latents, new))

  def _decoded(self, codecs: Codecs, latents, new: bool):
    """Pictures and sound, by tiles where that is asked for or must be."""
    program, self.made = self._jitted("decode", decode), {}
    if "video" in latents:
      key = "tile", *(x.shape for x in jax.tree.leaves(latents))
      if key not in self._compiled:
        together = self.mesh.is_multi_process
        room = lambda: fits(program, codecs, latents, together=together)
        self._compiled[key] = chosen_tile(self._tile, codecs, room)
      tile = self._compiled[key]
      codecs, self.made = with_tile(codecs, tile), {"vae_tile": str(tile or OFF)}
    out = program(codecs, latents)
    if new:
      compiled = program.lower(codecs, latents).compile()
      self._measure("decoding", compiled, latents)
      self._say_memory()
    return out

  def _preview(self, preview: Listener, steps: int, step: int, latents) -> None:
    """Tells a listener of a step."""
    whole = jax.device_get(self._jitted("whole", lambda x: x)(latents))
    if "video" in latents and self._colours is None:
      picture = squares(self.codecs.video.stride[1])
      with jax.set_mesh(finest(self.mesh)):
        latent = self._jitted("squares", encoded)(self.codecs.video, picture)
      self._colours = colour_map(jax.device_get(latent), picture)
    preview(step + 1, steps, pictures(whole, self._colours))

  def _measure(self, phase: str, compiled: Any, given: PyTree) -> None:
    """Keeps what a phase needs.

    Args:
      phase: its name.
      compiled: its program.
      given: arguments beside the model and the codecs.
    """
    self.memory[phase] = held(self.params, self.codecs, given) + worked_in(compiled)

  def _say_memory(self) -> None:
    if display.is_shown():
      text = {} if self.texts.memory is None else {"text": self.texts.memory}
      display.say(summary(text | self.memory, device_memory()))

  def note_cut(self, prompts: Sequence[str]) -> None:
    """Says on stderr how many prompts are longer than the text codec's rows, of those
    that it has not spoken of before.
    """
    new = [text for text in prompts if text not in self._noted]
    self._noted |= set(new)
    note_cut(self.texts.codec, new, "prompts")

  def _jitted(self, name: str, function: Callable, *static: Any) -> Callable:
    """The jitted function, its first arguments fixed: one for all calls."""
    key = name, *static
    if key not in self._compiled:
      fixed = functools.partial(function, *static)
      where = (0,) if name == "encode" else ()
      # Results are whole on every device, so that every process can read them.
      self._compiled[key] = jax.jit(
        fixed, static_argnums=where, out_shardings=_whole(self.mesh)
      )
    return self._compiled[key]

  def _check(self, task: str, inputs: Collection[str]) -> Generation:
    kind = self.about.check(task, inputs)
    for codec in (*kind.generated, *kind.given, *(["image"] * self.takes_channels)):
      if getattr(self.codecs, codec) is None:
        raise UsageError(
          f"task {task} needs {codec} codec, and the bundle has none: see --codecs"
        )
    return kind


def _teller(steps: int, progress: Callable[[Any], None] | None):
  """Says how many steps are done, to whoever looks and to a listener."""

  def tell(step):
    display.phase("sampling", steps)
    display.at(step + 1)
    if progress is not None:
      progress(step)

  return tell if progress is not None or display.is_shown() else None


def _whole(mesh: Mesh) -> NamedSharding:
  """An array on every device of a mesh."""
  return NamedSharding(mesh, PartitionSpec())


def _on_mesh(codecs: Codecs, mesh: Mesh) -> Codecs:
  """Codecs with all arrays on the mesh: those that were fitted are small, and whole on
  every device.
  """
  devices = set(mesh.devices.flat)
  there = lambda x: isinstance(x, jax.Array) and x.sharding.device_set == devices
  if all(map(there, jax.tree.leaves(codecs))):
    return codecs
  put = lambda x: x if there(x) else jax.device_put(np.asarray(x), _whole(mesh))
  return jax.tree.map(put, codecs)


def _read_codecs(folder: Any, mesh: Mesh, names: Sequence[str]) -> Codecs:
  """Codecs of a bundle, on a mesh."""
  with jax.set_mesh(mesh):
    return _on_mesh(load_codecs(folder, names), mesh)


def _no_codecs(folder):
  raise UsageError(
    f"{folder} has no codecs: name a bundle with --codecs, of 'convert codecs' or a run"
  )
