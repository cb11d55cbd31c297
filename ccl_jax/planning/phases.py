"""The phases of a generation beside its sampling: the text encoder, and the decoding.

Both are the programs that `generate` runs, of the codecs that published weights make:
UMT5-XXL, the VAE of Wan2.1 or Wan2.2, and MMAudio's; or of the embedded codecs, where
the width of the text is another than UMT5's.
"""

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ccl_jax import progress
from ccl_jax.checkpoints.converted import on_mesh
from ccl_jax.codecs.bundle import Codecs
from ccl_jax.data.spec import ClipSpec
from ccl_jax.generation.decoding import (
  AUTO,
  checked_tile,
  chosen_tile,
  decode,
  with_tile,
)
from ccl_jax.generation.memory import GIB, held, worked_in
from ccl_jax.generation.meshes import TEXT_WIDTH
from ccl_jax.models import audio_vae, vocoder, wan_vae
from ccl_jax.models.byte_text import ByteText
from ccl_jax.models.joint import JointDiT
from ccl_jax.models.linear_codec import (
  BANDS,
  COLOURS,
  GROUP,
  PAIR,
  PATCH,
  LinearAudioCodec,
  LinearVideoCodec,
)
from ccl_jax.models.mel_codec import CHANNELS, MelAudioCodec
from ccl_jax.models.umt5 import UMT5Encoder, UMT5Text
from ccl_jax.models.wan_vae import WAN22, Wan22VideoCodec, WanVideoCodec
from ccl_jax.sharding import finest

HIDDEN = 384  # of MMAudio's 16 kHz VAE


@dataclasses.dataclass(frozen=True)
class Phase:
  """What a phase needs of a chip.

  Attributes:
    bytes: of all: its compiled program, with arguments and results, and `beside`.
    beside: of these, what is held meanwhile and is no argument of the program.
    tile: pixels of the tiles that the video is decoded by; None: by none.
  """

  bytes: int
  beside: int = 0
  tile: int | None = None

  def __str__(self) -> str:
    out = f"{self.bytes / GIB:.2f} GiB"
    if self.beside:
      out += f", of which {self.beside / GIB:.2f} are held beside the program"
    return out if self.tile is None else f"{out}; by tiles of {self.tile} pixels"


def codec_shapes(model: JointDiT, text: tuple[int, int], mesh: Mesh) -> Codecs:
  """The codecs that a model's sizes tell, of shapes on a mesh, as they are read.

  Args:
    model: the network.
    text: rows of a text, and their width.
    mesh: that generates.
  """
  channels = {s: c.out_channels for s, c in model.streams}
  codecs = _published(text[0], mesh) if text[1] == TEXT_WIDTH else _embedded(text, mesh)
  coded = {s: codecs[s](channels[s]) for s in channels}
  return Codecs(**coded, text=codecs["text"]())


def _embedded(text: tuple[int, int], mesh: Mesh) -> dict[str, Callable]:
  """By name, a function that gives the embedded codec."""

  def linear(kind, p):
    shapes = {"mean": (p,), "basis": (p, kind.channels), "scale": (kind.channels,)}
    shapes = {k: jax.ShapeDtypeStruct(x, "float32") for k, x in shapes.items()}
    return kind(**_placed(shapes, "float32", mesh))

  return {
    "video": lambda _: linear(LinearVideoCodec, GROUP * PATCH**2 * COLOURS),
    "audio": lambda _: linear(LinearAudioCodec, PAIR * BANDS),
    "text": lambda: ByteText(*text),
  }


def _published(length: int, mesh: Mesh) -> dict[str, Callable]:
  """By name, a function that gives the codec of published weights."""
  key = jax.random.key(0)
  shapes = lambda init, *args: jax.eval_shape(lambda k: init(k, *args), key)

  def video(channels):
    kind = Wan22VideoCodec if channels == WAN22.channels else WanVideoCodec
    weights = shapes(lambda k: wan_vae.init_params(k, release=kind.release))
    return kind(_placed(weights, "float32", mesh))

  def audio(_):
    sizes = {"bands": BANDS, "channels": CHANNELS, "hidden": HIDDEN}
    generator = vocoder.Generator(BANDS)
    vae = shapes(lambda k: audio_vae.init_params(k, **sizes))
    waves = shapes(vocoder.init_params, generator)
    fields = json.dumps(vocoder.sizes_of(generator))
    place = lambda tree: _placed(tree, "float32", mesh)
    return MelAudioCodec(place(vae), place(waves), fields)

  def text():
    ids = jnp.zeros((1, length), jnp.int32)
    weights = shapes(UMT5Encoder().init, ids, ids > 0)["params"]
    return UMT5Text(_placed(weights, "bfloat16", mesh), None, length)

  return {"video": video, "audio": audio, "text": text}


def text_phase(codecs: Codecs, length: int, mesh: Mesh) -> Phase:
  """The encoding of a text, before anything else is read.

  Args:
    codecs: of `codec_shapes`.
    length: rows of a text.
    mesh: that encodes.
  """
  ids = jax.ShapeDtypeStruct((1, length), jnp.int32)
  mask = jax.ShapeDtypeStruct((1, length), jnp.bool_)
  program = jax.jit(lambda c, *x: c.encode(*x), out_shardings=_whole(mesh))
  progress.phase("compiling the text encoder")
  with jax.set_mesh(mesh):
    compiled = program.lower(codecs.text, ids, mask).compile()
  return Phase(held(codecs.text, ids, mask) + worked_in(compiled))


def options_of(platform: str) -> dict[str, int] | None:
  """Compiler options of a program that is read for its memory alone.

  For TPUs XLA's level O1 (https://openxla.org/xla/effort_levels): libtpu takes 1/4 to
  1/14 of the time for blocks of the video's decoder, which work in 1.04 to 1.07 times
  the memory. A plan is so from above.
  """
  return {"optimization_level": 19} if platform == "tpu" else None


def decoding_phase(
  codecs: Codecs,
  spec: ClipSpec,
  batch: int,
  mesh: Mesh,
  beside: int,
  limit: float,
  tile: str | int = AUTO,
) -> Phase:
  """The decoding of clips, by tiles if asked for or where there is no room without.

  Args:
    codecs: of `codec_shapes`.
    spec: of the clips.
    batch: how many there are.
    mesh: that decodes.
    beside: bytes that are held meanwhile.
    limit: bytes of a chip.
    tile: as `generate` has it: pixels of a tile, "off", or "auto".

  Raises:
    UsageError: no such tiles, see `checked_tile`.
  """
  sizes = {"video": spec.latent_shape, "audio": (spec.audio_tokens,)}
  latents = {
    s: jax.ShapeDtypeStruct(
      (batch, *sizes[s], getattr(codecs, s).channels),
      jnp.float32,
      sharding=_whole(mesh),
    )
    for s in sizes
    if getattr(codecs, s) is not None
  }
  program = jax.jit(decode, out_shardings=_whole(mesh))
  codecs = codecs._replace(text=None)

  @functools.cache  # a decoder takes minutes to compile, for TPUs
  def need(side: int | None) -> int:
    tiles = "" if side is None else f" by tiles of {side} pixels"
    progress.phase(f"compiling the decoding{tiles}")
    with jax.set_mesh(finest(mesh)):
      lowered = program.lower(with_tile(codecs, side), latents)
      compiled = lowered.compile(options_of(mesh.devices.flat[0].platform))
      return beside + held(codecs, latents) + worked_in(compiled)

  def room() -> bool:
    try:
      return need(None) <= limit
    except jax.errors.JaxRuntimeError as e:
      if "RESOURCE_EXHAUSTED" not in str(e):
        raise
      return False

  side = chosen_tile(checked_tile(codecs, tile), codecs, room)
  return Phase(need(side), beside, side)


def _whole(mesh: Mesh) -> NamedSharding:
  """An array on every device of a mesh."""
  return NamedSharding(mesh, PartitionSpec())


def _placed(tree: Any, dtype: Any, mesh: Mesh) -> Any:
  """Shapes of parameters as they are read onto a mesh, from folders of `convert`."""
  flat = traverse_util.flatten_dict({"all": tree}, sep="/")
  shapes = {k: jax.ShapeDtypeStruct(x.shape, dtype) for k, x in flat.items()}
  return traverse_util.unflatten_dict(on_mesh(shapes, mesh), sep="/")["all"]
